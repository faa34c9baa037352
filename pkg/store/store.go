package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/launcher"
)

// Store is an open store. It holds nothing open, and its methods may be called
// from any goroutine and beside those of other processes.
type Store struct {
	dir string
	// mode of its folders: 0755, or 0700 where it is a user's own.
	mode fs.FileMode
}

// Open checks an existing store: it and its folders belong to root or to the
// caller, and nobody else may write to them, else ErrUnsafe. One that is not
// there, or whose making was not finished, is fs.ErrNotExist; one that was finished and
// has lost a folder is opened, and what was in there is missing (Missing).
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, wrap("open store", dir, err)
	}
	s := &Store{dir: dir}
	if s.mode, err = checkFolder(dir); err != nil {
		return nil, openError(dir, err)
	}
	for _, name := range folders {
		_, err := checkFolder(s.in(name))
		if errors.Is(err, fs.ErrNotExist) && HasRegistry(dir) {
			continue
		}
		if err != nil {
			return nil, openError(s.in(name), err)
		}
	}
	return s, nil
}

// Missing are the folders that the store has lost.
func (s *Store) Missing() []string {
	var missing []string
	for _, name := range folders {
		if _, err := os.Lstat(s.in(name)); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, s.in(name))
		}
	}
	return missing
}

// Create makes a store, or opens one that is there and completes it.
func Create(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, wrap("make store", dir, err)
	}
	if err := makeFolders(filepath.Dir(dir), newStoreMode()); err != nil {
		return nil, wrap("make store", dir, err)
	}
	if err := makeFolder(dir, newStoreMode()); err != nil {
		return nil, wrap("make store", dir, err)
	}
	mode, err := checkFolder(dir) // before anything is put into it
	if err != nil {
		return nil, openError(dir, err)
	}
	if noExec(dir) {
		return nil, wrap("use store", dir, ErrNoExec)
	}
	for _, name := range folders {
		m := mode
		if name == stagingName {
			m = 0o700 // what is not published is nobody else's business
		}
		if err := makeFolder(filepath.Join(dir, name), m); err != nil {
			return nil, wrap("make store", dir, err)
		}
	}
	return Open(dir)
}

// noExec tells whether the file system is mounted so that nothing in it can be
// executed. One that does not tell is none.
func noExec(dir string) bool {
	const stNoExec = 8 // include/linux/statfs.h, ST_NOEXEC
	var st syscall.Statfs_t
	err := eintr(func() error { return syscall.Statfs(dir, &st) })
	return err == nil && st.Flags&stNoExec != 0
}

// newStoreMode lets everybody read what root made; a user's own store is for
// the user alone.
func newStoreMode() fs.FileMode {
	if os.Geteuid() == 0 {
		return 0o755
	}
	return 0o700
}

// Writable tells whether the caller may change the store.
func (s *Store) Writable() bool { return unix.Access(s.in(stagingName), unix.W_OK|unix.X_OK) == nil }

// Holds tells whether a path leads into the store.
func (s *Store) Holds(path string) bool {
	rest, err := filepath.Rel(s.dir, path)
	return err == nil && filepath.IsLocal(rest)
}

var (
	errNotFolder   = fmt.Errorf("%w: not a folder", ErrUnsafe)
	errHiddenOwner = fmt.Errorf("%w: this user namespace does not show whose it is", ErrUnsafe)
)

func openError(path string, err error) error {
	e := &Error{Doing: "open store", Path: path, Err: err}
	switch {
	case errors.Is(err, errNotFolder):
		e.hint = fmt.Sprintf("move %s away, or name another store with --store", path)
	case errors.Is(err, errHiddenOwner):
		e.hint = "in the user namespace that `residentctl exec` makes for an ordinary user root's files look like nobody's: do it outside"
	case errors.Is(err, ErrUnsafe):
		e.hint = fmt.Sprintf("look who could have changed it; if it is to be trusted: chown it to yourself or root and chmod go-w %s", path)
	case errors.Is(err, fs.ErrNotExist):
		e.hint = "`residentctl add PROGRAM` makes it"
	}
	return e
}

// checkFolder looks at the owner and mode of a folder of a store.
func checkFolder(path string) (fs.FileMode, error) {
	var st syscall.Stat_t
	if err := eintr(func() error { return syscall.Stat(path, &st) }); err != nil {
		return 0, err
	}
	if launcher.ShownForRoot(path, st.Uid) {
		st.Uid = 0
	}
	return fs.FileMode(st.Mode & 0o777), distrust(&st, os.Geteuid())
}

// distrust says why what st describes cannot be trusted by the user euid. Where a
// file has an ACL, the group's bits are its mask (acl(5)), so an ACL that lets
// somebody write shows there.
func distrust(st *syscall.Stat_t, euid int) error {
	switch {
	case st.Mode&syscall.S_IFMT != syscall.S_IFDIR:
		return errNotFolder
	case st.Uid != 0 && int(st.Uid) != euid:
		if linux.HidesOwner(st.Uid) {
			return errHiddenOwner // root or nobody, which the number does not tell
		}
		return fmt.Errorf("%w: it belongs to user %d, not to root or user %d", ErrUnsafe, st.Uid, euid)
	case st.Mode&0o022 != 0:
		return fmt.Errorf("%w: others than its owner may write to it (mode %04o)", ErrUnsafe, st.Mode&0o7777)
	}
	return nil
}
