package main

import (
	"cmp"
	"context"
	"io"
	"path/filepath"
	"strings"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/resident"
)

// residentName is a second name of residentctl, by which it has the command line of
// DragonFly BSD's resident(8). The front door leaves it alone (pkg/launcher/src/front.c).
const residentName = "resident"

const residentUsage = `usage: resident [-l] [-f] [-x id] [-d] [-R] program ...

Makes dynamically linked programs resident, like resident(8) of DragonFly BSD.

   -l     list the resident programs
   -f     force: make a program resident even if it does not start faster; for a
          wrapper or script, make resident the program that it executes
   -x id  remove the program with this id
   -d     remove the given programs
   -R     remove all programs

It works on the same store as residentctl. See "residentctl help" for more.
`

// residentLine is a command line of resident(8).
type residentLine struct {
	list, force, remove, removeAll, help bool

	id       string
	programs []string
}

// parseResident reads options as getopt(3) does: up to the first program, also several in one
// argument.
func parseResident(args []string) (l residentLine, err error) {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "-" {
		word := args[0]
		args = args[1:]
		if word == "--" {
			break
		}
		if word == "--help" {
			l.help = true
			continue
		}
		if args, err = l.options(word[1:], args); err != nil {
			return l, err
		}
	}
	l.programs = args
	return l, l.check()
}

// options reads the letters of one argument, and returns the arguments after it.
func (l *residentLine) options(letters string, args []string) (rest []string, err error) {
	for i, letter := range letters {
		switch letter {
		case 'l':
			l.list = true
		case 'f':
			l.force = true
		case 'd':
			l.remove = true
		case 'R':
			l.removeAll = true
		case 'h':
			l.help = true
		case 'x':
			l.id = letters[i+1:]
			if l.id == "" && len(args) > 0 {
				l.id, args = args[0], args[1:]
			}
			if l.id == "" {
				return nil, residentUsagef("no id after -x")
			}
			return args, nil
		default:
			return nil, residentUsagef("unknown option -%c", letter)
		}
	}
	return args, nil
}

// check refuses options that exclude each other, and a line that names nothing.
func (l *residentLine) check() error {
	verbs := 0
	for _, is := range []bool{l.list, l.remove, l.removeAll, l.id != ""} {
		if is {
			verbs++
		}
	}
	named := verbs == 0 || l.remove
	switch {
	case l.help:
		return nil
	case verbs > 1:
		return residentUsagef("-l, -x, -d and -R exclude each other")
	case named && len(l.programs) == 0:
		return residentUsagef("no program given")
	case !named && len(l.programs) > 0:
		return residentUsagef("%s is in the wrong place: -l, -x and -R take no programs", l.programs[0])
	case l.id != "" && strings.Trim(l.id, "0123456789abcdef") != "":
		return residentUsagef("%q is not an id", l.id)
	}
	return nil
}

func residentUsagef(format string, args ...any) error {
	return problem.Newf(problem.Usage, format, args...).WithHint("see `resident --help`")
}

// isResident reports whether this process was called by that name.
func isResident(args []string) bool { return len(args) > 0 && filepath.Base(args[0]) == residentName }

// executeResident runs such a command line and returns the exit status.
func executeResident(args []string, out, err io.Writer) int {
	output := &output{to: out}
	g := &globals{format: formatTable, out: output, err: err}
	line, failed := parseResident(args[1:])
	if failed == nil {
		failed = line.run(g)
	}
	if output.err != nil {
		failed = problem.Newf(problem.Output, "write the result: %w", output.err)
	}
	return g.fail(failed)
}

func (l *residentLine) run(g *globals) error {
	ctx, stop := interruptibleFrom(context.Background())
	defer stop()
	switch {
	case l.help:
		g.printf("%s%s", residentUsage, exitStatusPart(exitDone, exitFailed, exitUsage, exitStore, exitSystem, exitInterrupted))
		return nil
	case l.list:
		return listResidents(ctx, g)
	}
	_ = outside(nil)
	adds := !l.remove && !l.removeAll && l.id == ""
	m, err := g.open(adds)
	if err != nil {
		return err
	}
	switch {
	case l.removeAll:
		return runRemoveAll(ctx, g, m)
	case l.remove:
		return runRemove(ctx, g, g.withSystem(m), l.programs)
	case l.id != "":
		return runRemove(ctx, g, g.withSystem(m), []string{l.id})
	}
	return runAdd(ctx, g, m, l.programs, resident.AddOptions{Follow: l.force, EvenIfSlower: l.force}, 1)
}

// listResidents prints the programs that have an image, one a line.
func listResidents(ctx context.Context, g *globals) error {
	stores, err := g.openToRead()
	if err != nil {
		return err
	}
	var missed unread
	t := g.newTable("Id", "Size", "Binary", "File")
	total := 0
	for _, s := range stores {
		entries, _, err := s.Select(ctx, resident.Selection{})
		missed.add(err)
		for _, e := range entries {
			if !e.HasImage() {
				continue
			}
			total++
			note := ""
			if e.State != resident.StateCurrent {
				note = " (" + string(e.State) + ")"
			}
			t.row(shortID(e.ID), formatBytes(e.ImageBytes), e.Binary.Inode(), e.Program+note)
		}
	}
	return cmp.Or(t.print(), missed.end(g, nil, total))
}
