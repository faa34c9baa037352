package linux

import (
	"os/exec"
	"testing"
)

func TestReadStatus(t *testing.T) {
	c := exec.Command("/bin/sh", "-c", "umask 027; trap '' HUP; trap : USR1; echo ready; read x")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = c.Wait() })
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
		c := exec.Command("/bin/bash", "-c", tc.script)
		in, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := c.StdoutPipe()
		if err == nil {
			err = c.Start()
		}
		if err == nil {
			_, err = in.Write([]byte("x")) // comes back from cat
		}
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
		in.Close()
		_ = c.Wait()
	}
}
