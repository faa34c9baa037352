package main

import (
	"fmt"
	"io"
	"os"
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

// clear gives the line back.
func (s *statusLine) clear() {
	if s.width > 1 {
		fmt.Fprint(s.w, "\r\x1b[K")
	}
}
