// Package readers finds out who may read and execute a program, and reports which of its
// traces are open to anyone else. It compares owners, modes and ACLs of files, of the
// directories that lead to them, and of the copies in a store. Package store has the
// arithmetic of modes (store.Access) and sets them.
package readers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/store"
)

// A Set is those who may read and execute a program, as far as a mode and a
// group can say it: what is kept of the program is for them. A program is out of
// reach for whom one of the directories that lead to it shuts out, and an image also
// shows the libraries that it is linked with, and can show whatever else was opened
// while it was linked: a resolver (IFUNC) can have kept what it read. Who could not be told apart, by an
// ACL for one, is left out: for him the program is started normally.
//
// The owners of directories and libraries are taken to have the rights that others
// have, as they can give themselves, and root to have all.
type Set struct {
	Mode fs.FileMode // the group's and others' bits for reading and executing
	GID  int
}

// Rights in a mode.
const (
	MayRead  fs.FileMode = 4 // read, as others' bit
	maySeek  fs.FileMode = 1 // execute a file, look for something in a directory
	bothMay  fs.FileMode = MayRead | maySeek
	Everyone fs.FileMode = 0o055 // all of both, of the group and of others
)

// Of finds the readers of a program with its libraries and all else that was
// found while it was linked. If one of these other files is gone, or the kernel made
// one up for its reader, only the owner is left.
func Of(program string, deps *fingerprint.Dependencies) (Set, error) {
	r := Set{Mode: Everyone}
	passed := map[string]bool{}
	if err := r.reach(program, bothMay, passed); err != nil {
		return r, err
	}
	for _, f := range append([]fingerprint.File{deps.Linker}, deps.Libraries...) {
		if err := r.reach(f.Path, MayRead, passed); err != nil {
			return r, err
		}
	}
	for _, c := range deps.Checks {
		if c.ID.Ino == 0 {
			continue // it was not there
		}
		switch err := r.reach(c.Path, MayRead, passed); {
		case errors.Is(err, fs.ErrNotExist):
			r.Mode = 0
		case err != nil:
			return r, err
		}
	}
	if deps.OwnerOnly {
		r.Mode = 0
	}
	return r, nil
}

// reach leaves out users who cannot reach a file or lack the rights to it.
// Directories that were passed before are not looked at again.
func (r *Set) reach(path string, rights fs.FileMode, passed map[string]bool) error {
	directories, file, err := way(path)
	if err != nil {
		return fmt.Errorf("find who may read %s: %w", path, err)
	}
	for _, directory := range directories {
		if passed[directory] {
			continue
		}
		passed[directory] = true
		st, err := permissions(directory)
		if err != nil {
			return err
		}
		// Out of reach is out of reach for reading too.
		r.restrict(st, maySeek, bothMay)
	}
	st, err := permissions(file)
	if err != nil {
		return err
	}
	for _, right := range []fs.FileMode{MayRead, maySeek} {
		if rights&right != 0 {
			r.restrict(st, right, right)
		}
	}
	return nil
}

// restrict takes the rights lose from those who do not have the right need to
// what st describes.
func (r *Set) restrict(st *syscall.Stat_t, need, lose fs.FileMode) {
	group, others := fs.FileMode(st.Mode)>>3&need != 0, fs.FileMode(st.Mode)&need != 0
	if group && others {
		return
	}
	if r.Mode>>3&7 == r.Mode&7 {
		r.GID = int(st.Gid) // whose group it was did not matter
	}
	// Who of another group's members and of the others is in st's group is not
	// known.
	same := r.GID == int(st.Gid)
	if !same || !group {
		r.Mode &^= lose << 3
	}
	if !same || !others {
		r.Mode &^= lose
	}
}

// Access returns who may use what is in a store for the original at path, a
// name of a program or a directory that leads to one. Anyone who may execute or pass the
// original may do that there too, or a start through the launcher would fail where a plain
// one works. A launcher file can be read by who can read the program by that name, and a
// directory by the store's owner only.
func Access(path string) (a store.Access, err error) {
	st, err := permissions(path)
	if err != nil {
		return a, err
	}
	if acl, err := linux.HasACL(path); acl || err != nil {
		return store.Access{Mode: maySeek | maySeek<<3, GID: -1}, err // it may let in anybody
	}
	pass := fs.FileMode(st.Mode) & (maySeek | maySeek<<3)
	a = store.Access{Mode: pass, GID: int(st.Gid)}
	if st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		return a, nil
	}
	r := Set{Mode: Everyone}
	if err := r.reach(path, bothMay, map[string]bool{}); err != nil {
		return a, err
	}
	if pass == 0 || pass == maySeek|maySeek<<3 {
		a.GID = r.GID // whose group passes does not matter
	}
	if a.GID == r.GID {
		a.Mode |= r.Mode & (MayRead | MayRead<<3)
	}
	return a, nil
}

// permissions is stat(2), without the rights of group and others where an ACL
// says more about them: the group's bits are only its mask then (acl(5)).
func permissions(path string) (*syscall.Stat_t, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	acl, err := linux.HasACL(path)
	if acl {
		st.Mode &^= 0o077
	}
	return &st, err
}

// way returns the directories in which a path is looked up, those of the links in it
// too, and the file that it leads to (path_resolution(7)).
func way(path string) (directories []string, file string, err error) {
	const maxLinks = 40 // linux/namei.h, MAXSYMLINKS
	at, rest, links := "/", strings.Split(path, "/"), 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		directories = append(directories, at)
		next := filepath.Join(at, name)
		target, err := os.Readlink(next)
		if errors.Is(err, syscall.EINVAL) { // it is no link
			at = next
			continue
		}
		if err != nil {
			return nil, "", err
		}
		if links++; links > maxLinks {
			return nil, "", syscall.ELOOP
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return directories, at, nil
}
