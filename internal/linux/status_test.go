package linux

import (
	"io"
	"os/exec"
	"testing"
)

func TestReadStatus(t *testing.T) {
	c, _, out := startShell(t, "umask 027; trap '' HUP; trap : USR1; echo ready; read x")
	if _, err := out.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	s, err := ReadStatus(c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if s.Threads != 1 || s.Ignored&1 == 0 || s.Caught>>9&1 == 0 || s.Umask != 0o027 || s.Own == 0 || s.Data == 0 {
		t.Errorf("%+v", s)
	}
	if _, err := ReadStatus(-1); err == nil {
		t.Error("there is a process -1")
	}
}

func TestOpenBeyond(t *testing.T) {
	// What the test itself was given is closed.
	const others = `for fd in /proc/self/fd/*; do fd=${fd##*/}; [ "$fd" -le 2 ] || eval "exec $fd>&-"; done; `
	for _, tc := range []struct{ script, descriptor, target string }{
		{others + "exec cat", "", ""},
		{others + "exec cat 7</etc/passwd", "7", "/etc/passwd"},
	} {
		c, in, out := startShell(t, tc.script)
		_, err := in.Write([]byte("x")) // comes back from cat
		if err == nil {
			_, err = out.Read(make([]byte, 1))
		}
		if err != nil {
			t.Fatal(err)
		}
		descriptor, target, err := OpenBeyond(c.Process.Pid)
		if err != nil || descriptor != tc.descriptor || target != tc.target {
			t.Errorf("%q %q, %v; want %q %q", descriptor, target, err, tc.descriptor, tc.target)
		}
	}
}

// startShell starts a script that ends with its standard input.
func startShell(t *testing.T, script string) (c *exec.Cmd, in io.Writer, out io.Reader) {
	t.Helper()
	c = exec.Command("/bin/bash", "-c", script)
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if out, err = c.StdoutPipe(); err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); _ = c.Wait() })
	return c, stdin, out
}
