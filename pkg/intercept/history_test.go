package intercept

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/store"
)

func number(n uint64) linux.Inode { return linux.Inode{Dev: 1, Ino: n} }

func TestHistoryRoundTrip(t *testing.T) {
	h := History{
		number(2): {Path: "/bin/a", Resident: 1, Normal: 2, Failed: 3},
		number(3): {Path: "/bin/with \"quotes\"\nand \xff", Normal: 9},
	}
	got, err := ParseHistory(h.Encode())
	if diff := cmp.Diff(h, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

// A history that is damaged is an empty one, and the next command begins another.
func TestDamagedHistoryIsEmpty(t *testing.T) {
	good := string(History{number(2): {Path: "/bin/a", Normal: 2}}.Encode())
	for name, data := range map[string]string{
		"none":              "",
		"another format":    strings.Replace(good, "starts 1", "starts 2", 1),
		"its end missing":   good[:len(good)-3],
		"its newline":       good[:len(good)-1],
		"a word":            good + "x 1 1 1-9 \"/b\"\n",
		"a negative number": good + "1 -1 1 1-9 \"/b\"\n",
		"a huge number":     good + "1 99999999999 1 1-9 \"/b\"\n",
		"a program twice":   good + good[len(historyHead):],
		"zeros":             strings.Repeat("\x00", 100),
		"too many": historyHead + strings.Join(slices.Collect(func(yield func(string) bool) {
			for i := range maxPast + 1 {
				yield(fmt.Sprintf("1 1 1 1-%d \"/b\"\n", i+1))
			}
		}), ""),
	} {
		t.Run(name, func(t *testing.T) {
			if h, err := ParseHistory([]byte(data)); err == nil || len(h) != 0 {
				t.Errorf("%v, %v", h, err)
			}
			s, err := store.Create(filepath.Join(t.TempDir(), "store"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(s.NotePath(store.NoteStarts), []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
			add := func(h History) { h.Add(map[linux.Inode]*Starts{number(7): {Path: "/bin/c", Normal: 1}}) }
			if err := ChangeHistory(s, add); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(History{number(7): {Path: "/bin/c", Normal: 1}}, ReadHistory(s)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// It does not grow for ever: neither do its numbers, nor its programs.
func TestHistoryIsBounded(t *testing.T) {
	h := History{}
	for i := range uint64(2 * maxPast) {
		h.Add(map[linux.Inode]*Starts{number(i): {Path: "/bin/once", Normal: 1}, number(0): {Path: "/bin/often", Resident: 1 << 30}})
	}
	if len(h) > maxPast || h[number(0)] == nil || h.Uses(number(0)) > maxPastStarts {
		t.Errorf("%d programs, %+v", len(h), h[number(0)])
	}
	if got, err := ParseHistory(h.Encode()); err != nil || len(got) != len(h) {
		t.Errorf("%d programs, %v", len(got), err)
	}
}

// What was done lately counts more than what was done long ago.
func TestHistoryDecays(t *testing.T) {
	h := History{}
	h.Add(map[linux.Inode]*Starts{number(1): {Path: "/bin/old", Resident: 60_000}, number(2): {Path: "/bin/rare", Normal: 1}})
	h.Add(map[linux.Inode]*Starts{number(3): {Path: "/bin/new", Resident: 60_000}})
	h.Add(map[linux.Inode]*Starts{number(3): {Path: "/bin/new", Resident: 10_000}})
	if h.Uses(number(3)) <= h.Uses(number(1)) || h[number(2)] != nil {
		t.Errorf("%s", h.Encode())
	}
}

// Starts of several commands add up to what makes a program due; each failure doubles the
// number until the next try, and a success begins again.
func TestDue(t *testing.T) {
	const after = 3
	h := History{}
	runs := func() (n int) {
		for n = 1; ; n++ {
			h.Add(map[linux.Inode]*Starts{number(1): {Path: "/bin/a", Normal: 1}, number(2): {Path: "/bin/b", Resident: 1}})
			if due := h.Due(after); len(due) > 0 {
				if !slices.Equal(due, []linux.Inode{number(1)}) {
					t.Fatalf("%v", due)
				}
				return n
			}
		}
	}
	for _, step := range []struct {
		want int
		made bool
	}{{3, false}, {6, false}, {12, true}, {3, false}, {6, false}} {
		if got := runs(); got != step.want {
			t.Errorf("due after %d commands, want %d", got, step.want)
		}
		h.Tried(number(1), step.made)
	}
	for range 100 {
		h.Tried(number(1), false)
	}
	h.Add(map[linux.Inode]*Starts{number(1): {Path: "/bin/a", Normal: after << maxPatience}})
	if len(h.Due(after)) != 1 {
		t.Error("what has failed often is never tried again")
	}
}

func FuzzParseHistory(f *testing.F) {
	f.Add(History{number(2): {Path: "/bin/a", Normal: 2}}.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ParseHistory(data)
		if err != nil {
			return
		}
		again, err := ParseHistory(h.Encode())
		if diff := cmp.Diff(h, again); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	})
}
