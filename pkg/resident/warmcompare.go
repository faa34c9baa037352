package resident

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/warmstop"
)

// An outcome is what a run of a program shows to who called it.
type outcome struct {
	status                   int
	terminal, stdout, stderr []byte
}

func (o *outcome) equal(p *outcome) bool {
	return o.status == p.status && bytes.Equal(o.terminal, p.terminal) && bytes.Equal(o.stdout, p.stdout) && bytes.Equal(o.stderr, p.stderr)
}

// compareRuns refuses an image whose training runs do not come out as plain ones do. A run of
// which two plain ones differ says nothing.
func (w *warmImage) compareRuns(ctx context.Context, t *warmTrial) error {
	if w.named() {
		return nil
	}
	for _, line := range w.trainingLines() {
		args := strings.Fields(line)
		plain := slices.Concat(w.interpreter(), []string{w.path}, args)
		first, err := w.runOnce(ctx, plain)
		if err != nil && w.terminals != 0 && ctx.Err() == nil {
			continue // it waits for someone at the terminal
		}
		if err != nil {
			return err
		}
		resident, err := w.runOnce(ctx, append([]string{t.start}, args...))
		if err != nil {
			return err
		}
		if first.equal(resident) {
			continue
		}
		again, err := w.runOnce(ctx, plain)
		if err != nil {
			return err
		}
		if !first.equal(again) {
			continue
		}
		difference := fmt.Sprintf("gives another result for %q than a plain run: %s", line, first.difference(resident))
		if slices.Contains(w.want.Accept, warmstop.FoundOutput) {
			w.accepted = with(w.accepted, difference)
			continue
		}
		return problem.Refusef("a run from its image %s", difference).
			WithHint("leave it as it is, or give --accept %s if that does not matter", warmstop.FoundOutput)
	}
	return nil
}

// difference says in what p differs from o, for people.
func (o *outcome) difference(p *outcome) string {
	for _, s := range []struct {
		what string
		a, b []byte
	}{{"what the terminal shows", o.terminal, p.terminal}, {"standard output", o.stdout, p.stdout}, {"standard error", o.stderr, p.stderr}} {
		if bytes.Equal(s.a, s.b) {
			continue
		}
		a, b := strings.Split(string(s.a), "\n"), strings.Split(string(s.b), "\n")
		for i := range max(len(a), len(b)) {
			if i >= len(a) || i >= len(b) || a[i] != b[i] {
				return fmt.Sprintf("line %d of %s is %s instead of %s", i+1, s.what, lineOf(b, i), lineOf(a, i))
			}
		}
	}
	return fmt.Sprintf("the status is %d instead of %d", p.status, o.status)
}

// lineOf is a line in quotes, short enough for a message.
func lineOf(lines []string, i int) string {
	if i >= len(lines) {
		return "missing"
	}
	return fmt.Sprintf("%.80q", lines[i])
}
