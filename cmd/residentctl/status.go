package main

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/urfave/cli/v2"
)

// statusLine shows what is being done just now: one line of a terminal that is
// written over, and nothing anywhere else.
type statusLine struct {
	w     io.Writer
	width int // 0: shows nothing
}

// newStatusLine is a status line on w if that is a terminal which can do it.
func newStatusLine(w io.Writer) *statusLine {
	if os.Getenv("TERM") == "dumb" {
		return &statusLine{}
	}
	return &statusLine{w: w, width: terminalWidth(w)}
}

// set shows a text, cut to one line.
func (s *statusLine) set(text string) {
	if s.width <= 1 {
		return
	}
	line := []rune(printable(text))
	fmt.Fprintf(s.w, "\r\x1b[K%s", string(line[:min(len(line), s.width-1)]))
}

// clear clears the line.
func (s *statusLine) clear() {
	if s.width > 1 {
		fmt.Fprint(s.w, "\r\x1b[K")
	}
}

// progress is the status line of a command for several programs, of which it may work on
// some at a time.
type progress struct {
	mu   sync.Mutex
	line *statusLine
}

func (g *globals) newProgress() *progress {
	p := &progress{line: &statusLine{}}
	if g.format == formatTable {
		p.line = newStatusLine(g.err)
	}
	return p
}

// step shows what is being done for a program, given its number of so many.
func (p *progress) step(program string, number, total int, what string) {
	if total > 1 {
		program = fmt.Sprintf("[%d/%d] %s", number, total, program)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line.set(program + ": " + what)
}

// aside calls print without the line in its way.
func (p *progress) aside(print func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line.clear()
	print()
}

// jobsFlag is for the commands that can work on several programs at a time.
func jobsFlag(jobs *int) cli.Flag {
	return &cli.IntFlag{
		Name: "jobs", Aliases: []string{"j"}, Value: 1, Destination: jobs,
		Usage: "work on `N` programs at a time",
	}
}

// checkJobs is the error of a number of jobs that makes no sense.
func checkJobs(command string, jobs int) error {
	if jobs < 1 {
		return usagef(command, "--jobs must be 1 or more")
	}
	return nil
}
