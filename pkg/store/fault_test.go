package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

// Another process is this test binary again: helperEnv says what it does.
const (
	helperEnv = "STORE_TEST_HELPER"
	helperDir = "STORE_TEST_DIR"
	testBoot  = "01234567-89ab-cdef-0123-456789abcdef"
)

func TestMain(m *testing.M) {
	helpers := map[string]func(dir string) error{"life": life, "create": func(dir string) error { _, err := Create(dir); return err }, "full": fullDisk, "stranger": stranger}
	what := os.Getenv(helperEnv)
	if what == "" {
		os.Exit(m.Run())
	}
	if err := helpers[what](os.Getenv(helperDir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func helper(what, dir string, env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"="+what, helperDir+"="+dir)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = os.Stderr
	return cmd
}

// inode is a program by device and inode.
func inode(dev, ino uint64) linux.Inode { return linux.Inode{Dev: dev, Ino: ino} }

var perlLink = SystemLink{Program: "/usr/bin/perl", Binary: inode(1, 2)}

// life is everything that happens to an image, from add over refresh to remove.
func life(dir string) error {
	s, err := Create(dir)
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return publish(s, idA) },
		func() error { return s.WriteLauncher(inode(1, 2), "/usr/bin/perl", []byte("launcher"), nil) },
		func() error { return s.StampBoot(Boot{ID: testBoot}) },
		func() error { return s.Link(inode(1, 2), idA) },
		func() error { return s.WriteShim(inode(1, 2), "/usr/bin/perl") },
		func() error { return s.WriteSystemLink(perlLink) },
		func() error { return s.WriteNamed("python3-x", "/usr/bin/python3") },
		func() error { return s.RemoveNamed(s.NamedPath("python3-x")) },
		func() error { return replacePlan(s, idA) },
		func() error { return s.WriteNote(NoteStarts, []byte("note")) },
		func() error { return publish(s, idB) },
		func() error { return s.Link(inode(1, 2), idB) },
		func() error { return s.RemoveImage(idA) },
		func() error { return s.RemoveShim("perl") },
		func() error { return s.RemoveSystemLink(perlLink) },
		func() error { return s.Unlink(inode(1, 2)) },
		func() error { return s.RemoveLaunchers(inode(1, 2)) },
		func() error { return s.RemoveImage(idB) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// replacePlan puts another plan in place of an image's, as a renewal does.
func replacePlan(s *Store, id string) error {
	g, err := s.Stage()
	if err != nil {
		return err
	}
	defer g.Discard()
	return errors.Join(
		os.Mkdir(filepath.Join(g.Dir, id), 0o700),
		os.WriteFile(filepath.Join(g.Dir, id, planName), []byte("plan of "+id), 0o600),
		g.Replace(func() error { return nil }, map[string][]string{id: {planName}}))
}

func TestKilledAtEveryFaultPoint(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	for _, point := range FaultPoints {
		t.Run(point, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			err := helper("life", dir, FaultEnv+"="+point).Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("not killed there: %v", err)
			}
			_, err = Create(dir) // that may be where it was killed
			must(t, err)
			mustHaveModes(t, dir)
			mustBeConsistent(t, dir)
			must(t, life2(dir))
		})
	}
}

// mustHaveModes: a directory is for those whom it was meant for, whenever it was made.
func mustHaveModes(t *testing.T, dir string) {
	t.Helper()
	for _, path := range append([]string{""}, directories...) {
		info, err := os.Stat(filepath.Join(dir, path))
		must(t, err)
		want := directoryMode(path, newStoreMode())
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%q has mode %04o, want %04o", path, got, want)
		}
	}
}

// life2 is what comes after gc: the same again, in the same store.
func life2(dir string) error {
	s, err := Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(s.RemoveNamed(s.NamedPath("python3-x")), s.RemoveShim("perl"), s.RemoveSystemLink(perlLink), s.Unlink(inode(1, 2)), s.RemoveImage(idA), s.RemoveImage(idB), life(dir))
}

// mustBeConsistent: what is in its place is whole, every link leads to an
// image, and nobody holds what is in staging/.
func mustBeConsistent(t *testing.T, dir string) {
	t.Helper()
	s, err := Open(dir)
	must(t, err)
	ids, stray, err := s.Images()
	must(t, err)
	for _, id := range ids {
		plan, err := os.ReadFile(s.PlanPath(id))
		must(t, err)
		pages, err := os.ReadFile(filepath.Join(s.ImageDir(id), "sub", "pages-1.img"))
		if string(plan) != "plan of "+id || string(pages) != "pages of "+id || err != nil {
			t.Errorf("image %s: %q, %q, %v", id, plan, pages, err)
		}
	}
	links, more, err := s.Links()
	must(t, err)
	for _, l := range links {
		if _, err := os.Stat(s.IndexPath(l.Binary)); err != nil {
			t.Errorf("link: %v", err)
		}
	}
	shims, others, err := s.Shims()
	must(t, err)
	if len(shims) > 0 && (len(shims) > 1 || shims[0] != Shim{"perl", "/usr/bin/perl", inode(1, 2)}) {
		t.Errorf("shims: %v", shims)
	}
	system, rest, err := s.SystemLinks()
	must(t, err)
	if len(system) > 0 && (len(system) > 1 || system[0] != perlLink) {
		t.Errorf("enabled for the system: %v", system)
	}
	if stray = slices.Concat(stray, more, others, rest); len(stray) > 0 {
		t.Errorf("stray: %v", stray)
	}
	data, err := os.ReadFile(s.LauncherPath(inode(1, 2), "/usr/bin/perl"))
	if !errors.Is(err, fs.ErrNotExist) && (err != nil || string(data) != "launcher") {
		t.Errorf("launcher: %q, %v", data, err)
	}
	if _, err := s.ReadBoot(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	left, err := s.Abandoned()
	must(t, err)
	for _, path := range left {
		must(t, s.RemoveAbandoned(path))
	}
	if rest, err := os.ReadDir(s.in(stagingName)); len(rest) > 0 || err != nil {
		t.Errorf("left in staging: %v, %v", rest, err)
	}
}

// Full and read-only disks, in a mount namespace of its own.
func TestFullAndReadOnlyDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	cmd := helper("full", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
}

func fullDisk(dir string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=128k"); err != nil {
		return err
	}
	s, err := Create(filepath.Join(dir, "store"))
	if err != nil {
		return err
	}
	if err := publish(s, idA); err != nil {
		return err
	}
	big := []byte(strings.Repeat("x", 200<<10))
	err = s.WriteLauncher(inode(1, 2), "/p", big, nil)
	if err := wantErrno(err, syscall.ENOSPC); err != nil {
		return err
	}
	if rest, err := os.ReadDir(s.in(stagingName)); len(rest) > 0 || err != nil {
		return fmt.Errorf("left on the full disk: %v, %v", rest, err)
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		return err
	}
	if s, err = Open(s.Dir()); err != nil {
		return fmt.Errorf("a read-only store can be opened: %w", err)
	}
	_, errStage := s.Stage()
	_, errCreate := Create(filepath.Join(dir, "other"))
	for _, err := range []error{errStage, errCreate, s.Link(inode(1, 2), idA), s.RemoveImage(idA), s.StampBoot(Boot{ID: testBoot})} {
		if err := wantErrno(err, syscall.EROFS); err != nil {
			return err
		}
	}
	return nil
}

func wantErrno(err error, errno syscall.Errno) error {
	if !errors.Is(err, errno) || problem.HintOf(err) == "" {
		return fmt.Errorf("want %v, got %v", errno, err)
	}
	return nil
}

// An ordinary user can read root's store, and is told why it cannot write.
func TestOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	top, err := os.MkdirTemp("", "store")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(top) })
	must(t, os.Chmod(top, 0o755))
	s, err := Create(filepath.Join(top, "store"))
	must(t, err)
	must(t, publish(s, idA))
	cmd := helper("stranger", s.Dir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
}

func stranger(dir string) error {
	s, err := Open(dir)
	if err != nil {
		return err
	}
	_, errStage := s.Stage()
	_, errAbandoned := s.Abandoned()
	_, errCreate := Create(filepath.Join(dir, "mine"))
	for _, err := range []error{errStage, errAbandoned, errCreate, s.Unlink(inode(1, 2)), s.RemoveImage(idA)} {
		if err == nil {
			continue // nothing to remove
		}
		if err := wantErrno(err, syscall.EACCES); err != nil {
			return err
		}
	}
	if errStage == nil || errCreate == nil {
		return errors.New("a stranger may write")
	}
	return nil
}
