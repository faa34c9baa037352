package criuwrap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/residentctl/residentctl/internal/owners"
	"github.com/residentctl/residentctl/internal/problem"
)

// The logs were recorded with CRIU 4.1.1 (vvar317 with 3.17.1) on Linux 6.18,
// newer-image when it restored an image of 4.2.1 as a root without
// CAP_SYS_RESOURCE, and only their uneventful middle is cut out.
func TestErrorFromLog(t *testing.T) {
	for _, tc := range []struct {
		name  string
		text  string
		errno syscall.Errno
		hint  string
	}{
		{"eperm", "Effective capability 21 missing", 0, "setcap cap_checkpoint_restore"},
		{"enospc", "bfd: Error flushing image: No space left on device", syscall.ENOSPC, "the disk is full"},
		{"few-files", "Can't attach to init: Operation not permitted", syscall.EPERM, "the limit of open files"},
		{"mount", "Can't lookup mount=42 for fd=3 path=/x", 0, "a mount that CRIU cannot see"},
		{"seccomp", "suspending seccomp failed: Operation not permitted", syscall.EPERM, "a seccomp filter"},
		{"traced", "Unable to interrupt task: 32211 (Operation not permitted)", 0, "something else is tracing it"},
		{"pid-taken", "Can't fork for 3087: File exists", syscall.EEXIST, "another process has the image's pid"},
		{"newer-image", "vdso: ELF header magic mismatch", 0, "a newer CRIU"},
		{"vvar317", "vdso: Failed to fill self vdso symtable", 0, "install CRIU 4.1 or newer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			log := filepath.Join("testdata", tc.name+".log")
			e := newError("dump", log, &refused{})
			want := "criu dump: " + tc.text + " (log: " + log + ")"
			if got := e.Error(); got != want {
				t.Errorf("Error() = %q\nwant %q", got, want)
			}
			if e.Errno != tc.errno || tc.errno != 0 && !errors.Is(e, tc.errno) {
				t.Errorf("Errno = %d, want %d", e.Errno, tc.errno)
			}
			if !strings.Contains(problem.HintOf(e), tc.hint) {
				t.Errorf("HintOf = %q, want %q", problem.HintOf(e), tc.hint)
			}
			long := fmt.Sprintf("%+v", e)
			for _, line := range e.Lines {
				if !strings.Contains(long, "\n\t"+line) {
					t.Errorf("%%+v lacks %q", line)
				}
			}
			if strings.Contains(fmt.Sprintf("%v", e), "\n") {
				t.Error("the short form has more than one line")
			}
		})
	}
}

func TestErrorWithoutLog(t *testing.T) {
	e := newError("dump", filepath.Join(t.TempDir(), "none"), &refused{errno: syscall.ENOSPC, message: "x"})
	if e.Errno != syscall.ENOSPC || e.Log != "" {
		t.Errorf("errno %d, log %q", e.Errno, e.Log)
	}
	if got, want := e.Error(), "criu dump: operation failed (msg:x err:28)"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if !strings.Contains(problem.HintOf(e), "full") {
		t.Errorf("HintOf = %q", problem.HintOf(e))
	}
}

// Patterns are compiled at their first use, which no test need come to otherwise.
func TestPatterns(t *testing.T) {
	for _, h := range hints {
		h.log()
	}
	for _, pattern := range []func() *regexp.Regexp{consequence, errorLine, versionLine} {
		pattern()
	}
}

func TestErrorLinesAreBounded(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	line := "(00.000001)  12: Error (criu/x.c:1): no " + strings.Repeat("y", 1000) + "\xff\n"
	if err := os.WriteFile(log, []byte(strings.Repeat(line, 3000)), 0o600); err != nil {
		t.Fatal(err)
	}
	e := newError("dump", log, errors.New("x"))
	if len(e.Lines) != maxLines || !strings.HasSuffix(e.Lines[0], "y?") {
		t.Errorf("%d lines", len(e.Lines))
	}
}

// fakeCRIU is a program that answers --version.
func fakeCRIU(t *testing.T, answer string) string {
	path := filepath.Join(t.TempDir(), "criu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho '"+answer+"'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestVersion(t *testing.T) {
	for _, tc := range []struct {
		answer string
		want   Release
		ok     bool
	}{
		{"Version: 4.1.1", Release{4, 1, 1}, true},
		{"Version: 4.2\nGitID: v4.2-3-gabc", Release{4, 2, 0}, true},
		{"Version: 3.17.1", Release{3, 17, 1}, true},
		{"Version: unknown", Release{}, false},
		{"hello", Release{}, false},
	} {
		t.Run(tc.answer, func(t *testing.T) {
			got, err := Version(fakeCRIU(t, tc.answer))
			if got != tc.want || (err == nil) != tc.ok {
				t.Errorf("Version = %v, %v; want %v", got, err, tc.want)
			}
		})
	}
}

// TestVersionIsAskedOnce: each execution of CRIU takes longer than all else that a small
// command does. Another program at the same path is asked again.
func TestVersionIsAskedOnce(t *testing.T) {
	path := fakeCRIU(t, "Version: 4.1'; echo asked >>\"$0.log\"; : '")
	for range 3 {
		if v, err := Version(path); err != nil || v != (Release{4, 1, 0}) {
			t.Fatalf("Version = %v, %v", v, err)
		}
	}
	log, err := os.ReadFile(path + ".log")
	if err != nil || string(log) != "asked\n" {
		t.Errorf("%q, %v, want it to be asked once", log, err)
	}
	if err := os.Rename(fakeCRIU(t, "Version: 4.2"), path); err != nil {
		t.Fatal(err)
	}
	if v, err := Version(path); err != nil || v != (Release{4, 2, 0}) {
		t.Errorf("after it was replaced Version = %v, %v", v, err)
	}
}

func TestFind(t *testing.T) {
	good := fakeCRIU(t, "Version: 4.1")
	t.Setenv(PathVariable, good)
	if got, err := Find(); got != good || err != nil {
		t.Errorf("Find = %q, %v", got, err)
	}
	t.Setenv(PathVariable, fakeCRIU(t, "Version: 4.0"))
	if _, err := Find(); err == nil || !strings.Contains(err.Error(), " is version 4.0, and 4.1 or newer is needed") || problem.KindOf(err) != problem.System || problem.HintOf(err) != Advice {
		t.Errorf("Find of an old one: %v", err)
	}
	t.Setenv(PathVariable, "/nonexistent/criu")
	if _, err := Find(); !errors.Is(err, ErrNoCRIU) {
		t.Errorf("Find of none: %v", err)
	}
}

// TestRootExecutesNoCRIUThatOthersMayChange: the environment may be another user's, and
// what it names is not even asked for its version.
func TestRootExecutesNoCRIUThatOthersMayChange(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const user = 61005
	for _, tc := range []struct {
		name    string
		variant func(criu string) error // makes it another user's
		ok      bool
	}{
		{"root's", func(string) error { return nil }, true},
		{"another user's", func(criu string) error { return os.Chown(criu, user, user) }, false},
		{"another user's directory", func(criu string) error { return os.Chown(filepath.Dir(criu), user, user) }, false},
		{"writable by all", func(criu string) error { return os.Chmod(criu, 0o777) }, false},
	} {
		for _, variable := range []string{PathVariable, "PATH"} {
			t.Run(tc.name+" in "+variable, func(t *testing.T) {
				criu, ran := fakeCRIU(t, "Version: 4.1"), filepath.Join(t.TempDir(), "ran")
				if err := os.WriteFile(criu, []byte("#!/bin/sh\n: >'"+ran+"'\necho Version: 4.1\n"), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := tc.variant(criu); err != nil {
					t.Fatal(err)
				}
				t.Setenv(PathVariable, "")
				t.Setenv(variable, map[string]string{PathVariable: criu, "PATH": filepath.Dir(criu)}[variable])
				found, err := Find()
				_, missing := os.Stat(ran)
				if executed := missing == nil; executed != tc.ok || (found == criu) != tc.ok {
					t.Errorf("found %q (%v), executed: %v", found, err, executed)
				}
				var refused *owners.Refusal
				if !tc.ok && variable == PathVariable && (!errors.As(err, &refused) || refused.Path != criu || problem.KindOf(err) != problem.System || !strings.Contains(problem.HintOf(err), PathVariable)) {
					t.Errorf("Find: %v", err)
				}
			})
		}
	}
}

func TestReleaseLess(t *testing.T) {
	ascending := []Release{{3, 19, 0}, {4, 0, 9}, {4, 1, 0}, {4, 1, 1}, {4, 2, 0}, {5, 0, 0}}
	for i, a := range ascending {
		for j, b := range ascending {
			if got := a.Less(b); got != (i < j) {
				t.Errorf("%v.Less(%v) = %v", a, b, got)
			}
		}
	}
}
