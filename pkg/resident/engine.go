package resident

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/registry"
)

// ErrNotResident says that the store has no image of a program.
var ErrNotResident = errors.New("it is not resident")

// RunWithCRIU has CRIU restore the image of the program at path, and waits until
// the process ends. It is this process's child, under the id that was dumped,
// which must be free, with the arguments and the environment that it was dumped
// with; it has this process's standard files and current folder. Signals that
// reach this process are handed on to it.
//
// Its errors are ErrNotResident, why the image is stale, CRIU's and the kernel's; then no
// instruction of the program has been executed.
func (m *Manager) RunWithCRIU(ctx context.Context, path string) (syscall.WaitStatus, error) {
	if err := notInside(); err != nil {
		return 0, err // CRIU would map the copy
	}
	rec, err := m.ofFile(path)
	if err != nil {
		return 0, err
	}
	if reasons := m.stale(rec); len(reasons) > 0 {
		return 0, errors.New(reasons[0])
	}
	// From here on none is lost: those that come too early wait.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	defer signal.Stop(signals)

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	proc, err := restoreStopped(ctx, m.store.ImageDir(rec.ID))
	if err != nil {
		return 0, err
	}
	// The limit is that of the template, by which it was recognized.
	var stack unix.Rlimit
	err = unix.Prlimit(os.Getpid(), unix.RLIMIT_STACK, nil, &stack)
	if err == nil {
		err = unix.Prlimit(proc.PID, unix.RLIMIT_STACK, &stack, nil)
	}
	if err != nil {
		err = fmt.Errorf("set the stack limit: %w", err)
	} else if err = proc.Adopt([3]*os.File{os.Stdin, os.Stdout, os.Stderr}); err == nil {
		err = proc.Release()
	}
	if err != nil {
		_ = proc.Kill()
		return 0, err
	}
	return waitFor(proc.PID, signals)
}

// ofFile is the entry of the binary that path leads to.
func (m *Manager) ofFile(path string) (registry.Record, error) {
	id, err := linux.StatID(path)
	if err != nil {
		return registry.Record{}, err
	}
	all, err := m.records()
	if err != nil {
		return registry.Record{}, err
	}
	for _, rec := range all {
		if rec.Binary.Inode() == id.Inode() {
			return rec, nil
		}
	}
	return registry.Record{}, ErrNotResident
}

// waitFor waits for a child and hands signals on to it meanwhile.
func waitFor(pid int, signals <-chan os.Signal) (syscall.WaitStatus, error) {
	// Only looked at here, and collected below: until then its pid is nobody
	// else's, so a signal cannot meet another process.
	gone := make(chan error, 1)
	go func() {
		gone <- linux.EINTR(func() error {
			return unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		})
	}()
	for {
		select {
		case s := <-signals:
			// SIGCHLD is about the child, SIGURG is the Go runtime's own.
			if n, ok := s.(syscall.Signal); ok && n != syscall.SIGCHLD && n != syscall.SIGURG {
				_ = unix.Kill(pid, n)
			}
		case err := <-gone:
			var status syscall.WaitStatus
			if err == nil {
				err = linux.EINTR(func() error {
					_, err := syscall.Wait4(pid, &status, 0, nil)
					return err
				})
			}
			return status, err
		}
	}
}
