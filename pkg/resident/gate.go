package resident

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/linkstop"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/ptrace"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// How a program's starts are timed. A start takes from a fraction of a
// millisecond to tens of them, and as long again to prepare and clear away: for
// large programs the budget ends it, and of those two starts tell enough.
const (
	timedStarts  = 21
	timedAtLeast = 2
	timingBudget = 200 * time.Millisecond

	// Before a program is refused it is timed once more, for longer: on a busy
	// machine a few starts say little.
	againAtLeast = 15
	againBudget  = time.Second
)

// fasterPercent is how much of the time of a plain start a resident one may
// take at most to be called faster. The rest is what the medians of two times
// the same thing differ by.
const fasterPercent = 95

// faultSlowStart is a value of store.FaultEnv with which resident starts seem
// to take a second longer.
const faultSlowStart = "slow-start"

// SlowerError says that a program would not start faster if it were resident.
type SlowerError struct {
	Program string
	Timing  registry.Timing
	Warm    bool
}

func (e *SlowerError) Error() string {
	if e.Warm {
		return fmt.Sprintf("%s would not come to its first line half again as fast: in %s instead of %s (medians of %d starts each)", e.Program,
			milliseconds(e.Timing.ResidentNS), milliseconds(e.Timing.ExecNS), e.Timing.Starts)
	}
	return fmt.Sprintf("%s would not start faster: %s instead of %s (medians of %d starts each)", e.Program,
		milliseconds(e.Timing.ResidentNS), milliseconds(e.Timing.ExecNS), e.Timing.Starts)
}

// AsProblem adds what can be done about it.
func (e *SlowerError) AsProblem() *problem.Problem {
	return &problem.Problem{Hint: "use --even-if-slower to make it resident all the same"}
}

func milliseconds(ns int64) string { return fmt.Sprintf("%.2f ms", float64(ns)/1e6) }

// Gain returns how many times as long a plain start takes as a resident one, from
// its exec to the program's own first instruction; 0 if it was not measured.
func Gain(t *registry.Timing) float64 {
	if t == nil || t.ResidentNS <= 0 {
		return 0
	}
	return float64(t.ExecNS) / float64(t.ResidentNS)
}

// faster is the gate's decision.
func faster(t *registry.Timing) bool { return t.ResidentNS*100 <= t.ExecNS*fasterPercent }

// gate times starts both ways, the resident ones with a launcher file of the
// trial's whose last jump leads to plan.Nowhere, and refuses an image that does
// not pay.
func (a *adding) gate(ctx context.Context, l *layout, launcherFile string) error {
	defer a.alone()()
	store.Fault("before-timing")
	timing, err := a.time(ctx, l, launcherFile, timedAtLeast, timingBudget)
	if err == nil && !a.opts.EvenIfSlower && !faster(timing) {
		timing, err = a.time(ctx, l, launcherFile, againAtLeast, againBudget)
	}
	switch {
	case errors.Is(err, ptrace.ErrStartedNormally):
		return wrong("the launcher did not come to its end: %w", err)
	case err != nil:
		return err
	}
	if a.timing = timing; !a.opts.EvenIfSlower && !faster(timing) {
		return &SlowerError{Program: a.program.Path, Timing: *timing}
	}
	return nil
}

// alone has the other adds pause until back is called. The caller holds quiet for reading.
func (a *adding) alone() (back func()) {
	a.quiet.RUnlock()
	a.quiet.Lock()
	return func() {
		a.quiet.Unlock()
		a.quiet.RLock()
	}
}

// time returns the medians of starts both ways. The launcher file is small: it is
// also what the measured processes are made from.
func (a *adding) time(ctx context.Context, l *layout, launcherFile string, least int, budget time.Duration) (*registry.Timing, error) {
	took, err := linkstop.TimeStarts(ctx, launcherFile, []linkstop.TimedStart{
		{Path: a.program.Path, Until: l.template.Linked(), Filtered: true},
		{Path: launcherFile, Until: linkstop.At(plan.Nowhere)},
	}, linkstop.TimeOptions{Rounds: timedStarts, Least: least, Budget: budget, Memory: a.opts.MemoryLimit})
	if err != nil {
		return nil, err
	}
	t := &registry.Timing{ExecNS: median(took[0]), ResidentNS: median(took[1]), Starts: len(took[0])}
	if os.Getenv(store.FaultEnv) == faultSlowStart {
		t.ResidentNS += int64(time.Second)
	}
	return t, nil
}

// median is that of at least one duration, the lower one of two.
func median(all []time.Duration) int64 {
	slices.Sort(all)
	return int64(all[(len(all)-1)/2])
}
