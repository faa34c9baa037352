package main

import (
	"context"
	"math"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/resident"
	"github.com/residentctl/residentctl/pkg/store"
)

// exec --auto ends as the command ends. What short commands execute often is made resident
// after that, by another residentctl in a session of its own: it has none of the command's
// descriptors, runs only when nothing else wants the CPU or the disk, is alone in its store
// and says nothing. Killed at any moment, it leaves a staging directory, which gc removes.

// backgroundTime is how long it works at most. What it has not done by then the next
// command's takes up.
const backgroundTime = time.Minute

// startBackground has these programs made resident in the store, after this process. It
// returns how many that are: none where another such process is at work, or where this one
// cannot be started.
func startBackground(dir string, programs []string) int {
	if len(programs) == 0 || !backgroundIsFree(dir) {
		return 0
	}
	self, err := os.Executable()
	if err != nil {
		return 0
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0
	}
	// A lock or a pipe that was inherited must not last for longer than the command.
	if unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) != nil {
		return 0
	}
	line := append([]string{self, "exec", "--" + backgroundOption, "--store", dir, "--"}, programs...)
	_, err = os.StartProcess(self, line, &os.ProcAttr{
		Dir: "/", Env: intercept.Environment(), Files: []*os.File{null, null, null}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0
	}
	return len(programs)
}

func backgroundIsFree(dir string) bool {
	s, err := store.Open(dir)
	if err != nil {
		return false
	}
	unlock, err := s.LockBackground()
	if err != nil {
		return false
	}
	unlock()
	return true
}

// runBackground makes programs resident that commands have executed often.
func runBackground(o startLine) error {
	if err := linux.Background(); err != nil {
		return err
	}
	s, err := store.Open(o.store)
	if err != nil {
		return err
	}
	unlock, err := s.LockBackground()
	if err != nil {
		return err
	}
	defer unlock()
	m, err := resident.Open(o.store, false)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), backgroundTime)
	defer cancel()
	for _, program := range o.argv {
		if err := makeLater(ctx, s, m, program); err != nil {
			return err
		}
	}
	return nil
}

// makeLater makes a program resident, and notes how that went.
func makeLater(ctx context.Context, s *store.Store, m *resident.Manager, program string) error {
	id, err := linux.StatID(program)
	if err != nil {
		return nil // gone since
	}
	made, err := m.Serve(ctx, program)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	tried := intercept.ChangeHistory(s, func(h intercept.History) { h.Tried(id.Inode(), made) })
	if hopeless(err) {
		return err
	}
	return tried
}
