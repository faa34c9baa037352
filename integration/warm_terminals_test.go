package integration

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
)

// streamsName names a set of standard streams, bit 0 for 0.
func streamsName(set uint32) string {
	name := ""
	for fd := range 3 {
		if set>>fd&1 != 0 {
			name += fmt.Sprint(fd)
		}
	}
	return "terminals " + name
}

// otherStreams is why a start is a normal one for whose terminals there is no image.
const otherStreams = "other standard streams are terminals than in its image"

// TestWarmTerminals: modules that ask at import which streams are terminals, and what the terminal
// is, have images for most of what the streams may be, in several layouts too.
func TestWarmTerminals(t *testing.T) {
	kit.RequireCRIU(t)
	t.Parallel()
	modules := kit.Dir(t)
	for name, text := range map[string]string{
		"output": "import sys\nANSWERS = sys.stdout.isatty()\n",
		"all":    "import sys\nANSWERS = [s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr)]\n",
		"looked": "import curses, sys\nANSWERS = sys.stdout.isatty()\ncurses.setupterm()\n",
		"size":   "import os, sys\nANSWERS = sys.stdout.isatty() and os.get_terminal_size()\n",
		"job":    "import os, sys\ntry: JOB = os.tcgetpgrp(1)\nexcept OSError: JOB = None\nANSWERS = sys.stdout.isatty()\n",
		"kept":   "import sys, termios\ntry: KEPT = termios.tcgetattr(1)\nexcept termios.error: KEPT = None\nANSWERS = sys.stdout.isatty()\n",
		"named":  "import os, sys\nANSWERS = sys.stdout.isatty() and os.ttyname(1) != '/dev/null'\n",
	} {
		write(t, filepath.Join(modules, "asks_"+name+".py"), text, 0o644)
	}
	slice := kit.Today(t, 4) // of the four that have no image for terminals
	for n, test := range []struct {
		module  string
		code    string
		options []string
		normal  []uint32 // for which streams there is no image
	}{
		{module: "output", options: []string{"--layouts", "2"}},
		{module: "all", normal: []uint32{1, 2, 3, 4, 6}},
		{module: "looked", code: "; import curses; print(curses.tigetnum('cols'), curses.tigetnum('lines'), curses.tigetstr('bold'))"},
		{module: "size", normal: []uint32{2, 3, 6, 7}},
		{module: "job", normal: []uint32{2, 3, 6, 7}},
		{module: "kept", normal: []uint32{2, 3, 6, 7}},
		{module: "named", normal: []uint32{2, 3, 6, 7}},
	} {
		if n > 2 && !slice.Has(n) {
			continue
		}
		t.Run(test.module, func(t *testing.T) {
			w := &warmed{Store: kit.NewStore(t, kit.Dir(t)), home: kit.Dir(t), plain: []string{"/usr/bin/python3"}}
			w.env = []string{"PYTHONPATH=" + modules, "TERM=xterm"}
			w.does(t, append([]string{"add", "--warm", "--even-if-slower", "--name", test.module, "--import", "json,asks_" + test.module, "/usr/bin/python3"},
				test.options...)...)
			w.program = filepath.Join(w.Dir, "named", "python3-"+test.module)
			var cases []warmCase
			for set := range uint32(8) {
				c := warmCase{name: streamsName(set), terminals: set,
					args: []string{"-c", fmt.Sprintf("import asks_%s as asks; print(asks.ANSWERS)%s", test.module, test.code)}}
				for _, without := range test.normal {
					if set == without {
						c.normal = otherStreams
					}
				}
				cases = append(cases, c)
			}
			w.try(t, cases)
			if out := w.does(t, "verify", w.program); out == "" {
				t.Error("verify says nothing")
			}
		})
	}
}
