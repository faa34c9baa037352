package kit

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// StopAndContinue has the shell stop the job that is in the foreground, continue it
// in the background and then in the foreground, and waits for its end.
func (term *Terminal) StopAndContinue() {
	term.t.Helper()
	term.Send("\x1a") // ^Z
	term.Expect(`\[1\]\+\s+Stopped`)
	term.Expect("prompt> ")
	term.Send("bg\n")
	term.Expect("got SIGCONT") // before or after bash's next prompt
	// It reads from the terminal, which stops it (SIGTTIN).
	term.Until("jobs -s\n", `\[1\]\+\s+Stopped`)
	term.Send("fg\n")
	term.Expect("got SIGCONT")
	term.Send("a line\n")
	term.Expect("read a line")
	term.Send("\x04") // ^D
	term.Expect("end of input")
	term.Send("echo status=$?\n")
	term.Expect("status=4")
}

// A Terminal is a pseudo-terminal's master with a process at the other end.
type Terminal struct {
	t      testing.TB
	master *os.File
	cmd    *exec.Cmd
	Seen   strings.Builder // everything that came
	rest   string          // what no Expect has waited for yet
	text   chan string
}

// OpenTerminal lets the command be started, which must be given a session of its
// own, with a terminal of 24 lines and 80 columns.
func OpenTerminal(t testing.TB, start func(*exec.Cmd) error, cmd *exec.Cmd) *Terminal {
	t.Helper()
	master, slave, err := linux.OpenTerminal()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	defer slave.Close()
	term := &Terminal{t: t, master: master, cmd: cmd, text: make(chan string, 100)}
	linux.GiveTerminal(cmd, slave, 7)
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

// Resize changes the size, which the foreground job is told by SIGWINCH.
func (term *Terminal) Resize(rows, columns uint16) {
	term.t.Helper()
	if err := unix.IoctlSetWinsize(int(term.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		term.t.Fatal(err)
	}
}

// Send types the text.
func (term *Terminal) Send(text string) {
	term.t.Helper()
	if _, err := term.master.WriteString(text); err != nil {
		term.t.Fatalf("write %q: %v", text, err)
	}
}

// appears waits for the pattern in what has not been waited for.
func (term *Terminal) appears(pattern string, within time.Duration) bool {
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
			term.Seen.WriteString(text)
		case <-timeout:
			return false
		}
	}
}

// Expect waits up to 20 seconds for the pattern and fails the test without it.
func (term *Terminal) Expect(pattern string) {
	term.t.Helper()
	if !term.appears(pattern, 20*time.Second) {
		term.t.Fatalf("%q does not appear in\n%s\nafter\n%s", pattern, term.rest, term.Seen.String())
	}
}

// Until repeats a command until the pattern appears: what it looks at takes a
// moment to be so.
func (term *Terminal) Until(command, pattern string) {
	term.t.Helper()
	for range 100 {
		term.Send(command)
		if term.appears(pattern, 200*time.Millisecond) {
			return
		}
	}
	term.t.Fatalf("%q never says %q:\n%s", command, pattern, term.Seen.String())
}

// Wait waits for the process to end and returns its status in words.
func (term *Terminal) Wait() string {
	term.t.Helper()
	done := make(chan error, 1)
	go func() { done <- term.cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		term.t.Fatalf("bash does not end:\n%s", term.Seen.String())
	}
	return term.cmd.ProcessState.String()
}

// More waits for what comes next and reports whether there was any: not after the last
// process has closed the terminal.
func (term *Terminal) More() bool {
	text, ok := <-term.text
	term.rest += text
	term.Seen.WriteString(text)
	return ok
}
