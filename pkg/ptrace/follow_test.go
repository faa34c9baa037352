package ptrace

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/fixture"
	"github.com/residentctl/residentctl/internal/problem"
)

func TestFollow(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	real := in("foo.real")
	copyProgram(t, fixture.Build(t, fixture.Hello), real)
	copyProgram(t, fixture.Build(t, "#include <unistd.h>\n"+
		"int main(int c, char **v) { (void)c; return execv(\""+real+"\", v); }\n", "-static"), in("static"))
	copyProgram(t, fixture.Build(t, "#include <unistd.h>\n#include <sys/wait.h>\n"+
		"int main(int c, char **v) { (void)c; if (!fork()) execv(\""+real+"\", v); return wait(0) < 0; }\n", "-static"), in("forks"))
	copyProgram(t, fixture.Build(t, fixture.Hello, "-static"), in("alone"))
	sh, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Skip(err)
	}
	for _, tc := range []struct {
		name   string
		script string // "" for the program of this name
		want   string
		reason string // of a refusal
	}{
		{"wrapper", "#!/bin/sh\nexec " + real + " \"$@\"\n", real, ""},
		{"wrapper-that-looks-around", "#!/bin/sh\nhere=$(dirname \"$(readlink -f \"$0\")\")\nexec \"$here/foo.real\" \"$@\"\n", real, ""},
		{"wrapper-of-wrapper", "#!/bin/sh\nexec " + in("wrapper") + "\n", real, ""},
		{"by-path", "#!/bin/sh\nPATH=" + dir + "\nexec foo.real\n", real, ""},
		{"relative", "#!/bin/sh\ncd " + dir + "\nexec ./foo.real\n", real, ""},
		{"without-exec", "#!/bin/sh\n" + real + " \"$@\"\necho done\n", real, ""},
		{"several", "#!/bin/sh\ndirname /a\n" + real + "\n:\n", "", "several: "},
		{"script", "#!/bin/sh\nread line\n:\n", "/bin/sh", ""},
		{"env-script", "#!/usr/bin/env sh\n:\n", "/sh", ""},
		{"polyglot", "#!/bin/sh\n[ \"$1\" ] || exec /bin/sh \"$0\" again\n:\n", "/bin/sh", ""},
		{"own-sh", "#!/bin/sh\nexec /bin/sh \"$@\"\n", "/bin/sh", ""},
		{"run-by-a-script", "#!/usr/bin/env -S " + in("own-sh") + "\nexec " + real + "\n", real, ""},
		{"static", "", real, ""},
		{"forks", "", real, ""},
		{"alone", "", "", "no dynamic program"},
		{"foo.real", "", real, ""},
		{"leaves-a-process", "#!/bin/sh\nsetsid sleep 1000 &\n:\n", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fixture.NoChildren(t)
			if tc.script != "" {
				if err := os.WriteFile(in(tc.name), []byte(tc.script), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			got, err := Follow(t.Context(), in(tc.name), FollowOptions{})
			switch {
			case tc.name == "leaves-a-process": // which is not said
			case tc.reason != "":
				if problem.KindOf(err) != problem.Refused || !strings.Contains(err.Error(), tc.reason) || problem.HintOf(err) == "" {
					t.Errorf("%q, %v", got, err)
				}
			case err != nil || got != tc.want && (tc.want != "/sh" || filepath.Base(got) != "sh"):
				t.Errorf("%q, %v, want %q (sh is %s)", got, err, tc.want, sh)
			}
		})
	}
}

// Nothing of what a wrapper started outlives the search, whatever ends it.
func TestFollowEnds(t *testing.T) {
	fixture.NoChildren(t)
	dir := t.TempDir()
	path, pids := filepath.Join(dir, "w"), filepath.Join(dir, "pids")
	script := "#!/bin/sh\ntrap '' HUP TERM\nsetsid sh -c 'echo $$ >>" + pids + "; exec sleep 1000' &\nsleep 1000 &\necho $! >>" + pids + "\nwait\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Follow(t.Context(), path, FollowOptions{Timeout: 300 * time.Millisecond}); problem.KindOf(err) != problem.Refused {
		t.Errorf("one that starts setsid and sleep: %v", err)
	}
	written := func() int {
		text, _ := os.ReadFile(pids)
		return bytes.Count(text, []byte("\n"))
	}
	before := written()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for written() < before+2 && t.Context().Err() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if _, err := Follow(ctx, path, FollowOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	text, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range strings.Fields(string(text)) {
		// A zombie of init's, until it looks.
		if out, _ := exec.Command("ps", "-o", "stat=,args=", "-p", pid).Output(); strings.Contains(string(out), "sleep 1000") {
			t.Errorf("process %s is left: %s", pid, out)
		}
	}
	if _, err := Follow(t.Context(), filepath.Join(dir, "pids"), FollowOptions{}); !errors.Is(err, unix.EACCES) {
		t.Errorf("what cannot be executed: %v", err)
	}
}

func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, content, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}
