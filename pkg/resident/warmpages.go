package resident

import (
	"cmp"
	"context"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/warmstop"
)

// A start from a warm image copies the pages that it writes, one page fault each. Those that
// a run of the program was seen to write are copied ahead, in few calls.

// populateGap is how much between two runs of written pages is copied with them, in bytes: a
// call takes longer than a copy.
const populateGap = 2 * linux.PageSize

// populate sees which pages a run of the program writes, and has the plan populate them.
func (w *warmImage) populate(ctx context.Context, t *warmTrial) error {
	command := t.firstStart
	if line := w.trainingLine(); line != nil {
		command = append([]string{t.start}, line...)
	}
	within := writable(t.plan)
	pages, err := w.written(ctx, command, within)
	if err != nil && w.terminals != 0 && ctx.Err() == nil { // it may wait for someone at the terminal
		pages, err = w.written(ctx, t.firstStart, within)
	}
	if err != nil {
		return err
	}
	w.populated = populated(pages, within)
	t.plan.Populate = w.populated
	return w.write(t)
}

// written are the pages that a command writes, with the terminals that matter.
func (w *warmImage) written(ctx context.Context, command []string, within []linux.PageRange) ([]linux.PageRange, error) {
	return warmstop.Written(ctx, warmstop.Options{
		Path: command[0], Argv: command, Env: w.env, Dir: "/", Terminals: w.terminals & w.template.ReadTerminals, Timeout: trainingTimeout,
	}, within)
}

// writable are the mappings of a plan that a start can write to and that have something in
// them.
func writable(p *plan.Plan) []linux.PageRange {
	var ranges []linux.PageRange
	for _, f := range p.Files {
		for _, m := range f.Maps {
			if m.Prot&unix.PROT_WRITE != 0 && m.Flags&unix.MAP_SHARED == 0 {
				ranges = append(ranges, linux.PageRange{Start: m.Addr, End: m.Addr + m.Len})
			}
		}
	}
	slices.SortFunc(ranges, func(a, b linux.PageRange) int { return cmp.Compare(a.Start, b.Start) })
	return linux.UnionRanges(ranges, nil)
}

// populated are the pages as the plan has them, joined over gaps that can be written to.
func populated(pages, writable []linux.PageRange) []plan.Map {
	var all []plan.Map
	for _, within := range writable {
		for _, r := range pages {
			from, to := max(r.Start, within.Start), min(r.End, within.End)
			if from >= to {
				continue
			}
			if n := len(all) - 1; n >= 0 && all[n].Addr >= within.Start && from-(all[n].Addr+all[n].Len) <= populateGap {
				all[n].Len = to - all[n].Addr
				continue
			}
			all = append(all, plan.Map{Addr: from, Len: to - from, Prot: unix.PROT_WRITE})
		}
	}
	return all
}
