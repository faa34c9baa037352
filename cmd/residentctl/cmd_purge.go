package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/residentctl/residentctl/pkg/resident"
)

func newPurgeCommand(g *globals) *cli.Command {
	var yes bool
	return &cli.Command{
		Name:  "purge",
		Usage: "remove a whole store",
		Description: `Removes everything in the store: what was added and enabled, images, launcher files,
shims, registrations with the kernel and for its boots, the registry, and the
directory itself. Files in it that residentctl did not make stay, and are listed.
Programs start as before they were added, and processes that were started from an
image go on.

purge removes one store only: your own, or as root the system's, or the one that
--store names. On a terminal it asks first; elsewhere it needs --yes. If purge was
interrupted, run it again.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "yes", Usage: "do not ask", Destination: &yes, DisableDefaultText: true},
			g.storeFlag(), g.formatFlag(),
		},
		CustomHelpTemplate: cli.CommandHelpTemplate + exitStatusPart(exitDone, exitFailed, exitUsage, exitStore, exitInterrupted),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("purge", "purge takes no arguments, and %q is one", c.Args().First())
			}
			m, err := g.openToPurge()
			if err != nil {
				return err
			}
			if !yes && !mayPurge(g, m.Dir()) {
				return usagef("purge", "purge removes the whole store %s: nothing was removed without --yes", m.Dir())
			}
			ctx, stop := interruptible(c)
			defer stop()
			return runPurge(ctx, g, m)
		},
	}
}

// openToPurge opens the store that the command works on, also if its registry cannot be
// used.
func (g *globals) openToPurge() (*resident.Manager, error) {
	dir, err := g.storeDir()
	if err != nil {
		return nil, err
	}
	m, err := resident.OpenToPurge(dir)
	if err != nil {
		return nil, storeError(err)
	}
	return m, nil
}

// mayPurge asks on the terminal, if there is one. Where there is no store there is nothing
// to ask.
func mayPurge(g *globals, dir string) bool {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return false
	}
	fmt.Fprintf(g.err, "Remove %s, with everything that was added and enabled? [y/N] ", printable(dir))
	answer, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}

// purger is what runPurge needs of a resident.Manager.
type purger interface {
	Dir() string
	Purge(ctx context.Context) (*resident.Purged, error)
}

func runPurge(ctx context.Context, g *globals, m purger) error {
	_, statErr := os.Lstat(m.Dir())
	p, err := m.Purge(ctx)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if g.format == formatJSON {
		return errors.Join(g.printJSON(purged{p.Dir, recordsOf(p.Removed), append([]string{}, p.Kept...)}), err)
	}
	if printErr := printRemoved(g, p.Removed); printErr != nil {
		return printErr
	}
	for _, path := range p.Kept {
		g.printf("kept: %s was not made by residentctl, or is in use\n", printable(path))
	}
	switch {
	case err != nil:
		return err
	case errors.Is(statErr, fs.ErrNotExist):
		g.printf("%s: there is no store\n", printable(p.Dir))
	case len(p.Kept) == 0:
		g.printf("%s: removed\n", printable(p.Dir))
	}
	return nil
}
