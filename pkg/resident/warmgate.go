package resident

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
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

// A warmTrial is an image that is not published yet, and how it is started for a trial.
type warmTrial struct {
	dir   string     // in staging
	plan  *plan.Plan // which names CRIU's pages where they still are
	start string     // a launcher file of the program

	// Of a script: another one that imports what the image holds and ends, and a launcher
	// file that starts it from the image.
	first      string
	firstStart []string
}

// gate times what a user waits for both ways: starts to the first line of a script, and the run
// of a training command. The first image is for them all.
func (w *warming) gate(ctx context.Context) error {
	if w.script == nil {
		return nil // what it does after its point is not known
	}
	return w.images[0].withTrial(func(t *warmTrial) error {
		w.opts.Step("time")
		defer w.alone()()
		return w.images[0].timeStarts(ctx, t)
	})
}

// withTrial has f try the image.
func (w *warmImage) withTrial(f func(t *warmTrial) error) error {
	side, err := w.store.Stage()
	if err != nil {
		return err
	}
	defer func() { _ = side.Discard() }()
	t := &warmTrial{dir: side.Dir}
	if t.plan, err = w.layout.trialPlan(); err != nil {
		return err
	}
	if err := w.write(t); err != nil {
		return err
	}
	return f(t)
}

// tryRuns finds out which pages the image's starts write, and whether training runs come out as
// plain ones do.
func (w *warmImage) tryRuns(ctx context.Context, t *warmTrial) error {
	if w.script == nil {
		return nil
	}
	if err := w.layout.tryOnce(ctx, t.start, t.plan); err != nil {
		return err
	}
	if err := w.populate(ctx, t); err != nil {
		return err
	}
	return w.compareRuns(ctx, t)
}

// write writes the launcher files of a trial.
func (w *warmImage) write(t *warmTrial) (err error) {
	if t.start, err = starterOf(w.store.ForLaunchers(), t.dir, t.plan); err != nil || w.script == nil {
		return err
	}
	t.first = filepath.Join(t.dir, "first.py")
	if err := os.WriteFile(t.first, []byte(w.firstLine()), 0o700); err != nil {
		return err
	}
	if w.named() {
		t.firstStart = []string{t.start, t.first}
		return nil
	}
	other := aloneOf(t.plan)
	id, err := linux.StatID(t.first)
	if err != nil {
		return err
	}
	other.Path, other.Real = t.first, t.first
	other.Program().Path, other.Program().ID = t.first, id
	dir := filepath.Join(t.dir, "first")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file, err := starterOf(w.store.ForLaunchers(), dir, other)
	t.firstStart = []string{file}
	return err
}

// firstLine is a script that imports what the image holds, and ends.
func (w *warming) firstLine() string {
	var b strings.Builder
	fmt.Fprintf(&b, "#!%s\nimport importlib\nfor name in (\n", strings.Join(w.script.Argv, " "))
	for _, m := range w.imports {
		name, _ := json.Marshal(m)
		fmt.Fprintf(&b, "    %s,\n", name)
	}
	b.WriteString("):\n    try:\n        importlib.import_module(name)\n    except BaseException:\n        pass\nimport os\nos._exit(0)\n")
	return b.String()
}

// timeStarts times both ways, in turn.
func (w *warmImage) timeStarts(ctx context.Context, t *warmTrial) (err error) {
	if w.timing, err = w.timeRuns(ctx, append(w.interpreter(), t.first), t.firstStart); err != nil {
		return err
	}
	if line := w.trainingLine(); line != nil {
		if w.whole, err = w.timeRuns(ctx, slices.Concat(w.interpreter(), []string{w.path}, line), append([]string{t.start}, line...)); err != nil {
			return err
		}
	}
	slow := w.timing.ResidentNS*100 > w.timing.ExecNS*warmPercent
	if slow && !w.opts.EvenIfSlower {
		return &SlowerError{Program: w.path, Timing: *w.timing, Warm: true}
	}
	return nil
}

// trainingLine is the first training run's arguments; nil for an entry that has none.
func (w *warming) trainingLine() []string {
	if w.named() {
		return nil
	}
	return strings.Fields(w.trainingLines()[0])
}

// interpreter is how the interpreter is executed, with its options.
func (w *warming) interpreter() []string {
	return append([]string{w.program.Path}, w.script.Argv[1:]...)
}

// timeRuns returns the medians of whole runs of two commands, in turn.
func (w *warmImage) timeRuns(ctx context.Context, plain, resident []string) (*registry.Timing, error) {
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

// timeRun times one run, whose outcome does not matter.
func (w *warmImage) timeRun(ctx context.Context, command []string) (time.Duration, error) {
	began := time.Now()
	_, err := w.runOnce(ctx, command)
	return time.Since(began), err
}

// runOnce runs a command to its end, with the template's environment and terminals, and without
// input.
func (w *warmImage) runOnce(ctx context.Context, command []string) (*outcome, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, trainingTimeout, fmt.Errorf("it has not ended after %v", trainingTimeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir, cmd.Env = "/", w.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	var terminal, stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	read := func() {}
	if asked := w.terminals & w.template.ReadTerminals; asked != 0 {
		master, its, err := linux.OpenTerminal()
		if err != nil {
			return nil, problem.Refusef("%w", err)
		}
		defer master.Close()
		defer its.Close()
		linux.GiveTerminal(cmd, its, asked)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(&terminal, master) // until no process has it open any more (pty(7))
		}()
		read = func() {
			its.Close()
			select {
			case <-done:
			case <-time.After(cmd.WaitDelay): // something that it has left has it open
				master.Close()
				<-done
			}
		}
	}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	err := cmd.Run()
	read()
	var ended *exec.ExitError
	if ctx.Err() != nil || err != nil && !errors.As(err, &ended) {
		return nil, fmt.Errorf("run %s: %w", w.path, errors.Join(err, context.Cause(ctx)))
	}
	return &outcome{cmd.ProcessState.ExitCode(), terminal.Bytes(), stdout.Bytes(), stderr.Bytes()}, nil
}
