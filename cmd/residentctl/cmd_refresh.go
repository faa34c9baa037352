package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/resident"
)

func newRefreshCommand(g *globals) *cli.Command {
	var opts resident.RefreshOptions
	var changed, background bool
	return &cli.Command{
		Name:      "refresh",
		Before:    outside,
		Usage:     "make stale and missing images again",
		ArgsUsage: "[ID|PROGRAM…|--changed PATH…]",
		Description: `Makes images again that are stale or that gc has removed, and enables again what was
enabled. It works on all programs, or on those that are named. Names, options and
ways in (see add and enable) stay as they were, and running processes go on.

A program that is gone stays registered: once it is back, refresh makes it resident
again.

--all also makes current images again, at new addresses. Until then an image keeps its
addresses, so this is worth doing now and then (with cron, or at boot).

--changed takes the paths of files that were changed, added or removed, as a package
or build system names them. "-" reads a list of them from standard input, separated by
newlines or NULs. refresh then works only on programs that use one of these files: as
the program, its dynamic linker or a library, or because a file was looked for there
and not found. It ignores other paths. If /etc/ld.so.cache is one of them, it works on
all programs.

--background uses only idle time of the processors and disks.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Usage: "also make current images again", Destination: &opts.All, DisableDefaultText: true},
			&cli.BoolFlag{Name: "changed", Usage: "only programs that use the files `PATH…`, given as arguments", Destination: &changed, DisableDefaultText: true},
			&cli.BoolFlag{Name: "background", Usage: "use idle time only (SCHED_IDLE, and the idle class of ionice)", Destination: &background, DisableDefaultText: true},
			trustOwnerFlag(&opts.TrustOwner), jobsFlag(&opts.Jobs),
			g.storeFlag(), g.formatFlag(),
		},
		CustomHelpTemplate: cli.CommandHelpTemplate +
			exitStatusPart(exitDone, exitFailed, exitUsage, exitStore, exitSystem, exitInterrupted),
		Action: func(c *cli.Context) error {
			var err error
			if changed {
				opts.Changed, err = changedFiles(c, os.Stdin)
			} else {
				opts.Queries, err = arguments(c)
			}
			if err != nil {
				return err
			}
			if err := checkJobs("refresh", opts.Jobs); err != nil {
				return err
			}
			if background {
				inBackground(g)
			}
			m, err := g.open(false)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c)
			defer stop()
			return runRefresh(ctx, g, m, opts)
		},
	}
}

// changedFiles are the arguments of --changed, or the list that is read for "-".
func changedFiles(c *cli.Context, list io.Reader) (*[]string, error) {
	if !c.Args().Present() {
		return nil, usagef("refresh", "no path given after --changed")
	}
	if c.Args().Len() == 1 && c.Args().First() == "-" {
		raw, err := io.ReadAll(list)
		if err != nil {
			return nil, problem.Errorf("read the list of changed files: %w", err)
		}
		paths := splitList(string(raw))
		return &paths, nil
	}
	paths, err := arguments(c)
	return &paths, err
}

// splitList splits a list at NULs or, if it has none, at newlines.
func splitList(list string) (paths []string) {
	separator := "\n"
	if strings.Contains(list, "\x00") {
		separator = "\x00"
	}
	for path := range strings.SplitSeq(list, separator) {
		if path != "" {
			paths = append(paths, path)
		}
	}
	return paths
}

// inBackground reports what it cannot set, and goes on: only other processes may notice.
func inBackground(g *globals) {
	if err := linux.Background(); err != nil {
		fmt.Fprintf(g.err, "residentctl: not in the background: %v\n", err)
	}
}

func runRefresh(ctx context.Context, g *globals, m *resident.Manager, opts resident.RefreshOptions) error {
	shown := g.newProgress()
	opts.Step = shown.step
	results := []refreshed{} // as JSON
	total := 0
	var failures []*report
	err := m.Refresh(ctx, opts, func(r resident.Refreshed) {
		total++
		if g.format == formatJSON {
			results = append(results, refreshed{r.Program, r.Old, recordOfEntry(m.Entry(r.Record)), r.Current, r.Renewed, r.Gone, r.Reason})
		}
		if r.Err != nil {
			failures = append(failures, newReport(fmt.Errorf("%s: %w", r.Program, r.Err)))
		}
		if g.format == formatJSON {
			return
		}
		shown.aside(func() {
			if r.Err != nil {
				failures[len(failures)-1].print(g.err, g.format)
			}
			printRefreshed(g, r)
		})
	})
	shown.aside(func() {})
	if g.format == formatTable && err == nil && total == 0 {
		nothing := nothingResident(m.Dir())
		if opts.Changed != nil {
			nothing = "no resident program uses a changed file"
		}
		g.printf("%s\n", nothing)
	}
	if g.format == formatJSON {
		if err := g.printJSON(results); err != nil {
			return err
		}
	}
	return ended(err, failures, total)
}

func printRefreshed(g *globals, r resident.Refreshed) {
	switch {
	case r.Err != nil: // told on standard error
	case r.Gone:
		g.printf("%s: %s; it stays registered\n", printable(r.Program), r.Reason)
	case r.Current:
		g.printf("%s: current\n", r.Program)
	case r.Renewed:
		g.printf("%s: renewed, only times of files had changed (id %s)\n", r.Program, shortID(r.Record.ID))
	case r.Old == "":
		g.printf("%s: resident again (id %s)\n", printable(r.Program), shortID(r.Record.ID))
	case r.Old == r.Record.ID: // one of its names leads to another image now
		g.printf("%s: current\n", printable(r.Program))
	default:
		g.printf("%s: made again (id %s instead of %s)\n", r.Program, shortID(r.Record.ID), shortID(r.Old))
	}
}
