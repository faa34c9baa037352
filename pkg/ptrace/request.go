package ptrace

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Regs are a process's general registers (struct user_regs_struct,
// arch/x86/include/asm/user_64.h).
type Regs = unix.PtraceRegs

// Regs returns the registers of a stopped process.
func (t *Tracer) Regs(pid int) (regs Regs, err error) {
	if err := unix.PtraceGetRegs(pid, &regs); err != nil {
		return regs, t.gone(pid, err)
	}
	return regs, nil
}

// SetRegs sets the registers of a stopped process.
func (t *Tracer) SetRegs(pid int, regs *Regs) error {
	if err := unix.PtraceSetRegs(pid, regs); err != nil {
		return t.gone(pid, err)
	}
	return nil
}

// AtExec reports whether a stop is that of a process which has just executed
// something.
func AtExec(ws unix.WaitStatus) bool { return event(ws) == unix.PTRACE_EVENT_EXEC }

// AtFilter reports whether a stop is that of a filter (Filter), before a call.
func AtFilter(ws unix.WaitStatus) bool { return event(ws) == unix.PTRACE_EVENT_SECCOMP }

// isSyscall reports whether a stop is a system call's.
func isSyscall(ws unix.WaitStatus) bool {
	return ws.Stopped() && ws.StopSignal() == unix.SIGTRAP|0x80
}

// event is the PTRACE_EVENT_ number of a stop, or 0.
func event(ws unix.WaitStatus) int { return int(ws >> 16) }

// isTrap reports whether a stop is that before SIGTRAP is delivered: by a breakpoint, a single
// step, or sent.
func isTrap(ws unix.WaitStatus) bool {
	return ws.Stopped() && ws.StopSignal() == unix.SIGTRAP && event(ws) == 0
}

// SyscallInfo is struct ptrace_syscall_info (include/uapi/linux/ptrace.h):
// one end of a system call.
type SyscallInfo struct {
	Op   uint8 // unix.PTRACE_SYSCALL_INFO_ENTRY, or another end
	_    [3]uint8
	Arch uint32 // unix.AUDIT_ARCH_X86_64, or another table of numbers
	IP   uint64
	SP   uint64
	// At the entry the number and the arguments; at the exit the result, and
	// in the lowest byte of the next word whether it is an error.
	Data [8]uint64
}

// Entry reports whether the call is about to be made, else it has been.
func (i *SyscallInfo) Entry() bool { return i.Op == unix.PTRACE_SYSCALL_INFO_ENTRY }

// Number returns the call's, at its entry.
func (i *SyscallInfo) Number() uint64 { return i.Data[0] }

// Arg returns the argument of number n, from 0 on, at the call's entry.
func (i *SyscallInfo) Arg(n int) uint64 { return i.Data[1+n] }

// Result returns what the call returned, -errno for an error, at its exit.
func (i *SyscallInfo) Result() int64 { return int64(i.Data[0]) }

// syscall is the end of a system call at which a process is stopped.
func (t *Tracer) syscall(pid int) (info SyscallInfo, err error) {
	_, err = ptrace(unix.PTRACE_GET_SYSCALL_INFO, pid, unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)))
	if err != nil {
		return info, t.gone(pid, err)
	}
	return info, nil
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

// Rseq returns what a stopped process has registered with rseq(2), zero where the kernel
// does not say it.
func Rseq(pid int) (c RseqConfig, err error) {
	_, err = ptrace(unix.PTRACE_GET_RSEQ_CONFIGURATION, pid, unsafe.Sizeof(c), uintptr(unsafe.Pointer(&c)))
	if err == unix.EIO { // a kernel before 5.13, or one without rseq
		err = nil
	}
	return c, err
}

// RobustList returns get_robust_list(2): where the list starts and its head's size in bytes.
func RobustList(pid int) (head, size uint64, err error) {
	_, _, errno := unix.Syscall(unix.SYS_GET_ROBUST_LIST, uintptr(pid),
		uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return 0, 0, fmt.Errorf("get_robust_list: %w", errno)
	}
	return head, size, nil
}

// AllowVfork lets a process have a child that is not traced, in vfork's way: a
// launcher's that sets /proc/self/exe.
func AllowVfork(pid int) error {
	return unix.PtraceSetOptions(pid, traceOptions&^unix.PTRACE_O_TRACEVFORK)
}

// SignalMask returns the signals that a stopped process has blocked, as a bit mask.
func SignalMask(pid int) (mask uint64, err error) {
	_, err = ptrace(unix.PTRACE_GETSIGMASK, pid, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask)))
	return mask, err
}

// SetSignalMask has a stopped process block these signals and no others.
func SetSignalMask(pid int, mask uint64) error {
	_, err := ptrace(unix.PTRACE_SETSIGMASK, pid, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask)))
	return err
}

// FloatControl returns the control words of a stopped process's floating-point units, which
// unlike their data are alive between two functions: x87's and SSE's (struct
// user_fpregs_struct, arch/x86/include/asm/user_64.h).
func FloatControl(pid int) (x87 uint16, sse uint32, err error) {
	var regs struct {
		cwd    uint16
		_      [22]byte
		mxcsr  uint32
		unused [484]byte
	}
	const getFPRegs = 14 // PTRACE_GETFPREGS
	if _, err := ptrace(getFPRegs, pid, 0, uintptr(unsafe.Pointer(&regs))); err != nil {
		return 0, 0, fmt.Errorf("read the floating-point registers of process %d: %w", pid, err)
	}
	return regs.cwd, regs.mxcsr, nil
}

func ptrace(request, pid int, addr, data uintptr) (uintptr, error) {
	r, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(pid), addr, data, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return r, nil
}
