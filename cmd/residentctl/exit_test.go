package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/ptrace"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// diagnoses has a row for every exit status and every branch of diagnose.
var diagnoses = []struct {
	name string
	err  error
	code int
	hint string // part of it; "" for none
}{
	{"nothing", nil, exitDone, ""},
	{"anything else", errors.New("odd"), exitFailed, ""},
	{"refused", &elfinfo.Refusal{Path: "/p", Reason: "is a script", Hint: "add perl"}, exitFailed, "add perl"},
	{"refused when it ran", problem.Refusef("odd").WithHint("do this"), exitFailed, "do this"},
	{"does not link", problem.Newf(problem.Program, "odd").WithHint("repair it: it does not start without residentctl either"), exitFailed, "without residentctl"},
	{"changed meanwhile", fingerprint.ErrChanged, exitFailed, "try again"},
	{"another user's file", problem.Newf(problem.Untrusted, "odd").WithHint("give --trust-owner"), exitFailed, "--trust-owner"},
	{"the output is full", problem.Newf(problem.Output, "write the result: %w", syscall.ENOSPC), exitFailed, ""},
	{"unknown name", registryError(registry.ErrNotFound), exitFailed, "residentctl list"},
	{"ambiguous name", registryError(&registry.AmbiguousError{Query: "a"}), exitFailed, "more digits"},
	{"some failed", &someFailed{failures: make([]*report, 1), total: 2}, exitFailed, ""},
	{"a file", &fs.PathError{Op: "open", Path: "/p", Err: syscall.EPERM}, exitFailed, ""},
	{"/proc is missing", &fs.PathError{Op: "open", Path: "/proc/7/maps", Err: syscall.ENOENT}, exitFailed, "check that /proc is mounted"},
	{"usage", usagef("add", "odd"), exitUsage, "`residentctl help add`"},
	{"store cannot be opened", storeError(errors.New("odd")), exitStore, ""},
	{"store is unsafe", storeError(store.Failed("open", "/s", store.ErrUnsafe)), exitStore, ""},
	{"store is not ours", store.Failed("open", "/s", fs.ErrPermission), exitStore, "another user's"},
	{"registry is damaged", registryError(registry.ErrCorrupt), exitStore, "residentctl check"},
	{"registry is locked", registryError(registry.ErrLocked), exitStore, "try again"},
	{"disk is full", store.Failed("open", "/s", syscall.ENOSPC), exitStore, "free some space"},
	{"disk is full for CRIU", &criuwrap.Error{Op: "dump", Errno: syscall.ENOSPC}, exitStore, "free some space"},
	{"no CRIU", fmt.Errorf("%w (looked for criu)", criuwrap.ErrNoCRIU), exitSystem, "install CRIU"},
	{"old CRIU", problem.Newf(problem.System, "criu is old").WithHint("%s", criuwrap.Advice), exitSystem, "install CRIU"},
	{"CRIU may not", &criuwrap.Error{Op: "dump", Errno: syscall.EPERM}, exitSystem, "CRIU"},
	{"CRIU's images are other ones", problem.Newf(problem.System, "%w", criuwrap.ErrUnsupported).WithHint("another version"), exitSystem, "another version"},
	{"the template is gone", &criuwrap.Error{Op: "dump", Errno: syscall.ESRCH}, exitSystem, "try again"},
	{"killed meanwhile", fmt.Errorf("detach: %w", &ptrace.EndedError{}), exitFailed, "try again"},
	{"no more processes", fmt.Errorf("execute /p: %w", syscall.EAGAIN), exitSystem, "ulimit -u"},
	{"no more processes for a command", &fs.PathError{Op: "fork/exec", Path: "/p", Err: syscall.EAGAIN}, exitSystem, "ulimit -u"},
	{"a leased file", &fs.PathError{Op: "open", Path: "/p", Err: syscall.EAGAIN}, exitFailed, "lease"},
	{"no memory", fmt.Errorf("execute /p: %w", syscall.ENOMEM), exitSystem, "ulimit -v"},
	{"open for writing", fmt.Errorf("execute /p: %w", syscall.ETXTBSY), exitFailed, "for writing"},
	{"file size limit", store.Failed("open", "/s", syscall.EFBIG), exitSystem, "ulimit -f"},
	{"file size limit for CRIU", &criuwrap.Error{Op: "dump", Errno: syscall.EFBIG}, exitSystem, "ulimit -f"},
	{"disk is full for a plan", &fs.PathError{Op: "write", Path: "/s/plan", Err: syscall.ENOSPC}, exitStore, "--store"},
	{"ptrace is forbidden", fmt.Errorf("trace /p: %w", syscall.EPERM), exitSystem, "ptrace"},
	{"old kernel", fmt.Errorf("call: %w", syscall.ENOSYS), exitSystem, "kernel"},
	{"interrupted", fmt.Errorf("dump: %w", context.Canceled), exitInterrupted, ""},
	{"run: usage", runError(errors.New("odd"), "this"), exitRun, "this"},
	{"run: cannot", cannotRun("/bin/true", syscall.EACCES), exitCannotRun, ""},
	{"run: no interpreter", cannotRun("/bin/true", syscall.ENOENT), exitNotFound, ""},
	{"run: nothing there", cannotRun("/no/such", syscall.ENOENT), exitNotFound, ""},
}

func registryError(err error) error {
	return fmt.Errorf("perl: %w", registry.Failed("read registry", "/r", err))
}

func TestDiagnose(t *testing.T) {
	for _, tc := range diagnoses {
		t.Run(tc.name, func(t *testing.T) {
			code, hint := diagnose(tc.err)
			if code != tc.code || !strings.Contains(hint, tc.hint) || (tc.hint == "") != (hint == "") {
				t.Errorf("status %d, hint %q; want %d, %q", code, hint, tc.code, tc.hint)
			}
		})
	}
}

func TestEveryStatusHasARow(t *testing.T) {
	for _, s := range statuses {
		found := false
		for _, tc := range diagnoses {
			found = found || tc.code == s.code
		}
		if !found {
			t.Errorf("no test ends with %d, %s", s.code, s.text)
		}
	}
	for _, tc := range diagnoses {
		if !strings.Contains(exitStatusPart(tc.code), fmt.Sprintf("   %-3d  ", tc.code)) {
			t.Errorf("status %d (%s) is not in the help", tc.code, tc.name)
		}
	}
}

func TestEveryKindHasAStatus(t *testing.T) {
	for kind := problem.Other; kind <= problem.Interrupted; kind++ {
		if code, ok := statusOf[kind]; !ok || code == exitDone {
			t.Errorf("kind %d has no exit status", kind)
		}
	}
}

func TestReportOfJoinedErrorsIsOneLine(t *testing.T) {
	var out bytes.Buffer
	g := &globals{format: formatTable, err: &out}
	g.fail(fmt.Errorf("purge: %w", errors.Join(errors.New("one"), errors.New("other"))))
	if want := "residentctl: error: purge: one; other\n"; out.String() != want {
		t.Errorf("%q, want %q", &out, want)
	}
}

func TestReport(t *testing.T) {
	err := problem.Newf(problem.Usage, "bad\x1b[31m\nname").WithHint("<this> & that")
	for _, tc := range []struct {
		format format
		want   string
	}{
		{formatTable, "residentctl: error: bad\uFFFD[31m\uFFFDname\nresidentctl: hint: <this> & that\n"},
		{formatJSON, `{"error":"bad\u001b[31m\nname","hint":"<this> & that","code":2}` + "\n"},
	} {
		t.Run(string(tc.format), func(t *testing.T) {
			var out bytes.Buffer
			g := &globals{format: tc.format, err: &out}
			if code := g.fail(err); code != exitUsage || out.String() != tc.want {
				t.Errorf("status %d, %q, want %q", code, &out, tc.want)
			}
		})
	}
}
