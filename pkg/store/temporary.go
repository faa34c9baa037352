package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// temporaryPrefix begins the names of the directories of StageTemporary.
const temporaryPrefix = "residentctl-work-"

// Temporary is a directory outside every store for what is needed while
// something is being made, such as a log. As a Staging it is locked for as long
// as its maker works there; without its lock it is garbage.
type Temporary struct {
	Dir  string
	lock *os.File
}

// StageTemporary makes a directory in os.TempDir.
func StageTemporary() (*Temporary, error) {
	dir, lock, err := makeLocked(os.TempDir(), temporaryPrefix)
	if err != nil {
		return nil, Failed("make a directory in", os.TempDir(), err).WithHint("name another directory in TMPDIR")
	}
	return &Temporary{dir, lock}, nil
}

// Keep moves a file from the directory to a new one whose name begins with prefix
// and which stays, and returns the file's path there, or "" if that cannot be.
func (t *Temporary) Keep(file, prefix string) string {
	if filepath.Dir(file) != t.Dir {
		return ""
	}
	dir, err := os.MkdirTemp(os.TempDir(), prefix)
	if err != nil {
		return ""
	}
	kept := filepath.Join(dir, filepath.Base(file))
	if err := os.Rename(file, kept); err != nil {
		_ = os.Remove(dir)
		return ""
	}
	return kept
}

// Discard removes the directory.
func (t *Temporary) Discard() error {
	defer t.lock.Close()
	return wrap("discard", t.Dir, os.RemoveAll(t.Dir))
}

// AbandonedTemporary returns the directories of StageTemporary in which no process works:
// the caller's own only, for anybody may put something into os.TempDir. In one that
// does not exist there are none.
func AbandonedTemporary() ([]string, error) {
	entries, err := os.ReadDir(os.TempDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, wrap("read", os.TempDir(), err)
	}
	var left []string
	for _, e := range entries {
		path := filepath.Join(os.TempDir(), e.Name())
		if !strings.HasPrefix(e.Name(), temporaryPrefix) || !ownDirectory(path) {
			continue
		}
		if busy, err := inUse(path, e); err == nil && !busy {
			left = append(left, path)
		}
	}
	return left, nil
}

func ownDirectory(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir() && int(info.Sys().(*syscall.Stat_t).Uid) == os.Geteuid()
}

// RemoveTemporary removes a directory that AbandonedTemporary returned. If it is
// in use by now, it stays, and the error is syscall.EWOULDBLOCK.
func RemoveTemporary(path string) error {
	if !strings.HasPrefix(filepath.Base(path), temporaryPrefix) {
		return wrap("remove", path, fs.ErrInvalid)
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !ownDirectory(path) {
		return wrap("remove", path, syscall.EWOULDBLOCK)
	}
	return removeAbandoned(path)
}
