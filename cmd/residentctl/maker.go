package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

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
	if !o.noBackground && m.failed == nil {
		m.later = startBackground(outcome.Store, outcome.Due)
	}
	if !o.quiet {
		fmt.Fprint(stderr, m.summary(outcome))
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
	later   int   // are made resident in the background
}

// Open opens the store that is to be filled. Where that cannot be, as where an ordinary
// user names root's, starts are still made from the images that are there.
func (m *maker) Open(store string) error {
	if m.strict {
		m.failed = canAdd()
	}
	if m.failed == nil {
		m.manager, m.failed = resident.Open(store, true)
	}
	if m.strict && m.failed != nil {
		_, hint := diagnose(m.failed)
		return &problem.Problem{Err: fmt.Errorf("nothing can be made resident: %v", m.failed), Hint: hint}
	}
	return nil
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
func (m *maker) Add(ctx context.Context, program string) (made, another bool) {
	if m.failed != nil {
		return false, false
	}
	made, err := m.manager.Serve(ctx, program)
	switch {
	case made:
		m.added++
	case problem.KindOf(err) == problem.Untrusted:
		m.refused++
	}
	if hopeless(err) && !errors.Is(err, context.Canceled) {
		m.failed = err
	}
	return made, m.failed == nil
}

// summary says in one line how many starts were resident, and before that why nothing, or
// nothing more, could be made resident. It says no time: starts are timed up to the
// program's first instruction when it is added, and by that a command's saving would be
// several times too high (scripts/bench-exec).
func (m *maker) summary(outcome *intercept.Outcome) string {
	var total, residents int
	for _, s := range outcome.Programs {
		total += s.Resident + s.Normal + s.Unfit
		residents += s.Resident
	}
	said := ""
	if m.failed != nil {
		_, hint := diagnose(m.failed)
		said = fmt.Sprintf("residentctl: cannot make resident what the command executes: %s\n", printable(join(m.failed.Error(), hint)))
	}
	said += fmt.Sprintf("residentctl: %d of %d starts were resident", residents, total)
	if reasons := mostFrequent(outcome.Reasons); len(reasons) > 0 {
		said += ", others normal (" + printable(strings.Join(reasons, "; ")) + ")"
	}
	said += fmt.Sprintf("; %s made resident meanwhile", count(m.added, "program"))
	if m.later > 0 {
		said += fmt.Sprintf(", %d in the background from now on", m.later)
	}
	if m.refused > 0 {
		said += fmt.Sprintf(", %d refused that users other than root may change", m.refused)
	}
	return said + "\n"
}

// mostFrequent are the three most frequent reasons with their counts, and how often it was
// another.
func mostFrequent(reasons map[string]int) (said []string) {
	const shown = 3
	byCount := slices.SortedFunc(maps.Keys(reasons), func(a, b string) int {
		return cmp.Or(reasons[b]-reasons[a], strings.Compare(a, b))
	})
	others := 0
	for i, reason := range byCount {
		if i < shown {
			said = append(said, fmt.Sprintf("%d: %s", reasons[reason], withoutThis(reason)))
		} else {
			others += reasons[reason]
		}
	}
	if others > 0 {
		said = append(said, fmt.Sprintf("%d: others", others))
	}
	return said
}

// withoutThis is a reason of the launcher's without the file that it is about.
func withoutThis(reason string) string {
	if rest, ok := strings.CutPrefix(reason, "this now "); ok {
		return "another file now " + rest
	}
	if rest, ok := strings.CutPrefix(reason, "this "); ok {
		return "a file that it depends on " + rest
	}
	return reason
}
