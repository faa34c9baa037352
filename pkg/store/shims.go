package store

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/residentctl/residentctl/internal/linux"
)

// Shim is a link in shims/, by which PATH leads to a launcher file.
type Shim struct {
	Name    string      // of the link: the program's base name
	Program string      // absolute path of the program whose launcher file it is
	Binary  linux.Inode // of that program
}

// ShimPath returns the link for programs of a name.
func (s *Store) ShimPath(name string) string { return s.in(shimsName, name) }

// WriteShim makes PATH lead to the launcher file of a program, named by its
// absolute path, in place of what it led to by this name.
func (s *Store) WriteShim(b linux.Inode, program string) error {
	path := s.ShimPath(filepath.Base(program))
	err := fs.ErrInvalid
	if filepath.IsAbs(program) && program != "/" {
		err = s.replace(path, "shim", func(path string) error { return os.Symlink(launcherLink(b, program), path) })
	}
	return wrap("make shim", path, err)
}

// RemoveShim removes a link. That there is none is no error.
func (s *Store) RemoveShim(name string) error {
	path := s.ShimPath(name)
	if filepath.Base(path) != name {
		return wrap("remove shim", path, fs.ErrInvalid)
	}
	return s.unlink(path, "remove-shim")
}

// Shims returns the links in shims/, whether what they lead to is there or not.
// Stray are paths there that are no such link.
func (s *Store) Shims() (shims []Shim, stray []string, err error) {
	err = s.each(shimsName, func(name string) bool {
		shim, ok := readShim(s.ShimPath(name))
		if ok {
			shims = append(shims, shim)
		}
		return ok
	}, &stray)
	return shims, stray, err
}

// Shim returns the link for programs of a name, if there is one.
func (s *Store) Shim(name string) (Shim, bool) { return readShim(s.ShimPath(name)) }

// readShim takes only what WriteShim makes.
func readShim(path string) (Shim, bool) {
	program, binary, ok := readLauncherLink(path)
	if !ok || filepath.Base(program) != filepath.Base(path) {
		return Shim{}, false
	}
	return Shim{Name: filepath.Base(path), Program: program, Binary: binary}, true
}

// launcherLink is what a link in a directory of the store leads to.
func launcherLink(b linux.Inode, program string) string {
	return filepath.Join("..", launcherName, b.String(), program)
}

// readLauncherLink undoes launcherLink, whether what it leads to is there or not.
func readLauncherLink(path string) (program string, binary linux.Inode, ok bool) {
	target, err := os.Readlink(path)
	rest, isLauncher := strings.CutPrefix(target, "../"+launcherName+"/")
	of, program, found := strings.Cut(rest, "/")
	binary, isBinary := linux.ParseInode(of)
	program = "/" + program
	if err != nil || !isLauncher || !found || !isBinary || filepath.Clean(program) != program {
		return "", linux.Inode{}, false
	}
	return program, binary, true
}

// ShimOf returns the program that the shim at path stands for, of whatever store.
func ShimOf(path string) (program string, ok bool) {
	if filepath.Base(filepath.Dir(path)) != shimsName {
		return "", false
	}
	shim, ok := readShim(path)
	return shim.Program, ok
}

// Shared reports whether users other than the owner may look into the store.
func (s *Store) Shared() bool { return s.mode&0o055 != 0 }
