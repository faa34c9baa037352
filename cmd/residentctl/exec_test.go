package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// What an exec passes on arrives in the program as it was, although it went
// through a Go program: compared with the same program started directly. The front
// door leaves a `run --` to Go.
func TestExecPassesOn(t *testing.T) {
	residentctl := buildResidentctl(t)
	ignoreSignals(t)
	lowerFileLimit(t)

	// os/exec would make a variable that is there twice one.
	env := []string{"A=1", "A=2", "PATH=/usr/bin:/bin", "no equals sign", "EMPTY="}
	withoutPath := []string{"A=1", "A=2"}
	cat := []string{"/proc/self/status", "/proc/self/limits", "/proc/self/environ", "/proc/self/cmdline"}
	store := filepath.Join(t.TempDir(), "store")
	for _, tc := range []struct {
		name    string
		program string // as execve wants it
		argv    []string
		env     []string
	}{
		{"through the launcher", "/bin/cat", append([]string{"cat"}, cat...), env},
		{"not through the launcher", "/bin/cat", append([]string{"cat"}, cat...), withoutPath},
		{"by path", "/bin/cat", append([]string{"/bin/cat"}, cat...), env},
		{"descriptors", "/bin/ls", []string{"ls", "/proc/self/fd"}, env},
		{"odd arguments", "/bin/echo", []string{"echo", "", "a  b", "--strict"}, env},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := steady(start(t, tc.program, tc.argv, tc.env))
			got := steady(start(t, residentctl, append([]string{"residentctl", "--store", store, "run", "--"}, tc.argv...), tc.env))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("executed directly (-) and by run (+):\n%s", diff)
			}
		})
	}
}

// steady leaves out the lines of /proc/self/status that differ between any two
// processes.
func steady(output string) []string {
	return slices.DeleteFunc(strings.Split(output, "\n"), func(line string) bool {
		for _, p := range []string{"Pid:", "Tgid:", "NS", "SigQ:", "Vm", "Rss", "voluntary_ctxt", "nonvoluntary_ctxt"} {
			if strings.HasPrefix(line, p) {
				return true
			}
		}
		return false
	})
}

// ignoreSignals ignores signals for the test's children: those that Go treats
// in one way or another.
func ignoreSignals(t *testing.T) {
	ignored := []os.Signal{syscall.SIGPIPE, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGTSTP, syscall.SIGWINCH}
	signal.Ignore(ignored...)
	t.Cleanup(func() { signal.Reset(ignored...) })
}

// blockSignals blocks signals for the children that this goroutine starts, some
// of which Go unblocks. The returned function takes it back.
func blockSignals(t *testing.T) func() {
	t.Helper()
	blocked, before := unix.Sigset_t{}, unix.Sigset_t{}
	for _, sig := range []syscall.Signal{syscall.SIGCHLD, syscall.SIGPROF, syscall.SIGUSR2, syscall.SIGSEGV} {
		blocked.Val[0] |= 1 << (sig - 1)
	}
	runtime.LockOSThread()
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &blocked, &before); err != nil {
		t.Fatal(err)
	}
	return func() {
		_ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
		runtime.UnlockOSThread()
	}
}

// lowerFileLimit gives the test's children a limit of open files that Go raises.
func lowerFileLimit(t *testing.T) {
	var before, limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	limit = before
	limit.Cur = 500
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before) })
}

// buildResidentctl builds residentctl with its front door, which notes down what the Go
// runtime changes.
func buildResidentctl(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds residentctl")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command")
	}
	script, err := os.ReadFile("../../scripts/build")
	if err != nil {
		t.Fatal(err)
	}
	flags := regexp.MustCompile(`(?m)^LDFLAGS="(.*)"$`).FindSubmatch(script)
	if flags == nil {
		t.Fatal("scripts/build has no line LDFLAGS=\"…\"")
	}
	path := filepath.Join(t.TempDir(), "residentctl")
	build := exec.Command("go", "build", "-ldflags", string(flags[1]), "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, msg)
	}
	return path
}

// start runs a program to its end and returns its output.
func start(t *testing.T, path string, argv, env []string) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	defer blockSignals(t)()
	p, err := os.StartProcess(path, argv, &os.ProcAttr{Env: env, Files: []*os.File{null, w, w}})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := io.Copy(&out, r); err != nil {
		t.Fatal(err)
	}
	if state, err := p.Wait(); err != nil || !state.Success() {
		t.Fatalf("%v: %v, %v\n%s", argv, state, err, &out)
	}
	return out.String()
}
