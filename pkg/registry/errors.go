package registry

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/residentctl/residentctl/internal/problem"
)

// What a caller may want to tell apart. A registry that is not there is
// fs.ErrNotExist, one that may not be opened fs.ErrPermission, and the kernel's
// own reasons (syscall.ENOSPC, syscall.EROFS) stay recognisable too.
var (
	ErrNotFound     = error(problem.Newf(problem.Program, "no such entry").WithHint("`residentctl list` shows what is resident"))
	ErrAmbiguous    = errors.New("more than one entry")
	ErrLocked       = errors.New("locked by another process")
	ErrCorrupt      = errors.New("the registry is damaged")
	ErrNewerSchema  = errors.New("written by a newer residentctl")
	ErrOlderSchema  = errors.New("written by an older residentctl")
	ErrReadOnly     = errors.New("opened for reading only")
	ErrUnsafe       = errors.New("not safe to be relied on")
	ErrMissing      = errors.New("the registry is missing")
	ErrDuplicateID  = errors.New("the image id belongs to another binary")
	errNotARegistry = fmt.Errorf("%w: not a registry", ErrCorrupt)
)

// Failed is what a method of this package fails with: what was being done ("read
// registry") to which registry, and why it did not work.
func Failed(doing, path string, err error) error {
	return &problem.Problem{
		Kind: problem.Store, Err: fmt.Errorf("%s %s: %w", doing, path, err),
		Hint: cmp.Or(problem.HintOf(err), hints.For(err)),
	}
}

var hints = problem.Hints{
	{ErrLocked, "another residentctl is writing to this store; try again when it is done"},
	{ErrNewerSchema, "use the residentctl that wrote it, or a newer one"},
	{ErrOlderSchema, "any command that changes this store, run by its owner, brings the registry up to date"},
	{ErrCorrupt, "`residentctl check` names every fault; to start over, move the file away and add the programs again"},
	{ErrUnsafe, "look who could have changed it; if it is to be trusted: chown it to yourself or root, and chmod go-rwx"},
	{ErrMissing, "put it back, or start over: add the programs again, and then `residentctl gc` removes what is left"},
	{fs.ErrNotExist, "the store is empty; `residentctl add PROGRAM` makes the first entry"},
	{syscall.ENOSPC, "the disk is full; free some space, or use another store with --store"},
	{syscall.EROFS, "the file system is mounted read-only; use another store with --store"},
	{fs.ErrPermission, "only the owner of the store may do this"},
}

// AmbiguousError is ErrAmbiguous with the entries that a query could mean.
type AmbiguousError struct {
	Query      string
	Candidates []Record
}

func (e *AmbiguousError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q could be", e.Query)
	for i, r := range e.Candidates {
		if i > 0 {
			b.WriteByte(',')
		}
		if r.HasImage() {
			fmt.Fprintf(&b, " %s (%s)", r.ID, r.Program)
		} else {
			fmt.Fprintf(&b, " %s (no image)", r.Program)
		}
	}
	return b.String()
}

// AsProblem adds what can be done about it.
func (e *AmbiguousError) AsProblem() *problem.Problem {
	return &problem.Problem{Kind: problem.Program, Hint: "give more digits of the id, or the program's absolute path"}
}

// Is makes it an ErrAmbiguous.
func (e *AmbiguousError) Is(target error) bool { return target == ErrAmbiguous }

func corruptf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}
