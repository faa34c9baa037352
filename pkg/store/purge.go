package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// Everything that is in a store when nothing has been put there from outside.
var (
	allDirectories = append(slices.Clone(directories), systemName, namedName, execName)
	ownFiles       = []string{bootName, registryName + ".gate", string(NoteStarts), string(NoteSeen)}
)

// RemoveExecs removes all that `residentctl exec` keeps in the store. Trees of processes
// that use it go on with the dynamic linker itself.
func (s *Store) RemoveExecs() error {
	paths, err := s.Execs()
	for _, name := range []string{"original", "told"} {
		paths = append(paths, s.in(execName, name))
	}
	for _, path := range paths {
		if e := os.Remove(path); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, wrap("remove", path, e))
		}
	}
	return err
}

// Idle returns ErrBusy while another process makes something in staging/.
func (s *Store) Idle() error {
	entries, err := os.ReadDir(s.in(stagingName))
	for _, e := range entries {
		busy, inUseErr := inUse(s.in(stagingName, e.Name()), e)
		if err = errors.Join(err, inUseErr); busy && err == nil {
			err = ErrBusy
		}
	}
	return wrap("purge", s.dir, err)
}

// RemoveEmpty removes the store itself when all that was published in it is gone: its
// own files, then its directories. The registry goes after the others, since without it
// they would not be known as a store's. What residentctl has not made stays, with the
// directories that lead to it; these paths are returned. The store must be locked.
func (s *Store) RemoveEmpty() (kept []string, err error) {
	for _, name := range ownFiles {
		if err := os.Remove(s.in(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, wrap("remove", s.in(name), err)
		}
	}
	for _, name := range allDirectories {
		if name == stagingName { // by which the store is locked
			continue
		}
		if _, err := removeDirectory(s.in(name)); err != nil {
			return nil, err
		}
	}
	Fault("before-purge-registry")
	if err := os.Remove(s.RegistryPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, wrap("remove", s.RegistryPath(), err)
	}
	Fault("after-purge-registry")
	return RemoveUnfinished(s.dir)
}

// RemoveUnfinished removes a directory that holds nothing but empty directories of a
// store: one whose making, or whose removal, was not finished. Else it removes the empty
// ones of them if something else is there as well, and returns the paths of that.
func RemoveUnfinished(dir string) (kept []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, wrap("read", dir, err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !slices.Contains(allDirectories, e.Name()) || !e.IsDir() {
			kept = append(kept, path)
			continue
		}
		if e.Name() == stagingName {
			removeStaged(path)
		}
		left, err := removeDirectory(path)
		if err != nil {
			return nil, err
		}
		kept = append(kept, left...)
	}
	if len(kept) > 0 {
		return kept, nil
	}
	Fault("before-purge-directory")
	err = os.Remove(dir)
	if errors.Is(err, syscall.ENOTEMPTY) {
		err = fmt.Errorf("another residentctl has just put something there: %w", err)
	}
	return nil, wrap("remove", dir, err)
}

// removeStaged removes what a process has left in staging/ that worked on a store while
// that was removed. What is in use stays.
func removeStaged(staging string) {
	for _, pattern := range []string{"work-*", "program-*", "background"} {
		left, _ := filepath.Glob(filepath.Join(staging, pattern))
		for _, path := range left {
			_ = removeAbandoned(path)
		}
	}
}

// removeDirectory removes a directory, or returns what is in it.
func removeDirectory(path string) (kept []string, err error) {
	err = os.Remove(path)
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case !errors.Is(err, syscall.ENOTEMPTY):
		return nil, wrap("remove", path, err)
	}
	entries, err := os.ReadDir(path)
	for _, e := range entries {
		kept = append(kept, filepath.Join(path, e.Name()))
	}
	return kept, wrap("read", path, err)
}
