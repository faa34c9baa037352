package integration

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestJobControl: an interactive bash in a terminal of its own, plain and
// resident, with a job that is plain and resident: started, stopped, continued in
// the background and the foreground, interrupted.
func TestJobControl(t *testing.T) {
	s := sharedStore(t)
	job, bash := fixture(t, "job"), installed(t, "bash")
	s.add(t, job)
	s.add(t, bash)
	ways := readyWays(t, s, job, bash)
	for _, u := range users {
		for _, w := range ways {
			s.requireResident(t, w, u, job, command{})
			s.requireResident(t, w, u, bash, command{args: []string{"-c", ":"}})
		}
	}
	for _, u := range users {
		for _, shell := range append([]way{plain}, ways...) {
			for _, w := range []way{plain, byLauncher, byRun} {
				if shell.around != nil && w.name != plain.name {
					continue // its jobs are resident without it
				}
				t.Run(fmt.Sprintf("%s job of %s bash, %s", w.name, shell.name, u.name), func(t *testing.T) {
					t.Parallel()
					path, argv0, args := shell.command(s, u, bash, "--norc", "--noprofile", "--noediting", "-i")
					jobPath, _, jobArgs := w.argv(s, job)
					term := openTerminal(t, func(c *exec.Cmd) error { return shell.start(s, u, c) }, &exec.Cmd{
						Path: path,
						Args: append([]string{argv0}, args...),
						Env:  append(s.environment("/"), "PS1=prompt> ", "HISTFILE="),
						Dir:  "/",
						SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: true,
							Credential: &syscall.Credential{Uid: u.id, Gid: u.id}},
					})
					start := strings.Join(append([]string{jobPath}, jobArgs...), " ")

					term.expect("prompt> ")
					term.send(start + "\n")
					term.expect(`in the foreground: 1\s+ok: .*\s+size 24x80\s+job is ready`)
					term.stopAndContinue()

					term.send(start + " handle\n")
					term.expect("job is ready")
					term.resize(30, 100)
					term.expect("got SIGWINCH")
					term.send("\x03") // ^C
					term.expect("got SIGINT")
					term.send("echo status=$?\n")
					term.expect("status=3")

					term.send(start + "\n")
					term.expect(`size 30x100\s+job is ready`)
					term.send("\x03")
					term.expect("prompt> ")
					term.send("echo status=$?\n")
					term.expect("status=130")

					term.send(start + " &\n")
					term.expect(`in the foreground: 0`)
					term.until("jobs -s\n", `Stopped`)
					term.send("fg\n")
					term.expect("got SIGCONT")
					term.send("quit\n")
					term.expect(`failures: 0`)
					term.send("exit 7\n")
					if got := term.wait(); got != "exit status 7" {
						t.Errorf("bash ended with %s", got)
					}
					if all := term.seen.String(); strings.Contains(all, "FAILED: ") {
						t.Errorf("the job is not what it should be:\n%s", all)
					}
				})
			}
		}
	}
}

// stopAndContinue has the shell stop the job that is in the foreground, continue it
// in the background and then in the foreground, and waits for its end.
func (term *terminal) stopAndContinue() {
	term.t.Helper()
	term.send("\x1a") // ^Z
	term.expect(`\[1\]\+\s+Stopped`)
	term.expect("prompt> ")
	term.send("bg\n")
	term.expect("got SIGCONT") // before or after bash's next prompt
	// It reads from the terminal, which stops it (SIGTTIN).
	term.until("jobs -s\n", `\[1\]\+\s+Stopped`)
	term.send("fg\n")
	term.expect("got SIGCONT")
	term.send("a line\n")
	term.expect("read a line")
	term.send("\x04") // ^D
	term.expect("end of input")
	term.send("echo status=$?\n")
	term.expect("status=4")
}

// A terminal is a pseudo-terminal's master with a process at the other end.
type terminal struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	seen   strings.Builder // everything that came
	rest   string          // what nobody has waited for yet
	text   chan string
}

// openTerminal lets the command be started, which must be given a session of its
// own, with a terminal of 24 lines and 80 columns.
func openTerminal(t *testing.T, start func(*exec.Cmd) error, cmd *exec.Cmd) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatalf("pseudo-terminal: %v", err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	term := &terminal{t: t, master: master, cmd: cmd, text: make(chan string, 100)}
	term.resize(24, 80)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	if err := start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	go func() {
		defer close(term.text)
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			if n > 0 {
				term.text <- string(buffer[:n])
			}
			if err != nil { // EIO when the last process is gone
				return
			}
		}
	}()
	return term
}

func (term *terminal) resize(rows, columns uint16) {
	term.t.Helper()
	if err := unix.IoctlSetWinsize(int(term.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		term.t.Fatal(err)
	}
}

func (term *terminal) send(text string) {
	term.t.Helper()
	if _, err := term.master.WriteString(text); err != nil {
		term.t.Fatalf("write %q: %v", text, err)
	}
}

// appears waits for the pattern in what has not been waited for.
func (term *terminal) appears(pattern string, within time.Duration) bool {
	re := regexp.MustCompile(pattern)
	timeout := time.After(within)
	for {
		if found := re.FindStringIndex(term.rest); found != nil {
			term.rest = term.rest[found[1]:]
			return true
		}
		select {
		case text, ok := <-term.text:
			if !ok {
				return false
			}
			term.rest += text
			term.seen.WriteString(text)
		case <-timeout:
			return false
		}
	}
}

func (term *terminal) expect(pattern string) {
	term.t.Helper()
	if !term.appears(pattern, 20*time.Second) {
		term.t.Fatalf("%q does not appear in\n%s\nafter\n%s", pattern, term.rest, term.seen.String())
	}
}

// until repeats a command until the pattern appears: what it looks at takes a
// moment to be so.
func (term *terminal) until(command, pattern string) {
	term.t.Helper()
	for range 100 {
		term.send(command)
		if term.appears(pattern, 200*time.Millisecond) {
			return
		}
	}
	term.t.Fatalf("%q never says %q:\n%s", command, pattern, term.seen.String())
}

func (term *terminal) wait() string {
	term.t.Helper()
	done := make(chan error, 1)
	go func() { done <- term.cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		term.t.Fatalf("bash does not end:\n%s", term.seen.String())
	}
	return term.cmd.ProcessState.String()
}
