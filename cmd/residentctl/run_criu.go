package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/residentctl/residentctl/internal/problem"
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

// runCRIU is run with CRIU's restore. It ends as the program does, or gives an
// error, and then the program has not been started: falling back would hide
// what was asked for.
func runCRIU(ctx context.Context, o startLine, stores []string, errOut io.Writer) error {
	program, err := findProgram(o.argv[0])
	if err != nil {
		return err
	}
	if len(o.argv) > 1 {
		return problem.Newf(problem.Run, "%s: CRIU starts a program as it was dumped: without arguments", program).
			WithHint("leave the arguments out, or start it without --engine criu")
	}
	if program, err = filepath.Abs(program); err != nil {
		return runError(err, "")
	}
	err = resident.ErrNotResident
	for _, dir := range stores {
		var status syscall.WaitStatus
		var m *resident.Manager
		if m, err = resident.OpenToRead(dir); err == nil {
			status, err = m.RunWithCRIU(ctx, program)
		}
		switch {
		case err == nil:
			if o.explain || explainByEnvironment() {
				fmt.Fprintf(errOut, "residentctl: %s: restored by CRIU\n", program)
			}
			os.Exit(intercept.EndLike(status))
		case !errors.Is(err, resident.ErrNotResident):
			_, hint := diagnose(err)
			return runError(fmt.Errorf("%s: no start by CRIU: %w", program, err), hint)
		}
	}
	return problem.Newf(problem.Run, "%s: no start by CRIU: %w", program, err).
		WithHint("`residentctl add %s` makes it resident", o.argv[0])
}
