package main

import (
	"context"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/launcher"
	"github.com/residentctl/residentctl/pkg/resident"
)

func newWhichCommand(g *globals) *cli.Command {
	var w which
	return &cli.Command{
		Name:      "which",
		Usage:     "print the launcher file of a program, the fastest way to start it",
		ArgsUsage: "PROGRAM…",
		Description: `Prints the path of the launcher file, which can be executed in the program's place:

   perl=$(residentctl which perl); "$perl" -e 'print "hello\n"'

For each store that has the program, it prints on standard error what a call does
now: "resident" for a start from the image, or "normal" and the reason. The stores
are listed in the order in which run searches them. The launcher file is that of the
first store from which a start is resident, or else of the first store. Its path
changes when the program is upgraded and made resident again.

With --follow, a PROGRAM that is a wrapper or a script is executed as by add --follow,
and which prints the launcher file of the program that it becomes. Called by that
path, the program starts without the wrapper, so what a version manager (pyenv, rbenv,
asdf) would choose elsewhere, or later, no longer counts. A program that finds itself
by the path it was called by, as python3 does for sys.executable, finds the launcher
file.`,
		Flags: []cli.Flag{
			followFlag(&w.follow, "print the launcher file of the program that a wrapper or script executes"),
			trustOwnerFlag(&w.trustOwner),
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "do not print what a call does", Destination: &w.quiet, DisableDefaultText: true},
			g.storeFlag(), g.formatFlag(),
		},
		CustomHelpTemplate: cli.CommandHelpTemplate + exitStatusPart(exitDone, exitFailed, exitUsage, exitStore),
		Action: func(c *cli.Context) error {
			programs, err := arguments(c)
			if err != nil {
				return err
			}
			if len(programs) == 0 {
				return usagef("which", "no program given")
			}
			if w.stores, err = g.openToRead(); err != nil {
				return err
			}
			ctx, stop := interruptible(c)
			defer stop()
			return w.run(ctx, g, programs)
		},
	}
}

// followFlag is for the commands that look through wrappers.
func followFlag(follow *bool, usage string) cli.Flag {
	return &cli.BoolFlag{Name: "follow", Usage: usage, Destination: follow, DisableDefaultText: true}
}

// which is the command with its options.
type which struct {
	follow, trustOwner, quiet bool
	stores                    []listedStore // in the order in which run looks
}

// whichResult is what there is to say about one program.
type whichResult struct {
	Program string           `json:"program"` // as it was given
	Path    string           `json:"path,omitempty"`
	Ways    []resident.WayIn `json:"ways"` // of each store that has it
	Failure *report          `json:"failure,omitempty"`
}

// run goes on after a program that is not resident.
func (w *which) run(ctx context.Context, g *globals, programs []string) error {
	var results []whichResult
	var failures []*report
	var missed unread
	for _, name := range programs {
		r, err := w.find(ctx, name, &missed)
		if err != nil && len(programs) == 1 && missed.rest == nil {
			return err
		}
		if err != nil {
			r.Failure = newReport(err)
			failures = append(failures, r.Failure)
		}
		results = append(results, r)
		w.print(g, r)
	}
	if g.format == formatJSON {
		if err := g.printJSON(results); err != nil {
			return err
		}
	}
	return missed.end(g, failures, len(programs))
}

// find looks for a program in each of the stores. Its error says that it is in none.
func (w *which) find(ctx context.Context, name string, missed *unread) (r whichResult, err error) {
	r = whichResult{Program: name, Ways: []resident.WayIn{}}
	if r.Path, err = resident.LookPathIn(name, w.dirs()...); err == nil && w.follow {
		r.Path, err = resident.Follow(ctx, r.Path, w.trustOwner)
	}
	if err != nil {
		return r, err
	}
	for _, s := range w.stores {
		m, ok := s.lister.(*resident.Manager)
		if !ok {
			continue
		}
		way, err := m.WayIn(r.Path)
		missed.add(err)
		if way == nil {
			continue
		}
		if why := normalByEnvironment(os.Environ()); why != "" && way.Resident {
			way.Resident, way.Reason = false, why
		}
		r.Ways = append(r.Ways, *way)
	}
	if _, ok := r.best(); !ok {
		return r, w.notResident(name, r)
	}
	return r, nil
}

// dirs are the paths of the stores.
func (w *which) dirs() (all []string) {
	for _, s := range w.stores {
		all = append(all, s.dir)
	}
	return all
}

// best is the way in that a caller takes: the first that is resident, or else the first
// that can be called.
func (r *whichResult) best() (best resident.WayIn, ok bool) {
	for _, way := range r.Ways {
		if !way.Missing && (!ok || way.Resident && !best.Resident) {
			best, ok = way, true
		}
	}
	return best, ok
}

// notResident is the error for a program without a launcher file.
func (w *which) notResident(name string, r whichResult) error {
	if len(r.Ways) > 0 {
		return problem.Newf(problem.Program, "%s: %s", r.Path, r.Ways[0].Reason).
			WithHint("run `residentctl refresh %s` to make it again", name)
	}
	if manager := resident.VersionManager(r.Path); manager != "" {
		return problem.Newf(problem.Program, "%s is not resident: it is %s's, which chooses a program by directory and environment", r.Path, manager).
			WithHint("run `residentctl which --follow %s` for the launcher file of the one that it chooses here", name)
	}
	add := "add "
	if w.follow {
		add = "add --follow "
	}
	return problem.Newf(problem.Program, "%s is not resident", r.Path).
		WithHint("run `residentctl %s%s` to make it resident", add, name)
}

func (w *which) print(g *globals, r whichResult) {
	switch {
	case g.format == formatJSON:
		return
	case r.Failure != nil:
		r.Failure.print(g.err, g.format)
		return
	}
	best, _ := r.best()
	g.printf("%s\n", best.Launcher)
	for _, way := range r.Ways {
		does := "resident"
		if !way.Resident {
			does = "normal: " + way.Reason
		}
		if !w.quiet {
			fmt.Fprintf(g.err, "residentctl: %s: %s\n", printable(way.Launcher), printable(does))
		}
	}
}

// normalByEnvironment says why no start with this environment is resident; "" if one may
// be. The launcher's ask_environment is what decides.
func normalByEnvironment(environ []string) string {
	for _, v := range environ {
		if launcher.KeepsNormal(v) {
			return "the environment changes how it is linked (" + v + ")"
		}
	}
	return ""
}
