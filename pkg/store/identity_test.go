package store

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("giving a file to another user needs root")
	}
}

// TestRootRefusesStoreThatOthersCouldReplace: no directory that leads to a store of
// root's may be one in which another user can rename.
func TestRootRefusesStoreThatOthersCouldReplace(t *testing.T) {
	needRoot(t)
	groups := linux.SystemGroups()
	gids := slices.Sorted(maps.Keys(groups))
	empty := slices.IndexFunc(gids, func(gid uint32) bool { return gid != 0 && groups.Empty(gid) })
	if empty < 0 {
		t.Fatal("/etc/group has no group without members")
	}
	for _, test := range []struct {
		name  string
		above string // command line; $1 is the directory above the store, which is root's, $2 a group without members
		open  string // below $1
		ok    bool
	}{
		{"root's alone", `true`, "store", true},
		{"another user's", `chown 12345 "$1"`, "store", false},
		{"writable by all", `chmod 0777 "$1"`, "store", false},
		{"writable by all, but sticky", `chmod 1777 "$1"`, "store", true},
		{"writable by root's group", `chmod 0775 "$1"`, "store", true},
		{"writable by another group", `chgrp 12345 "$1"; chmod 0775 "$1"`, "store", false},
		{"writable by a group without members", `chgrp "$2" "$1"; chmod 2775 "$1"`, "store", true},
		{"writable by another group, but sticky", `chgrp 12345 "$1"; chmod 1775 "$1"`, "store", true},
		{"through root's link", `ln -s store "$1/link"`, "link", true},
		{"through root's link in a sticky directory", `ln -s store "$1/link"; chmod 1777 "$1"`, "link", true},
		{"through another user's link in a sticky directory", `ln -s store "$1/link"; chown -h 12345 "$1/link"; chmod 1777 "$1"`, "link", false},
		{"through a link to another user's directory", `mkdir "$1/d"; ln -s "$1/store" "$1/d/s"; chown 12345 "$1/d"; ln -s d/s "$1/link"`, "link", false},
		{"through another user's directory and back", `mkdir "$1/d"; chown 12345 "$1/d"; ln -s d/../store "$1/link"`, "link", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			above := t.TempDir()
			_, err := Create(filepath.Join(above, "store"))
			must(t, err)
			if out, err := exec.Command("/bin/sh", "-c", test.above, "sh", above, fmt.Sprint(gids[empty])).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			for what, open := range map[string]func(string) (*Store, error){"open": Open, "create": Create} {
				_, err := open(filepath.Join(above, test.open))
				switch {
				case test.ok && err != nil:
					t.Errorf("%s: %v", what, err)
				case !test.ok && (!errors.Is(err, ErrUnsafe) || problem.HintOf(err) == ""):
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

// TestRootMakesNoStoreWhereOthersCouldReplaceIt: nothing is made there at all.
func TestRootMakesNoStoreWhereOthersCouldReplaceIt(t *testing.T) {
	needRoot(t)
	above := filepath.Join(t.TempDir(), "above")
	must(t, os.Mkdir(above, 0o755))
	must(t, os.Chown(above, 12345, -1))
	for _, dir := range []string{"store", "deep/store"} {
		if _, err := Create(filepath.Join(above, dir)); !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if made, err := os.ReadDir(above); err != nil || len(made) > 0 {
		t.Errorf("made: %v, %v", made, err)
	}
}

// TestPublishNoticesAnotherDirectory: what was checked is a directory and not a path.
func TestPublishNoticesAnotherDirectory(t *testing.T) {
	s := newStore(t)
	id, err := linux.StatID(s.Dir())
	must(t, err)
	if got := s.ForLaunchers().Inode; got != id.Inode() {
		t.Errorf("identity %v, want %v", got, id.Inode())
	}
	must(t, os.Rename(s.Dir(), s.Dir()+".old"))
	other, err := Create(s.Dir())
	must(t, err)
	for what, do := range map[string]func() error{
		"publish": func() error { return publish(s, idA) },
		"link":    func() error { return s.Link(inode(1, 2), idA) },
		"lock":    func() error { _, err := s.Lock(t.Context()); return err },
	} {
		if err := do(); !errors.Is(err, ErrReplaced) || problem.HintOf(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	wantContents(t, other, nil, nil)
}

// TestCreateChangesNoModeByPath: while a user makes a store, another one who may rename
// in the directory above puts a link to something else of that user's in its place.
func TestCreateChangesNoModeByPath(t *testing.T) {
	needRoot(t)
	above, err := os.MkdirTemp("/tmp", "above-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(above) })
	theirs, dir := filepath.Join(above, "theirs"), filepath.Join(above, "store")
	must(t, os.Mkdir(theirs, 0o755))
	must(t, os.Chown(theirs, 65534, 65534))
	must(t, os.Chmod(above, 0o777))
	cmd := helper("create", dir, FaultEnv+"="+FaultStop+"after-mkdir")
	cmd.Stderr = nil // that it then fails is right
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	self, err := os.ReadFile("/proc/self/exe") // the test's own is in a directory that only root may enter
	must(t, err)
	cmd.Path = filepath.Join(above, "helper")
	must(t, os.WriteFile(cmd.Path, self, 0o755))
	atFirstStop(t, cmd, func() {
		must(t, os.Rename(dir, dir+".moved"))
		must(t, os.Symlink(theirs, dir))
	})
	if got := mode(t, theirs).Perm(); got != fs.FileMode(0o755) {
		t.Errorf("the other directory has mode %04o", got)
	}
}

// atFirstStop runs a helper that stops at a fault point, and does something when it does so
// for the first time. It returns the helper's exit status.
func atFirstStop(t *testing.T, cmd *exec.Cmd, do func()) int {
	t.Helper()
	must(t, cmd.Start())
	for stops := 0; ; stops++ {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
		must(t, err)
		if !status.Stopped() {
			if stops == 0 {
				t.Fatal("it did not come to the fault point")
			}
			return status.ExitStatus()
		}
		if stops == 0 {
			do()
		}
		must(t, syscall.Kill(cmd.Process.Pid, syscall.SIGCONT))
	}
}

// TestRootMakesNoStoreElsewhere: while root makes the directories that lead to a store,
// another user puts something in place of the first that is missing.
func TestRootMakesNoStoreElsewhere(t *testing.T) {
	needRoot(t)
	for _, test := range []struct {
		name, instead string // command line; $1 is the missing directory, $2 one of root's
		ok            bool
	}{
		{"a user's link to root's directory", `ln -s "$2" "$1" && chown -h 12345 "$1"`, false},
		{"a user's directory", `mkdir "$1" && chown 12345 "$1"`, false},
		{"root's directory", `mkdir "$1"`, true},
		{"nothing", `true`, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			above, roots := t.TempDir(), t.TempDir()
			must(t, os.Chmod(above, 0o777|fs.ModeSticky))
			missing := filepath.Join(above, "missing")
			cmd := helper("create", filepath.Join(missing, "deep", "store"), FaultEnv+"="+FaultStop+"before-mkdir")
			cmd.Stderr = nil // that it then fails is right
			status := atFirstStop(t, cmd, func() {
				if out, err := exec.Command("/bin/sh", "-c", test.instead, "sh", missing, roots).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			})
			if (status == 0) != test.ok {
				t.Errorf("status %d", status)
			}
			for _, dir := range []string{missing, roots} {
				if made, err := os.ReadDir(dir); len(made) > 0 != (test.ok && dir == missing) || err != nil {
					t.Errorf("%s holds %v, %v", dir, made, err)
				}
			}
		})
	}
}

// TestCreateThroughLinks: links that lead to an existing directory are followed, one that
// leads nowhere is not taken for a directory.
func TestCreateThroughLinks(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "real"), 0o755))
	must(t, os.Symlink("real", filepath.Join(dir, "link")))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	_, err := Create(filepath.Join(dir, "link", "deep", "store"))
	must(t, err)
	_, err = Open(filepath.Join(dir, "real", "deep", "store"))
	must(t, err)
	for _, path := range []string{"dangling", "dangling/store"} {
		if _, err := Create(filepath.Join(dir, path)); problem.HintOf(err) == "" || !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "nowhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was made: %v", err)
	}
}
