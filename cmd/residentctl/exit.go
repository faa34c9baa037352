package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/linkstop"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/resident"
	"github.com/residentctl/residentctl/pkg/store"
)

// Exit statuses. Those of run are env(1)'s, below them is the program's own.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitStore       = 3
	exitSystem      = 4
	exitRun         = 125
	exitCannotRun   = 126
	exitNotFound    = 127
	exitInterrupted = 128 + int(syscall.SIGINT)
)

// statuses are the lines of the EXIT STATUS part of the help.
var statuses = []struct {
	code int
	text string
}{
	{exitDone, "done"},
	{exitFailed, "some of it failed"},
	{exitUsage, "usage: an unknown command, option or argument"},
	{exitStore, "the store or its registry cannot be used"},
	{exitSystem, "CRIU or the kernel lacks something"},
	{exitRun, "residentctl itself failed; with --strict also: no resident start"},
	{exitCannotRun, "the program was found but cannot be executed"},
	{exitNotFound, "the program was not found"},
	{exitInterrupted, "interrupted; what was begun has been taken back"},
}

// exitStatusPart is the part of a help text that tells the exit statuses.
func exitStatusPart(codes ...int) string {
	var b strings.Builder
	b.WriteString("\nEXIT STATUS:\n")
	for _, s := range statuses {
		for _, c := range codes {
			if c == s.code {
				fmt.Fprintf(&b, "   %-3d  %s\n", s.code, s.text)
			}
		}
	}
	return b.String()
}

// A meaning is what errors of one kind mean: the exit status, and the hint. Hint is
// shown instead of the error's own, otherwise where the error has none.
type meaning struct {
	of              func(error) bool
	code            int
	hint, otherwise string
}

// meanings are those of all errors, from the most to the least particular: the first
// that fits counts.
var meanings = []meaning{
	{of: isA[*outputError], code: exitFailed},
	{of: isA[*usageError], code: exitUsage},
	{of: is(context.Canceled), code: exitInterrupted},

	// Of the program.
	{of: isA[*elfinfo.Refusal], code: exitFailed},
	{of: isA[*linkstop.Refusal], code: exitFailed},
	{of: isA[*resident.InsideError], code: exitSystem},
	{of: isA[*resident.FormatError], code: exitSystem},
	{of: isA[*linkstop.LinkError], code: exitFailed},
	{of: is(fingerprint.ErrChanged), code: exitFailed},

	// Of limits, whatever they have ended.
	{of: is(syscall.EMFILE, syscall.ENFILE), code: exitSystem, hint: "the limit of open files is too low: raise it (ulimit -n 1024)"},
	{of: is(syscall.EFBIG), code: exitSystem, hint: criuwrap.TooLarge},
	{of: is(syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS), code: exitStore,
		otherwise: "there has to be room for an image: free some space, or use another store with --store"},

	// Of CRIU and the store.
	{of: is(criuwrap.ErrNoCRIU), code: exitSystem, hint: noCRIU},
	{of: isA[*criuwrap.ErrTooOld], code: exitSystem, hint: noCRIU},
	{of: isA[*criuwrap.Error], code: exitSystem, otherwise: criuDoubt},
	{of: isA[*criuwrap.ErrNoCapability], code: exitSystem, otherwise: criuDoubt},
	{of: isA[*criuwrap.OwnerError], code: exitSystem, otherwise: criuDoubt},
	{of: is(registry.ErrNotFound), code: exitFailed, hint: "`residentctl list` shows what is resident"},
	{of: is(registry.ErrAmbiguous), code: exitFailed, hint: "give more digits of the id, or the program's absolute path"},
	{of: isA[*storeError], code: exitStore},
	{of: isStoreError, code: exitStore},

	// Of files. They are opened with O_NONBLOCK, so as not to wait (open(2), EWOULDBLOCK).
	{of: calling("open", syscall.EAGAIN), code: exitFailed,
		hint: "another process holds a lease on the file (fcntl(2), F_SETLEASE) and has been told to give it up: try again"},
	{of: calling("fork/exec", syscall.EAGAIN), code: exitSystem, hint: noProcess},
	{of: noProc, code: exitFailed, otherwise: "is /proc mounted?"},
	{of: isA[*fs.PathError], code: exitFailed},

	// Of the kernel.
	{of: is(syscall.EAGAIN), code: exitSystem, hint: noProcess},
	{of: is(syscall.ENOMEM), code: exitSystem, hint: "the memory, or the address space that the limits allow (ulimit -v), is used up"},
	{of: is(syscall.ETXTBSY), code: exitFailed, hint: "something has the program open for writing: try again when that is done"},
	{of: is(syscall.EPERM, syscall.ENOSYS), code: exitSystem,
		hint: "the kernel, a container or a sandbox forbids it: ptrace must be allowed (kernel.yama.ptrace_scope, seccomp)"},

	{of: func(error) bool { return true }, code: exitFailed},
}

const criuDoubt = "`residentctl check` shows whether CRIU works here"

var noCRIU = fmt.Sprintf("install CRIU %v or newer (scripts/setup does), or name one in %s", criuwrap.Minimum, criuwrap.PathVariable)

// diagnose says what an error means: the exit status, and what a person can do
// about it, if anything. Everything that ends residentctl comes through here.
func diagnose(err error) (code int, hint string) {
	var own interface{ status() int }
	switch {
	case err == nil:
		return exitDone, ""
	case errors.As(err, &own):
		return own.status(), resident.HintOf(err)
	}
	m := meanings[slices.IndexFunc(meanings, func(m meaning) bool { return m.of(err) })]
	return m.code, cmp.Or(m.hint, resident.HintOf(err), m.otherwise)
}

// isA reports whether an error is, or wraps, one of type E.
func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// is reports whether an error is, or wraps, one of these.
func is(these ...error) func(error) bool {
	return func(err error) bool {
		return slices.ContainsFunc(these, func(this error) bool { return errors.Is(err, this) })
	}
}

// calling reports whether an error is that of a call about a file.
func calling(op string, why syscall.Errno) func(error) bool {
	return func(err error) bool {
		var path *fs.PathError
		return errors.As(err, &path) && path.Op == op && path.Err == why
	}
}

// noProc reports whether an error is that of a file in /proc which is not there.
func noProc(err error) bool {
	var path *fs.PathError
	return errors.As(err, &path) && strings.HasPrefix(path.Path, "/proc/") && errors.Is(path, fs.ErrNotExist)
}

// noProcess is the hint for fork(2)'s and execve(2)'s EAGAIN.
const noProcess = "cannot start another process: raise `ulimit -u` or the control group's pids.max, or try again"

// hopeless tells whether another program could not be made resident either.
func hopeless(err error) bool {
	code, _ := diagnose(err)
	var criu *criuwrap.Error // may be about this one program
	return code == exitInterrupted || code == exitStore || code == exitSystem && !errors.As(err, &criu)
}

func isStoreError(err error) bool {
	var s *store.Error
	var r *registry.Error
	return errors.As(err, &s) || errors.As(err, &r)
}

// A report is an error as it is shown; with --format json as it is.
type report struct {
	Error    string    `json:"error"`
	Hint     string    `json:"hint,omitempty"`
	Code     int       `json:"code"`
	Failures []*report `json:"failures,omitempty"` // what it is the sum of
}

func newReport(err error) *report {
	code, hint := diagnose(err)
	text := err.Error()
	if code == exitInterrupted {
		text = "interrupted"
	}
	r := &report{Error: text, Hint: hint, Code: code}
	var some *someFailed
	if errors.As(err, &some) {
		r.Failures = some.failures
	}
	return r
}

// print writes the report to w.
func (r *report) print(w io.Writer, f format) {
	if f == formatJSON {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		_ = e.Encode(r)
		return
	}
	fmt.Fprintf(w, "residentctl: error: %s\n", printable(r.Error))
	if r.Hint != "" {
		fmt.Fprintf(w, "residentctl: hint: %s\n", printable(r.Hint))
	}
}

// fail reports an error that ends residentctl and gives the exit status.
func (g *globals) fail(err error) int {
	if err == nil {
		return exitDone
	}
	r := newReport(err)
	if g.format == formatJSON || r.Failures == nil {
		r.print(g.err, g.format)
	}
	return r.Code
}

// usageError is a command line that makes no sense.
type usageError struct{ what, hint string }

func (e *usageError) Error() string { return e.what }
func (e *usageError) Hint() string  { return e.hint }

// usagef is a usageError whose hint leads to the help of a command.
func usagef(command, format string, args ...any) error {
	help := "residentctl help"
	if command != "" {
		help += " " + command
	}
	return &usageError{what: fmt.Sprintf(format, args...), hint: fmt.Sprintf("see `%s`", help)}
}

// storeError is a store that cannot be opened, whatever the reason.
type storeError struct{ err error }

func (e *storeError) Error() string { return e.err.Error() }
func (e *storeError) Unwrap() error { return e.err }

// runError ends run with a status of its own.
type runError struct {
	code       int
	what, hint string
}

func (e *runError) Error() string { return e.what }
func (e *runError) Hint() string  { return e.hint }
func (e *runError) status() int   { return e.code }

// ended is how a command for so many programs ends: with what made it stop, with the
// sum of the failures after which it went on, or well.
func ended(fatal error, failures []*report, total int) error {
	if fatal == nil && failures != nil {
		return &someFailed{failures, total}
	}
	return fatal
}

// printFailures tells people of failures; JSON has them in the end.
func (g *globals) printFailures(failures []*report) {
	if g.format == formatJSON {
		return
	}
	for _, f := range failures {
		f.print(g.err, g.format)
	}
}

// someFailed ends a command for several programs. Its failures have been
// printed already, but not as JSON.
type someFailed struct {
	failures []*report
	total    int
}

func (e *someFailed) Error() string {
	return fmt.Sprintf("%d of %s failed", len(e.failures), count(e.total, "program"))
}
