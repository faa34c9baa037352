package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/pkg/resident"
)

func newGCCommand(g *globals) *cli.Command {
	var dryRun bool
	return &cli.Command{
		Name:  "gc",
		Usage: "remove images and leftovers that no start uses",
		Description: `Removes images that no start uses because they are stale, and what killed processes
have left in the store: images, index links and launcher files without an entry, and
unfinished ones. It also removes dynamic linkers that exec covered before libc was
upgraded. gc can run beside everything else, another gc included. If the registry
cannot be read whole, or is missing beside images, nothing is removed.

The links that lead to an image are removed with it. What was added and enabled stays
registered: list shows such a program with "no image", refresh makes it resident and
enables it again, and only remove ends that.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "dry-run", Usage: "show what would be removed, and remove nothing", Destination: &dryRun, DisableDefaultText: true},
			g.storeFlag(), g.formatFlag(),
		},
		CustomHelpTemplate: cli.CommandHelpTemplate + exitStatusPart(exitDone, exitUsage, exitStore, exitInterrupted),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("gc", "gc takes no arguments, and %q is one", c.Args().First())
			}
			m, err := g.open(false)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c)
			defer stop()
			return runGC(ctx, g, m, dryRun)
		},
	}
}

// collector is what runGC needs of a resident.Manager.
type collector interface {
	Dir() string
	PlanGC(ctx context.Context) (*resident.GCPlan, error)
	GC(ctx context.Context, p *resident.GCPlan) (*resident.GCResult, error)
}

// runGC plans, shows and executes; with dryRun it ends before the last.
func runGC(ctx context.Context, g *globals, m collector, dryRun bool) error {
	plan, err := m.PlanGC(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return storeError(err)
	case dryRun:
		return printPlan(g, plan, m.Dir())
	}
	done, err := m.GC(ctx, plan)
	if ctx.Err() != nil {
		err = ctx.Err() // what went wrong is that it was interrupted
	} else if err != nil {
		err = storeError(err)
	}
	return errors.Join(printCollected(g, done, m.Dir()), err)
}

func printPlan(g *globals, p *resident.GCPlan, dir string) error {
	if g.format == formatJSON {
		return g.printJSON(p)
	}
	if err := printItems(g, p.Items, p.Kept); err != nil {
		return err
	}
	g.printf("%s would be removed, %s would be freed in %s\n", count(len(p.Items), "item"), formatBytes(p.Bytes), printable(dir))
	return nil
}

func printCollected(g *globals, r *resident.GCResult, dir string) error {
	if g.format == formatJSON {
		return g.printJSON(r)
	}
	if err := printItems(g, r.Removed, r.Kept); err != nil {
		return err
	}
	g.printf("%s removed, %s freed in %s\n", count(len(r.Removed), "item"), formatBytes(r.Bytes), printable(dir))
	return nil
}

// printItems is a table of what goes, and of what would go if more was known.
func printItems(g *globals, items, kept []resident.GCItem) error {
	if len(items)+len(kept) == 0 {
		return nil
	}
	t := g.newTable("KIND", "SIZE", "WHAT", "REASON")
	for _, item := range items {
		t.row(item.Kind, formatBytes(item.Bytes), itemName(item), item.Reason)
	}
	for _, item := range kept {
		t.row("(kept)", formatBytes(item.Bytes), itemName(item), item.Reason)
	}
	return t.print()
}

func itemName(item resident.GCItem) string {
	if item.Kind == resident.GCEntry {
		return fmt.Sprintf("%s (id %s)", item.Program, shortID(item.ID))
	}
	return item.Path
}
