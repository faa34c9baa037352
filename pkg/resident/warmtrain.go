package resident

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/store"
	"github.com/residentctl/residentctl/pkg/warm"
	"github.com/residentctl/residentctl/pkg/warmstop"
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
		if problem.KindOf(err) == problem.Untrusted {
			return err
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
	ours := func(path string) bool { return path == home || strings.HasPrefix(path, home+"/") || path == shim }
	runErr := warmstop.Run(ctx, warmstop.Options{
		Path: w.program.Path, Argv: append(slices.Clone(w.script.Argv), shim), Env: append(withoutHome(os.Environ()), "HOME="+home),
		Dir: home, Ours: ours, Allow: w.allow, Timeout: trainingTimeout,
	}, os.Geteuid() == 0)
	if problem.KindOf(runErr) == problem.Untrusted {
		return nil, runErr
	}
	text, err := os.ReadFile(report)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", w.path, strings.Join(args, " "), cmp.Or(runErr, err))
	}
	return strings.Fields(string(text)), nil
}

// withoutHome is an environment without what leads to files of the user's, and without ours.
func withoutHome(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		return strings.HasPrefix(v, "HOME=") || strings.HasPrefix(v, "XDG_") || strings.HasPrefix(v, "RESIDENTCTL_")
	})
}
