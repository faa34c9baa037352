package store

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/residentctl/residentctl/internal/linux"
)

// Link makes a start of the program find the image id, in place of the one that
// it found before.
func (s *Store) Link(b linux.Inode, id string) error {
	err := checkID(id)
	if err == nil {
		target := filepath.Join("..", imagesName, id, planName)
		err = s.replace(s.IndexPath(b), "link", func(path string) error { return os.Symlink(target, path) })
	}
	return wrap("publish", s.IndexPath(b), err)
}

// Unlink makes starts of the program find no image. That there was none is no
// error.
func (s *Store) Unlink(b linux.Inode) error {
	return s.unlink(s.IndexPath(b), "unlink")
}

// unlink removes a file, and what names that step in FaultPoints. That there is none is no
// error.
func (s *Store) unlink(path, what string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	Fault("after-" + what)
	if err == nil {
		err = syncPath(filepath.Dir(path))
	}
	return wrap("remove", path, err)
}

// WriteLauncher writes the launcher file of a program, named by its absolute path.
// The directories that lead to it bear the names of those that lead to the program, and
// like tells who may use each of them and the file: the store shows the program's
// path to nobody else. Without like all may who may read the store. A process that
// runs the old one keeps it; one that is the same already stays.
func (s *Store) WriteLauncher(b linux.Inode, program string, data []byte, like func(path string) (Access, error)) error {
	if like == nil {
		like = s.likeStore
	}
	path := s.LauncherPath(b, program)
	return wrap("write launcher", path, s.writeLauncher(s.LaunchersDir(b), filepath.Clean(program), data, like))
}

func (s *Store) likeStore(string) (Access, error) { return Access{s.mode, -1}, nil }

func (s *Store) writeLauncher(top, program string, data []byte, like func(path string) (Access, error)) error {
	if !filepath.IsAbs(program) || program == "/" {
		return fs.ErrInvalid
	}
	if err := leadTo(top, filepath.Dir(program), like); err != nil {
		return err
	}
	a, err := like(program)
	if err != nil {
		return err
	}
	at := top + program
	if isFile(at, data) {
		return a.set(at)
	}
	if err := clearDirectory(at); err != nil {
		return err
	}
	return s.replace(at, "launcher", func(path string) error {
		if err := writeFile(path, data, 0o700); err != nil {
			return err
		}
		return errors.Join(a.set(path), syncPath(path))
	})
}

// leadTo makes the directories below top that stand for directory and for those that lead
// to it. Links that are in their place, as an older residentctl made them, go.
func leadTo(top, directory string, like func(path string) (Access, error)) error {
	if directory != "/" {
		if err := leadTo(top, filepath.Dir(directory), like); err != nil {
			return err
		}
	}
	path := filepath.Join(top, directory)
	a, err := like(directory)
	if err != nil {
		return err
	}
	if info, err := os.Lstat(path); err == nil && !info.IsDir() {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	if err := makeDirectory(path, 0o700); err != nil {
		return err
	}
	return a.set(path)
}

// clearDirectory removes a directory in place of which a file is to be.
func clearDirectory(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// isFile reports whether a file, not a link to one, holds data, and will: nobody else
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

// replace has a file made in a staging directory and renames it to path. The fault
// points are called after what.
func (s *Store) replace(path, what string, create func(path string) error) error {
	g, err := s.stage()
	if err != nil {
		return err
	}
	defer func() { _ = g.Discard() }()
	made := filepath.Join(g.Dir, filepath.Base(path))
	if err := create(made); err != nil {
		return err
	}
	Fault("before-" + what)
	if err := renameDurably(made, path); err != nil {
		return err
	}
	Fault("after-" + what)
	return nil
}

// RemoveImage removes an image. It is taken out of images/ whole, then deleted.
// That there is none is no error.
func (s *Store) RemoveImage(id string) error {
	err := checkID(id)
	if err == nil {
		err = s.remove(s.ImageDir(id), "image")
	}
	return wrap("remove image", s.ImageDir(id), err)
}

// RemoveLaunchers removes all launcher files of one program, in the same way.
func (s *Store) RemoveLaunchers(b linux.Inode) error {
	path := s.LaunchersDir(b)
	return wrap("remove", path, s.remove(path, "launchers"))
}

func (s *Store) remove(path, what string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	g, err := s.stage()
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		// No room for the directory that it would go to first, and this is what makes room.
		return removeInPlace(path)
	}
	if err != nil {
		return err
	}
	Fault("before-remove-" + what)
	err = renameDurably(path, filepath.Join(g.Dir, filepath.Base(path)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = nil // another remove was quicker
	case errors.Is(err, syscall.EXDEV):
		// On overlayfs a directory that is in a lower layer too cannot be renamed (Linux
		// Documentation/filesystems/overlayfs.rst, "renaming directories").
		err = removeInPlace(path)
	}
	Fault("after-remove-" + what)
	return errors.Join(err, g.Discard())
}

// removeInPlace removes a directory to which nothing leads any more. Killed in between it
// leaves a part, which is garbage as the whole is.
func removeInPlace(path string) error {
	return errors.Join(os.RemoveAll(path), syncPath(filepath.Dir(path)))
}
