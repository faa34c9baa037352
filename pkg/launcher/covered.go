package launcher

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/residentctl/residentctl/internal/linux"
)

// LinkerPath is where programs for x86-64 name their dynamic linker (glibc; the
// psABI's PT_INTERP), and what Cover's copy is mounted over.
const LinkerPath = "/lib64/ld-linux-x86-64.so.2"

// A Covered is a dynamic linker that this process cannot see by its path, since
// the process is inside a command tree in which Cover's copy stands there.
type Covered struct {
	ID       linux.FileID // of the copy
	Original string       // where the linker itself is to be found

	options CoverOptions
	linker  linux.FileID
	err     error
}

// Inside returns what is covered here; nil is nothing, as outside such a
// command tree. A mount namespace is left by an exec at the soonest (Go programs have
// threads), so that this is looked at once.
var Inside = sync.OnceValue(func() *Covered { return covered(LinkerPath) })

// coverTail is how much of the end of Cover's copy holds the launcher, its
// configuration and the paths, of which there are at most six (PATH_MAX). Every
// command looks there.
const coverTail = 64 << 10

func covered(path string) *Covered {
	id, err := linux.StatID(path)
	if err != nil {
		return nil
	}
	copied, err := linux.ReadTail(path, coverTail)
	if err != nil || !bytes.Contains(copied, []byte(configMark)) {
		return nil
	}
	o, ok := coverOptions(copied)
	c := &Covered{ID: id, Original: o.Original, options: o}
	if !ok {
		c.err = errors.New("the copy is damaged, or another version's")
		return c
	}
	if c.linker, c.err = linux.StatID(c.Original); c.err != nil {
		return c
	}
	linker, err := os.ReadFile(c.Original)
	if err == nil {
		_, _, err = readLinker(linker)
	}
	if err == nil && bytes.Contains(linker, []byte(configMark)) {
		err = ErrCovered
	}
	c.err = err
	return c
}

// Linker returns the identity of the linker itself. It is an error, and none of the
// kernel's, where that is not to be seen: its mount has gone, or the copy is one of
// another residentctl's.
func (c *Covered) Linker() (linux.FileID, error) {
	now, err := linux.StatID(c.Original)
	switch {
	case c.err != nil:
		err = c.err
	case err == nil && now != c.linker:
		err = errors.New("it is another file now")
	}
	if err != nil {
		return now, fmt.Errorf("see the dynamic linker that `residentctl exec` has covered: %v", err)
	}
	return now, nil
}

// Options returns what Cover was given for the copy.
func (c *Covered) Options() CoverOptions { return c.options }

// ShownForRoot reports whether a file at this path that stat(2) shows as uid's is root's:
// one that it shows as root's is, and so may be one that it shows as the overflow uid's
// in the user namespace of a command tree, which does not know root. The number alone
// stands for every user whom it does not know. But the copy of the linker, through which
// every dynamic program here runs, takes what is so in the tree's stores for root's
// (src/store.c, trusted), since their directories were found to be root's alone before the
// namespace was made; who believes it of those stores believes no one else.
func ShownForRoot(path string, uid uint32) bool {
	if uid == 0 {
		return true // with nothing to read, which is so in most cases
	}
	c := Inside()
	return c != nil && c.options.Root == uid && linux.HidesOwner(uid) &&
		slices.ContainsFunc(c.options.Stores, func(s Store) bool {
			rest, err := filepath.Rel(s.Dir, path)
			return err == nil && filepath.IsLocal(rest)
		})
}
