package intercept

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
)

func TestSettled(t *testing.T) {
	dir := t.TempDir()
	program, link := filepath.Join(dir, "bin", "program"), filepath.Join(dir, "link")
	if err := os.Mkdir(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("bin/program", link); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(program, old, old); err != nil { // the ctime is now
		t.Fatal(err)
	}
	id, err := linux.StatID(program)
	if err != nil {
		t.Fatal(err)
	}
	b, other := id.Inode(), id.Inode()
	other.Ino++
	now, later := time.Now(), time.Now().Add(time.Hour)
	for _, tc := range []struct {
		name    string
		settled settled
		path    string
		binary  linux.Inode
		want    bool
	}{
		{"changed before", settled{later, "/nowhere"}, program, b, true},
		{"by a link", settled{later, dir + "/links"}, link, b, true},
		{"changed since", settled{now, "/nowhere"}, program, b, false},
		{"worked on", settled{later, dir}, program, b, false},
		{"worked on, beside it", settled{later, dir + "/b"}, program, b, true},
		{"worked on, by a link", settled{later, dir + "/bin"}, link, b, false},
		{"from the root directory", settled{later, "/"}, program, b, true},
		{"from nobody knows where", settled{later, ""}, program, b, false},
		{"another file", settled{later, "/nowhere"}, program, other, false},
		{"no file", settled{later, "/nowhere"}, dir + "/none", b, false},
	} {
		if got := tc.settled.is(tc.path, tc.binary); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
	// Another program comes to its directory.
	s := settled{time.Now().Add(30 * time.Minute), "/nowhere"}
	if err := os.Chtimes(filepath.Dir(program), later, later); err != nil {
		t.Fatal(err)
	}
	if s.is(program, b) {
		t.Error("its directory has changed, and it is settled")
	}
	if os.Geteuid() == 0 {
		return
	}
	if err := os.Chmod(program, 0o555); err != nil {
		t.Fatal(err)
	}
	if !s.is(program, b) {
		t.Error("the caller cannot write to it, and it is not settled")
	}
}
