package main

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/resident"
)

func newStatusCommand(g *globals) *cli.Command {
	var check bool
	return &cli.Command{
		Name:  "status",
		Usage: "show which programs are enabled, and what a call of each does",
		Description: `Shows the shims of your own store and of the system's, whether their directories are
in PATH, and what a call by name does now:
 - "resident": the program starts from its image, if the directory is in PATH
 - "normal": the program starts normally
 - "other": PATH leads first to another program, which starts normally
 - "hidden": PATH does not lead to the shim
 - "dangling": the shim has no launcher file; shells pass it over, and gc removes it
 - "waiting": the program has no image; refresh makes the image and the link again as
   soon as the program exists

It also shows what is enabled for the whole system, "resident", "normal" or "waiting"
as above, or
 - "off": the kernel does not start it that way, for instance after a boot; refresh
   registers it again
 - "elsewhere": it is enabled where the kernel has another binfmt_misc, as in a
   container, and left alone here

With --check, the exit status is 1 if anything that is enabled is "normal", "waiting",
"dangling" or "off", for monitoring.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "check", Usage: "exit with status 1 if an enabled program does not start from a current image", Destination: &check, DisableDefaultText: true},
			g.storeFlag(), g.formatFlag(),
		},
		CustomHelpTemplate: cli.CommandHelpTemplate + exitStatusPart(exitDone, exitFailed, exitUsage, exitStore),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("status", "status takes no arguments, and %q is one", c.Args().First())
			}
			stores, err := g.openToRead()
			if err != nil {
				return err
			}
			all, err := runStatus(c.Context, g, stores)
			if check && err == nil {
				err = checkEnabled(all)
			}
			return err
		},
	}
}

// enabledIn is what is enabled in one store.
type enabledIn struct {
	Store        string                `json:"store"` // "" for stores that are gone
	ShimsDir     string                `json:"shims_dir"`
	PathPosition int                   `json:"path_position"` // 1 is the first place, 0 not in PATH
	Shims        []resident.ShimStatus `json:"shims"`

	System []resident.SystemStatus `json:"system"`
}

// checkEnabled is the error of --check.
func checkEnabled(all []enabledIn) error {
	without, total := 0, 0
	for _, s := range all {
		for _, shim := range s.Shims {
			total++
			switch shim.State {
			case resident.ShimNormal, resident.ShimWaiting, resident.ShimDangling:
				without++
			}
		}
		for _, p := range s.System {
			total++
			switch p.State {
			case resident.SystemNormal, resident.SystemWaiting, resident.SystemOff:
				without++
			}
		}
	}
	return notServed(without, total)
}

func runStatus(ctx context.Context, g *globals, stores []listedStore) ([]enabledIn, error) {
	all := []enabledIn{}
	var missed unread
	programs := 0
	for _, s := range stores {
		m, ok := s.lister.(*resident.Manager)
		if !ok || m.ShimsDir() == "" {
			continue
		}
		shims, err := m.Shims(ctx)
		missed.add(err)
		system, err := m.System(ctx)
		missed.add(err)
		programs += len(shims) + len(system)
		all = append(all, enabledIn{s.dir, m.ShimsDir(), intercept.PathPosition(m.ShimsDir()), shims, system})
	}
	lost, err := resident.LostSystem()
	missed.add(err)
	programs += len(lost)
	if len(lost) > 0 {
		all = append(all, enabledIn{Shims: []resident.ShimStatus{}, System: lost})
	}
	show := printStatus
	if g.format == formatJSON {
		show = func(g *globals, all []enabledIn) error { return g.printJSON(all) }
	}
	if err := show(g, all); err != nil {
		return all, err
	}
	return all, missed.end(g, nil, programs)
}

func printStatus(g *globals, all []enabledIn) error {
	t := g.newTable("NAME", "PROGRAM", "WAY", "STATE", "STORE", "REASON")
	several := len(all) > 1 && all[1].Store != ""
	for _, s := range all {
		where := ""
		if several {
			where = cmp.Or(s.Store, "-")
		}
		for _, shim := range s.Shims {
			t.row(shim.Name, shim.Program, "shim", shim.State, where, shim.Reason)
		}
		for _, p := range s.System {
			t.row(filepath.Base(p.Program), p.Program, "system", p.State, where, p.Reason)
		}
	}
	if t.empty() {
		g.printf("nothing is enabled; enable a program with `residentctl enable PROGRAM`\n")
	} else if err := t.print(); err != nil {
		return err
	}
	for _, s := range all {
		if len(s.Shims) > 0 {
			g.printf("%s\n", printable(describePath(s)))
		}
	}
	return nil
}

func describePath(s enabledIn) string {
	switch s.PathPosition {
	case 0:
		return s.ShimsDir + " is not in PATH, so no call goes through it: `residentctl env` prints the line for your shell"
	case 1:
		return s.ShimsDir + " is the first directory of PATH"
	}
	return fmt.Sprintf("%s is directory %d of PATH", s.ShimsDir, s.PathPosition)
}
