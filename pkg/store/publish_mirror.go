package store

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// LinkLauncher makes path, below what leads to one program, a link to target there.
// Both are paths of the originals, and the folder of path is there.
func (s *Store) LinkLauncher(dev, ino uint64, path, target string) error {
	at := s.LauncherPath(dev, ino, path)
	to, err := filepath.Rel(filepath.Dir(at), s.LauncherPath(dev, ino, target))
	if err == nil {
		err = s.linkLauncher(at, to)
	}
	return wrap("link launcher", at, err)
}

func (s *Store) linkLauncher(at, to string) error {
	if now, err := os.Readlink(at); err == nil && now == to {
		return nil
	}
	if err := clearFolder(at); err != nil {
		return err
	}
	return s.replace(at, "launcher", func(path string) error { return os.Symlink(to, path) })
}

// MirrorFolder makes the folder that stands for folder below what leads to one
// program, with a link to the original for each of the names in it, and without
// links for any other. The folder that leads to it is there. Like tells who may
// use it, as for WriteLauncher.
//
// Its links are brought to the disk together, not one by one: what a crash loses
// of them is made again by the next add or refresh.
func (s *Store) MirrorFolder(dev, ino uint64, folder string, names []string, like func(path string) (Access, error)) error {
	path := s.LauncherPath(dev, ino, folder)
	if like == nil {
		like = s.likeStore
	}
	return wrap("mirror", folder, s.mirrorFolder(path, filepath.Clean(folder), names, like))
}

func (s *Store) mirrorFolder(path, folder string, names []string, like func(path string) (Access, error)) error {
	if err := realFolder(path, folder, like); err != nil {
		return err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	wanted := make(map[string]bool, len(names))
	for _, name := range names {
		if name == "" || name == "." || name == ".." || filepath.Base(name) != name {
			return fs.ErrInvalid
		}
		wanted[name] = true
	}
	changed := false
	for _, e := range entries {
		at, original := filepath.Join(path, e.Name()), filepath.Join(folder, e.Name())
		target, err := os.Readlink(at)
		right := err == nil && target == original
		switch {
		case right && wanted[e.Name()]:
			delete(wanted, e.Name())
		case right || wanted[e.Name()]:
			if err := os.RemoveAll(at); err != nil {
				return err
			}
			changed = true
		}
	}
	missing := make([]string, 0, len(wanted))
	for name := range wanted {
		missing = append(missing, name)
	}
	slices.Sort(missing)
	for _, name := range missing {
		if err := os.Symlink(filepath.Join(folder, name), filepath.Join(path, name)); err != nil {
			return err
		}
		changed = true
	}
	if !changed {
		return nil
	}
	Fault("after-mirror")
	return syncPath(path)
}

// realFolder makes path, which stands for folder, a folder, if a mirror has a link
// there.
func realFolder(path, folder string, like func(path string) (Access, error)) error {
	a, err := like(folder)
	if err != nil {
		return err
	}
	if info, err := os.Lstat(path); err == nil && !info.IsDir() {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	if err := makeFolder(path, 0o700); err != nil {
		return err
	}
	return a.set(path)
}

// clearFolder removes a folder in the place of which a file is to be.
func clearFolder(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// isFile tells whether a file, not a link to one, holds data, and will: nobody else
// can write to it, or have it open from when he could.
func isFile(path string, data []byte) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() != int64(len(data)) {
		return false
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 0 && int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return false
	}
	got, err := os.ReadFile(path)
	return err == nil && bytes.Equal(got, data)
}
