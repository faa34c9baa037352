package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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

// diagnose says what an error means: the exit status, and what a person can do
// about it, if anything. Everything that ends residentctl comes through here.
func diagnose(err error) (code int, hint string) {
	var (
		output    *outputError
		usage     *usageError
		run       *runError
		check     *checkFailed
		program   *elfinfo.Refusal
		process   *linkstop.Refusal
		link      *linkstop.LinkError
		inside    *resident.InsideError
		unread    *resident.FormatError
		tooOld    *criuwrap.ErrTooOld
		criu      *criuwrap.Error
		noCap     *criuwrap.ErrNoCapability
		storeFail *storeError
		path      *fs.PathError
		hinter    interface{ Hint() string }
	)
	if errors.As(err, &hinter) {
		hint = hinter.Hint()
	}
	switch {
	case err == nil:
		return exitDone, ""
	case errors.As(err, &output):
		return exitFailed, ""
	case errors.As(err, &run):
		return run.code, run.hint
	case errors.As(err, &check):
		return check.code, hint
	case errors.As(err, &usage):
		return exitUsage, usage.hint
	case errors.Is(err, context.Canceled):
		return exitInterrupted, hint
	case errors.As(err, &program):
		return exitFailed, program.Hint
	case errors.As(err, &process):
		return exitFailed, process.Hint
	case errors.As(err, &inside), errors.As(err, &unread):
		return exitSystem, hint
	case errors.As(err, &link), errors.Is(err, fingerprint.ErrChanged):
		return exitFailed, hint
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return exitSystem, "the limit of open files is too low: raise it (ulimit -n 1024)"
	case errors.Is(err, syscall.EFBIG):
		return exitSystem, criuwrap.TooLarge
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EROFS):
		if hint == "" {
			hint = "there has to be room for an image: free some space, or use another store with --store"
		}
		return exitStore, hint
	case errors.Is(err, criuwrap.ErrNoCRIU), errors.As(err, &tooOld):
		return exitSystem, fmt.Sprintf("install CRIU %v or newer (scripts/setup does), or name one in %s", criuwrap.Minimum, criuwrap.PathVariable)
	case errors.As(err, &criu), errors.As(err, &noCap):
		if hint == "" {
			hint = "`residentctl check` shows whether CRIU works here"
		}
		return exitSystem, hint
	case errors.Is(err, registry.ErrNotFound):
		return exitFailed, "`residentctl list` shows what is resident"
	case errors.Is(err, registry.ErrAmbiguous):
		return exitFailed, "give more digits of the id, or the program's absolute path"
	case errors.As(err, &storeFail), isStoreError(err):
		return exitStore, hint
	case errors.As(err, &path) && path.Op == "open" && path.Err == syscall.EAGAIN:
		// open(2), EWOULDBLOCK: files are opened with O_NONBLOCK, so as not to wait.
		return exitFailed, "another process holds a lease on the file (fcntl(2), F_SETLEASE) and has been told to give it up: try again"
	case errors.As(err, &path) && path.Op == "fork/exec" && path.Err == syscall.EAGAIN:
		return exitSystem, noProcess
	case errors.As(err, &path):
		if hint == "" && strings.HasPrefix(path.Path, "/proc/") && errors.Is(path, fs.ErrNotExist) {
			hint = "is /proc mounted?"
		}
		return exitFailed, hint
	case errors.Is(err, syscall.EAGAIN):
		return exitSystem, noProcess
	case errors.Is(err, syscall.ENOMEM):
		return exitSystem, "the memory, or the address space that the limits allow (ulimit -v), is used up"
	case errors.Is(err, syscall.ETXTBSY):
		return exitFailed, "something has the program open for writing: try again when that is done"
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ENOSYS):
		return exitSystem, "the kernel, a container or a sandbox forbids it: ptrace must be allowed (kernel.yama.ptrace_scope, seccomp)"
	}
	return exitFailed, hint
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
