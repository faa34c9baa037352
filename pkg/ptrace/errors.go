package ptrace

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

// ErrStartedNormally is the error for a process that called execve(2) instead of
// coming to its point: a launcher's fallback.
var ErrStartedNormally = errors.New("it started the program normally instead")

// anotherProcess refuses a process that has made another one, which is traced too, so
// that they would wait for each other.
func anotherProcess() error {
	return problem.Refusef("it starts another process before the stop point")
}

// An EndedError says that a process ended while it was traced.
type EndedError struct{ Status unix.WaitStatus }

func (e *EndedError) Error() string { return "it ended (" + linux.StatusText(e.Status) + ")" }

// AsProblem adds what can be done about it.
func (e *EndedError) AsProblem() *problem.Problem {
	return &problem.Problem{Hint: "try again; another process may have killed it, or the kernel for lack of memory (see dmesg)"}
}
