package linkstop

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

func TestTimeStarts(t *testing.T) {
	noChildren(t)
	donor := build(t, hello, "-static")
	for name, path := range map[string]string{"pie": build(t, hello), "no-pie": build(t, hello, "-no-pie")} {
		t.Run(name, func(t *testing.T) {
			tm := stop(t, path, Options{})
			starts := []TimedStart{
				{Path: path, Until: tm.Linked()},
				{Path: path, Until: func(a linux.Auxv) uint64 { return a.Value(linux.ATEntry) }}, // a little later
			}
			took, err := TimeStarts(t.Context(), donor, starts, TimeOptions{Rounds: 5, Budget: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			for i, all := range took {
				if len(all) != 5 {
					t.Errorf("%d starts of number %d", len(all), i)
				}
				for _, d := range all {
					if d <= 0 || d > 10*time.Second {
						t.Errorf("number %d took %v", i, d)
					}
				}
			}
		})
	}
}

func TestTimeStartsEnds(t *testing.T) {
	noChildren(t)
	donor, path := build(t, hello, "-static"), build(t, hello)
	never := []TimedStart{{Path: path, Until: At(0x1000)}}
	entry := []TimedStart{{Path: path, Until: func(a linux.Auxv) uint64 { return a.Value(linux.ATEntry) }}}

	var ended *ptrace.EndedError
	if _, err := TimeStarts(t.Context(), donor, never, TimeOptions{Rounds: 1, Least: 1}); !errors.As(err, &ended) {
		t.Errorf("a start that does not come there: %v", err)
	}
	other := build(t, "int execl(const char *, const char *, ...);\n"+
		"int main(void) { return execl(\"/bin/true\", \"true\", (char *)0); }\n")
	if _, err := TimeStarts(t.Context(), donor, []TimedStart{{Path: other, Until: At(0x1000)}}, TimeOptions{Rounds: 1, Least: 1}); !errors.Is(err, ptrace.ErrStartedNormally) {
		t.Errorf("a start that becomes another program: %v", err)
	}
	if _, err := TimeStarts(t.Context(), donor, []TimedStart{{Path: "/nonexistent", Until: At(0x1000)}}, TimeOptions{Rounds: 1, Least: 1}); err == nil {
		t.Error("started what is not there")
	}

	// The budget ends it, but not before the least.
	took, err := TimeStarts(t.Context(), donor, entry, TimeOptions{Rounds: 1000, Least: 3, Budget: 1})
	if err != nil || len(took[0]) != 3 {
		t.Errorf("%d starts, %v", len(took[0]), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := TimeStarts(ctx, donor, entry, TimeOptions{Rounds: 1 << 30, Budget: time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without end: %v", err)
	}
}

// What a resolver does in a timed start is refused before it is done.
func TestTimeStartsRefusesCalls(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	donor, dir := build(t, hello, "-static"), t.TempDir()
	kept := dir + "/kept"
	for _, tc := range []struct{ name, body, want string }{
		{"opens a file for writing", `r(2, (long)"` + dir + `/new", 0101, 0600, 0, 0);`, "for writing"},
		{"creates a file by openat", `r(257, -100, (long)"` + dir + `/new", 0100, 0600, 0);`, "for writing"},
		{"opens by openat2 for writing", `zeros[0] = 0101; zeros[1] = 0600; r(437, -100, (long)"` + dir + `/new", (long)zeros, 24, 0);`, "for writing"},
		{"truncates a file", `r(76, (long)"` + kept + `", 0, 0, 0, 0);`, "calls system call number 76,"},
		{"truncates a file by open", `r(2, (long)"` + kept + `", 01000, 0, 0, 0);`, "for writing"},
		{"makes a directory", `r(83, (long)"` + dir + `/new", 0700, 0, 0, 0);`, "calls system call number 83,"},
		{"removes a file", `r(87, (long)"` + kept + `", 0, 0, 0, 0);`, "calls system call number 87,"},
		{"forks", "r(57, 0, 0, 0, 0, 0);", "calls fork,"},
		{"executes", `r(59, (long)"/bin/true", (long)zeros, (long)zeros, 0, 0);`, "calls execve,"},
		{"maps a shared file", `long fd = r(2, (long)"` + kept + `", 0, 0, 0, 0); r(9, 0, 4096, 1, 1, fd);`, "maps shared memory"},
		{"sets a limit", "zeros[1] = 8; r(302, 0, 3, (long)zeros, 0, 0);", "sets a resource limit"},
		{"writes to standard output", `r(1, 1, (long)"hello", 5, 0, 0);`, "writes to a file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			noChildren(t)
			if err := os.WriteFile(kept, []byte("kept"), 0o600); err != nil {
				t.Fatal(err)
			}
			program := resolving(t, tc.body)
			entry := func(a linux.Auxv) uint64 { return a.Value(linux.ATEntry) }
			_, err := TimeStarts(t.Context(), donor, []TimedStart{{Path: program, Until: entry, Filtered: true}}, TimeOptions{Rounds: 1, Least: 1})
			if problem.KindOf(err) != problem.Refused || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want a refusal about %q", err, tc.want)
			}
			if text, err := os.ReadFile(kept); err != nil || string(text) != "kept" {
				t.Errorf("the file is %q, %v", text, err)
			}
			if _, err := os.Stat(dir + "/new"); !errors.Is(err, os.ErrNotExist) {
				t.Error("something new is there")
			}
		})
	}
	// What a dynamic linker does all the time, and a message of its own.
	for _, body := range []string{"", `r(1, 2, (long)"hello", 5, 0, 0);`, `long fd = r(2, (long)"` + kept + `", 0, 0, 0, 0); r(0, fd, (long)page, 4, 0, 0); r(3, fd, 0, 0, 0, 0);`} {
		entry := func(a linux.Auxv) uint64 { return a.Value(linux.ATEntry) }
		if _, err := TimeStarts(t.Context(), donor, []TimedStart{{Path: resolving(t, body), Until: entry, Filtered: true}}, TimeOptions{Rounds: 1, Least: 1}); err != nil {
			t.Errorf("%q: %v", body, err)
		}
	}
}
