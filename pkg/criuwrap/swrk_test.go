package criuwrap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/residentctl/residentctl/internal/problem"
)

// hostile is an environment in which CRIU would execute what makes the file that is
// returned: a configuration file in HOME and one in CRIU_CONFIG_FILE that name an action
// script, and a plugin in CRIU_LIBS_DIR.
func hostile(t *testing.T) (mark string) {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("gcc is not installed")
	}
	dir := t.TempDir()
	mark = filepath.Join(dir, "mark")
	write := func(name, text string, mode os.FileMode) string {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return name
	}
	action := write("action", "#!/bin/sh\necho action >>"+mark+"\n", 0o755)
	write("home/.criu/default.conf", "action-script "+action+"\n", 0o644)
	t.Setenv("HOME", filepath.Join(dir, "home"))
	t.Setenv("CRIU_CONFIG_FILE", write("other.conf", "action-script "+action+"\n", 0o644))
	source := write("plugin.c", `#include <fcntl.h>
__attribute__((constructor)) static void loaded(void) { open("`+mark+`", O_WRONLY | O_CREAT, 0600); }
`, 0o644)
	plugins := filepath.Join(dir, "plugins")
	if err := os.Mkdir(plugins, 0o755); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command(gcc, "-shared", "-fPIC", "-o", filepath.Join(plugins, "hostile.so"), source).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, text)
	}
	t.Setenv("CRIU_LIBS_DIR", plugins)
	return mark
}

func TestCRIUExecutesNothingOfTheCallersEnvironment(t *testing.T) {
	path := requireCRIU(t)
	mark := hostile(t)
	for _, tc := range []struct {
		name string
		do   func(t *testing.T) error
	}{
		{"version", func(*testing.T) error { _, err := Version(path); return err }},
		{"check", func(t *testing.T) error { return Check(t.Context(), path) }},
		{"dump and restore", func(t *testing.T) error {
			cmd := startStopped(t, "/bin/sleep", "1000")
			images := dumpOf(t, cmd.Process.Pid)
			cmd.Wait()
			pid, err := Restore(t.Context(), RestoreOptions{ImagesDir: images, WorkDir: t.TempDir(), Sibling: true, Stopped: true})
			if err == nil {
				killChild(pid)
				reapChild(pid)
			}
			return err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := tc.do(t); err != nil {
				t.Errorf("%+v", err)
			}
			if text, err := os.ReadFile(mark); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something was executed: %q, %v", text, err)
				os.Remove(mark)
			}
		})
	}
}

// doing is a program in place of CRIU that executes a line of shell.
func doing(t *testing.T, does string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "criu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+does+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// requests are all that CRIU is started for, of a process that is stopped.
func requests(t *testing.T) map[string]func(path string) error {
	t.Helper()
	cmd := startStopped(t, "/bin/sleep", "1000")
	return map[string]func(path string) error{
		"--version": func(path string) error { _, err := Version(path); return err },
		"check":     func(path string) error { return Check(t.Context(), path) },
		"dump": func(path string) error {
			return Dump(t.Context(), DumpOptions{PID: cmd.Process.Pid, ImagesDir: t.TempDir(), WorkDir: t.TempDir(), CRIU: path})
		},
	}
}

func TestCRIUsEnvironment(t *testing.T) {
	for _, name := range []string{"CRIU_CONFIG_FILE", "CRIU_LIBS_DIR", "XDG_RUNTIME_DIR", "LD_LIBRARY_PATH"} {
		t.Setenv(name, "/nonexistent/"+name)
	}
	for _, fault := range []string{"", "7"} {
		want := []string{"CRIU_FAULT=130", "HOME=/nonexistent", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
		if fault != "" {
			t.Setenv(faultVariable, fault)
			want[0] = "CRIU_FAULT=" + fault
		}
		for name, do := range requests(t) {
			seen := filepath.Join(t.TempDir(), "environment")
			_ = do(doing(t, "tr '\\0' '\\n' </proc/$$/environ >"+seen))
			text, err := os.ReadFile(seen)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Fields(string(text))
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s: CRIU sees %q, want %q", name, got, want)
			}
		}
	}
}

// A CRIU that does nothing is killed, with what it has started, and so it is where
// something that has left its tree keeps its descriptors open.
func TestCRIUThatDoesNotAnswer(t *testing.T) {
	for _, limit := range []*time.Duration{&versionTimeout, &checkTimeout, &answerTimeout} {
		usual := *limit
		*limit = 200 * time.Millisecond
		defer func() { *limit = usual }()
	}
	for how, does := range map[string]string{
		"waits":                "sleep 1000",
		"leaves a child alive": "setsid sleep 20 & sleep 1000",
	} {
		for name, do := range requests(t) {
			t.Run(name+" "+how, func(t *testing.T) {
				before := childrenOf(os.Getpid())
				err := do(doing(t, does))
				var failed *Error
				if !errors.As(err, &failed) || !errors.Is(err, syscall.ETIMEDOUT) || problem.HintOf(err) == "" ||
					err.Error() != fmt.Sprintf("criu %s: no answer after 200ms", name) {
					t.Errorf("err = %v, want an *Error of ETIMEDOUT with a hint", err)
				}
				noChildren(t, before...)
			})
		}
	}
}

// What has ended the caller's context stays the reason.
func TestCRIUIsCancelledAsTheCallerSays(t *testing.T) {
	reason := errors.New("a reason")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, reason)
	defer cancel()
	if err := Check(ctx, doing(t, "sleep 1000")); !errors.Is(err, reason) {
		t.Errorf("err = %v", err)
	}
}

// A CRIU that has answered and goes on is not waited for longer than for the answer.
// The answer is a CriuResp of type 1, DUMP, with success (rpc.proto).
func TestCRIUThatAnswersAndDoesNotEnd(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	usual := answerTimeout
	answerTimeout = 3 * time.Second // the answer comes before, however busy the machine is
	defer func() { answerTimeout = usual }()
	if err := requests(t)["dump"](doing(t, `printf '\010\001\020\001' >&3; sleep 1000`)); err != nil {
		t.Errorf("err = %v", err)
	}
}
