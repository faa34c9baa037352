package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/pkg/conf"
	"github.com/residentctl/residentctl/pkg/resident"
)

func newApplyCommand(g *globals) *cli.Command {
	var dryRun bool
	return &cli.Command{
		Name:      "apply",
		Before:    outside,
		Usage:     "make resident what resident.conf names",
		ArgsUsage: "[FILE…]",
		Description: `Shows in what the programs that are resident, or wished to be, differ from what
resident.conf says, and then makes them so. A second apply has nothing to do.

For root the files are /etc/residentctl/resident.conf and *.conf in
/etc/residentctl/resident.conf.d; only root may be able to change them. For others they
are the same in $XDG_CONFIG_HOME/residentctl (~/.config/residentctl). With FILEs only
these count. A line names programs by an absolute path, and may go on with options:

   # a comment
   /usr/bin/perl layouts 4 enable
   /usr/bin/git*
   /usr/lib/git-core
   !/usr/bin/git-shell

A path is that of a program, a wildcard (glob(7)), or a directory for all programs in
it. A backslash makes the next character an ordinary one. The options are those of add
and enable: "layouts N", "memory-limit SIZE", "even-if-slower", "trust-owner", "enable"
(by a shim), "system" (for the whole system). The options of all lines that name a program
count together. A line with ! takes programs out, whatever other lines say, also for
exec --auto.

A program that a line names alone and that is not there yet becomes a wish, which refresh
or apply serves when it is there. One that cannot be resident is a failure then, and
is passed over if only a wildcard or directory names it.

What an earlier apply has added ends when the files no longer name it, and loses options
that they no longer name. What you have added by add stays, and apply takes nothing away
from it.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "only show what would be done", Destination: &dryRun, DisableDefaultText: true},
			g.storeFlag(), g.formatFlag(),
		},
		CustomHelpTemplate: cli.CommandHelpTemplate +
			exitStatusPart(exitDone, exitFailed, exitUsage, exitStore, exitSystem, exitInterrupted),
		Action: func(c *cli.Context) error {
			files, err := arguments(c)
			if err != nil {
				return err
			}
			config, err := readConfig(files)
			if err != nil {
				return err
			}
			m, err := g.open(!dryRun)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c)
			defer stop()
			return runApply(ctx, g, m, config, dryRun)
		},
	}
}

func readConfig(files []string) (*conf.Config, error) {
	if len(files) == 0 {
		return conf.Default()
	}
	return conf.Read(files...)
}

// applyResult is what there was to be done, or is, and what became of it.
type applyResult struct {
	Files []string `json:"files"`
	*resident.ApplyPlan
	DryRun bool `json:"dry_run,omitempty"`

	failures []*report
}

func runApply(ctx context.Context, g *globals, m *resident.Manager, config *conf.Config, dryRun bool) error {
	plan, err := m.PlanApply(ctx, config)
	if err != nil {
		return err
	}
	total := len(plan.Items) + plan.Same
	r := &applyResult{Files: config.Files, ApplyPlan: plan, DryRun: dryRun}
	if err := r.printPlan(g); err != nil {
		return err
	}
	var fatal error
	if dryRun {
		for _, item := range plan.Items {
			r.note(g, item)
		}
	} else {
		fatal = r.apply(ctx, g, m)
	}
	if err := r.summarize(g, fatal); err != nil {
		return err
	}
	return ended(fatal, r.failures, total)
}

// apply carries the plan out. Its items become those that were carried out.
func (r *applyResult) apply(ctx context.Context, g *globals, m *resident.Manager) error {
	shown := g.newProgress()
	defer shown.aside(func() {})
	items := r.Items
	r.Items = []resident.ApplyItem{}
	return m.Apply(ctx, &resident.ApplyPlan{Items: items},
		func(program, what string) { shown.step(program, 1, 1, what) },
		func(item resident.ApplyItem) {
			if item.Passed {
				r.Passed = append(r.Passed, item)
				return
			}
			r.Items = append(r.Items, item)
			shown.aside(func() { r.note(g, item) })
		}, hopeless)
}

// note tells of a failure.
func (r *applyResult) note(g *globals, item resident.ApplyItem) {
	if item.Err == nil {
		return
	}
	text := item.Err
	if !strings.HasPrefix(item.Err.Error(), item.Program) {
		text = fmt.Errorf("%s: %w", item.Program, item.Err)
	}
	failure := newReport(text)
	r.failures = append(r.failures, failure)
	if g.format == formatTable {
		failure.print(g.err, g.format)
	}
}

// printPlan shows what there is to be done.
func (r *applyResult) printPlan(g *globals) error {
	if g.format == formatJSON {
		return nil
	}
	t := g.newTable()
	for _, item := range r.Items {
		if item.Err == nil { // else it is told on standard error
			t.row(item.Kind, item.Program, item.What)
		}
	}
	if t.empty() {
		return nil
	}
	return t.print()
}

// summarize tells the outcome: as JSON, or in one line.
func (r *applyResult) summarize(g *globals, fatal error) error {
	if g.format == formatJSON {
		return g.printJSON(r)
	}
	done := len(r.Items) - len(r.failures)
	what := count(done, "change") + " made"
	switch {
	case r.DryRun:
		what = count(done, "change") + " to be made"
	case done == 0 && len(r.failures) == 0 && fatal == nil:
		what = "nothing to do"
	}
	parts := []string{what}
	if r.Same > 0 {
		parts = append(parts, count(r.Same, "program")+" as the files say")
	}
	if len(r.Passed) > 0 {
		parts = append(parts, count(len(r.Passed), "program")+" passed over")
	}
	if len(r.failures) > 0 {
		parts = append(parts, count(len(r.failures), "failure"))
	}
	g.printf("%s\n", strings.Join(parts, ", "))
	return nil
}
