package linkstop

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// ErrUnknownLinker is wrapped by the Refusal of a program whose dynamic linker
// starts with code that is neither glibc's nor musl's.
var ErrUnknownLinker = errors.New("unknown entry code")

// ErrStartedNormally is what StartAt answers when the process called execve
// instead of coming to the address: a launcher's fallback.
var ErrStartedNormally = errors.New("it started the program normally instead")

// A Refusal says why a program that runs well cannot become an image.
type Refusal struct {
	Reason string
	Hint   string // what its user can do about it, or ""
	Err    error  // ErrUnknownLinker, *ProcessWordError, or nil
}

func (r *Refusal) Error() string { return r.Reason }
func (r *Refusal) Unwrap() error { return r.Err }

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
	s := fmt.Sprintf("the dynamic linker gave up on %s (%s)", e.Path, statusText(e.Status))
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// linkError is err, or if the process ended in it a LinkError with what the
// dynamic linker had to say.
func linkError(path string, r *recorder, err error) error {
	if ended, ok := err.(*EndedError); ok {
		return &LinkError{Path: path, Status: ended.Status, Message: strings.TrimSpace(string(r.message))}
	}
	return err
}

// statusText says how a process ended.
func statusText(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return "killed by " + unix.SignalName(ws.Signal())
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}

// An EndedError says that a process ended while it was traced.
type EndedError struct{ Status unix.WaitStatus }

func (e *EndedError) Error() string { return "it ended (" + statusText(e.Status) + ")" }
