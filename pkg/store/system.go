package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/residentctl/residentctl/internal/linux"
)

// SystemLink is a link in system/: the program is enabled for the whole system, by
// its launcher file. The directory is made when the first is.
//
// The link's name says for which binfmt_misc that is, since a store may be used where the
// kernel has another one (a container's): <dev>-<ino> for the machine's, as all links
// were once, and <dev>-<ino>@<instance> for another.
type SystemLink struct {
	Program  string // absolute path
	Binary   linux.Inode
	Instance string // binfmt.Instance; "" is the machine's
}

// SystemPath returns the path of a link.
func (s *Store) SystemPath(l SystemLink) string {
	name := l.Binary.String()
	if l.Instance != "" {
		name += "@" + l.Instance
	}
	return s.in(systemName, name)
}

// WriteSystemLink notes that a program is enabled for the whole system.
func (s *Store) WriteSystemLink(l SystemLink) error {
	path := s.SystemPath(l)
	err := fs.ErrInvalid
	if filepath.IsAbs(l.Program) && l.Program != "/" && filepath.Dir(path) == s.in(systemName) {
		err = makeDirectory(s.in(systemName), s.mode)
	}
	if err == nil {
		err = s.replace(path, "system-link", func(path string) error { return os.Symlink(launcherLink(l.Binary, l.Program), path) })
	}
	return wrap("make link", path, err)
}

// RemoveSystemLink removes a link. That there is none is no error.
func (s *Store) RemoveSystemLink(l SystemLink) error {
	return s.unlink(s.SystemPath(l), "remove-system-link")
}

// SystemLink returns the link of a binary for an instance, if it has one.
func (s *Store) SystemLink(b linux.Inode, instance string) (l SystemLink, ok bool) {
	l = SystemLink{Binary: b, Instance: instance}
	program, binary, ok := readLauncherLink(s.SystemPath(l))
	l.Program = program
	return l, ok && binary == b
}

// SystemLinks returns the links in system/, whether what they lead to is there or not.
// Stray are paths there that are no such link.
func (s *Store) SystemLinks() (links []SystemLink, stray []string, err error) {
	err = s.each(systemName, func(name string) bool {
		of, instance, others := strings.Cut(name, "@")
		b, ok := linux.ParseInode(of)
		if !ok || others && instance == "" {
			return false
		}
		link, ok := s.SystemLink(b, instance)
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
