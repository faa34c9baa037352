package main

import (
	"context"
	"errors"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/pkg/registry"
)

func newRemoveCommand(g *globals) *cli.Command {
	var all bool
	return &cli.Command{
		Name:      "remove",
		Usage:     "make programs no longer resident",
		ArgsUsage: "ID|PROGRAM…",
		Description: `Deletes the images of programs, disables the programs, and forgets them. Nothing else
makes residentctl forget a program: not gc, nor an upgrade, nor the loss of its file.
The exception is apply, which removes what it has added itself.

Name a program by its id or the beginning of it, its path, or its file name. A damaged
record of the registry can also be named by its key, which check shows. Processes that
were started from an image go on. purge removes a whole store.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Usage: "remove every program in the store", Destination: &all, DisableDefaultText: true},
			g.storeFlag(), g.formatFlag(),
		},
		CustomHelpTemplate: cli.CommandHelpTemplate + exitStatusPart(exitDone, exitFailed, exitUsage, exitStore),
		Action: func(c *cli.Context) error {
			queries, err := arguments(c)
			switch {
			case err != nil:
				return err
			case all && len(queries) > 0:
				return usagef("remove", "--all and names exclude each other")
			case !all && len(queries) == 0:
				return usagef("remove", "no program given")
			}
			m, err := g.open(false)
			if err != nil {
				return err
			}
			if all {
				return runRemoveAll(c.Context, g, m)
			}
			return runRemove(c.Context, g, g.withSystem(m), queries)
		},
	}
}

// remover is what removing needs of a resident.Manager.
type remover interface {
	Dir() string
	Remove(ctx context.Context, queries ...string) ([]registry.Record, error)
	RemoveAll(ctx context.Context) ([]registry.Record, error)
}

// runRemove removes one after the other and goes on when one is unknown.
func runRemove(ctx context.Context, g *globals, m remover, queries []string) error {
	var removed []registry.Record
	var failures []*report
	for _, q := range queries {
		gone, err := m.Remove(ctx, q)
		removed = append(removed, gone...)
		err = g.notResident(q, err)
		if err != nil && (len(queries) == 1 || hopeless(err)) {
			return errors.Join(printRemoved(g, removed), err)
		}
		if err != nil {
			failures = append(failures, newReport(err))
		}
	}
	if err := printRemoved(g, removed); err != nil {
		return err
	}
	g.printFailures(failures)
	return ended(nil, failures, len(queries))
}

func runRemoveAll(ctx context.Context, g *globals, m remover) error {
	removed, err := m.RemoveAll(ctx)
	if err == nil && len(removed) == 0 && g.format == formatTable {
		g.printf("%s\n", nothingResident(m.Dir()))
	}
	return errors.Join(printRemoved(g, removed), err)
}

func printRemoved(g *globals, removed []registry.Record) error {
	if g.format == formatJSON {
		return g.printJSON(recordsOf(removed))
	}
	for _, r := range removed {
		if r.HasImage() {
			g.printf("%s: removed (id %s)\n", printable(r.Program), shortID(r.ID))
		} else {
			g.printf("%s: removed (it had no image)\n", printable(r.Program))
		}
	}
	return nil
}
