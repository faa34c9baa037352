package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/problem"
)

const (
	idA = "aaaaaaaaaaaa"
	idB = "bbbbbbbbbbbb"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Create(filepath.Join(t.TempDir(), "deep", "store"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// publish makes an image of two files and a directory.
func publish(s *Store, id string) error {
	g, err := s.Stage()
	if err != nil {
		return err
	}
	defer g.Discard()
	return errors.Join(
		os.WriteFile(filepath.Join(g.Dir, planName), []byte("plan of "+id), 0o600),
		os.Mkdir(filepath.Join(g.Dir, "sub"), 0o700),
		os.WriteFile(filepath.Join(g.Dir, "sub", "pages-1.img"), []byte("pages of "+id), 0o600),
		g.Publish(id))
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	return info.Mode()
}

func TestDirs(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/data")
	if dir, err := UserDir(); dir != "/data/residentctl" || err != nil {
		t.Error(dir, err)
	}
	t.Setenv("XDG_DATA_HOME", "not/absolute")
	t.Setenv("HOME", "/home/me")
	if dir, err := UserDir(); dir != "/home/me/.local/share/residentctl" || err != nil {
		t.Error(dir, err)
	}
	t.Setenv("HOME", "")
	_, err := UserDir()
	if problem.HintOf(err) == "" {
		t.Error(err)
	}
}

func TestLayout(t *testing.T) {
	s := &Store{dir: "/s"}
	for _, tc := range []struct{ got, want string }{
		{s.RegistryPath(), "/s/registry.db"},
		{s.ImageDir(idA), "/s/images/aaaaaaaaaaaa"},
		{s.PlanPath(idA), "/s/images/aaaaaaaaaaaa/plan"},
		{s.IndexPath(inode(1<<63+5, 12)), "/s/index/9223372036854775813-12"},
		{s.LauncherPath(inode(3, 4), "/usr/bin/perl"), "/s/launchers/3-4/usr/bin/perl"},
		{s.LauncherPath(inode(3, 4), "/../../etc/x"), "/s/launchers/3-4/etc/x"},
		{s.LauncherPath(inode(3, 4), "../../x"), "/s/launchers/3-4/x"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s, want %s", tc.got, tc.want)
		}
	}
}

func TestCreate(t *testing.T) {
	old := syscall.Umask(0o077) // modes must not depend on it
	defer syscall.Umask(old)
	dir := filepath.Join(t.TempDir(), "a", "b", "store")
	if _, err := Open(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open before: %v", err)
	}
	s, err := Create(dir)
	must(t, err)
	want := newStoreMode()
	for path, m := range map[string]fs.FileMode{
		dir: want, s.in(imagesName): want, s.in(indexName): want &^ 0o044, s.in(launcherName): want &^ 0o044, s.in(stagingName): 0o700,
	} {
		if got := mode(t, path).Perm(); got != m {
			t.Errorf("%s has mode %o, want %o", path, got, m)
		}
	}
	must(t, os.Remove(s.ShimsDir()))
	again, err := Create(dir)
	must(t, err)
	if diff := cmp.Diff(s, again, cmp.AllowUnexported(Store{})); diff != "" {
		t.Error(diff)
	}
	must(t, publish(again, idA))
	_, err = Open(dir)
	must(t, err)
}

// TestNamesAreTheOwnersToList: also in a store that was made when others could list them.
func TestNamesAreTheOwnersToList(t *testing.T) {
	s := newStore(t)
	must(t, os.Chmod(s.Dir(), 0o755))
	must(t, os.Chmod(s.in(indexName), 0o755))
	must(t, os.Chmod(s.in(launcherName), 0o750))
	s, err := Open(s.Dir())
	must(t, err)
	if diff := cmp.Diff([]string{s.in(indexName), s.in(launcherName)}, s.NamesShown()); diff != "" {
		t.Error(diff)
	}
	_, err = Create(s.Dir())
	must(t, err)
	if shown := s.NamesShown(); len(shown) > 0 || mode(t, s.in(indexName)).Perm() != 0o711 || mode(t, s.in(launcherName)).Perm() != 0o710 {
		t.Errorf("shown: %q", shown)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(s *Store) error
		want  error
	}{
		{"world-writable", func(s *Store) error { return os.Chmod(s.Dir(), 0o777) }, ErrUnsafe},
		{"sticky does not help", func(s *Store) error { return os.Chmod(s.Dir(), 0o777|fs.ModeSticky) }, ErrUnsafe},
		{"group-writable", func(s *Store) error { return os.Chmod(s.Dir(), 0o770) }, ErrUnsafe},
		{"writable images", func(s *Store) error { return os.Chmod(s.in(imagesName), 0o757) }, ErrUnsafe},
		{"writable index", func(s *Store) error { return os.Chmod(s.in(indexName), 0o775) }, ErrUnsafe},
		{"a stranger's", func(s *Store) error { return os.Chown(s.Dir(), 12345, -1) }, ErrUnsafe},
		{"a stranger's launchers", func(s *Store) error { return os.Chown(s.in(launcherName), 12345, -1) }, ErrUnsafe},
		{"a file as directory", func(s *Store) error {
			return errors.Join(os.Remove(s.in(indexName)), os.WriteFile(s.in(indexName), nil, 0o644))
		}, ErrUnsafe},
		{"a directory missing", func(s *Store) error { return os.Remove(s.in(indexName)) }, fs.ErrNotExist},
		{"gone", func(s *Store) error { return os.RemoveAll(s.Dir()) }, fs.ErrNotExist},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStore(t)
			if err := tc.spoil(s); errors.Is(err, fs.ErrPermission) {
				t.Skip("giving a directory to another user needs root")
			} else if err != nil {
				t.Fatal(err)
			}
			_, err := Open(s.Dir())
			if !errors.Is(err, tc.want) || problem.HintOf(err) == "" {
				t.Errorf("got %v", err)
			}
			if tc.want == ErrUnsafe {
				if _, err := Create(s.Dir()); !errors.Is(err, ErrUnsafe) {
					t.Errorf("create: %v", err)
				}
			}
		})
	}
}

func TestDistrust(t *testing.T) {
	for _, tc := range []struct {
		name      string
		uid       uint32
		mode      uint32
		euid      int
		distrusts bool
	}{
		{"root's, for a user", 0, 0o755, 1000, false},
		{"one's own", 1000, 0o700, 1000, false},
		{"a user's, for root", 1000, 0o700, 0, true},
		{"another user's", 1001, 0o755, 1000, true},
		{"root's, group-writable", 0, 0o775, 1000, true},
	} {
		st := unix.Stat_t{Uid: tc.uid, Mode: syscall.S_IFDIR | tc.mode}
		if err := distrust(&st, tc.euid); errors.Is(err, ErrUnsafe) != tc.distrusts {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestPublishAndRemove(t *testing.T) {
	s := newStore(t)
	must(t, publish(s, idA))
	if data, err := os.ReadFile(s.PlanPath(idA)); string(data) != "plan of "+idA {
		t.Error(string(data), err)
	}
	if err := publish(s, idA); !errors.Is(err, fs.ErrExist) {
		t.Errorf("published twice: %v", err)
	}
	for _, id := range []string{"", "..", "../../../../../x", "abc", strings.ToUpper(idA), idA + "/x", strings.Repeat("a", 65)} {
		if err := publish(s, id); !errors.Is(err, errBadID) {
			t.Errorf("id %q: %v", id, err)
		}
		if err := s.RemoveImage(id); !errors.Is(err, errBadID) {
			t.Errorf("remove %q: %v", id, err)
		}
		if err := s.Link(inode(1, 2), id); !errors.Is(err, errBadID) {
			t.Errorf("link %q: %v", id, err)
		}
	}
	must(t, s.Link(inode(1, 2), idA))
	if data, err := os.ReadFile(s.IndexPath(inode(1, 2))); string(data) != "plan of "+idA {
		t.Error(string(data), err)
	}
	must(t, publish(s, idB))
	must(t, s.Link(inode(1, 2), idB))
	if target, err := os.Readlink(s.IndexPath(inode(1, 2))); target != "../images/"+idB+"/plan" {
		t.Error(target, err)
	}
	wantContents(t, s, []string{idA, idB}, []Link{{inode(1, 2), idB}})

	must(t, s.RemoveImage(idA))
	must(t, s.RemoveImage(idA))
	must(t, s.Unlink(inode(1, 2)))
	must(t, s.Unlink(inode(1, 2)))
	must(t, s.RemoveImage(idB))
	wantContents(t, s, nil, nil)
}

func wantContents(t *testing.T, s *Store, ids []string, links []Link) {
	t.Helper()
	gotIDs, stray, err := s.Images()
	if diff := cmp.Diff(ids, gotIDs, cmpopts.EquateEmpty()); diff != "" || err != nil || len(stray) > 0 {
		t.Error(diff, stray, err)
	}
	gotLinks, stray, err := s.Links()
	if diff := cmp.Diff(links, gotLinks, cmpopts.EquateEmpty()); diff != "" || err != nil || len(stray) > 0 {
		t.Error(diff, stray, err)
	}
	if left, err := s.Abandoned(); len(left) > 0 || err != nil {
		t.Error(left, err)
	}
	if left, err := os.ReadDir(s.in(stagingName)); len(left) > 0 || err != nil {
		t.Error(left, err)
	}
}

func TestStray(t *testing.T) {
	s := newStore(t)
	for _, path := range []string{"images/x", "index/12", "index/1-2", "launchers/x"} {
		must(t, os.WriteFile(s.in(path), nil, 0o644))
	}
	must(t, os.Symlink("/etc/passwd", s.in("index/1-3")))
	must(t, os.Symlink("../images/../../x/plan", s.in("index/1-4")))
	_, images, err := s.Images()
	must(t, err)
	_, links, err := s.Links()
	must(t, err)
	_, launchers, err := s.Launchers()
	must(t, err)
	if len(images) != 1 || len(links) != 4 || len(launchers) != 1 {
		t.Error(images, links, launchers)
	}
}

func TestLauncher(t *testing.T) {
	s := newStore(t)
	path := s.LauncherPath(inode(1, 2), "/usr/bin/perl")
	must(t, s.WriteLauncher(inode(1, 2), "/usr/bin/perl", []byte("one"), nil))
	running, err := os.Open(path)
	must(t, err)
	defer running.Close()
	must(t, s.WriteLauncher(inode(1, 2), "/usr/bin/perl", []byte("two"), nil))
	data, err := os.ReadFile(path)
	if string(data) != "two" || mode(t, path) != s.mode {
		t.Error(string(data), mode(t, path), err)
	}
	old := make([]byte, 3)
	if _, err := running.Read(old); string(old) != "one" {
		t.Error(string(old), err)
	}
	for _, bad := range []string{"perl", "", "/", "../x"} {
		if err := s.WriteLauncher(inode(1, 2), bad, nil, nil); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if got, _, err := s.Launchers(); len(got) != 1 || got[0] != inode(1, 2) {
		t.Error(got, err)
	}
	must(t, s.RemoveLaunchers(inode(1, 2)))
	must(t, s.RemoveLaunchers(inode(1, 2)))
	if got, _, err := s.Launchers(); len(got) != 0 {
		t.Error(got, err)
	}
	wantContents(t, s, nil, nil)
}

func TestExpose(t *testing.T) {
	for _, tc := range []struct {
		program, file, dir fs.FileMode
	}{
		{0o755, 0o644, 0o755},
		{0o750, 0o640, 0o750},
		{0o700, 0o600, 0o700},
		{0o711, 0o600, 0o700},
		{0o604, 0o604, 0o705},
		{0o4755, 0o644, 0o755},
		{0o777, 0o644, 0o755},
	} {
		s := newStore(t)
		g, err := s.Stage()
		must(t, err)
		must(t, os.WriteFile(filepath.Join(g.Dir, planName), nil, 0o666))
		must(t, os.Mkdir(filepath.Join(g.Dir, "sub"), 0o777))
		must(t, g.Expose(tc.program, os.Getgid()))
		must(t, g.Publish(idA))
		if f, d, top := mode(t, s.PlanPath(idA)).Perm(), mode(t, s.ImageDir(idA)+"/sub").Perm(), mode(t, s.ImageDir(idA)).Perm(); f != tc.file || d != tc.dir || top != tc.dir {
			t.Errorf("program %o: file %o, directories %o, %o", tc.program, f, d, top)
		}
	}
}

func TestExposeGroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("giving a file to another group needs root")
	}
	s := newStore(t)
	g, err := s.Stage()
	must(t, err)
	must(t, g.Expose(0o750, 12345))
	var st syscall.Stat_t
	must(t, syscall.Stat(g.Dir, &st))
	if st.Gid != 12345 {
		t.Errorf("group %d", st.Gid)
	}
	must(t, g.Discard())
}

// TestLauncherAccess: each directory and the file is for those for whom its model is.
func TestLauncherAccess(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("giving a file to another group needs root")
	}
	s := newStore(t)
	write := func(name string, all map[string]Access) {
		t.Helper()
		must(t, s.WriteLauncher(inode(1, 2), name, nil, func(path string) (Access, error) {
			a, known := all[path]
			if !known {
				t.Errorf("asked for %s", path)
			}
			return a, nil
		}))
		for path, want := range all {
			var st syscall.Stat_t
			must(t, syscall.Stat(filepath.Join(s.LaunchersDir(inode(1, 2)), path), &st))
			if got := fs.FileMode(st.Mode & 0o777); got != want.Mode|0o700 || want.groupMatters() && int(st.Gid) != want.GID {
				t.Errorf("%s: mode %o, group %d; want %o, %d", path, got, st.Gid, want.Mode|0o700, want.GID)
			}
		}
	}
	write("/secret/bin/perl", map[string]Access{
		"/": {0o755, 0}, "/secret": {0o750, 12345}, "/secret/bin": {0o711, 0}, "/secret/bin/perl": {0o050, 54321},
	})
	write("/secret/bin/perl", map[string]Access{
		"/": {0o755, 0}, "/secret": {0o751, 54321}, "/secret/bin": {0o055, 0}, "/secret/bin/perl": {0, 0},
	})
	failed := errors.New("failed")
	if err := s.WriteLauncher(inode(1, 2), "/x", nil, func(string) (Access, error) { return Access{}, failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
}

func TestBoot(t *testing.T) {
	s := newStore(t)
	if _, err := s.ReadBoot(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before: %v", err)
	}
	const id = "01234567-89ab-cdef-0123-456789abcdef"
	want := Boot{ID: id, MachineSum: 0xfedcba9876543210, Mark: 0x12345678}
	must(t, s.StampBoot(Boot{ID: id}))
	must(t, s.StampBoot(want))
	data, err := os.ReadFile(s.in(bootName))
	if string(data) != id+"\nfedcba9876543210\n0000000012345678\n" {
		t.Errorf("%q, %v", data, err)
	}
	if got, err := s.ReadBoot(); got != want || err != nil {
		t.Error(got, err)
	}
	if err := s.StampBoot(Boot{ID: id + "\n"}); err == nil {
		t.Error("a boot id with a newline")
	}
	for _, bad := range []string{"", id, id + "\n", id + "\n12\n", string(data) + "x",
		id + "\nfedcba9876543210\n", id + "\nFEDCBA9876543210\n0000000012345678\n", id + "\n  fedcba98765432\n0000000012345678\n"} {
		must(t, os.WriteFile(s.in(bootName), []byte(bad), 0o644))
		if _, err := s.ReadBoot(); err == nil {
			t.Errorf("taken: %q", bad)
		}
	}
}

// A store that was named is not made below directories that are not there.
func TestMayMakeNothingAboveTheStore(t *testing.T) {
	dir := t.TempDir()
	for path, may := range map[string]bool{"store": true, "": true, ".": true, "typo/store": false, "typo/deeper/store/": false} {
		err := MayMake(filepath.Join(dir, path))
		if (err == nil) != may || err != nil && (problem.KindOf(err) != problem.Store || problem.HintOf(err) == "") {
			t.Errorf("%q: %v", path, err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("made %v", left)
	}
}
