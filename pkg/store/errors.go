package store

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/residentctl/residentctl/internal/problem"
)

// ErrUnsafe is a store that others could write to, or that is a stranger's:
// what it holds would be executed.
var ErrUnsafe = errors.New("not safe to run programs from")

// ErrNoExec is a store on a file system from which nothing may be executed: no
// launcher file would start, and what `exec` covers the dynamic linker with would
// make every exec fail.
var ErrNoExec = errors.New("its file system is mounted noexec")

var errNotInPath = errors.New("it contains a colon or a line break")

var hints = problem.Hints{
	{syscall.ENOSPC, "free some space on the full disk, or use another store with --store"},
	{syscall.EDQUOT, "free some space of your full disk quota, or use another store with --store"},
	{ErrBusy, "try again when it is done; `fuser -v` on the store's staging directory shows which process it is"},
	{ErrReplaced, "find out who can rename in the directories that lead to it, and try again"},
	{ErrNoExec, "use another store with --store, on a file system from which programs can be executed"},
	{errNotInPath, "use a store whose path has neither, with --store; `residentctl enable --system` needs no PATH"},
	{syscall.EXDEV, "use another store with --store: all of a store must be on one file system"},
	{syscall.EROFS, "use another store with --store: the file system is mounted read-only"},
	{fs.ErrPermission, "set HOME to your own home directory, name a store of your own with --store, or be root: this store is another user's"},
}

// Failed returns the error of a method of this package: what was being done ("publish
// image") to what, and why it did not work. The kernel's reason (syscall.ENOSPC, EROFS,
// EACCES) is recognisable with errors.Is.
func Failed(doing, path string, err error) *problem.Problem {
	return &problem.Problem{Kind: problem.Store, Err: fmt.Errorf("%s %s: %w", doing, path, err), Hint: hints.For(err)}
}

// wrap is Failed if there is an error.
func wrap(doing, path string, err error) error {
	if err == nil {
		return nil
	}
	return Failed(doing, path, err)
}
