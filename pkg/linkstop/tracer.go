package linkstop

import (
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// traceOptions are set at the first stop. EXITKILL: nothing that we trace
// outlives us. TRACESYSGOOD: a system call's stop cannot be taken for SIGTRAP.
const traceOptions = unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACEEXEC |
	unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACECLONE

// A tracer is an OS thread and the processes that it traces. They form one
// process group, led by the first: kill and wait reach all of them through it,
// even a twin whose pid is not known yet, and none of anybody else's.
//
// The thread lives until reap: ptrace(2) wants all calls from the thread that
// traces, and PR_SET_PDEATHSIG means the death of the thread that forked.
type tracer struct {
	calls chan func()

	mu     sync.Mutex
	group  int  // the process group, 0 when there is none (any more)
	killed bool // kill was called
	timed  int  // the process that killAfter may kill, 0 when it is reaped
}

func newTracer() *tracer {
	t := &tracer{calls: make(chan func())}
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		for call := range t.calls {
			call()
		}
	}()
	return t
}

// do runs f on the tracer's thread.
func (t *tracer) do(f func() error) (err error) {
	done := make(chan struct{})
	t.calls <- func() {
		defer close(done)
		err = f()
	}
	<-done
	return err
}

// end kills and reaps whatever is left and gives the thread up. It is the last
// call.
func (t *tracer) end() {
	t.kill()
	_ = t.do(func() error { t.reap(); return nil })
	close(t.calls)
}

// kill sends SIGKILL to every process of the tracer. It may be called at any
// time, by any goroutine. A clone under way either sees it or is hit by it:
// copy_process looks for signals under the lock under which the group is
// walked (kernel/fork.c).
func (t *tracer) kill() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.killed = true
	if t.group != 0 {
		_ = unix.Kill(-t.group, unix.SIGKILL)
	}
}

// reap waits until no process of the tracer is left.
func (t *tracer) reap() {
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

// killAfter kills one process if that has not ended before; to be called off with what
// it returns. There is one such at a time.
func (t *tracer) killAfter(pid int, after time.Duration) (callOff func()) {
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

// start executes path in a session of its own, traced, and returns at its exec
// stop.
func (t *tracer) start(path string, argv, env []string, dir string, files [3]uintptr) (pid int, err error) {
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
	ws, err := t.wait(pid)
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

// wait returns at the next stop of pid, or with an EndedError.
func (t *tracer) wait(pid int) (unix.WaitStatus, error) {
	for {
		// Looking first and collecting under the lock keeps kill from meeting a
		// pid that has been given to somebody else in between.
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
func (t *tracer) collect(pid int) (ws unix.WaitStatus, ok bool) {
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

// groupAlive tells whether children of ours are left in a process group.
func groupAlive(group int) bool {
	return unix.Waitid(unix.P_PGID, group, nil,
		unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT|unix.WNOHANG|unix.WALL, nil) == nil
}

// cont lets pid run to its next stop and returns what it is; sig is delivered.
func (t *tracer) cont(pid, sig int) (unix.WaitStatus, error) {
	if err := unix.PtraceCont(pid, sig); err != nil {
		return 0, t.gone(pid, err)
	}
	return t.wait(pid)
}

// toSyscall is cont that also stops at both ends of a system call.
func (t *tracer) toSyscall(pid, sig int) (unix.WaitStatus, error) {
	if err := unix.PtraceSyscall(pid, sig); err != nil {
		return 0, t.gone(pid, err)
	}
	return t.wait(pid)
}

// gone turns ESRCH, the answer for a process that was killed while it was
// stopped, into how it ended.
func (t *tracer) gone(pid int, err error) error {
	if err != unix.ESRCH {
		return fmt.Errorf("resume process %d: %w", pid, err)
	}
	for {
		if _, err := t.wait(pid); err != nil {
			return err
		}
	}
}

// discard kills and reaps one process.
func (t *tracer) discard(pid int) {
	_ = unix.Kill(pid, unix.SIGKILL) // its pid is still ours: nobody has reaped it
	for {
		if _, err := t.wait(pid); err != nil {
			return
		}
	}
}

// isSyscall tells whether a stop is a system call's.
func isSyscall(ws unix.WaitStatus) bool {
	return ws.Stopped() && ws.StopSignal() == unix.SIGTRAP|0x80
}

// event is the PTRACE_EVENT_ number of a stop, or 0.
func event(ws unix.WaitStatus) int { return int(ws >> 16) }

// syscallInfo is struct ptrace_syscall_info (include/uapi/linux/ptrace.h).
type syscallInfo struct {
	op   uint8
	_    [3]uint8
	arch uint32
	ip   uint64
	sp   uint64
	// At the entry the number and the arguments; at the exit the result, and
	// in the lowest byte of the next word whether it is an error.
	data [8]uint64
}

func (i *syscallInfo) entry() bool      { return i.op == unix.PTRACE_SYSCALL_INFO_ENTRY }
func (i *syscallInfo) nr() uint64       { return i.data[0] }
func (i *syscallInfo) arg(n int) uint64 { return i.data[1+n] }
func (i *syscallInfo) result() int64    { return int64(i.data[0]) }

func getSyscallInfo(pid int) (info syscallInfo, err error) {
	_, err = ptrace(unix.PTRACE_GET_SYSCALL_INFO, pid, unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)))
	return info, err
}

// RseqConfig is struct ptrace_rseq_configuration (include/uapi/linux/ptrace.h):
// what a thread has registered with rseq(2).
type RseqConfig struct {
	Addr  uint64
	Len   uint32
	Sig   uint32
	Flags uint32
	_     uint32
}

func getRseq(pid int) (c RseqConfig, err error) {
	_, err = ptrace(unix.PTRACE_GET_RSEQ_CONFIGURATION, pid, unsafe.Sizeof(c), uintptr(unsafe.Pointer(&c)))
	if err == unix.EIO { // a kernel before 5.13, or one without rseq
		err = nil
	}
	return c, err
}

// getRobustList is get_robust_list(2).
func getRobustList(pid int) (head, size uint64, err error) {
	_, _, errno := unix.Syscall(unix.SYS_GET_ROBUST_LIST, uintptr(pid),
		uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return 0, 0, fmt.Errorf("get_robust_list: %w", errno)
	}
	return head, size, nil
}

// letLauncher lets a process have a child that is not traced, in vfork's way: a
// launcher's that sets /proc/self/exe.
func letLauncher(pid int) error {
	return unix.PtraceSetOptions(pid, traceOptions&^unix.PTRACE_O_TRACEVFORK)
}

func ptrace(request, pid int, addr, data uintptr) (uintptr, error) {
	r, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(pid), addr, data, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return r, nil
}
