package main

import (
	"context"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/launcher/front"
	"github.com/residentctl/residentctl/pkg/resident"
)

func newCheckCommand(g *globals) *cli.Command {
	var noTrial bool
	return &cli.Command{
		Name:   "check",
		Before: outside,
		Usage:  "examine the machine and the store, and say what to do",
		Description: `Tries out what residentctl needs from the kernel and from CRIU, and makes a small
program resident in a temporary store. Then it compares the registry, index, images
and launcher files of the store with each other. It changes nothing in the store.

A "note" is good to know; for a "fault", do what the line below it says. With
--no-trial, check looks at the store only, which takes a tenth of the time.`,
		Flags: []cli.Flag{g.storeFlag(), g.formatFlag(), &cli.BoolFlag{
			Name: "no-trial", Usage: "look at the store only, and do not try out the machine", Destination: &noTrial, DisableDefaultText: true,
		}},
		CustomHelpTemplate: cli.CommandHelpTemplate + exitStatusPart(exitDone, exitUsage, exitStore, exitSystem, exitInterrupted),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("check", "check takes no arguments, and %q is one", c.Args().First())
			}
			dir, err := g.storeDir()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c)
			defer stop()
			return runCheck(ctx, g, func(ctx context.Context, found func(resident.Finding)) error {
				if !noTrial {
					if !front.Entered() {
						found(resident.Finding{Area: resident.AreaProgram, What: "residentctl", Status: resident.StatusNote,
							Detail: withoutFrontDoor, Advice: useBuild})
					}
					for _, f := range execFindings(intercept.Probe()) {
						found(f)
					}
					if err := resident.CheckMachine(ctx, found); err != nil {
						return err
					}
				}
				return resident.CheckStore(ctx, dir, found)
			})
		},
	}
}

// execFindings are what there is to say about exec: what a user's command tree
// cannot have, and for an ordinary user what is different in it.
func execFindings(own, ordinary error) []resident.Finding {
	finding := func(what string, err error, fine string) resident.Finding {
		if err == nil {
			return resident.Finding{Area: resident.AreaKernel, What: what, Status: resident.StatusOK, Detail: fine}
		}
		return resident.Finding{Area: resident.AreaKernel, What: what, Status: resident.StatusNote,
			Detail: "commands are executed normally: " + err.Error(), Advice: problem.HintOf(err)}
	}
	if os.Geteuid() == 0 {
		return []resident.Finding{
			finding("exec", own, "a mount namespace can be made"),
			finding("exec by ordinary users", ordinary, "they can make user namespaces; in those "+intercept.Differs),
		}
	}
	return []resident.Finding{finding("exec", own, "a user namespace can be made; in it "+intercept.Differs)}
}

// runCheck prints what check finds, as it finds it.
func runCheck(ctx context.Context, g *globals, check func(context.Context, func(resident.Finding)) error) error {
	all := []resident.Finding{}
	err := check(ctx, func(f resident.Finding) {
		all = append(all, f)
		if g.format == formatTable {
			printFinding(g, f)
		}
	})
	if err != nil {
		return err
	}
	if g.format == formatJSON {
		if err := g.printJSON(all); err != nil {
			return err
		}
	}
	return checkResult(all)
}

func printFinding(g *globals, f resident.Finding) {
	g.printf("%-5s  %s: %s", f.Status, f.Area, printable(f.What))
	if f.Detail != "" {
		g.printf(": %s", printable(f.Detail))
	}
	g.printf("\n")
	if f.Advice != "" {
		g.printf("       -> %s\n", printable(f.Advice))
	}
}

// checkResult is nil, or the error that check ends with: about the machine if it
// has a fault, for without it nothing works, else about the store.
func checkResult(all []resident.Finding) error {
	kind, faults := problem.Other, 0
	for _, f := range all {
		if f.Status != resident.StatusFault {
			continue
		}
		faults++
		switch f.Area {
		case resident.AreaKernel, resident.AreaCRIU, resident.AreaTrial:
			kind = max(kind, problem.System)
		default:
			kind = max(kind, problem.Store)
		}
	}
	if faults == 0 {
		return nil
	}
	return problem.Newf(kind, "check found %s", count(faults, "fault"))
}
