package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/resident"
)

func newListCommand(g *globals) *cli.Command {
	var quiet, check bool
	var library text
	return &cli.Command{
		Name:      "list",
		Usage:     "show the resident programs",
		ArgsUsage: "[ID|PROGRAM…]",
		Description: `Shows every program that run would find: first those of your own store, then those
of the system's. Of another user's store it shows the programs that you can read.
With arguments, it shows only the programs with these ids, paths or file names.

The state of a program is one of these:
 - "current": it starts from its image
 - "stale": it starts normally, because something that its image depends on has
   changed, or the image is damaged; refresh makes the image again
 - "no image": it was added, but its image has been removed since; refresh makes one
   as soon as the program exists, and remove forgets the program

After an upgrade of residentctl, "run" and "exec" may start a program normally, while
shims and launcher files of the older version still start it from its image. list then
says so.

GAIN is the time of a normal start divided by that of a resident one. Both are
timed from the exec to the program's own first instruction, when the program is
added. After that instruction the program takes as long as always. For a program
whose KIND is "warm", they are timed to the first line of the script.

With --check, the exit status is 1 if any of the programs shown has no current image,
for monitoring. With --format json, the states are current, stale and none, and
fields about an image are left out where there is none.`,
		Flags: []cli.Flag{
			&cli.GenericFlag{Name: "library", Value: &library, Usage: "show only programs that use the library `PATH`; a name without a slash is a file name"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print only the ids of images", Destination: &quiet, DisableDefaultText: true},
			&cli.BoolFlag{Name: "check", Usage: "exit with status 1 if a program has no current image", Destination: &check, DisableDefaultText: true},
			g.storeFlag(), g.formatFlag(),
		},
		CustomHelpTemplate: cli.CommandHelpTemplate + exitStatusPart(exitDone, exitFailed, exitUsage, exitStore),
		Action: func(c *cli.Context) error {
			queries, err := arguments(c)
			if err != nil {
				return err
			}
			stores, err := g.openToRead()
			if err != nil {
				return err
			}
			all, err := runList(c.Context, g, stores, resident.Selection{Queries: queries, Library: string(library)}, quiet)
			if check && err == nil {
				err = checkEntries(all)
			}
			return err
		},
	}
}

// lister is what runList needs of a resident.Manager.
type lister interface {
	Select(context.Context, resident.Selection) (entries []resident.Entry, unknown []string, err error)
}

// listedStore is a store to list.
type listedStore struct {
	lister
	dir string
}

// listed is an entry and where it is.
type listed struct {
	resident.Entry
	Store string
}

// checkEntries is the error of --check.
func checkEntries(all []listed) error {
	without := 0
	for _, e := range all {
		if e.State != resident.StateCurrent {
			without++
		}
	}
	return notServed(without, len(all))
}

// notServed is the error of --check where some of so many programs have no current image.
func notServed(without, total int) error {
	if without == 0 {
		return nil
	}
	return problem.Errorf("%d of %s without a current image", without, count(total, "program")).
		WithHint("run `residentctl refresh` to make images again; `residentctl remove PROGRAM` forgets a program that is gone")
}

// runList prints what there is, also when a registry is damaged in part, or images.
func runList(ctx context.Context, g *globals, stores []listedStore, sel resident.Selection, quiet bool) (all []listed, err error) {
	var missed unread
	var dirs []string
	unknown := sel.Queries
	for _, s := range stores {
		entries, not, err := s.Select(ctx, sel)
		missed.add(err)
		all = slices.Grow(all, len(entries))
		for _, e := range entries {
			all = append(all, listed{e, s.dir})
		}
		dirs = append(dirs, s.dir)
		// What no store knows is unknown.
		unknown = slices.DeleteFunc(slices.Clone(unknown), func(q string) bool { return !slices.Contains(not, q) })
	}
	if missed.rest == nil || len(all) > 0 {
		if err := printEntries(g, all, len(stores) > 1, quiet); err != nil {
			return all, err
		}
	}
	if missed.rest != nil || len(missed.images) > 0 {
		return all, missed.end(g, nil, len(all))
	}
	return all, notFound(g, unknown, dirs, len(sel.Queries))
}

// notFound is the error for queries that name nothing in these stores, of so many in all.
func notFound(g *globals, unknown, dirs []string, total int) error {
	var failures []*report
	for _, q := range unknown {
		err := g.notResident(q, resident.NotFound(q, dirs...))
		if total == 1 {
			return err
		}
		failures = append(failures, newReport(err))
	}
	g.printFailures(failures)
	return ended(nil, failures, total)
}

// printEntries names the store of each when there are several.
func printEntries(g *globals, entries []listed, several, quiet bool) error {
	switch {
	case g.format == formatJSON && quiet:
		return g.printJSON(ids(entries))
	case g.format == formatJSON:
		all := []*record{} // an empty list is [], not null
		for _, e := range entries {
			r := recordOfEntry(e.Entry)
			r.Store = e.Store
			all = append(all, r)
		}
		return g.printJSON(all)
	case quiet:
		for _, id := range ids(entries) {
			g.printf("%s\n", id)
		}
		return nil
	}
	heading := []string{"ID", "PROGRAM", "KIND", "STATE", "GAIN", "LIBRARIES", "SIZE", "CREATED"}
	if len(entries) > 0 {
		heading = append(heading, "STORE", "REASON")
	}
	t := g.newTable(heading...)
	for _, e := range entries {
		where := ""
		if several {
			where = e.Store
		}
		gain, libraries, size, created := "-", "-", "-", "-"
		if e.HasImage() {
			gain, libraries, size = formatGain(e.Gain), strconv.Itoa(e.Libraries), formatBytes(e.ImageBytes)
			created = e.Created.Local().Format("2006-01-02 15:04")
		}
		t.row(cmp.Or(shortID(e.ID), "-"), e.Program, cmp.Or(e.Kind, "-"), stateWord(e.State), gain, libraries, size, created, where, firstReason(e.Reasons))
	}
	return t.print()
}

func ids(entries []listed) []string {
	all := make([]string, 0, len(entries))
	for _, e := range entries {
		if e.HasImage() {
			all = append(all, e.ID)
		}
	}
	return all
}

// formatGain is a factor for people: "3.1x", or "-" if it was not measured.
func formatGain(gain float64) string {
	if gain == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1fx", gain)
}

// stateWord is a state for people.
func stateWord(s resident.State) string {
	if s == resident.StateNone {
		return "no image"
	}
	return string(s)
}

// firstReason is the first of some reasons, and how many more there are.
func firstReason(reasons []string) string {
	switch len(reasons) {
	case 0:
		return ""
	case 1:
		return reasons[0]
	}
	return fmt.Sprintf("%s, and %d more", reasons[0], len(reasons)-1)
}
