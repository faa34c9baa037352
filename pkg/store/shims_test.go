package store

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestShims(t *testing.T) {
	s, err := Create(filepath.Join(t.TempDir(), "store"))
	must(t, err)
	must(t, s.WriteShim(inode(1, 2), "/usr/bin/perl"))
	must(t, s.WriteShim(inode(1, 3), "/opt/perl")) // the same name: it is replaced
	must(t, s.WriteShim(inode(4, 5), "/usr/bin/[b c"))
	for _, bad := range []string{"", "/", "perl"} {
		if s.WriteShim(inode(1, 2), bad) == nil {
			t.Errorf("a shim for %q", bad)
		}
	}
	for name, target := range map[string]string{
		"absolute": "/usr/bin/absolute", "outside": "../launchers/1-2/../../outside", "other": "../launchers/1-2/usr/bin/name",
		"no-inode": "../launchers/x/no-inode", "bare": "../launchers/1-2", "image": "../images/1-2/image",
	} {
		must(t, os.Symlink(target, s.ShimPath(name)))
	}
	must(t, os.WriteFile(s.ShimPath("file"), nil, 0o755))
	shims, stray, err := s.Shims()
	must(t, err)
	want := []Shim{{"[b c", "/usr/bin/[b c", inode(4, 5)}, {"perl", "/opt/perl", inode(1, 3)}}
	if diff := cmp.Diff(want, shims); diff != "" || len(stray) != 7 {
		t.Errorf("%s\nstray: %v", diff, stray)
	}
	if program, ok := ShimOf(s.ShimPath("perl")); !ok || program != "/opt/perl" {
		t.Errorf("%q, %v", program, ok)
	}
	for _, not := range []string{s.ShimPath("file"), s.ShimPath("absolute"), "/usr/bin/perl", "shims"} {
		if program, ok := ShimOf(not); ok {
			t.Errorf("%s is a shim for %s", not, program)
		}
	}
	must(t, s.RemoveShim("perl"))
	must(t, s.RemoveShim("perl"))
	for _, bad := range []string{"", ".", "..", "a/b", "../index/1-2"} {
		if s.RemoveShim(bad) == nil {
			t.Errorf("a shim of the name %q was removed", bad)
		}
	}
	if shims, _, _ = s.Shims(); len(shims) != 1 {
		t.Errorf("left: %v", shims)
	}
}
