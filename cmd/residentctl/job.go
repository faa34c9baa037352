package main

import (
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// A job is the command beside which residentctl stays. To whoever started residentctl
// it stops and goes on as the command does.
type job struct {
	process *os.Process
	// hadTerminal says that the command, in a group of its own as shells make one, was
	// in the foreground when it stopped last.
	hadTerminal atomic.Bool
}

// wait waits for the command's end.
func (j *job) wait() (syscall.WaitStatus, error) {
	const cldStopped = 5 // asm-generic/siginfo.h, CLD_STOPPED
	for pid := j.process.Pid; ; {
		var info unix.Siginfo
		if err := linux.EINTR(func() error {
			return unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT, nil)
		}); err != nil {
			return 0, os.NewSyscallError("waitid", err)
		}
		if info.Code == cldStopped {
			// What has been continued together with residentctl may not have come to it
			// yet: to stop for that would be to stop once more.
			time.Sleep(10 * time.Millisecond)
		}
		var status syscall.WaitStatus
		var got int
		if err := linux.EINTR(func() (err error) {
			got, err = syscall.Wait4(pid, &status, syscall.WUNTRACED|syscall.WNOHANG, nil)
			return err
		}); err != nil {
			return 0, os.NewSyscallError("wait4", err)
		}
		switch {
		case got != pid: // it has gone on
		case status.Stopped():
			j.stop(status.StopSignal())
		default:
			return status, nil
		}
	}
}

// stop stops residentctl, since the command has stopped by the signal. It comes back
// when residentctl is continued.
func (j *job) stop(sig syscall.Signal) {
	group, ok := j.ownGroup()
	j.hadTerminal.Store(ok && terminalGroup() == group)
	stopBy(sig)
	if signal.Ignored(syscall.SIGCONT) {
		j.resume()
	}
}

// resume continues the command, as residentctl was continued. A shell has given the
// terminal to the group that it knows, residentctl's, and continued that.
func (j *job) resume() {
	group, ok := j.ownGroup()
	if !ok || !j.hadTerminal.Load() {
		_ = j.process.Signal(syscall.SIGCONT)
		return
	}
	if inForeground() {
		if tty, err := os.Open("/dev/tty"); err == nil {
			_ = unix.IoctlSetPointerInt(int(tty.Fd()), unix.TIOCSPGRP, group)
			tty.Close()
		}
	}
	_ = syscall.Kill(-group, syscall.SIGCONT)
}

// ownGroup is the command's process group, if it is not residentctl's.
func (j *job) ownGroup() (group int, ok bool) {
	group, err := syscall.Getpgid(j.process.Pid)
	return group, err == nil && group != syscall.Getpgrp()
}

// inForeground tells whether the terminal sends its signals to this process, and so
// to the command, if that is in the same group.
func inForeground() bool { return terminalGroup() == syscall.Getpgrp() }

// terminalGroup is the group in the foreground of the terminal, -1 without one.
func terminalGroup() int {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return -1
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	if err != nil {
		return -1
	}
	return group
}
