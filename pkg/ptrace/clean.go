package ptrace

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// Clean takes from a process that is at an exec stop, with its stack pointer at sp, what an exec
// leaves of its caller's and what would be in each start from its image: open descriptors beyond
// the standard ones, a personality without randomisation, blocked and ignored signals (nohup
// leaves SIGHUP ignored). The personality counts from the next exec on (ExecAgain). insn is the
// address of a SYSCALL instruction.
func (t *Tracer) Clean(pid int, insn, sp uint64) error {
	if _, err := t.Inject(pid, insn, unix.SYS_CLOSE_RANGE, 3, 1<<32-1, 0); err != nil {
		return fmt.Errorf("close descriptors (requires Linux 5.9): %w", err)
	}
	if _, err := t.Inject(pid, insn, unix.SYS_PERSONALITY, 0); err != nil {
		return fmt.Errorf("reset the personality: %w", err)
	}
	if err := SetSignalMask(pid, 0); err != nil {
		return fmt.Errorf("unblock signals: %w", err)
	}
	status, err := linux.ReadStatus(pid)
	if err != nil {
		return err
	}
	// Below a fresh stack pointer is nothing but zeros, which is what a
	// struct sigaction with SIG_DFL looks like.
	action := sp - 1024
	for sig := uint64(1); sig <= 64; sig++ {
		if status.Ignored>>(sig-1)&1 == 0 {
			continue
		}
		if _, err := t.Inject(pid, insn, unix.SYS_RT_SIGACTION, sig, action, 0, 8); err != nil {
			return fmt.Errorf("reset signal %d: %w", sig, err)
		}
	}
	return nil
}

// AllowAny lets any process of the user's trace a stopped one. With kernel.yama.ptrace_scope=1
// only its ancestors may, and CRIU is none of a template's. Without Yama the call fails with
// EINVAL, and root needs none.
func (t *Tracer) AllowAny(pid int, insn uint64) {
	if os.Geteuid() != 0 {
		_, _ = t.Inject(pid, insn, unix.SYS_PRCTL, unix.PR_SET_PTRACER, unix.PR_SET_PTRACER_ANY)
	}
}

// ExecAgain has a process that is at an exec stop execute the same program once more, with path,
// argv and environment as they stand on its initial stack, and returns the registers of the new
// one.
func (t *Tracer) ExecAgain(pid int, insn uint64, stack linux.InitialStack) (regs Regs, err error) {
	if _, err := t.Inject(pid, insn, unix.SYS_EXECVE, stack.Execfn, stack.Argv, stack.Envp); err != nil {
		return regs, fmt.Errorf("execute the program again: %w", err)
	}
	return t.Regs(pid)
}
