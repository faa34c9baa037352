package store

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// execName is the folder of what `residentctl exec` puts over files of the
// system in a mount namespace of its own.
const execName = "exec"

// WriteExec keeps data as an executable file that is named after its content,
// and gives its path. One that is there already stays as it is: processes may
// have it mapped.
func (s *Store) WriteExec(data []byte) (string, error) {
	sum := sha256.Sum256(data)
	path := s.in(execName, hex.EncodeToString(sum[:8]))
	err := s.makeExec()
	if err == nil {
		_, err = os.Lstat(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = s.replace(path, "exec", func(path string) error { return writeFile(path, data, 0o755) })
	}
	return path, wrap("write", path, err)
}

// Execs are the paths of what WriteExec has written.
func (s *Store) Execs() ([]string, error) {
	entries, err := os.ReadDir(s.in(execName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var paths []string
	for _, e := range entries {
		if sum, err := hex.DecodeString(e.Name()); err == nil && len(sum) == 8 {
			paths = append(paths, s.in(execName, e.Name()))
		}
	}
	return paths, wrap("read", s.in(execName), err)
}

// RemoveExec removes one of them. Where it is mounted it stays.
func (s *Store) RemoveExec(path string) error {
	if filepath.Dir(path) != s.in(execName) {
		return wrap("remove", path, fs.ErrInvalid)
	}
	return wrap("remove", path, os.Remove(path))
}

// ExecOriginal is an empty file over which the covered file can be mounted, so
// that it still has a path.
func (s *Store) ExecOriginal() (string, error) {
	path := s.in(execName, "original")
	err := s.makeExec()
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o644); err == nil {
			err = f.Close()
		}
	}
	return path, wrap("make", path, err)
}

// FirstExec tells whether this is the first time that it is called for this store.
// Where it cannot be noted, it is.
func (s *Store) FirstExec() bool {
	if s.makeExec() != nil {
		return true
	}
	f, err := os.OpenFile(s.in(execName, "told"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err == nil {
		err = f.Close()
	}
	return !errors.Is(err, fs.ErrExist)
}

func (s *Store) makeExec() error {
	if err := makeFolder(s.in(execName), s.mode); err != nil {
		return err
	}
	_, err := checkFolder(unix.AT_FDCWD, s.in(execName), s.in(execName))
	return err
}
