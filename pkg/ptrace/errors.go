package ptrace

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// ErrStartedNormally is the error for a process that called execve(2) instead of
// coming to its point: a launcher's fallback.
var ErrStartedNormally = errors.New("it started the program normally instead")

// A Refusal says why a program that runs well cannot be stopped where it should be,
// or not be made into an image there.
type Refusal struct {
	Reason string
	Hint   string // what its user can do about it, or ""
	Err    error  // what callers tell it by, or nil
}

func (r *Refusal) Error() string { return r.Reason }
func (r *Refusal) Unwrap() error { return r.Err }

// refusef is a Refusal without a hint.
func refusef(format string, args ...any) error {
	return &Refusal{Reason: fmt.Sprintf(format, args...)}
}

// anotherProcess refuses a process that has made another one, which is traced too, so
// that they would wait for each other.
func anotherProcess() error { return refusef("it starts another process before the stop point") }

// An EndedError says that a process ended while it was traced.
type EndedError struct{ Status unix.WaitStatus }

func (e *EndedError) Error() string { return "it ended (" + linux.StatusText(e.Status) + ")" }

// Hint says what a person can do about it.
func (e *EndedError) Hint() string {
	return "somebody may have killed it, or the kernel for want of memory (see dmesg); try again"
}
