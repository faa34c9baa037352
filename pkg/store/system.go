package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// SystemLink is a link in system/: the program is enabled for the whole system, by
// its launcher file. The folder is made when the first is.
type SystemLink struct {
	Program string // absolute path
	Binary
}

// SystemPath is the link of a program.
func (s *Store) SystemPath(dev, ino uint64) string { return s.in(systemName, binaryName(dev, ino)) }

// WriteSystemLink notes that a program, named by its absolute path, is enabled for
// the whole system.
func (s *Store) WriteSystemLink(dev, ino uint64, program string) error {
	path := s.SystemPath(dev, ino)
	err := fs.ErrInvalid
	if filepath.IsAbs(program) && program != "/" {
		err = makeFolder(s.in(systemName), s.mode)
	}
	if err == nil {
		err = s.replace(path, "system-link", func(path string) error { return os.Symlink(launcherLink(dev, ino, program), path) })
	}
	return wrap("make link", path, err)
}

// RemoveSystemLink removes a link. That there is none is no error.
func (s *Store) RemoveSystemLink(dev, ino uint64) error {
	path := s.SystemPath(dev, ino)
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	Fault("after-remove-system-link")
	if err == nil {
		err = syncPath(s.in(systemName))
	}
	return wrap("remove link", path, err)
}

// SystemLink is the link of a binary, if it has one.
func (s *Store) SystemLink(b Binary) (l SystemLink, ok bool) {
	program, binary, ok := readLauncherLink(s.SystemPath(b.Dev, b.Ino))
	return SystemLink{program, binary}, ok && binary == b
}

// SystemLinks are the links in system/, whether what they lead to is there or not.
// Stray are paths there that are no such link.
func (s *Store) SystemLinks() (links []SystemLink, stray []string, err error) {
	err = s.each(systemName, func(name string) bool {
		dev, ino, ok := parseBinaryName(name)
		if !ok {
			return false
		}
		link, ok := s.SystemLink(Binary{dev, ino})
		if ok {
			links = append(links, link)
		}
		return ok
	}, &stray)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return links, stray, err
}
