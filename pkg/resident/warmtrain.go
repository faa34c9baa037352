package resident

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/store"
	"github.com/residentctl/residentctl/pkg/warm"
)

// trainByDefault are the command lines of the training runs where none was given.
var trainByDefault = []string{"--version", "--help"}

// trainingTimeout is how long one training run may take.
const trainingTimeout = 30 * time.Second

// train finds out what the template is to import and what of the environment it needs. A script
// is run for that, as the shim's main program.
func (w *warming) train(ctx context.Context) error {
	switch {
	case w.script == nil:
		return nil
	case w.named():
		w.imports = w.want.Imports
		return nil
	}
	w.opts.Step("train")
	var failed error
	for _, line := range w.trainingLines() {
		imported, err := w.trainOnce(ctx, strings.Fields(line))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		w.imports = union(w.imports, imported)
	}
	if len(w.imports) == 0 {
		return problem.Newf(problem.Program, "its training runs have imported nothing: %w", errors.Join(failed, errNoImports)).
			WithHint("give --train with arguments with which it runs and ends")
	}
	return nil
}

// trainingLines are the arguments of the training runs, each a line.
func (w *warming) trainingLines() []string {
	if len(w.want.Train) > 0 {
		return w.want.Train
	}
	return trainByDefault
}

var errNoImports = errors.New("no module beyond those of each start")

func union(all, more []string) []string {
	for _, m := range more {
		if !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	return all
}

// trainOnce runs the script with these arguments: in a directory and a HOME of its own, without
// a network where that can be had, and for a limited time. What it says does not matter.
func (w *warming) trainOnce(ctx context.Context, args []string) ([]string, error) {
	temporary, err := store.StageTemporary() // gc knows it
	if err != nil {
		return nil, err
	}
	defer func() { _ = temporary.Discard() }()
	home := temporary.Dir
	report := filepath.Join(home, "report")
	command := slices.Concat(w.script.Argv, []string{w.path}, args)
	shim, err := w.writeShim(warm.PythonConfig{
		Mode: warm.PythonTrain, Kind: warm.KindScript, Prefix: len(w.script.Argv), Script: w.path, Program: w.path, Argv: command, Report: report,
	})
	if err != nil {
		return nil, err
	}
	defer os.Remove(shim)
	ctx, cancel := context.WithTimeoutCause(ctx, trainingTimeout, fmt.Errorf("it has not ended after %v", trainingTimeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, w.program.Path)
	cmd.Args = append(slices.Clone(w.script.Argv), shim)
	cmd.Dir = home
	cmd.Env = append(withoutHome(os.Environ()), "HOME="+home)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL, Cloneflags: withoutNetwork()}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	runErr := cmd.Run()
	text, err := os.ReadFile(report)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", w.path, strings.Join(args, " "), errors.Join(runErr, context.Cause(ctx), err))
	}
	return strings.Fields(string(text)), nil
}

// withoutHome is an environment without what leads to files of the user's, and without ours.
func withoutHome(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		return strings.HasPrefix(v, "HOME=") || strings.HasPrefix(v, "XDG_") || strings.HasPrefix(v, "RESIDENTCTL_")
	})
}

// withoutNetwork is the flag of clone(2) for a network namespace of its own, for root. An
// ordinary user would need a user namespace for that, in which the program would not find its
// own user any more.
func withoutNetwork() uintptr {
	if os.Geteuid() == 0 {
		return syscall.CLONE_NEWNET
	}
	return 0
}
