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

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/criuwrap"
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
	{exitFailed, "something failed"},
	{exitUsage, "usage: an unknown command, option or argument"},
	{exitStore, "the store or its registry cannot be used"},
	{exitSystem, "CRIU or the kernel lacks something"},
	{exitRun, "residentctl itself failed, or with --strict there was no resident start"},
	{exitCannotRun, "the program was found but cannot be executed"},
	{exitNotFound, "the program was not found"},
	{exitInterrupted, "interrupted; unfinished work was undone"},
}

// exitStatusPart returns the part of a help text that lists the exit statuses.
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

// statusOf is the exit status that each kind of problem has.
var statusOf = map[problem.Kind]int{
	problem.Other:       exitFailed,
	problem.Store:       exitStore,
	problem.CRIU:        exitSystem,
	problem.System:      exitSystem,
	problem.Refused:     exitFailed,
	problem.Untrusted:   exitFailed,
	problem.Program:     exitFailed,
	problem.Output:      exitFailed,
	problem.Usage:       exitUsage,
	problem.Run:         exitRun,
	problem.CannotRun:   exitCannotRun,
	problem.NotFound:    exitNotFound,
	problem.Interrupted: exitInterrupted,
}

// A cause is an error of the kernel's, or of the Go library's, and what it means for
// problems up to a kind. Hint is shown instead of the problem's own, otherwise where it
// has none.
type cause struct {
	upTo            problem.Kind
	is              func(error) bool
	means           problem.Kind
	hint, otherwise string
}

// causes are in order: the first that fits counts.
var causes = []cause{
	{upTo: problem.Program, is: is(context.Canceled), means: problem.Interrupted},

	// Of limits, whatever they have ended.
	{upTo: problem.CRIU, is: is(syscall.EMFILE, syscall.ENFILE), means: problem.System,
		hint: "raise the limit of open files (ulimit -n 1024)"},
	{upTo: problem.CRIU, is: is(syscall.EFBIG), means: problem.System, hint: criuwrap.TooLarge},
	{upTo: problem.CRIU, is: is(syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS), means: problem.Store,
		otherwise: "free some space for the image, or use another store with --store"},

	// Of files. They are opened with O_NONBLOCK, so as not to wait (open(2), EWOULDBLOCK).
	{is: calling("open", syscall.EAGAIN),
		hint: "try again: another process held a lease on the file (fcntl(2), F_SETLEASE) and has been told to release it"},
	{is: calling("fork/exec", syscall.EAGAIN), means: problem.System, hint: noProcess},
	{is: noProc, otherwise: "check that /proc is mounted"},
	{is: ofFile},

	// Of the kernel.
	{is: is(syscall.EAGAIN), means: problem.System, hint: noProcess},
	{is: is(syscall.ENOMEM), means: problem.System, hint: "free some memory, or raise the limit of the address space (ulimit -v)"},
	{is: is(syscall.ETXTBSY), hint: "try again later: another process has the program open for writing"},
	{is: is(syscall.EPERM, syscall.ENOSYS), means: problem.System,
		hint: "allow ptrace (kernel.yama.ptrace_scope, seccomp): the kernel, a container or a sandbox forbids it"},
}

// diagnose returns what an error means: the exit status, and what a person can do about
// it, if anything. Everything that ends residentctl comes through here.
func diagnose(err error) (code int, hint string) {
	if err == nil {
		return exitDone, ""
	}
	kind, hint := problem.KindOf(err), problem.HintOf(err)
	for _, c := range causes {
		if kind <= c.upTo && c.is(err) {
			return statusOf[c.means], cmp.Or(c.hint, hint, c.otherwise)
		}
	}
	if kind == problem.CRIU {
		hint = cmp.Or(hint, "run `residentctl check` to see whether CRIU works here")
	}
	return statusOf[kind], notInPath(err, hint)
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

// ofFile reports whether an error is that of a file.
func ofFile(err error) bool {
	var path *fs.PathError
	return errors.As(err, &path)
}

// noProc reports whether an error is that of a file in /proc which is not there.
func noProc(err error) bool {
	var path *fs.PathError
	return errors.As(err, &path) && strings.HasPrefix(path.Path, "/proc/") && errors.Is(path, fs.ErrNotExist)
}

// noProcess is the hint for fork(2)'s and execve(2)'s EAGAIN.
const noProcess = "cannot start another process: raise `ulimit -u` or the control group's pids.max, or try again"

// hopeless reports whether another program could not be made resident either.
func hopeless(err error) bool {
	code, _ := diagnose(err)
	return code == exitInterrupted || code == exitStore || code == exitUsage || // of resident.conf
		code == exitSystem && problem.KindOf(err) != problem.CRIU // which may be about this one program
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
	text := problem.Text(err)
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

// fail reports an error that ends residentctl and returns the exit status.
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

// usagef is the error of a command line that makes no sense. Its hint leads to the help
// of the command, if there is one.
func usagef(command, format string, args ...any) *problem.Problem {
	help := "residentctl help"
	if command != "" {
		help += " " + command
	}
	return problem.Newf(problem.Usage, format, args...).WithHint("see `%s`", help)
}

// storeError is the error of a store that cannot be opened or used, whatever the reason.
func storeError(err error) error { return &problem.Problem{Kind: problem.Store, Err: err} }

// runError is the error of residentctl itself in run and exec.
func runError(err error, hint string) error {
	return &problem.Problem{Kind: problem.Run, Err: err, Hint: hint}
}

// ended is how a command for so many programs ends: with what made it stop, with the
// sum of the failures after which it went on, or well.
func ended(fatal error, failures []*report, total int) error {
	if fatal == nil && failures != nil {
		return &someFailed{failures, total}
	}
	return fatal
}

// printFailures prints failures for people; JSON has them at the end.
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
