package main

import (
	"os"
	"runtime"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/launcher"
)

// outside begins a command again as it would run outside the command tree in
// which it was called, if that is one of exec's: what links programs has to see the
// dynamic linker itself. Where that cannot be, package resident refuses what it has
// to, and does the rest.
func outside(*cli.Context) error {
	if launcher.Inside() == nil {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	runtime.LockOSThread() // whose namespace it is about
	if intercept.Uncover() == nil {
		intercept.RestoreSignals()
		_ = syscall.Exec(self, os.Args, intercept.Environment())
	}
	return nil
}
