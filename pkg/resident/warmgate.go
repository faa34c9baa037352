package resident

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/registry"
)

// warmPercent is how much of the time of a plain start a warm one may take at most to be
// worth its image.
const warmPercent = 66

// How warm starts are timed: they are longer than linked ones, and steadier.
const (
	warmStarts  = 9
	warmAtLeast = 3
	warmBudget  = 2 * time.Second
)

// gate tries the image, and times what a user waits for both ways: starts to the first line of
// a script, and where there is one the run of a training command.
func (w *warming) gate(ctx context.Context) error {
	w.opts.Step("try")
	side, err := w.store.Stage()
	if err != nil {
		return err
	}
	defer func() { _ = side.Discard() }()
	trial := aloneOf(w.layout.plan)
	if trial.Pages().Path, err = w.store.NameOf(w.layout.image.PagesPath); err != nil {
		return err
	}
	start, err := w.starterFor(side.Dir, trial)
	if err != nil {
		return err
	}
	if err := w.tryOnce(ctx, start, trial); err != nil {
		return err
	}
	if w.script == nil {
		return nil // what it does after its point is not known
	}
	w.opts.Step("time")
	w.quiet.RUnlock() // makeWarm's
	w.quiet.Lock()
	defer func() {
		w.quiet.Unlock()
		w.quiet.RLock()
	}()
	return w.timeStarts(ctx, side.Dir, trial, start)
}

// starterFor writes a launcher file that starts the plan's program.
func (w *warming) starterFor(dir string, trial *plan.Plan) (string, error) {
	raw, err := trial.Encode()
	if err != nil {
		return "", err
	}
	return writeStarter(w.store.ForLaunchers(), dir, plan.LauncherPlace(len(raw), trial), trial, raw)
}

// tryOnce starts the program up to the launcher's last jump, and compares.
func (w *warming) tryOnce(ctx context.Context, start string, trial *plan.Plan) error {
	p, err := startTrial(ctx, start, trial, w.env)
	if err != nil {
		return err
	}
	defer func() { _ = p.Kill() }()
	return compareStart(trial, w.layout.image.PagesPath, p)
}

// firstLine is a script that imports what the image holds, and ends.
func (w *warming) firstLine() string {
	var b strings.Builder
	if !w.named() {
		fmt.Fprintf(&b, "#!%s\n", strings.Join(w.script.Argv, " "))
	}
	b.WriteString("import importlib\nfor name in (\n")
	for _, m := range w.imports {
		name, _ := json.Marshal(m)
		fmt.Fprintf(&b, "    %s,\n", name)
	}
	b.WriteString("):\n    try:\n        importlib.import_module(name)\n    except BaseException:\n        pass\nimport os\nos._exit(0)\n")
	return b.String()
}

// timeStarts times both ways, in turn.
func (w *warming) timeStarts(ctx context.Context, dir string, trial *plan.Plan, start string) error {
	first := filepath.Join(dir, "first.py")
	if err := os.WriteFile(first, []byte(w.firstLine()), 0o700); err != nil {
		return err
	}
	plain, resident := append(w.interpreter(), first), []string{start, first}
	if !w.named() {
		other := aloneOf(trial)
		id, err := linux.StatID(first)
		if err != nil {
			return err
		}
		other.Path, other.Real = first, first
		other.Program().Path, other.Program().ID = first, id
		firstDir := filepath.Join(dir, "first")
		if err := os.Mkdir(firstDir, 0o700); err != nil {
			return err
		}
		file, err := w.starterFor(firstDir, other)
		if err != nil {
			return err
		}
		resident = []string{file}
	}
	var err error
	if w.timing, err = w.timeRuns(ctx, plain, resident); err != nil {
		return err
	}
	if !w.named() {
		line := strings.Fields(append(w.want.Train, trainByDefault...)[0])
		if w.whole, err = w.timeRuns(ctx, append(append(w.interpreter(), w.path), line...), append([]string{start}, line...)); err != nil {
			return err
		}
	}
	slow := w.timing.ResidentNS*100 > w.timing.ExecNS*warmPercent
	if slow && !w.opts.EvenIfSlower {
		return &SlowerError{Program: w.path, Timing: *w.timing, Warm: true}
	}
	return nil
}

// interpreter is how the interpreter is executed, with its options.
func (w *warming) interpreter() []string {
	return append([]string{w.program.Path}, w.script.Argv[1:]...)
}

// timeRuns returns the medians of whole runs of two commands, in turn.
func (w *warming) timeRuns(ctx context.Context, plain, resident []string) (*registry.Timing, error) {
	var took [2][]time.Duration
	began := time.Now()
	for round := 0; round < warmStarts && (round < warmAtLeast || time.Since(began) < warmBudget); round++ {
		for i, command := range [][]string{plain, resident} {
			d, err := w.timeRun(ctx, command)
			if err != nil {
				return nil, err
			}
			if round > 0 { // the first one reads the files
				took[i] = append(took[i], d)
			}
		}
	}
	return &registry.Timing{ExecNS: median(took[0]), ResidentNS: median(took[1]), Starts: len(took[0])}, nil
}

// timeRun times one run, with the template's environment, whose status does not matter.
func (w *warming) timeRun(ctx context.Context, command []string) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, trainingTimeout, fmt.Errorf("%s has not ended after %v", w.path, trainingTimeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir, cmd.Env = "/", w.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	err := cmd.Run()
	var ended *exec.ExitError
	if err != nil && (!errors.As(err, &ended) || ctx.Err() != nil) {
		return 0, fmt.Errorf("time a start of %s: %w", w.path, errors.Join(err, context.Cause(ctx)))
	}
	return time.Since(began), nil
}
