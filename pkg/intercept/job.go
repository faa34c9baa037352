package intercept

import (
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// signals are what residentctl is sent while it stays beside the command.
type signals struct{ terminal, passed chan os.Signal }

// catchSignals catches what must not end residentctl before the command. From the terminal
// the command gets its signals itself; residentctl must not end, or stop, before it. What
// is sent to residentctl is passed on, an interrupt too where no terminal can have sent it.
// SIGTTIN and SIGTTOU always come from it.
func catchSignals() signals {
	s := signals{terminal: make(chan os.Signal, 1), passed: make(chan os.Signal, 8)}
	catch(s.terminal, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP)
	catch(s.passed, passedOn()...)
	catch(make(chan os.Signal, 1), syscall.SIGTTIN, syscall.SIGTTOU)
	return s
}

// passedOn are the signals that a user may send to residentctl and mean the
// command: all but those of the terminal, of job control, and of what a process
// does itself.
func passedOn() []os.Signal {
	sigs := []os.Signal{
		syscall.SIGHUP, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCONT, syscall.SIGWINCH, syscall.SIGABRT,
		syscall.SIGALRM, syscall.SIGVTALRM, syscall.SIGPROF, syscall.SIGIO, syscall.SIGPWR,
	}
	const firstRT, lastRT = 35, 64 // the runtime leaves those before alone, which are C libraries'
	for sig := syscall.Signal(firstRT); sig <= lastRT; sig++ {
		sigs = append(sigs, sig)
	}
	return sigs
}

// catch is signal.Notify but for signals that are ignored, which the command is to
// ignore as well.
func catch(c chan<- os.Signal, sigs ...os.Signal) {
	for _, sig := range sigs {
		if !signal.Ignored(sig) {
			signal.Notify(c, sig)
		}
	}
}

// A job is the command beside which residentctl stays. To the process that started residentctl
// it stops and goes on as the command does.
type job struct {
	process *os.Process
	// hadTerminal says that the command, in a group of its own as shells make one, was
	// in the foreground when it stopped last.
	hadTerminal atomic.Bool
}

// passOn passes on to the command what is sent to residentctl.
func (j *job) passOn(s signals) {
	for {
		select {
		case sig := <-s.passed:
			if sig == syscall.SIGCONT {
				j.resume()
			} else {
				_ = j.process.Signal(sig)
			}
		case sig := <-s.terminal:
			if !inForeground() {
				_ = j.process.Signal(sig)
			}
		}
	}
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
			// What has been continued together with residentctl may not have reached it yet
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

// inForeground reports whether the terminal sends its signals to this process, and so
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

// EndLike returns the exit status of a process that has ended; if a signal killed
// it, that signal kills this process too, so that the caller sees the same.
func EndLike(status syscall.WaitStatus) int {
	if !status.Signaled() {
		return status.ExitStatus()
	}
	sig := status.Signal()
	// One core file is enough.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	dieBy(sig)
	// Of a signal that does not kill by default it cannot have died.
	const shellStatus = 128
	return shellStatus + int(sig)
}

// A Companion stays beside a command that is a child of this process and in its process
// group, and is to others as that command is.
type Companion struct{ caught signals }

// NewCompanion catches, from now on, the signals that are meant for the command.
func NewCompanion() *Companion {
	ignoreInherited()
	return &Companion{catchSignals()}
}

// Wait stays beside the command, which has this process id, until it ends.
func (c *Companion) Wait(pid int) (syscall.WaitStatus, error) {
	process, err := os.FindProcess(pid)
	if err != nil {
		return 0, err
	}
	j := &job{process: process}
	go j.passOn(c.caught)
	return j.wait()
}
