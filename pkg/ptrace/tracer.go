package ptrace

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// traceOptions are set at the first stop. EXITKILL: nothing that we trace
// outlives us. TRACESYSGOOD: a system call's stop cannot be taken for SIGTRAP.
const traceOptions = unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACEEXEC |
	unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACECLONE

// A Tracer is an OS thread and the processes that it traces. They form one
// process group, led by the first: Kill and Wait reach all of them through it,
// even a clone whose pid is not known yet, and no other process.
//
// The thread lives until End: ptrace(2) wants all calls from the thread that
// traces, and PR_SET_PDEATHSIG means the death of the thread that forked.
type Tracer struct {
	calls chan func()
	ask   func(pid int, call SyscallInfo) error // Filter's

	calledAt map[uint64]called // OnCall's, by address

	mu     sync.Mutex
	group  int  // the process group, 0 when there is none (any more)
	killed bool // Kill was called
	timed  int  // the process that KillAfter may kill, 0 when it is reaped
}

// NewTracer starts a tracer's thread. It must be given up with End.
func NewTracer() *Tracer {
	t := &Tracer{calls: make(chan func())}
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		for call := range t.calls {
			call()
		}
	}()
	return t
}

// Do runs f on the tracer's thread.
func (t *Tracer) Do(f func() error) (err error) {
	done := make(chan struct{})
	t.calls <- func() {
		defer close(done)
		err = f()
	}
	<-done
	return err
}

// Run is Do for as long as ctx lasts: when that ends first, all processes are
// killed, which makes for odd errors, and the error is the reason for its end.
func (t *Tracer) Run(ctx context.Context, f func() error) error {
	unwatch := context.AfterFunc(ctx, t.Kill)
	err := t.Do(f)
	unwatch()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// End kills and reaps all that is left, and gives up the thread. It is the last
// call.
func (t *Tracer) End() {
	t.Kill()
	_ = t.Do(func() error { t.reap(); return nil })
	close(t.calls)
}

// Kill sends SIGKILL to every process of the tracer. It may be called at any
// time, by any goroutine. A clone under way either sees it or is hit by it:
// copy_process looks for signals under the lock under which the group is
// walked (kernel/fork.c).
func (t *Tracer) Kill() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.killed = true
	if t.group != 0 {
		_ = unix.Kill(-t.group, unix.SIGKILL)
	}
}

// reap waits until no process of the tracer is left.
func (t *Tracer) reap() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.group == 0 {
		return
	}
	_ = unix.Kill(-t.group, unix.SIGKILL)
	for {
		_, err := unix.Wait4(-t.group, nil, unix.WALL, nil)
		if err != nil && err != unix.EINTR {
			break // ECHILD
		}
	}
	t.group, t.timed = 0, 0
}

// KillAfter kills one process if that has not ended before; to be called off with what
// it returns. There is one such at a time.
func (t *Tracer) KillAfter(pid int, after time.Duration) (callOff func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timed = pid
	timer := time.AfterFunc(after, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.timed == pid {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	})
	return func() { timer.Stop() }
}

// Start executes path in a session of its own, traced, and returns at its exec
// stop.
func (t *Tracer) Start(path string, argv, env []string, dir string, files [3]uintptr) (pid int, err error) {
	pid, err = syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Dir:   dir,
		Env:   env,
		Files: files[:],
		Sys:   &syscall.SysProcAttr{Ptrace: true, Setsid: true, Pdeathsig: unix.SIGKILL},
	})
	if err != nil {
		return 0, fmt.Errorf("execute %s: %w", path, err)
	}
	t.mu.Lock()
	t.group = pid
	if t.killed {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	t.mu.Unlock()
	ws, err := t.Wait(pid)
	if err != nil {
		return 0, err
	}
	if sig := ws.StopSignal(); sig != unix.SIGTRAP {
		// The kernel could not load it, and had nothing left to go back to
		// (fs/binfmt_elf.c, load_elf_binary; fs/exec.c, bprm_execve).
		return 0, &EndedError{unix.WaitStatus(sig)}
	}
	if err := unix.PtraceSetOptions(pid, traceOptions); err != nil {
		return 0, fmt.Errorf("trace %s: %w", path, err)
	}
	return pid, nil
}

// Wait returns at the next stop of pid, or with an *EndedError.
func (t *Tracer) Wait(pid int) (unix.WaitStatus, error) {
	for {
		// Looking first and collecting under the lock keeps Kill from meeting a
		// pid that has been given to another process in between.
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT|unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for process %d: %w", pid, err)
		}
		ws, collected := t.collect(pid)
		switch {
		case !collected: // a stop that was over again
		case ws.Stopped():
			return ws, nil
		default:
			return ws, &EndedError{ws}
		}
	}
}

// collect takes the status of pid, if there is one.
func (t *Tracer) collect(pid int) (ws unix.WaitStatus, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	got, err := unix.Wait4(pid, &ws, unix.WALL|unix.WUNTRACED|unix.WNOHANG, nil)
	if err != nil || got != pid {
		return 0, false
	}
	if !ws.Stopped() {
		if pid == t.timed {
			t.timed = 0
		}
		if !groupAlive(t.group) {
			t.group = 0
		}
	}
	return ws, true
}

// groupAlive reports whether children of ours are left in a process group.
func groupAlive(group int) bool {
	return unix.Waitid(unix.P_PGID, group, nil,
		unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT|unix.WNOHANG|unix.WALL, nil) == nil
}

// Cont lets pid run to its next stop and returns what it is; sig is delivered.
func (t *Tracer) Cont(pid, sig int) (unix.WaitStatus, error) {
	if err := unix.PtraceCont(pid, sig); err != nil {
		return 0, t.gone(pid, err)
	}
	return t.Wait(pid)
}

// toSyscall is Cont that also stops at both ends of a system call.
func (t *Tracer) toSyscall(pid, sig int) (unix.WaitStatus, error) {
	if err := unix.PtraceSyscall(pid, sig); err != nil {
		return 0, t.gone(pid, err)
	}
	return t.Wait(pid)
}

// gone turns ESRCH, the answer for a process that was killed while it was
// stopped, into how it ended.
func (t *Tracer) gone(pid int, err error) error {
	if err != unix.ESRCH {
		return fmt.Errorf("resume process %d: %w", pid, err)
	}
	for {
		if _, err := t.Wait(pid); err != nil {
			return err
		}
	}
}

// Discard kills and reaps one process.
func (t *Tracer) Discard(pid int) {
	_ = unix.Kill(pid, unix.SIGKILL) // its pid is still ours: nobody has reaped it
	for {
		if _, err := t.Wait(pid); err != nil {
			return
		}
	}
}

// Detach leaves a stopped process to itself; sig is delivered to it, if not 0
// (ptrace(2), PTRACE_DETACH).
func (t *Tracer) Detach(pid int, sig unix.Signal) error {
	if _, err := ptrace(unix.PTRACE_DETACH, pid, 0, uintptr(sig)); err != nil {
		return t.gone(pid, err)
	}
	return nil
}

// disown leaves the processes to the caller, who kills and reaps them itself.
func (t *Tracer) disown() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.group = 0
}
