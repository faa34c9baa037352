package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/resident"
)

// runAuto runs the command as a child, makes resident what it executes often, and ends as
// the command ends.
func runAuto(tree *intercept.Tree, o startLine, stderr io.Writer) error {
	m := &maker{strict: o.strict}
	outcome, err := tree.Run(m, cmp.Or(o.after, defaultAfter))
	if outcome == nil {
		return notExecuted(tree.Program, err)
	}
	if !o.quiet {
		fmt.Fprint(stderr, m.summary(outcome.Programs, gains(tree.Stores)))
	}
	if err != nil {
		return runError(err, "")
	}
	os.Exit(intercept.EndLike(outcome.Status))
	return nil
}

// A maker makes programs resident for exec --auto, and counts them.
type maker struct {
	strict  bool
	manager *resident.Manager
	added   int
	refused int   // that root does not execute, since others may change them
	failed  error // why no program can be made resident
}

// Open opens the store that is to be filled.
func (m *maker) Open(store string) (err error) {
	if m.strict {
		if err := canAdd(); err != nil {
			_, hint := diagnose(err)
			return &problem.Problem{Err: fmt.Errorf("nothing can be made resident: %v", err), Hint: hint}
		}
	}
	m.manager, err = resident.Open(store, true)
	return err
}

// canAdd says as far as that can be known before why programs cannot be made
// resident.
func canAdd() error {
	criu, err := criuwrap.Find()
	if err != nil {
		return err
	}
	return criuwrap.MayDump(criu)
}

// Add makes a program resident. What is wrong with one program is not said: it
// starts as always.
func (m *maker) Add(ctx context.Context, program string) (another bool) {
	added, err := m.manager.Add(ctx, program, resident.AddOptions{})
	switch {
	case err == nil && !added.Already && !added.Renewed:
		m.added++
	case problem.KindOf(err) == problem.Untrusted:
		m.refused++
	}
	if hopeless(err) && !errors.Is(err, context.Canceled) {
		m.failed = err
	}
	return m.failed == nil
}

// summary says in one line what it was good for, and before that why nothing, or
// nothing more, could be made resident.
func (m *maker) summary(programs map[linux.Inode]*intercept.Starts, gains map[linux.Inode]time.Duration) string {
	said := ""
	if m.failed != nil {
		_, hint := diagnose(m.failed)
		said = fmt.Sprintf("residentctl: what the command executes cannot be made resident: %s\n", printable(join(m.failed.Error(), hint)))
	}
	var total, residents int
	var saved time.Duration
	for b, s := range programs {
		total += s.Resident + s.Normal + s.Unfit
		residents += s.Resident
		saved += time.Duration(s.Resident) * gains[b]
	}
	refused := ""
	if m.refused > 0 {
		refused = fmt.Sprintf(", %d refused that users other than root may change", m.refused)
	}
	return said + fmt.Sprintf("residentctl: %d of %d starts were resident, which saved them %.1f s in all; %s made resident meanwhile%s\n",
		residents, total, saved.Seconds(), count(m.added, "program"), refused)
}

// gains is by how much a start from its image was faster when it was added, for each
// program in the stores, of which the first that has it counts.
func gains(stores []string) map[linux.Inode]time.Duration {
	gains := map[linux.Inode]time.Duration{}
	for _, dir := range stores {
		m, err := resident.OpenToRead(dir)
		if err != nil {
			continue
		}
		records, _ := m.Entries()
		for _, rec := range records {
			b := rec.Binary.Inode()
			if _, known := gains[b]; !known && rec.Timing != nil {
				gains[b] = time.Duration(rec.Timing.ExecNS - rec.Timing.ResidentNS)
			}
		}
	}
	return gains
}
