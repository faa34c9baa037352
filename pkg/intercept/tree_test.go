package intercept

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/store"
)

// What is told to the namespace arrives there, whatever the paths are.
func TestCoverWords(t *testing.T) {
	file := func(ino uint64, path string) store.File {
		return store.File{Path: path, Inode: linux.Inode{Dev: 66, Ino: ino}}
	}
	want := &Cover{Mounts: []Mount{
		{file(1, "/lib/ld.so"), file(2, "/s/exec/original")},
		{file(1<<63, "/s/a b:3-4:/c=\n"), file(1, "/lib/ld.so")},
	}}
	got, err := parseCover(want.words())
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v, cover (-want +got):\n%s", err, diff)
	}
	for _, words := range [][]string{
		{"1-2:/a"}, {"1-2:/a", "1-2:b"}, {"1-2:/a", "/b"}, {"1-2 :/a", "1-2:/b"}, {"01-2:/a", "1-2:/b"}, {"1-2:/a", ""},
	} {
		if got, err := parseCover(words); err == nil {
			t.Errorf("%q: %v", words, got)
		}
	}
}

// unwanted is a Maker of which nothing is wanted.
type unwanted struct{ t *testing.T }

func (u unwanted) Open(string) error {
	u.t.Error("a store was opened")
	return nil
}

func (u unwanted) Add(context.Context, string) (made, another bool) {
	u.t.Error("a program was added")
	return false, false
}

// Each way to execute the command ends with the reason where Strict forbids to execute it
// normally, and with the kernel's error where it cannot be executed.
func TestTreeSaysWhyThereIsNoCommand(t *testing.T) {
	program := filepath.Join(t.TempDir(), "dpkg")
	mode := os.FileMode(0o644)
	if os.Geteuid() != 0 {
		mode |= os.ModeSetuid
	}
	if err := os.WriteFile(program, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(program, mode); err != nil {
		t.Fatal(err)
	}
	given := errors.New("given")
	for _, way := range []struct {
		name string
		do   func(*Tree) error
	}{
		{"Become", (*Tree).Become},
		{"Run", func(tree *Tree) error {
			outcome, err := tree.Run(unwanted{t}, 1)
			if outcome != nil {
				t.Errorf("there was a command: %v", outcome)
			}
			return err
		}},
		{"BecomeInside", func(tree *Tree) error { return tree.BecomeInside([]string{"1-2:/a"}, false) }},
		{"BecomeNormally", func(tree *Tree) error { return tree.BecomeNormally(given) }},
	} {
		var said []error
		tree := &Tree{
			Program: program, Argv: []string{"dpkg"}, Strict: true, Store: filepath.Join(t.TempDir(), "none"),
			Normally: func(why error) { said = append(said, why) },
		}
		var normal *NormalError
		if err := way.do(tree); !errors.As(err, &normal) || said != nil {
			t.Errorf("%s, strict: error %v, said %v", way.name, err, said)
		}
		tree.Strict = false
		if err := way.do(tree); !errors.Is(err, syscall.EACCES) || len(said) != 1 || said[0].Error() != normal.Why.Error() {
			t.Errorf("%s: error %v, said %v, want %v", way.name, err, said, normal)
		}
		if exists(tree.Store) {
			t.Errorf("%s has made a store", way.name)
		}
	}
}

// closed is a Maker that makes nothing resident.
type closed struct{ error }

func (c closed) Open(string) error                                { return c.error }
func (c closed) Add(context.Context, string) (made, another bool) { return false, false }

func TestRunWithoutMaker(t *testing.T) {
	want := errors.New("no CRIU")
	tree := &Tree{Program: "/usr/bin/true", Argv: []string{"true"}, Strict: true, Store: filepath.Join(t.TempDir(), "store")}
	var normal *NormalError
	if outcome, err := tree.Run(closed{want}, 1); outcome != nil || !errors.As(err, &normal) || normal.Why != want {
		t.Errorf("outcome %v, error %v, want %v", outcome, err, want)
	}
}

// Of several programs the one that was executed normally most often comes first; none is
// tried twice, and none when no other can be made resident.
func TestAutoNext(t *testing.T) {
	a := auto{after: 2, tried: map[linux.Inode]bool{}, settled: settled{from: "/"}, counter: &Counter{Programs: map[linux.Inode]*Starts{}}}
	for name, normal := range map[string]int{"sh": 2, "cat": 4, "ls": 1} {
		path := "/usr/bin/" + name
		id, err := linux.StatID(path)
		if err != nil {
			t.Fatal(err)
		}
		a.counter.Programs[id.Inode()] = &Starts{Path: path, Normal: normal}
	}
	a.settled.began = time.Now().Add(time.Hour) // all is older
	var got []string
	if w, ok := a.next(true); ok {
		t.Errorf("%s, while another is being added", w.path)
	}
	for w, ok := a.next(false); ok; w, ok = a.next(false) {
		got = append(got, w.path)
	}
	if want := []string{"/usr/bin/cat", "/usr/bin/sh"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	a.tried, a.over = map[linux.Inode]bool{}, true
	if w, ok := a.next(false); ok {
		t.Errorf("%s, although no other can be made resident", w.path)
	}
}
