package linkstop

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// ErrUnknownLinker is wrapped by the Refusal of a program whose dynamic linker
// starts with code that is neither glibc's nor musl's.
var ErrUnknownLinker = errors.New("unknown entry code")

// A Refusal says why a program that runs well cannot become an image. Its Err is
// ErrUnknownLinker, a *ProcessWordError, or nil.
type Refusal = ptrace.Refusal

// refusef is a Refusal without a hint.
func refusef(format string, args ...any) error {
	return &Refusal{Reason: fmt.Sprintf(format, args...)}
}

// A ProcessWordError is a word of memory that belongs to the process, so that
// an image must not hold it, and of which nobody knows how to correct it.
type ProcessWordError struct {
	Addr           uint64
	Template, Twin uint64 // what stood there in either
	Mapping        linux.Mapping
	More           int // how many other such words there are
}

func (e *ProcessWordError) Error() string {
	s := fmt.Sprintf("word at %#x in %s: %#x, in the twin %#x", e.Addr, e.Mapping, e.Template, e.Twin)
	if e.More > 0 {
		s += fmt.Sprintf(", and %d more", e.More)
	}
	return s
}

// A LinkError says that the program ended before it was linked, as it would
// have without us.
type LinkError struct {
	Path    string
	Status  unix.WaitStatus
	Message string // what the dynamic linker wrote to standard error, or ""
}

func (e *LinkError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("%s ended before it was linked (%s)", e.Path, linux.StatusText(e.Status))
	}
	return fmt.Sprintf("the dynamic linker gave up on %s (%s): %s", e.Path, linux.StatusText(e.Status), e.Message)
}

// Hint says what a person can do about it.
func (e *LinkError) Hint() string { return "it does not start without residentctl either" }

// linkError is err, or if the process ended in it a LinkError with what the
// dynamic linker had to say. SIGKILL is others' doing: no process comes to send it
// to itself (plainCalls).
func linkError(path string, message []byte, err error) error {
	var ended *ptrace.EndedError
	if errors.As(err, &ended) && ended.Status.Signal() != unix.SIGKILL {
		return &LinkError{Path: path, Status: ended.Status, Message: strings.TrimSpace(string(message))}
	}
	return err
}

// twinError is the error of a twin, whose template came to its stop point.
func twinError(err error) error {
	var refusal *Refusal
	var ended *ptrace.EndedError
	what := err.Error()
	switch {
	case errors.Is(err, ptrace.ErrStartedNormally):
		what = "it executed another program"
	case !errors.As(err, &refusal) && !errors.As(err, &ended):
		return fmt.Errorf("the twin: %w", err)
	}
	return &Refusal{
		Reason: "it is not linked alike in each process; of the second one: " + what,
		Hint:   "try again; if that does not help there is nothing to be done: it starts normally, as before",
	}
}
