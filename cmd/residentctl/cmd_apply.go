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
		Description: `Compares the resident programs with resident.conf, shows the differences, and then
makes the changes. A second apply has nothing to do.

Root's files are /etc/residentctl/resident.conf and *.conf in
/etc/residentctl/resident.conf.d; only root may be able to change them. Other users'
files have the same names in $XDG_CONFIG_HOME/residentctl (~/.config/residentctl).
With FILE arguments, apply reads only these. A line names programs by an absolute
path, and options can follow:

   # a comment
   /usr/bin/perl layouts 4 enable
   /usr/bin/git*
   /usr/lib/git-core
   !/usr/bin/git-shell

A path names a program, or a directory for all programs in it, or is a wildcard
(glob(7)). A backslash makes the next character an ordinary one. A line that begins
with ! excludes programs whatever other lines say, also from exec --auto.

The options are those of add and enable: "layouts N", "memory-limit SIZE",
"even-if-slower", "trust-owner", "enable" (with a shim) and "system" (for the whole
system). If several lines name a program, the options of all of them count.

A line can name a single program that does not exist yet: refresh or apply makes it
resident once it exists. If such a program cannot be resident, that is a failure. A
program that only a wildcard or a directory names is passed over instead.

When the files no longer name a program or an option, apply ends what an earlier
apply has added for it. It never removes what you have added with add.`,
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

// note reports a failure.
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

// summarize prints the outcome: as JSON, or in one line.
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
