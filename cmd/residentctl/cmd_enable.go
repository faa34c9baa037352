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
		Description: `Puts a shim for each program into a directory that should come first in PATH:
"residentctl env" prints the line for your shell. A program that is not resident yet
is made resident first, as by add.

A shim is a link to the program's launcher file: no shell script, no extra process.
It starts what PATH would lead to without it, under the name that it was called by.
So if another program of that name comes first in PATH, or the program is upgraded,
moved or removed, the shim executes what your shell would.

disable and remove delete the shim. If the program is gone, gc removes its shim with
its image, and refresh brings both back with the program.

A program that looks for itself in PATH finds its shim. python3, for example, shows
the shim in sys.executable, and a virtual environment made that way links to the shim
and works only as long as the shim exists. Make one by the full path instead:
/usr/bin/python3 -m venv DIR. To repair an existing one, run
"ln -sf /usr/bin/python3 DIR/bin/python3". enable refuses gcc and other programs that
would look for their files beside the shim.

Put a wrapper of your own that calls the next program of its name in PATH into a
directory before the shims. After them it works too, but runs twice when it is called
by its full path.

With --follow, a PROGRAM that is a wrapper or a script is executed as by add --follow,
and the program that it becomes is enabled under its own name. If the wrapper looks
for that program in PATH, it finds the shim. The wrapper itself still runs.

enable refuses the scripts that pyenv, rbenv or asdf put into PATH. They choose a
program by directory and environment at each call, and a shim would freeze the choice.
"enable --system --follow" makes resident what they choose here, and leaves the choice
to them. To start without their script, put the directory of one version before theirs
in PATH.

With --system, every exec of the program is a resident start, by any path, user or
container. Root registers the launcher file with the kernel (binfmt_misc) and, if
/etc/binfmt.d exists, for each boot. This needs Linux 5.15 or newer.

The kernel identifies the program by its first 256 bytes only. Other programs with the
same first bytes run as always, but through the launcher file, which then does the
kernel's work for them (some 15% of a small program's start). So does the program
itself when its image does not fit. There are some limits:
 - a debugger that starts the program sees the launcher first: attach to the program,
   or disable it meanwhile
 - an exec by a close-on-exec descriptor (fexecve) fails, as it does for a script: for
   the program and for others with the same first bytes
 - a program that reads its own file through /proc/self/exe is refused
 - where ordinary users cannot make user namespaces, a program that looks there for
   its path is refused too`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "shim", Usage: "use a link in a directory of PATH (the default)", DisableDefaultText: true},
			&cli.BoolFlag{Name: "system", Usage: "for the whole system, with binfmt_misc (root only)", Destination: &system, DisableDefaultText: true},
			followFlag(&opts.Follow, "enable the program that a wrapper or script executes"),
			&cli.BoolFlag{
				Name: "even-if-slower", Usage: "make it resident even if it does not start faster",
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
				return usagef("enable", "--shim and --system exclude each other; run enable once with each")
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

// enabledAll says what is left to do for shims: to put their directory into PATH.
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
		Description: `Name a program by its name or its path. Without --shim or --system, removes both, also
those that wait for an image. The program stays resident, and running processes go on.
If your shell has remembered where the shim was, run "hash -r".`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "shim", Usage: "remove only the link in the directory for PATH", Destination: &which.shim, DisableDefaultText: true},
			&cli.BoolFlag{Name: "system", Usage: "remove only the registration for the whole system", Destination: &which.system, DisableDefaultText: true},
			&cli.BoolFlag{Name: "all", Usage: "disable every program in the store", Destination: &all, DisableDefaultText: true},
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
		hint := "run `residentctl status` to see what is enabled"
		if os.Geteuid() != 0 {
			hint += "; only root can disable what is enabled for the whole system or in the system's store"
		}
		return &problem.Problem{Err: fatal, Hint: hint}
	}
	return ended(fatal, failures, len(names))
}
