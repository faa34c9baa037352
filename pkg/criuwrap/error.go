package criuwrap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/residentctl/residentctl/internal/linux"
)

// Error is CRIU's own failure.
type Error struct {
	Op    string        // dump, restore or check
	Errno syscall.Errno // CRIU's cr_errno, else what the log says, or 0
	Log   string        // path of CRIU's log, "" where there is none
	Lines []string      // the log's error lines, the last 50, without time and source file

	err error // from the request or os/exec
}

// Error returns the most informative error line, and the log's path.
func (e *Error) Error() string {
	line := e.cause()
	if line == "" && e.err != nil {
		line = e.err.Error()
	}
	s := "criu " + e.Op + ": " + line
	if e.Log != "" {
		s += " (log: " + e.Log + ")"
	}
	return s
}

// Format writes Error's text, and with %+v all error lines under it.
func (e *Error) Format(w fmt.State, verb rune) {
	if verb == 'q' {
		io.WriteString(w, strconv.Quote(e.Error()))
		return
	}
	io.WriteString(w, e.Error())
	if verb == 'v' && w.Flag('+') {
		for _, line := range e.Lines {
			io.WriteString(w, "\n\t"+line)
		}
	}
}

// Unwrap returns the errno, so that errors.Is(err, syscall.ENOSPC) works, and
// what the request or os/exec said.
func (e *Error) Unwrap() []error {
	var errs []error
	if e.Errno != 0 {
		errs = append(errs, e.Errno)
	}
	if e.err != nil {
		errs = append(errs, e.err)
	}
	return errs
}

// lazily returns a pattern that is compiled when it is first asked for: most commands
// need none, and to compile all of them cost each command a millisecond.
func lazily(pattern string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(pattern) })
}

// consequence matches the lines that CRIU's callers write when something below
// them failed: they end every log and tell nothing.
var consequence = lazily(`FAILED\.$|failed with -?\d+$|failed when initializing kerndat|^Could not initialize kernel|^Unable to detach from`)

// cause is the last line that is no mere consequence of another.
func (e *Error) cause() string {
	for i := len(e.Lines) - 1; i >= 0; i-- {
		if !consequence().MatchString(e.Lines[i]) {
			return e.Lines[i]
		}
	}
	if len(e.Lines) > 0 {
		return e.Lines[0]
	}
	return ""
}

// Only the end of a log is read: at level 4 it is some 100 bytes per mapping and
// page run, and the errors stand at the end.
const maxLog = 1 << 20

// maxLines bounds how many error lines are kept: the last ones.
const maxLines = 50

// newError makes the error of one failed request from the request's error and the
// log, if there is one.
func newError(op, log string, err error) *Error {
	e := &Error{Op: op, Errno: errnoOf(err), err: err}
	text, readErr := linux.ReadTail(log, maxLog)
	if readErr == nil {
		e.Log = log
		e.Lines = errorLines(text)
	}
	if e.Errno == 0 {
		e.Errno = errnoIn(e.cause())
	}
	return e
}

// errnoOf is the cr_errno of CRIU's answer, or 0.
func errnoOf(err error) syscall.Errno {
	var answer *refused
	if errors.As(err, &answer) {
		return answer.errno
	}
	return 0
}

// errnoIn finds an errno's text in a log line. CRIU sets cr_errno in few places
// only: for a full disk it is 0.
func errnoIn(line string) syscall.Errno {
	line = strings.ToLower(line)
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EPERM, syscall.EACCES, syscall.ESRCH, syscall.EEXIST} {
		if strings.HasSuffix(line, errno.Error()) {
			return errno
		}
	}
	return 0
}

// errorLine is a line of CRIU's log at level Error: the time, the pid where the
// restored process writes, with "pie: " before it where that is in the restorer's
// blob already, the source file. Two causes are only to be had at
// another level: a tracer (compel/src/lib/infect.c) and a missing capability
// (criu/util.c, check_caps), which is all that CRIU then says.
var errorLine = lazily(`^(?:\(\d+\.\d+\))?\s*(?:pie: )?(?:\d+: )?\s*(?:` +
	`Error +\([^)]*:\d+\): (.*)|Warn +\([^)]*:\d+\): (Unable to interrupt task.*)|(Effective capability \d+ missing))$`)

func errorLines(log []byte) []string {
	var lines []string
	for line := range bytes.Lines(log) {
		m := errorLine().FindSubmatch(bytes.TrimRight(line, "\r\n"))
		if m == nil {
			continue
		}
		text := string(bytes.Join(m[1:], nil)) // one of them matched
		lines = append(lines, strings.ToValidUTF8(text, "?"))
	}
	if len(lines) > maxLines {
		lines = lines[len(lines)-maxLines:]
	}
	return lines
}
