package integration

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/integration/kit"
)

// An execer is one of the ways in which a user runs a command tree: by exec or
// by exec --auto, as root or as an ordinary user.
type execer struct {
	kit.Account
	name string
	auto bool
	dir  string // the store
}

// newExecers are root and alice, who is in the group staff, each with a store of his own that
// is yet to be made.
func newExecers(t *testing.T) []execer {
	t.Helper()
	alice, _ := kit.NewAccounts(t)
	alice.Env = []string{"RESIDENTCTL_CRIU=" + kit.CapableCRIU(t)} // or --auto --strict would not begin
	var all []execer
	for _, a := range []kit.Account{admin(t), alice} {
		for _, auto := range []bool{false, true} {
			name := a.Name + ", exec"
			if auto {
				name += " --auto"
			}
			all = append(all, execer{a, name, auto, filepath.Join(a.Home, "residentctl")})
		}
	}
	return all
}

// words are the command line that runs the command.
func (e execer) words(argv ...string) []string {
	words := []string{"exec", "--strict", "-q", "--store", e.dir}
	if e.auto {
		words = append(words, "--auto", "--no-background")
	}
	return append(append(words, "--"), argv...)
}

// inside is the command, run in a tree of its own.
func (e execer) inside(t *testing.T, argv ...string) *exec.Cmd {
	t.Helper()
	return e.Command(t, e.words(argv...)...)
}

// says runs a script in a shell, plainly and inside, and gives what both did.
func (e execer) says(t *testing.T, script string) (outside, inside kit.Result) {
	t.Helper()
	return kit.Finish(t, e.Exec(t, "/bin/sh", "-c", script)), kit.Finish(t, e.inside(t, "/bin/sh", "-c", script))
}

// TestExecPassesProcess: what a command can find out about its own process is under
// exec as it is without: descriptors, capabilities, signals, limits, groups.
func TestExecPassesProcess(t *testing.T) {
	const look = `
		ls /proc/self/fd
		grep -E '^(Uid|Gid|Sig(Ign|Cgt|Blk)|Shd|Cap(Inh|Prm|Eff|Amb)|NoNewPrivs|Seccomp):' /proc/self/status
		cat /proc/self/limits /proc/self/oom_score_adj /proc/self/coredump_filter
		umask; pwd; env; ulimit -a; nice; taskset -pc $$ | sed 's/.*://'; echo "$0 $*"`
	for _, e := range newExecers(t) {
		t.Run(e.name, func(t *testing.T) {
			// Descriptors besides the first three, without one of those; a signal that is
			// ignored; limits and a nice value that are not the default.
			const before = `umask 027; ulimit -n 97 -c 0; trap '' USR1 PIPE CHLD TERM TSTP TTIN CONT; cd /usr; exec 7</dev/null 19>&1 <&-; exec nice -n 3 "$@"`
			start := func(argv ...string) kit.Result {
				return kit.Finish(t, e.Exec(t, "/bin/bash", append([]string{"-c", before, "bash"}, argv...)...))
			}
			shell := []string{"/bin/bash", "-c", look, "a name", "one", "two  words"}
			want := start(shell...)
			got := start(append([]string{kit.Residentctl(t)}, e.words(shell...)...)...)
			if want.Code != 0 || !strings.Contains(want.Stdout, "\n19\n") {
				t.Fatalf("a plain start: %v", want)
			}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(kit.Result{})); diff != "" {
				t.Errorf("plain (-) and inside (+) differ:\n%s", diff)
			}
		})
	}
}

// TestExecPassesThread: a command keeps what a process has of its main thread.
func TestExecPassesThread(t *testing.T) {
	state, situation := kit.Fixture(t, "state"), kit.Fixture(t, "situation")
	pick := regexp.MustCompile(`(?m)^(pending|death signal).*$`)
	for _, e := range newExecers(t) {
		if e.auto {
			continue // the command is a child there
		}
		t.Run(e.name, func(t *testing.T) {
			start := func(argv ...string) []string {
				before := []string{"--pending", "10", "--death-signal", "15", "--", argv[0]}
				return pick.FindAllString(kit.Finish(t, e.Exec(t, situation, append(before, argv...)...)).Stdout, -1)
			}
			want := start(state)
			if len(want) != 2 {
				t.Fatalf("a plain start: %q", want)
			}
			for range 20 {
				if got := start(append([]string{kit.Residentctl(t)}, e.words(state)...)...); !slices.Equal(got, want) {
					t.Fatalf("%q, plainly %q", got, want)
				}
			}
		})
	}
}

// TestExecStatus: exit statuses and deaths are the command's.
func TestExecStatus(t *testing.T) {
	for _, e := range newExecers(t) {
		t.Run(e.name, func(t *testing.T) {
			// One tree for most: exec is an exec, and the shell in it does not know either.
			always, slice := []int{0, 1, 2, 125, 126, 127, 128, 129, 255}, kit.Today(t, 8)
			for code := range 256 {
				if !slices.Contains(always, code) && (e.UID != 0 || e.auto || !slice.Has(code)) {
					continue
				}
				if r := kit.Finish(t, e.inside(t, "/bin/sh", "-c", fmt.Sprint("exit ", code))); r.Code != code || r.Stderr != "" {
					t.Errorf("want %d: %v", code, r)
				}
			}
			for sig := syscall.Signal(1); sig <= 64; sig++ {
				switch sig {
				case syscall.SIGCHLD, syscall.SIGCONT, syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU,
					syscall.SIGURG, syscall.SIGWINCH, 32, 33: // these do not kill; the last two are the C library's
					continue
				}
				if sig%4 != 3 && (e.UID != 0 || !slice.Has(int(sig))) { // some always, SIGSEGV among them
					continue
				}
				c := e.inside(t, "/bin/sh", "-c", fmt.Sprintf("ulimit -c 0; kill -%d $$", sig))
				r := kit.Finish(t, c)
				status := c.ProcessState.Sys().(syscall.WaitStatus)
				if !status.Signaled() || status.Signal() != sig || r.Stderr != "" {
					t.Errorf("killed by %d: %v %v", sig, c.ProcessState, r)
				}
			}
			if r := kit.Finish(t, e.inside(t, "/nowhere/program")); r.Code != 127 || !strings.Contains(r.Stderr, "does not exist") {
				t.Errorf("no such command: %v", r)
			}
			if r := kit.Finish(t, e.inside(t, "/etc/passwd")); r.Code != 126 || !strings.Contains(r.Stderr, "error: ") {
				t.Errorf("no program: %v", r)
			}
		})
	}
}

// TestExecSignals: signals reach the command, whichever process they are sent to.
func TestExecSignals(t *testing.T) {
	program := kit.Fixture(t, "sigwait")
	for _, e := range newExecers(t) {
		for _, group := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, to the group: %v", e.name, group), func(t *testing.T) {
				c := e.inside(t, program)
				c.SysProcAttr.Setsid = true
				lines := startReading(t, c)
				lines.want(t, "ready")
				for _, sig := range []unix.Signal{
					unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGQUIT, unix.SIGABRT, 35, 64,
				} {
					pid := c.Process.Pid
					if group {
						pid = -pid
					}
					if err := unix.Kill(pid, sig); err != nil {
						t.Fatal(err)
					}
					// With --auto residentctl passes on what came to the group too.
					lines.want(t, fmt.Sprintf("got %d", sig))
				}
				if err := unix.Kill(c.Process.Pid, unix.SIGALRM); err != nil {
					t.Fatal(err)
				}
				lines.drain()
				if err := c.Wait(); c.ProcessState.ExitCode() != 9 {
					t.Errorf("%v, want status 9", err)
				}
			})
		}
	}
}

// fifo is a named pipe for all users, to which nothing is written.
func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(kit.Dir(t), "fifo")
	if err := syscall.Mkfifo(path, 0o666); err != nil {
		t.Fatal(err)
	}
	kit.Chmod(t, path, 0o666)
	return path
}

// linesOf is the output of a process, line by line.
type linesOf chan string

// startReading starts a command; its lines end when it and all that has its output
// open have ended.
func startReading(t *testing.T, c *exec.Cmd) linesOf {
	t.Helper()
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Kill(-c.Process.Pid, unix.SIGKILL); _ = c.Process.Kill(); _ = c.Wait() })
	lines := make(linesOf, 100)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	return lines
}

// want waits for a line; others may come before it.
func (l linesOf) want(t *testing.T, text string) {
	t.Helper()
	for limit := time.After(30 * time.Second); ; {
		select {
		case line, open := <-l:
			if line == text {
				return
			}
			if !open {
				t.Fatalf("%q does not come", text)
			}
		case <-limit:
			t.Fatalf("%q does not come", text)
		}
	}
}

func (l linesOf) drain() {
	for line := range l {
		_ = line
	}
}

// TestExecStops: a command that stops itself has stopped for any process that waits, by the same
// signal, and goes on when that continues it, once.
func TestExecStops(t *testing.T) {
	for _, e := range newExecers(t) {
		for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU} {
			t.Run(fmt.Sprintf("%s, signal %d", e.name, sig), func(t *testing.T) {
				t.Parallel()
				c := e.inside(t, "/bin/sh", "-c", fmt.Sprintf("kill -%d $$; kill -%d $$; exit 3", sig, sig))
				c.SysProcAttr.Setpgid = true // whose parent's is another, so it is not orphaned
				if err := c.Start(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = unix.Kill(-c.Process.Pid, unix.SIGKILL); _ = c.Wait() })
				for range 2 {
					if status := waitStopped(t, c.Process.Pid); !status.Stopped() || status.StopSignal() != sig {
						t.Fatalf("status %#x, want one that is stopped by %d", status, sig)
					}
					if err := c.Process.Signal(syscall.SIGCONT); err != nil {
						t.Fatal(err)
					}
				}
				if err := c.Wait(); c.ProcessState.ExitCode() != 3 {
					t.Errorf("%v, want status 3", err)
				}
			})
		}
	}
}

// waitStopped waits until a child stops, or is about to be found ended.
func waitStopped(t *testing.T, pid int) (status syscall.WaitStatus) {
	t.Helper()
	for range 3000 {
		// An end is left for the command's own Wait.
		if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
			t.Fatal(err)
		}
		got, err := syscall.Wait4(pid, &status, syscall.WUNTRACED|syscall.WNOHANG, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got == pid {
			return status
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it does not stop")
	return status
}

// TestExecSuspend: a shell inside, which makes a group of its own, is suspended and
// gets the terminal back.
func TestExecSuspend(t *testing.T) {
	bash := kit.Installed(t, "bash")
	for _, e := range newExecers(t) {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			term := e.shell(t, bash, "--norc", "--noprofile", "--noediting", "-i")
			term.Expect("prompt> ")
			term.Send(strings.Join(append([]string{kit.Residentctl(t)}, e.words(bash, "--norc", "--noprofile", "--noediting", "-i")...), " ") + "\n")
			term.Expect("prompt> ")
			for range 2 {
				term.Send("PS1='inner> '; echo in$((1+1))side\n")
				term.Expect("in2side")
				term.Expect("inner> ")
				term.Send("suspend\n")
				term.Expect(`\[1\]\+\s+Stopped`)
				term.Expect("prompt> ")
				term.Send("fg\n")
			}
			term.Send("exit 6\n")
			term.Expect("prompt> ")
			term.Send("echo status=$?\n")
			term.Expect("status=6")
			term.Send("exit 7\n")
			if got := term.Wait(); got != "exit status 7" {
				t.Errorf("bash ended with %s", got)
			}
		})
	}
}

// shell is a command in a terminal.
func (e execer) shell(t *testing.T, argv ...string) *kit.Terminal {
	t.Helper()
	return kit.OpenTerminal(t, (*exec.Cmd).Start, &exec.Cmd{
		Path: argv[0], Args: argv, Dir: "/",
		Env: append([]string{"PATH=/usr/bin:/bin", "HOME=" + e.Home, "LANG=C.UTF-8", "TERM=dumb", "PS1=prompt> ", "HISTFILE="}, e.Env...),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: true,
			Credential: &syscall.Credential{Uid: e.UID, Gid: e.UID, Groups: e.Groups}},
	})
}

// TestExecJobControl: the command stops, goes on and is interrupted from the
// terminal, as a job of a shell outside and as a shell with a job inside.
func TestExecJobControl(t *testing.T) {
	job, bash := kit.Fixture(t, "job"), kit.Installed(t, "bash")
	shell := []string{"--norc", "--noprofile", "--noediting", "-i"}
	for _, e := range newExecers(t) {
		for _, outside := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, shell outside: %v", e.name, outside), func(t *testing.T) {
				t.Parallel()
				argv, start := append([]string{bash}, shell...), job
				if outside {
					start = strings.Join(append([]string{kit.Residentctl(t)}, e.words(job)...), " ")
				} else {
					argv = append([]string{kit.Residentctl(t)}, e.words(argv...)...)
				}
				term := e.shell(t, argv...)
				term.Expect("prompt> ")
				term.Send(start + "\n")
				term.Expect(`in the foreground: 1\s`)
				term.Expect(`job is ready`)
				term.StopAndContinue()

				term.Send(start + " handle\n")
				term.Expect("job is ready")
				term.Send("\x03") // ^C
				term.Expect("got SIGINT")
				term.Send("echo status=$?\n")
				term.Expect("status=3")
				term.Send(start + "\n")
				term.Expect("job is ready")
				term.Send("\x03")
				term.Expect("prompt> ")
				term.Send("echo status=$?\n")
				term.Expect("status=130")
				term.Send("exit 7\n")
				if got := term.Wait(); got != "exit status 7" {
					t.Errorf("bash ended with %s", got)
				}
			})
		}
	}
}

// mounts are this process's mounts, without what changes by itself.
func mounts(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "\n")
}

var residentMount = regexp.MustCompile(`residentctl|ld-linux`)

// TestExecMounts: inside are two mounts more than outside, and outside are none,
// neither meanwhile nor afterwards, however it ends; nor is anything else left.
func TestExecMounts(t *testing.T) {
	before := mounts(t)
	wantNone := func(t *testing.T, when string) {
		t.Helper()
		for _, m := range mounts(t) {
			if !slices.Contains(before, m) && residentMount.MatchString(m) {
				t.Errorf("%s: it is mounted outside: %s", when, m)
			}
		}
	}
	for _, e := range newExecers(t) {
		for _, end := range []string{"by itself", "killed", "all killed"} {
			t.Run(e.name+", "+end, func(t *testing.T) {
				c := e.Exec(t, "/bin/bash", append([]string{"-c", `exec 3<>"$0"; exec "$@"`, fifo(t), kit.Residentctl(t)},
					e.words("/bin/bash", "-c", `trap 'exit 0' TERM; echo $$; sed 's/^[^ ]* [^ ]* [^ ]* //' /proc/self/mountinfo; echo end; read -r <&3`)...)...)
				c.SysProcAttr.Setsid = true
				lines := startReading(t, c)
				pid, err := strconv.Atoi(<-lines)
				if err != nil {
					t.Fatal(err)
				}
				var inside []string
				for line := range lines {
					if line == "end" {
						break
					}
					inside = append(inside, line)
				}
				more := slices.DeleteFunc(inside, func(m string) bool { return !residentMount.MatchString(m) })
				linker, err := filepath.EvalSymlinks("/lib64/ld-linux-x86-64.so.2")
				if err != nil {
					t.Fatal(err)
				}
				if len(more) != 2 || strings.Fields(more[0])[1] != filepath.Join(e.dir, "exec", "original") || strings.Fields(more[1])[1] != linker {
					t.Errorf("inside is mounted:\n%s", strings.Join(more, "\n"))
				}
				wantNone(t, "meanwhile")

				switch end {
				case "by itself":
					_ = unix.Kill(pid, unix.SIGTERM)
				case "killed":
					_ = c.Process.Kill()
					_ = c.Wait()
					wantNone(t, "when residentctl is killed")
					_ = unix.Kill(pid, unix.SIGTERM)
				case "all killed":
					_ = unix.Kill(-c.Process.Pid, unix.SIGKILL)
				}
				lines.drain()
				_ = c.Wait()
				wantNone(t, "afterwards")
				wantNoProcess(t, "/nowhere", e.dir)
				if e.auto && end != "by itself" {
					// What the killed one left goes by gc.
					if r := kit.Finish(t, e.Command(t, "--store", e.dir, "gc")); r.Code != 0 {
						t.Errorf("gc: %v", r)
					}
				}
				if left, _ := os.ReadDir(filepath.Join(e.dir, "staging")); len(left) > 0 {
					t.Errorf("left in staging: %v", left)
				}
			})
		}
	}
}
