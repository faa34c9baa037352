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

// What a caller may want to tell apart. A registry that does not exist is
// fs.ErrNotExist, one that the caller may not open is fs.ErrPermission, and the kernel's
// own reasons (syscall.ENOSPC, syscall.EROFS) stay recognisable too.
var (
	ErrNotFound     = error(problem.Newf(problem.Program, "no such entry").WithHint("run `residentctl list` to see what is resident"))
	ErrAmbiguous    = errors.New("more than one entry")
	ErrLocked       = errors.New("locked by another process")
	ErrCorrupt      = errors.New("the registry is damaged")
	ErrNewerSchema  = errors.New("written by a newer residentctl")
	ErrOlderSchema  = errors.New("written by an older residentctl")
	ErrReadOnly     = errors.New("opened for reading only")
	ErrUnsafe       = errors.New("not safe to rely on")
	ErrMissing      = errors.New("the registry is missing")
	ErrDuplicateID  = errors.New("the image id belongs to another binary")
	errNotARegistry = fmt.Errorf("%w: not a registry", ErrCorrupt)
)

// Failed returns the error of a method of this package: what was being done ("read
// registry") to which registry, and why it did not work.
func Failed(doing, path string, err error) error {
	return &problem.Problem{
		Kind: problem.Store, Err: fmt.Errorf("%s %s: %w", doing, path, err),
		Hint: cmp.Or(problem.HintOf(err), hints.For(err)),
	}
}

var hints = problem.Hints{
	{ErrLocked, "try again when it is done: another residentctl is writing to this store"},
	{ErrNewerSchema, "use the residentctl that wrote it, or a newer one"},
	{ErrOlderSchema, "run any command that changes this store, as its owner, to bring the registry up to date"},
	{ErrCorrupt, "run `residentctl check` to see every fault; to start over, move the file away and add the programs again"},
	{ErrUnsafe, "find out who could have changed it; to trust it: chown it to yourself or root, and chmod go-rwx"},
	{ErrMissing, "put it back, or start over: add the programs again, and run `residentctl gc` to remove what is left"},
	{fs.ErrNotExist, "run `residentctl add PROGRAM` to make the first entry: the store is empty"},
	{syscall.ENOSPC, "free some space on the full disk, or use another store with --store"},
	{syscall.EROFS, "use another store with --store: the file system is mounted read-only"},
	{fs.ErrPermission, "run it as the owner of the store"},
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
