package ptrace

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Look is shown both ends of each system call of a tree of processes, with the thread
// that makes it. At the entry of a call it may say that the thread has arrived where it was
// to come to; an error ends the tree.
type Look func(tid int, call SyscallInfo) (arrived bool, err error)

// WatchTree lets a process that is at an exec stop run, with all that it makes, until look
// says that one of its threads has arrived. That call is not made: the thread stands after it,
// at the exit of a system call that did nothing. All other threads and processes are killed
// then, and the tracer is for the one that is left; it becomes our child, as all that are
// orphaned from now on (PR_SET_CHILD_SUBREAPER, prctl(2)). If the first process ends before,
// that is an *EndedError; with it, as with any error, none of the others is left.
func (t *Tracer) WatchTree(first int, look Look) (tid int, err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("become the parent of orphans: %w", err)
	}
	w := &tree{Tracer: t, threads: map[int]bool{first: false}}
	defer func() {
		if err != nil {
			_ = w.killOthers(0)
		}
	}()
	if err := w.resume(first, 0); err != nil {
		return 0, err
	}
	for {
		tid, ws, err := w.nextButCalls()
		switch {
		case err != nil:
			return 0, err
		case !ws.Stopped():
			delete(w.threads, tid)
			if tid == first {
				return 0, &EndedError{ws}
			}
			continue
		case isSyscall(ws):
			call, err := t.syscall(tid)
			if err != nil {
				return 0, err
			}
			arrived, err := look(tid, call)
			if err != nil {
				return 0, err
			}
			if arrived {
				return tid, w.keepOnly(tid)
			}
		}
		if err := w.resume(tid, w.happened(tid, ws)); err != nil {
			return 0, err
		}
	}
}

// tree is what runs.
type tree struct {
	*Tracer
	threads map[int]bool // by id; true for one whose first stop has still to come
}

// resume lets a thread run to the next end of a system call. One that was killed is reported.
func (w *tree) resume(tid, sig int) error {
	if err := unix.PtraceSyscall(tid, sig); err != nil && err != unix.ESRCH {
		return fmt.Errorf("resume process %d: %w", tid, err)
	}
	return nil
}

// next waits for what happens next to any of the threads. A new one may be heard of before the
// one that made it is.
func (w *tree) next() (tid int, ws unix.WaitStatus, err error) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT|unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, 0, fmt.Errorf("wait for a process: %w", err)
		}
		// siginfo_t, si_pid (include/uapi/asm-generic/siginfo.h): after three ints and their padding.
		tid := int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), 16)))
		if ws, ok := w.collect(tid); ok {
			return tid, ws, nil
		}
	}
}

// nextButCalls is next, but for the stops of OnCall.
func (w *tree) nextButCalls() (tid int, ws unix.WaitStatus, err error) {
	for {
		if tid, ws, err = w.next(); err != nil || !isTrap(ws) {
			return tid, ws, err
		}
		is, after, err := w.passCall(tid)
		if err != nil || !is {
			return tid, ws, err
		}
		if !isTrap(after) {
			return tid, after, nil
		}
		if err := w.resume(tid, 0); err != nil {
			return tid, ws, err
		}
	}
}

// happened takes in a stop, and returns the signal that is to be delivered.
func (w *tree) happened(tid int, ws unix.WaitStatus) (sig int) {
	fresh, known := w.threads[tid]
	w.threads[tid] = false
	switch event(ws) {
	case 0:
		sig = int(ws.StopSignal())
		if isSyscall(ws) || (fresh || !known) && sig == int(unix.SIGSTOP) {
			return 0 // a new tracee begins with it
		}
		return sig
	case unix.PTRACE_EVENT_FORK, unix.PTRACE_EVENT_VFORK, unix.PTRACE_EVENT_CLONE:
		if made, err := unix.PtraceGetEventMsg(tid); err == nil {
			if _, known := w.threads[int(made)]; !known {
				w.threads[int(made)] = true
			}
		}
	}
	return 0
}

// keepOnly brings a thread from the entry of a call to its exit, without the call, and kills
// all other processes. Other threads of its own process stay, since they cannot go without it.
func (w *tree) keepOnly(tid int) error {
	if err := w.skipCall(tid); err != nil {
		return err
	}
	if err := w.killOthers(tid); err != nil {
		return err
	}
	group, err := unix.Getpgid(tid)
	if err != nil {
		return fmt.Errorf("process group of %d: %w", tid, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.group = group
	if w.killed {
		_ = unix.Kill(-group, unix.SIGKILL)
	}
	return nil
}

// killOthers kills and collects all that runs but the process of one thread: all, if keep is 0.
func (w *tree) killOthers(keep int) error {
	delete(w.threads, keep)
	for other := range w.threads {
		// All are ours until they are collected, but for one that has executed: it has its
		// process's id now (execve(2) under ptrace).
		if ofSameProcess(other, keep) || unix.Kill(other, unix.SIGKILL) != nil {
			delete(w.threads, other)
		}
	}
	for len(w.threads) > 0 {
		other, ws, err := w.next()
		if err != nil {
			return err
		}
		if ws.Stopped() {
			if _, known := w.threads[other]; !known && !ofSameProcess(other, keep) { // made meanwhile
				w.threads[other] = true
				_ = unix.Kill(other, unix.SIGKILL)
			}
			_ = w.resume(other, 0)
			continue
		}
		delete(w.threads, other)
	}
	return nil
}

// skipCall has a thread at the entry of a call return from it without making it.
func (t *Tracer) skipCall(tid int) error {
	regs, err := t.Regs64(tid)
	if err != nil {
		return err
	}
	regs.Orig_rax = ^uint64(0)
	if err := t.SetRegs(tid, &regs); err != nil {
		return err
	}
	ws, err := t.toSyscall(tid, 0)
	if err == nil && !isSyscall(ws) {
		err = fmt.Errorf("skip a system call of process %d: stopped by %s", tid, unix.SignalName(ws.StopSignal()))
	}
	return err
}

// ofSameProcess reports whether two threads are of one process (proc_pid_task(5)).
func ofSameProcess(a, b int) bool {
	_, err := os.Lstat(fmt.Sprintf("/proc/%d/task/%d", a, b))
	return err == nil
}
