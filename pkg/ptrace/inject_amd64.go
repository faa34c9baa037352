package ptrace

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

// syscallInsn is the SYSCALL instruction.
var syscallInsn = []byte{0x0f, 0x05}

// FindSyscall looks for a SYSCALL instruction in what the kernel has mapped
// executable at an exec stop: the vDSO first, for it is two pages only.
func FindSyscall(pid int, maps []linux.Mapping) (uint64, error) {
	for _, vdso := range []bool{true, false} {
		for _, m := range maps {
			if m.Prot&unix.PROT_EXEC == 0 || m.Path == "[vsyscall]" || (m.Path == linux.VDSO) != vdso {
				continue
			}
			text := make([]byte, m.Len())
			if err := linux.ReadMem(pid, m.Start, text); err != nil {
				continue // the last page of a file that has none: the next one may do
			}
			if i := bytes.Index(text, syscallInsn); i >= 0 {
				return m.Start + uint64(i), nil
			}
		}
	}
	return 0, problem.Refusef("no system call instruction in the dynamic linker or the vDSO")
}

// Inject has the stopped process make a system call, at the address of a
// SYSCALL instruction, and puts its registers back (but for execve, which
// makes new ones). It must be in a stop from which it returns to user space
// with the registers given: not in a PTRACE_EVENT stop, where a system call
// has still to write its result. An error of the call's is its unix.Errno.
func (t *Tracer) Inject(pid int, insn uint64, nr uint64, args ...uint64) (uint64, error) {
	saved, err := t.Regs(pid)
	if err != nil {
		return 0, err
	}
	regs := saved
	regs.Rip, regs.Rax = insn, nr
	regs.Orig_rax = ^uint64(0) // no system call to restart
	for i, p := range []*uint64{&regs.Rdi, &regs.Rsi, &regs.Rdx, &regs.R10, &regs.R8, &regs.R9} {
		if i < len(args) {
			*p = args[i]
		}
	}
	if err := t.SetRegs(pid, &regs); err != nil {
		return 0, err
	}
	// Entry, perhaps an event (exec, fork), exit.
	for entered := false; ; {
		ws, err := t.toSyscall(pid, 0)
		if err != nil {
			return 0, err
		}
		if isSyscall(ws) {
			if entered {
				break
			}
			entered = true
		} else if event(ws) == 0 {
			return 0, fmt.Errorf("inject system call %d: stopped by %s", nr, unix.SignalName(ws.StopSignal()))
		}
	}
	if regs, err = t.Regs(pid); err != nil {
		return 0, err
	}
	ret := int64(regs.Rax)
	failed := ret < 0 && ret > -4096
	if nr == unix.SYS_EXECVE && !failed {
		return 0, nil
	}
	saved.Orig_rax = ^uint64(0)
	if err := t.SetRegs(pid, &saved); err != nil {
		return 0, err
	}
	if failed {
		return 0, unix.Errno(-ret)
	}
	return regs.Rax, nil
}

// Regs64 returns the registers of a stopped process. It refuses one that is not in
// 64-bit mode (cs is 0x33 there, __USER_CS of arch/x86/include/asm/segment.h),
// since the injected system calls are 64-bit ones.
func (t *Tracer) Regs64(pid int) (regs Regs, err error) {
	if regs, err = t.Regs(pid); err != nil {
		return regs, err
	}
	if regs.Cs != 0x33 {
		return regs, problem.Refusef("it is not a 64-bit program")
	}
	return regs, nil
}
