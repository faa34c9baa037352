package store

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/residentctl/residentctl/internal/linux"
)

// Link is an entry of index/: which image a start of a binary finds.
type Link struct {
	Binary linux.Inode
	ID     string
}

// Images returns the ids in images/. Stray are paths there that are no image.
func (s *Store) Images() (ids, stray []string, err error) {
	err = s.each(imagesName, func(name string) bool {
		if checkID(name) != nil {
			return false
		}
		ids = append(ids, name)
		return true
	}, &stray)
	return ids, stray, err
}

// Links returns the entries of index/, whether their images are there or not. Stray
// are paths there that are no such link.
func (s *Store) Links() (links []Link, stray []string, err error) {
	return s.LinksBut(func(linux.Inode) bool { return false })
}

// LinksBut is Links without those of some binaries, which are not looked at.
func (s *Store) LinksBut(not func(linux.Inode) bool) (links []Link, stray []string, err error) {
	err = s.each(indexName, func(name string) bool {
		b, ok := linux.ParseInode(name)
		if ok && not(b) {
			return true
		}
		link, isLink := s.LinkOf(b)
		if ok && isLink {
			links = append(links, link)
		}
		return ok && isLink
	}, &stray)
	return links, stray, err
}

// LinkOf returns the entry of index/ for a binary, if it has one.
func (s *Store) LinkOf(b linux.Inode) (l Link, ok bool) {
	target, err := os.Readlink(s.IndexPath(b))
	id, isPlan := strings.CutSuffix(target, "/"+planName)
	id, isImage := strings.CutPrefix(id, "../"+imagesName+"/")
	return Link{b, id}, err == nil && isPlan && isImage && checkID(id) == nil
}

// Launchers returns the binaries that have launcher files. Stray are paths in
// launchers/ that belong to none.
func (s *Store) Launchers() (binaries []linux.Inode, stray []string, err error) {
	err = s.each(launcherName, func(name string) bool {
		b, ok := linux.ParseInode(name)
		if ok {
			binaries = append(binaries, b)
		}
		return ok
	}, &stray)
	return binaries, stray, err
}

// each gives every name in a directory of the store to take, and notes what it
// does not want.
func (s *Store) each(directory string, take func(name string) bool, stray *[]string) error {
	entries, err := os.ReadDir(s.in(directory))
	if err != nil {
		return wrap("read", s.in(directory), err)
	}
	for _, e := range entries {
		if !take(e.Name()) {
			*stray = append(*stray, filepath.Join(s.in(directory), e.Name()))
		}
	}
	return nil
}
