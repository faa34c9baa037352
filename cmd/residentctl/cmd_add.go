package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/internal/ordered"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/resident"
	"github.com/residentctl/residentctl/pkg/warmstop"
)

func newAddCommand(g *globals) *cli.Command {
	var opts resident.AddOptions
	var warm warmFlags
	var jobs int
	return &cli.Command{
		Name:      "add",
		Before:    outside,
		Usage:     "make programs resident",
		ArgsUsage: "PROGRAM…",
		Description: `Starts each program up to the point where its libraries are linked, has CRIU write
an image of it, and tries the image out. A PROGRAM is a path, or a name to look up
in PATH. If one program fails, the others are still made resident.

A program that is already resident is left alone. Another name for it, a symbolic or
a hard link, is added to the same entry. A stale image is replaced, and running
processes go on. The options of an earlier add, and what is enabled, stay in effect
until remove.

add executes code of the program and its libraries, as the calling user: the dynamic
linker and the resolvers (IFUNC). Root can therefore add only what root alone can
change. The files, and the directories that lead to them, must belong to root and be
writable by no other user. --trust-owner lifts this rule, and the entry remembers it.

Each program is timed both ways, from the exec to its first instruction. It is not
made resident unless it starts at least 5% faster. With --jobs, the other jobs of
this command pause while a program is timed.

--follow is for wrappers and scripts. It executes PROGRAM without arguments, with
/dev/null as input and output and for at most 10 seconds, to see what it becomes.
That is the first dynamically linked program that it executes in its own place, or
else the only program that it starts, or else the interpreter of the script. add
makes that program resident.

The scripts of pyenv, rbenv and asdf choose a program by directory and environment.
--follow makes resident the one that they choose here and now. The script itself
takes longer than linking does; "residentctl help which" says how to start without it.

--warm is for programs whose own start-up takes long: scripts of python that import
much, and programs that call residentctl_point (see residentctl_point(3)). Their image
is taken after that start-up. To learn what a script imports, add runs it: with
--version and with --help, or with the arguments that --train gives, in a directory
and a HOME of its own and for at most 30 seconds each. Name a script by its path or as
PATH finds it. With --name, add makes python3 itself warm, with the modules of
--import, and the new program python3-NAME starts it; python3 stays as it is.

A program that executes others, writes files or makes sockets before its image is
taken is refused. --accept exec, write or network lifts that, and the entry remembers
it. A program that was added with --warm keeps a warm image until remove.

A warm image holds memory of your processes. Only you can read and use it. All starts
from it have the same hash seed and the same addresses; see the page on warm images.`,
		Flags: []cli.Flag{
			followFlag(&opts.Follow, "make resident the program that a wrapper or script executes"),
			&cli.BoolFlag{
				Name: "even-if-slower", Usage: "make it resident even if it does not start faster",
				Destination: &opts.EvenIfSlower, DisableDefaultText: true,
			},
			trustOwnerFlag(&opts.TrustOwner),
			&cli.IntFlag{
				Name: "layouts", Value: 1, Destination: &opts.Layouts,
				Usage: fmt.Sprintf("make `N` images at different addresses, of which each start picks one at random (at most %d)", resident.MaxLayouts),
			},
			memoryLimitFlag(&opts.MemoryLimit), jobsFlag(&jobs),
			&cli.BoolFlag{
				Name: "warm", Usage: "take the image after the program's own start-up: of a python script, or of a program that calls residentctl_point",
				Destination: &warm.warm, DisableDefaultText: true,
			},
			&cli.StringFlag{Name: "name", Usage: "with --warm: make the interpreter PROGRAM resident as the new program python3-`NAME`", Destination: &warm.name},
			&cli.StringSliceFlag{Name: "import", Usage: "with --name: import these `MODULES` (comma-separated; may be repeated)"},
			&cli.StringSliceFlag{Name: "train", Usage: "with --warm: run the script with these `ARGUMENTS`, to learn what it imports (may be repeated)", KeepSpace: true},
			&cli.StringSliceFlag{Name: "accept", Usage: "with --warm: make the image although the program does `WHAT` when it starts: " + strings.Join(warmstop.Acceptable, ", ") + " (may be repeated)"},
			g.storeFlag(), g.formatFlag(),
		},
		CustomHelpTemplate: cli.CommandHelpTemplate +
			exitStatusPart(exitDone, exitFailed, exitUsage, exitStore, exitSystem, exitInterrupted),
		Action: func(c *cli.Context) error {
			programs, err := arguments(c)
			if err != nil {
				return err
			}
			if len(programs) == 0 {
				return usagef("add", "no program given")
			}
			if opts.Layouts < 1 || opts.Layouts > resident.MaxLayouts {
				return usagef("add", "--layouts must be from 1 to %d", resident.MaxLayouts)
			}
			if err := checkJobs("add", jobs); err != nil {
				return err
			}
			if err := warm.give(c, &opts, programs); err != nil {
				return err
			}
			m, err := g.open(true)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c)
			defer stop()
			return runAdd(ctx, g, m, programs, opts, jobs)
		},
	}
}

// trustOwnerFlag is for all commands that execute parts of a program.
func trustOwnerFlag(trust *bool) cli.Flag {
	return &cli.BoolFlag{
		Name: "trust-owner", Usage: "as root, also execute files that other users own or can change",
		Destination: trust, DisableDefaultText: true,
	}
}

// memoryLimitFlag is for the commands that make a program resident for the first time,
// which the entry then remembers.
func memoryLimitFlag(limit *uint64) cli.Flag {
	byDefault := memorySize(resident.DefaultMemoryLimit)
	return &cli.GenericFlag{
		Name: "memory-limit", Value: (*memorySize)(limit), DefaultText: byDefault.String(),
		Usage: "refuse a program if linking it takes more than `SIZE` (512M, 2G) of its own memory, or if its image is larger",
	}
}

// adder is what runAdd needs of a resident.Manager.
type adder interface {
	Add(ctx context.Context, name string, opts resident.AddOptions) (*resident.Added, error)
}

// addResult is what became of one program.
type addResult struct {
	Program  string           `json:"program"` // as it was given
	Outcome  addState         `json:"outcome" jsonschema:"enum=added,enum=named,enum=already,enum=renewed,enum=slower,enum=failed"`
	Followed string           `json:"followed,omitempty"` // --follow: to which program
	Record   *record          `json:"record,omitempty"`
	Timing   *registry.Timing `json:"timing,omitempty"` // of a program that is not faster
	Failure  *report          `json:"failure,omitempty"`
}

type addState string

const (
	stateAdded   addState = "added"
	stateNamed   addState = "named"
	stateAlready addState = "already"
	stateRenewed addState = "renewed"
	stateSlower  addState = "slower"
	stateFailed  addState = "failed"
)

// addWords are the outcomes for people, in the order in which they are counted.
var addWords = []struct {
	state addState
	words string
}{
	{stateNamed, "resident by one more name"}, {stateAlready, "already resident"}, {stateRenewed, "renewed"},
	{stateSlower, "not faster"}, {stateFailed, "failed"},
}

// runAdd makes programs resident, so many jobs at a time. It goes on after a
// failure unless the next one is bound to fail as well.
func runAdd(ctx context.Context, g *globals, m adder, programs []string, opts resident.AddOptions, jobs int) error {
	results := make([]addResult, len(programs))
	errs := make([]error, len(programs))
	var failures []*report
	var fatal error // told at the end, by exit.go
	shown := g.newProgress()
	isFatal := func(err error) bool { return err != nil && (len(programs) == 1 || hopeless(err)) }
	begun := ordered.Do(jobs, len(programs), func(i int) (goOn bool) {
		opts := opts
		opts.Step = func(what string) { shown.step(programs[i], i+1, len(programs), what) }
		results[i], errs[i] = addOne(ctx, m, programs[i], opts)
		return !isFatal(errs[i])
	}, func(i int) {
		if isFatal(errs[i]) {
			fatal = cmp.Or(fatal, errs[i])
			return
		}
		if errs[i] != nil {
			failures = append(failures, results[i].Failure)
		}
		shown.aside(func() { printAdded(g, results[i]) })
	})
	shown.aside(func() {})
	if err := summarizeAdded(g, results[:begun], len(programs)); err != nil {
		return err
	}
	return ended(fatal, failures, len(programs))
}

// addOne makes one program resident.
func addOne(ctx context.Context, m adder, name string, opts resident.AddOptions) (addResult, error) {
	added, err := m.Add(ctx, name, opts)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err() // what went wrong is that it was interrupted
	}
	var slower *resident.SlowerError
	switch {
	case errors.As(err, &slower):
		return addResult{Program: name, Outcome: stateSlower, Timing: &slower.Timing, Failure: newReport(err)}, err
	case err != nil:
		return addResult{Program: name, Outcome: stateFailed, Failure: newReport(err)}, err
	}
	r := addResult{Program: name, Outcome: stateAdded, Record: recordOf(added.Record, recordState(resident.StateCurrent))}
	switch {
	case added.Already:
		r.Outcome = stateAlready
	case added.Renewed:
		r.Outcome = stateRenewed
	case added.Named:
		r.Outcome = stateNamed
	}
	if opts.Follow {
		r.Followed = added.Path
	}
	return r, nil
}

// printAdded reports on one program as soon as its outcome is known.
func printAdded(g *globals, r addResult) {
	if g.format == formatJSON {
		return
	}
	if r.Failure != nil {
		r.Failure.print(g.err, g.format)
		return
	}
	name := printable(r.Program)
	if r.Followed != "" && r.Followed != r.Program {
		name += " -> " + printable(r.Followed)
	}
	switch r.Outcome {
	case stateAlready:
		g.printf("%s: already resident\n", name)
	case stateRenewed:
		g.printf("%s: renewed, only times of files had changed (id %s)\n", name, shortID(r.Record.ID))
	case stateNamed:
		g.printf("%s: resident by one more name (id %s, as %s)\n", name, shortID(r.Record.ID), printable(r.Record.Program))
	default:
		if r.Record.Kind == registry.KindWarm {
			g.printf("%s: resident, warm (id %s, %s%s%s%s)\n", name, shortID(r.Record.ID),
				formatModules(r.Record.Modules), formatLeftOut(r.Record.LeftOut), formatBytes(r.Record.ImageBytes), formatFirstLine(r.Record.Timing))
			return
		}
		g.printf("%s: resident (id %s, %s, %s, %s%s)\n", name, shortID(r.Record.ID),
			count(r.Record.Libraries, "library"), count(r.Record.Mappings, "mapping"), formatBytes(r.Record.ImageBytes),
			formatTiming(r.Record.Timing))
	}
}

// formatTiming is what was measured, as the end of a list.
func formatTiming(t *registry.Timing) string {
	if t == nil {
		return ""
	}
	return fmt.Sprintf(", starts in %.2f instead of %.2f ms", float64(t.ResidentNS)/1e6, float64(t.ExecNS)/1e6)
}

// formatModules is how many modules a warm image holds, as the beginning of a list.
func formatModules(n int) string {
	if n == 0 {
		return ""
	}
	return count(n, "module") + " imported, "
}

// formatLeftOut is how many modules are not in a warm image for what they do.
func formatLeftOut(modules []string) string {
	if len(modules) == 0 {
		return ""
	}
	return fmt.Sprintf("%d left out, ", len(modules))
}

// formatFirstLine is formatTiming for a warm image.
func formatFirstLine(t *registry.Timing) string {
	if t == nil {
		return ""
	}
	return fmt.Sprintf(", to its first line in %d instead of %d ms", (t.ResidentNS+5e5)/1e6, (t.ExecNS+5e5)/1e6)
}

// summarizeAdded prints the outcome of all: as JSON, or in one line for several.
func summarizeAdded(g *globals, results []addResult, total int) error {
	if g.format == formatJSON {
		return g.printJSON(results)
	}
	if total < 2 {
		return nil
	}
	n := map[addState]int{}
	for _, r := range results {
		n[r.Outcome]++
	}
	parts := []string{fmt.Sprintf("%d made resident", n[stateAdded])}
	for _, s := range addWords {
		if n[s.state] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[s.state], s.words))
		}
	}
	if left := total - len(results); left > 0 {
		parts = append(parts, fmt.Sprintf("%d not tried", left))
	}
	g.printf("%s: %s\n", count(total, "program"), strings.Join(parts, ", "))
	return nil
}
