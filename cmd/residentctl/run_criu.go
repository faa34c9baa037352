package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/inherit"
	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/resident"
)

// Values of run's --engine.
const (
	engineAuto   = "auto"
	engineDirect = "direct"
	engineCRIU   = "criu"
	engineExec   = "exec"
)

var engines = []string{engineAuto, engineDirect, engineCRIU, engineExec}

// runCRIU is run with CRIU's restore. It ends as the program does, or returns an
// error, and then the program has not been started: falling back would hide
// what was asked for.
func runCRIU(ctx context.Context, o startLine, stores []string, errOut io.Writer) error {
	program, err := findProgram(o.argv[0], stores)
	if err != nil {
		return err
	}
	beside := intercept.NewCompanion()
	restored, err := restoreFrom(ctx, stores, inherit.Exec{Path: program, Argv: o.argv, Env: intercept.Environment()})
	if errors.Is(err, resident.ErrNotResident) {
		return problem.Newf(problem.Run, "%s: no start by CRIU: %w", program, err).
			WithHint("run `residentctl add %s` to make it resident", o.argv[0])
	}
	if err != nil {
		_, hint := diagnose(err)
		return runError(fmt.Errorf("%s: no start by CRIU: %w", program, err), hint)
	}
	if o.explain || explainByEnvironment() {
		fmt.Fprintf(errOut, "residentctl: %s: restored by CRIU\n", program)
	}
	var status syscall.WaitStatus
	pid, err := restored.Release()
	if err == nil {
		status, err = beside.Wait(pid)
	}
	if err != nil {
		return runError(err, "")
	}
	os.Exit(intercept.EndLike(status))
	return nil
}

// restoreFrom has CRIU restore the program from the first of the stores that has its
// image.
func restoreFrom(ctx context.Context, stores []string, exec inherit.Exec) (*resident.Restored, error) {
	err := error(resident.ErrNotResident)
	for _, dir := range stores {
		var m *resident.Manager
		var restored *resident.Restored
		if m, err = resident.OpenToRead(dir); err == nil {
			restored, err = m.RestoreWithCRIU(ctx, exec)
		}
		if !errors.Is(err, resident.ErrNotResident) {
			return restored, err
		}
	}
	return nil, err
}
