package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/integration/kit"
)

// background is the process that works in the background on a store, 0 if there is none.
func background(t *testing.T, dir string) (pid int) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		raw, err := os.ReadFile(path)
		line := strings.ReplaceAll(string(raw), "\x00", " ")
		if err != nil || !strings.Contains(line, " exec --background ") || !strings.Contains(line, dir) {
			continue
		}
		if pid, err = strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			return pid
		}
	}
	return 0
}

// waitFor waits until something is so; that it never becomes so ends by the test's timeout.
func waitFor(is func() bool) {
	for !is() {
		time.Sleep(20 * time.Millisecond)
	}
}

// stat is a field of proc_pid_stat(5), counted from 1.
func stat(t *testing.T, pid, field int) string {
	t.Helper()
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	return strings.Fields(rest)[field-3]
}

// TestAutoWorksInTheBackground: what makes programs resident after a command has idle
// priorities, a session of its own and no descriptor of the command's; it is alone in its
// store, and may be killed.
func TestAutoWorksInTheBackground(t *testing.T) {
	kit.RequireCRIU(t)
	s := kit.NewStore(t, kit.Dir(t))
	auto := func(fault string) string {
		t.Helper()
		c := s.Command("exec", "--auto", "--after", "1", "--", "/usr/bin/perl", "-e", "1")
		c.Dir, c.Env = "/", append(os.Environ(), "RESIDENTCTL_FAULT="+fault)
		c.ExtraFiles = []*os.File{os.Stdin}
		output, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
		return string(output)
	}
	const said = "1 in the background from now on\n"
	if output := auto("stop:after-dump"); !strings.HasSuffix(output, said) {
		t.Fatalf("%s", output)
	}
	var pid int
	waitFor(func() bool { pid = background(t, s.Dir); return pid != 0 })
	waitFor(func() bool { return stat(t, pid, 3) == "T" })
	const policy, schedIdle, session = 41, "5", 6
	if got := stat(t, pid, policy); got != schedIdle {
		t.Errorf("scheduling policy %s", got)
	}
	if got := stat(t, pid, session); got != strconv.Itoa(pid) {
		t.Errorf("session %s", got)
	}
	const ioprioWhoProcess, ioprioIdle = 1, 3
	if got, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(pid), 0); errno != 0 || got>>13 != ioprioIdle {
		t.Errorf("I/O priority %#x, %v", got, errno)
	}
	for fd := range 3 {
		if to, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/fd/" + strconv.Itoa(fd)); to != os.DevNull {
			t.Errorf("descriptor %d is %s (%v)", fd, to, err)
		}
	}
	if output := auto(""); strings.Contains(output, "background") {
		t.Errorf("there are two: %s", output)
	}

	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(func() bool { return background(t, s.Dir) == 0 })
	s.Do(t, "gc")
	s.Do(t, "check", "--no-trial")
	if output := auto(""); !strings.HasSuffix(output, said) {
		t.Errorf("after that: %s", output)
	}
	waitFor(func() bool { return strings.Contains(s.Do(t, "list"), "/perl") })
	waitFor(func() bool { return background(t, s.Dir) == 0 })
	if output := auto(""); !strings.Contains(output, "1 of 1 starts were resident;") {
		t.Errorf("at last: %s", output)
	}
}

// TestAutoKeepsNothingOpen: a pipe that the command was given ends with the command.
func TestAutoKeepsNothingOpen(t *testing.T) {
	kit.RequireCRIU(t)
	s := kit.NewStore(t, kit.Dir(t))
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	c := s.Command("exec", "--auto", "--after", "1", "-q", "--", "/usr/bin/perl", "-e", "1")
	c.Dir, c.Env, c.ExtraFiles = "/", append(os.Environ(), "RESIDENTCTL_FAULT=stop:after-dump"), []*os.File{write}
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	// This is not before the end of the pipe, which a descriptor that was kept would put off.
	if n, err := read.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("%d, %v", n, err)
	}
	var pid int
	waitFor(func() bool { pid = background(t, s.Dir); return pid != 0 })
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(func() bool { return background(t, s.Dir) == 0 })
}

// TestAutoForOrdinaryUsers: the counts and what they lead to are in each user's own store.
func TestAutoForOrdinaryUsers(t *testing.T) {
	alice, _ := kit.NewAccounts(t)
	alice.Env = []string{"RESIDENTCTL_CRIU=" + kit.CapableCRIU(t)}
	auto := func() kit.Result {
		return kit.Finish(t, alice.Command(t, "exec", "--auto", "-q", "--", "/usr/bin/perl", "-e", "1"))
	}
	for range 3 {
		if r := auto(); r.Code != 0 {
			t.Fatalf("%v", r)
		}
	}
	waitFor(func() bool { return strings.Contains(alice.Does(t, "list").Stdout, "/perl") })
	waitFor(func() bool { return background(t, alice.Store()) == 0 })
	info, err := os.Stat(filepath.Join(alice.Store(), "starts"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}
