package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/pkg/resident"
)

func newRefreshCommand(g *globals) *cli.Command {
	var opts resident.RefreshOptions
	return &cli.Command{
		Name:      "refresh",
		Before:    outside,
		Usage:     "make stale and missing images again",
		ArgsUsage: "[ID|PROGRAM…]",
		Description: `Makes the images anew that something has made stale or that gc has removed, of all
programs or of those that are named, and enables again what was enabled. With --all
those that are current too: each gets new addresses, which is worth doing now and
then (cron, a boot), since an image's addresses stay the same until then. Programs
that run go on. Names, options and ways in (see add and enable) stay as they were.

A program that is gone keeps its wish: when it is back, a refresh serves it again.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Usage: "also what is current", Destination: &opts.All, DisableDefaultText: true},
			trustOwnerFlag(&opts.TrustOwner), jobsFlag(&opts.Jobs),
			g.storeFlag(), g.formatFlag(),
		},
		CustomHelpTemplate: cli.CommandHelpTemplate +
			exitStatusPart(exitDone, exitFailed, exitUsage, exitStore, exitSystem, exitInterrupted),
		Action: func(c *cli.Context) error {
			queries, err := arguments(c)
			if err != nil {
				return err
			}
			if err := checkJobs("refresh", opts.Jobs); err != nil {
				return err
			}
			m, err := g.open(false)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c)
			defer stop()
			opts.Queries = queries
			return runRefresh(ctx, g, m, opts)
		},
	}
}

func runRefresh(ctx context.Context, g *globals, m *resident.Manager, opts resident.RefreshOptions) error {
	shown := g.newProgress()
	opts.Step = shown.step
	results := []resident.Refreshed{}
	var failures []*report
	err := m.Refresh(ctx, opts, func(r resident.Refreshed) {
		results = append(results, r)
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
	if g.format == formatTable && err == nil && len(results) == 0 {
		g.printf("%s\n", nothingResident(m.Dir()))
	}
	if g.format == formatJSON {
		if err := g.printJSON(results); err != nil {
			return err
		}
	}
	return ended(err, failures, len(results))
}

func printRefreshed(g *globals, r resident.Refreshed) {
	switch {
	case r.Err != nil: // told on standard error
	case r.Gone:
		g.printf("%s: %s; its wish stays\n", printable(r.Program), r.Reason)
	case r.Current:
		g.printf("%s: current\n", r.Program)
	case r.Renewed:
		g.printf("%s: renewed, only times of files had changed (id %s)\n", r.Program, shortID(r.Record.ID))
	case r.Old == "":
		g.printf("%s: resident again (id %s)\n", printable(r.Program), shortID(r.Record.ID))
	case r.Old == r.Record.ID: // one of its names leads to another image now
		g.printf("%s: current\n", printable(r.Program))
	default:
		g.printf("%s: made anew (id %s instead of %s)\n", r.Program, shortID(r.Record.ID), shortID(r.Old))
	}
}
