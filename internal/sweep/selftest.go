package sweep

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
)

// The self-test's program, and arguments with which it prints noise and more beside
// it, on both outputs: a cell has a /proc of its own, so the time at which a file there
// came to be is another in each. (What the kernel counts, such as the idle time in
// /proc/uptime, may stand still.)
const selfTestProgram = "/usr/bin/stat"

var noisyArgs = []string{"--format=%.Z beside", "/proc/self", "/proc/self/nowhere"}

// check is one part of the self-test.
type check struct {
	what     string
	launcher string // what is started in the program's place
	args     []string
	alter    func(start int, o *outcome) // the starts are counted from 0
	want     kind
}

// selfTest plants differences and returns the exit status: are all of them found,
// and nothing where there is nothing?
func (s *sweeper) selfTest() int {
	checks, err := s.checks()
	if err != nil {
		fmt.Fprintf(os.Stderr, "sweep: error: self-test: %v\n", err)
		return exitImpossible
	}
	missed := 0
	for _, c := range checks {
		started := 0
		s.alter = func(o *outcome) {
			if c.alter != nil {
				c.alter(started, o)
			}
			started++
		}
		v, err := s.compare(selfTestProgram, c.launcher, c.args)
		if err != nil {
			fmt.Fprintf(os.Stderr, "sweep: error: self-test: %v\n", err)
			return exitImpossible
		}
		verdict := "ok"
		if v.Kind != c.want {
			verdict = "MISSED"
			missed++
		}
		fmt.Println(strings.TrimSuffix(fmt.Sprintf("%s: %s: %s: %s", verdict, c.what, v.Kind, v.What), ": "))
	}
	fmt.Printf("self-test: %d of %d differences and equalities found\n", len(checks)-missed, len(checks))
	if missed > 0 {
		return exitDifferent
	}
	return exitEqual
}

func (s *sweeper) checks() ([]check, error) {
	launcher, err := s.makeResident(selfTestProgram)
	if err != nil {
		return nil, err
	}
	// In the store, which cells show as it is.
	changed := filepath.Join(s.store, "changed", "stat")
	if err := copyProgram(selfTestProgram, changed, oneByte); err != nil {
		return nil, err
	}
	changedLauncher, err := s.makeResident(changed)
	if err != nil {
		return nil, err
	}
	stale := filepath.Join(s.store, "stale", "stat")
	if err := copyProgram(selfTestProgram, stale, nothing); err != nil {
		return nil, err
	}
	staleLauncher, err := s.makeResident(stale)
	if err != nil {
		return nil, err
	}
	if err := os.Chtimes(stale, time.Time{}, time.Unix(0, 0)); err != nil {
		return nil, err
	}

	help := []string{"--help"}
	first := func(text string) string { return flip(text, 0) }
	last := func(text string) string { return flip(text, len(text)-1) }
	checks := []check{
		{what: "nothing planted", launcher: launcher, args: help, want: equal},
		{what: "nothing planted, and noise", launcher: launcher, args: noisyArgs, want: equal},
		{what: "the first byte of stdout", launcher: launcher, args: help, want: different,
			alter: func(_ int, o *outcome) { o.Stdout = first(o.Stdout) }},
		{what: "the last byte of stdout", launcher: launcher, args: help, want: different,
			alter: func(_ int, o *outcome) { o.Stdout = last(o.Stdout) }},
		{what: "a byte too few", launcher: launcher, args: help, want: different,
			alter: func(_ int, o *outcome) { o.Stdout = o.Stdout[:len(o.Stdout)-1] }},
		{what: "a byte too many", launcher: launcher, args: help, want: different,
			alter: func(_ int, o *outcome) { o.Stdout += "\n" }},
		{what: "a byte beside noise", launcher: launcher, args: noisyArgs, want: different,
			alter: func(_ int, o *outcome) { o.Stdout = last(o.Stdout) }},
		{what: "a byte of stderr beside noise", launcher: launcher, args: noisyArgs, want: different,
			alter: func(_ int, o *outcome) { o.Stderr = first(o.Stderr) }},
		{what: "another exit status", launcher: launcher, args: help, want: different,
			alter: func(_ int, o *outcome) { o.Status = "exit status 7" }},
		{what: "a byte, but only in the first start", launcher: launcher, args: help, want: different,
			alter: func(start int, o *outcome) {
				if start == 0 {
					o.Stdout = first(o.Stdout)
				}
			}},
		{what: "one byte of the program itself", launcher: changedLauncher, args: help, want: different},
		{what: "a stale image", launcher: staleLauncher, args: help, want: different},
		{what: "no launcher at all", launcher: selfTestProgram, args: help, want: different},
	}
	return checks, nil
}

// makeResident makes a program resident and returns its launcher file.
func (s *sweeper) makeResident(program string) (launcher string, err error) {
	id, err := linux.StatID(program)
	if err != nil {
		return "", err
	}
	a, err := s.add(file{Inode: id.Inode()}, program)
	if err == nil && a.refusal != "" {
		err = fmt.Errorf("refused: %s", a.refusal)
	}
	return a.launcher, err
}

// copyProgram copies a program into a directory of its own and changes it.
func copyProgram(from, to string, change func([]byte) error) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := change(content); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	if err := os.Mkdir(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o755)
}

// oneByte changes one byte of a message.
func oneByte(program []byte) error {
	const message = "Usage: %s"
	at := bytes.Index(program, []byte(message))
	if at < 0 {
		return fmt.Errorf("does not hold the words %q", message)
	}
	program[at] ^= 1
	return nil
}

func nothing([]byte) error { return nil }

// flip changes a text in one byte: a letter becomes another letter, a digit
// another digit, so that it stays of the same kind.
func flip(text string, at int) string {
	changed := []byte(text)
	changed[at] ^= 1
	return string(changed)
}
