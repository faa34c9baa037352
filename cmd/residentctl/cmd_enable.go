package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/binfmt"
	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/resident"
)

func newEnableCommand(g *globals) *cli.Command {
	var opts resident.AddOptions
	var system bool
	return &cli.Command{
		Name:      "enable",
		Before:    outside,
		Usage:     "make programs start from their images when they are called",
		ArgsUsage: "PROGRAM…",
		Description: `Puts a shim for each program into a directory that is to stand first in PATH:
"residentctl env" prints the line for your shell. A program that is not resident
is made so first, as by add.

A shim is a link to the program's launcher file: no shell script, no process more.
It starts what would be found in PATH without it, under the name that it was
called by: when a program of the same name comes to stand before, when it is
upgraded, moved or removed, the shim executes what your shell would. disable and
remove end it. gc takes the shim of a program that is gone away with its image, and
refresh brings both back with the program.

A program that looks for itself in PATH finds its shim. So python3 shows the shim in
sys.executable, and a virtual environment that it makes links to the shim and works
only as long as that is there. Make it by the full path, /usr/bin/python3 -m venv DIR;
"ln -sf /usr/bin/python3 DIR/bin/python3" mends one that is made already. gcc, and
others that would look for their files beside the shim, are refused.

A wrapper of your own that calls the next program of its name in PATH is best put
into a directory in front of the shims. Behind them it works too, but runs twice when it
is called by its full path.

With --follow a PROGRAM that is a wrapper or a script is executed as by add --follow,
and what it becomes is enabled, by its own name: if the wrapper finds that in PATH,
it finds the shim. The wrapper itself still runs. What pyenv, rbenv or asdf put into
PATH is refused: they choose a program by directory and environment at each call,
and a shim would freeze the choice. "enable --system --follow" makes resident what
they choose here, and leaves them the choice. To start without their script, put
the directory of one version in front of theirs in PATH.

With --system every exec of the program, by whatever path, user or container, is a
resident start: root registers its launcher file with the kernel (binfmt_misc), and
where there is /etc/binfmt.d for each boot. The kernel knows a program by its first
256 bytes only. Others that share them go on as always, through the launcher file,
which does the kernel's work for them (some 15% of a small program's start); so does
the program itself when its image does not fit. A debugger that starts the program
sees the launcher first: attach to it, or disable it meanwhile. An exec by a
descriptor that is close-on-exec (fexecve) fails, as that of a script does, for the
program and for others of its first bytes. A program that reads its own file through
/proc/self/exe is refused, and where ordinary users may not make user namespaces one
that looks there for its path. Linux 5.15 or newer is needed.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "shim", Usage: "by a link in a directory of PATH; this is the default", DisableDefaultText: true},
			&cli.BoolFlag{Name: "system", Usage: "for the whole system, by binfmt_misc; for root", Destination: &system, DisableDefaultText: true},
			followFlag(&opts.Follow, "enable what a wrapper or script executes"),
			&cli.BoolFlag{
				Name: "even-if-slower", Usage: "make it resident also if it does not start faster",
				Destination: &opts.EvenIfSlower, DisableDefaultText: true,
			},
			trustOwnerFlag(&opts.TrustOwner),
			memoryLimitFlag(&opts.MemoryLimit),
			g.storeFlag(), g.formatFlag(),
		},
		CustomHelpTemplate: cli.CommandHelpTemplate +
			exitStatusPart(exitDone, exitFailed, exitUsage, exitStore, exitSystem, exitInterrupted),
		Action: func(c *cli.Context) error {
			programs, err := arguments(c)
			if err != nil {
				return err
			}
			switch {
			case len(programs) == 0:
				return usagef("enable", "no program given")
			case system && c.Bool("shim"):
				return usagef("enable", "--shim and --system exclude each other; enable it twice")
			}
			if system {
				if err := resident.MayEnableSystem(); err != nil {
					return err
				}
			}
			m, err := g.open(true)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c)
			defer stop()
			if system {
				return runEnable(ctx, g, m.EnableSystem, programs, opts)
			}
			return runEnable(ctx, g, m.Enable, programs, opts)
		},
	}
}

// enabler is a resident.Manager's Enable or EnableSystem.
type enabler func(ctx context.Context, name string, opts resident.AddOptions) (*resident.Enabled, error)

// enableResult is what became of one program.
type enableResult struct {
	Program string   `json:"program"` // as it was given
	Enabled *enabled `json:"enabled,omitempty"`
	Failure *report  `json:"failure,omitempty"`
}

// runEnable goes on after a failure unless the next one is bound to fail as well.
func runEnable(ctx context.Context, g *globals, enable enabler, programs []string, opts resident.AddOptions) error {
	results := []enableResult{}
	var failures []*report
	var fatal error
	for i, name := range programs {
		shown := g.newProgress()
		opts.Step = func(what string) { shown.step(name, i+1, len(programs), what) }
		e, err := enable(ctx, name, opts)
		shown.aside(func() {})
		if err != nil && ctx.Err() != nil {
			err = ctx.Err()
		}
		if err != nil && (len(programs) == 1 || hopeless(err)) {
			fatal = err
			break
		}
		r := enableResult{Program: name}
		if err != nil {
			r.Failure = newReport(fmt.Errorf("%s: %w", name, err))
			failures = append(failures, r.Failure)
		} else {
			r.Enabled = enabledOf(e)
		}
		results = append(results, r)
		printEnabled(g, r)
	}
	if err := enabledAll(g, results); err != nil {
		return err
	}
	return ended(fatal, failures, len(programs))
}

func printEnabled(g *globals, r enableResult) {
	if g.format == formatJSON {
		return
	}
	if r.Failure != nil {
		r.Failure.print(g.err, g.format)
		return
	}
	e := r.Enabled
	name, how := printable(r.Program), "enabled"
	if e.Followed != "" {
		name += " -> " + printable(e.Followed)
	}
	if e.System {
		how = "enabled for the whole system"
	}
	switch {
	case e.Was:
		g.printf("%s: already %s\n", name, how)
		return
	case e.Instead != "":
		g.printf("%s: %s, instead of %s", name, how, printable(e.Instead))
	default:
		g.printf("%s: %s", name, how)
	}
	if e.Already || e.Renewed || e.Named {
		g.printf("\n")
	} else {
		g.printf(", and made resident (id %s%s)\n", shortID(e.Record.ID), formatTiming(e.Record.Timing))
	}
	if len(e.Collides) > 0 {
		g.printf("  the kernel cannot tell it from %s, which the launcher starts normally\n", printable(strings.Join(e.Collides, ", ")))
	}
	if e.System && !e.AtBoot {
		g.printf("  until the next boot: there is no %s; `residentctl refresh` enables it again\n", binfmt.BootDir)
	}
}

// enabledAll tells what is left to do for shims: to put their directory into PATH.
func enabledAll(g *globals, results []enableResult) error {
	if g.format == formatJSON {
		return g.printJSON(results)
	}
	for _, r := range results {
		if r.Enabled == nil || r.Enabled.Shim == "" {
			continue
		}
		if dir := filepath.Dir(r.Enabled.Shim); intercept.PathPosition(dir) == 0 {
			fmt.Fprintf(g.err, "residentctl: %s is not in PATH yet; `residentctl env` prints the line for your shell\n", printable(dir))
		}
		break
	}
	return nil
}

func newDisableCommand(g *globals) *cli.Command {
	var which disabling
	var all bool
	return &cli.Command{
		Name:      "disable",
		Usage:     "undo enable",
		ArgsUsage: "PROGRAM…",
		Description: `Name a program by its name or its path. Without --shim and --system both go, as far
as they are there or wait for an image. It stays resident; running processes go on.
A shell that has remembered where the shim was may want "hash -r".`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "shim", Usage: "only the link in the directory for PATH", Destination: &which.shim, DisableDefaultText: true},
			&cli.BoolFlag{Name: "system", Usage: "only what counts for the whole system", Destination: &which.system, DisableDefaultText: true},
			&cli.BoolFlag{Name: "all", Usage: "all of the store", Destination: &all, DisableDefaultText: true},
			g.storeFlag(), g.formatFlag(),
		},
		CustomHelpTemplate: cli.CommandHelpTemplate + exitStatusPart(exitDone, exitFailed, exitUsage, exitStore),
		Action: func(c *cli.Context) error {
			names, err := arguments(c)
			switch {
			case err != nil:
				return err
			case all && len(names) > 0:
				return usagef("disable", "--all and names exclude each other")
			case !all && len(names) == 0:
				return usagef("disable", "no program given")
			}
			m, err := g.open(false)
			if err != nil {
				return err
			}
			if !which.shim && !which.system {
				which = disabling{true, true}
			}
			if all {
				if names, err = which.all(c.Context, m); err != nil {
					return err
				}
				if len(names) == 0 && g.format == formatTable {
					g.printf("nothing is enabled\n")
				}
			}
			return runDisable(c.Context, g, which, m, names)
		},
	}
}

// disabling says which ways of being enabled are to end.
type disabling struct{ shim, system bool }

// disabled is one that has ended.
type disabled struct {
	Name    string `json:"name"`
	Program string `json:"program"`
	System  bool   `json:"system"`
}

// all are the names by which everything that is enabled can be disabled.
func (d disabling) all(ctx context.Context, m *resident.Manager) (names []string, err error) {
	if d.shim {
		shims, err := m.Shims(ctx)
		if err != nil {
			return nil, err
		}
		for _, s := range shims {
			names = append(names, s.Shim)
		}
	}
	if d.system {
		programs, err := m.System(ctx)
		if err != nil {
			return nil, err
		}
		lost, err := resident.LostSystem()
		if err != nil {
			return nil, err
		}
		for _, p := range append(programs, lost...) {
			names = append(names, p.Program)
		}
	}
	return names, nil
}

// disable ends it for one name.
func (d disabling) disable(ctx context.Context, m *resident.Manager, name string) (done []disabled, err error) {
	if d.shim {
		shim, err := m.Disable(ctx, name)
		if err == nil {
			done = append(done, disabled{Name: shim.Name, Program: shim.Program})
		} else if !errors.Is(err, resident.ErrNotEnabled) {
			return done, err
		}
	}
	if d.system {
		program, err := m.DisableSystem(ctx, name)
		if errors.Is(err, resident.ErrNotEnabled) {
			program, err = resident.DisableLost(name)
		}
		if err == nil {
			done = append(done, disabled{Name: filepath.Base(program), Program: program, System: true})
		} else if !errors.Is(err, resident.ErrNotEnabled) {
			return done, err
		}
	}
	if done == nil {
		return nil, resident.ErrNotEnabled
	}
	return done, nil
}

// runDisable goes on when one is not enabled.
func runDisable(ctx context.Context, g *globals, which disabling, m *resident.Manager, names []string) error {
	done := []disabled{}
	var failures []*report
	var fatal error
	for _, name := range names {
		now, err := which.disable(ctx, m, name)
		done = append(done, now...)
		if err != nil {
			where := ""
			if errors.Is(err, resident.ErrNotEnabled) {
				where = " in " + m.Dir()
			}
			err = fmt.Errorf("%s: %w%s", name, err, where)
			if len(names) == 1 || hopeless(err) {
				fatal = err
				break
			}
			failures = append(failures, newReport(err))
		}
	}
	if g.format == formatJSON {
		if err := g.printJSON(done); err != nil {
			return err
		}
	} else {
		for _, d := range done {
			way := ""
			if d.System {
				way = " for the whole system"
			}
			g.printf("%s: disabled%s (%s)\n", printable(d.Name), way, printable(d.Program))
		}
		g.printFailures(failures)
	}
	if errors.Is(fatal, resident.ErrNotEnabled) {
		hint := "`residentctl status` shows what is enabled"
		if os.Geteuid() != 0 {
			hint += "; what is so for the whole system, or in the system's store, only root can disable"
		}
		return &problem.Problem{Err: fatal, Hint: hint}
	}
	return ended(fatal, failures, len(names))
}
