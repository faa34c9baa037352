package linkstop

import (
	"context"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// Attach traces a child of this process that is stopped by SIGSTOP and leads
// its process group, as CRIU restores one. The Process must be given up with
// Kill or Release; should this process end before, it is killed.
func Attach(ctx context.Context, pid int) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	p := &Process{PID: pid, tracer: newTracer()}
	unwatch := context.AfterFunc(ctx, p.tracer.kill)
	err := p.tracer.do(p.attach)
	unwatch()
	if err != nil {
		p.tracer.end()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("attach to process %d: %w", pid, err)
	}
	return p, nil
}

// attach is Attach on the tracer's thread. A process that is stopped already
// stops once more, for its tracer (ptrace(2), PTRACE_SEIZE).
func (p *Process) attach() error {
	group, err := unix.Getpgid(p.PID)
	if err != nil {
		return err
	}
	if group != p.PID {
		return fmt.Errorf("it belongs to process group %d", group)
	}
	if _, err := ptrace(unix.PTRACE_SEIZE, p.PID, 0, traceOptions); err != nil {
		return err
	}
	p.tracer.mu.Lock()
	p.tracer.group = p.PID
	if p.tracer.killed {
		_ = unix.Kill(p.PID, unix.SIGKILL)
	}
	p.tracer.mu.Unlock()
	if _, err := p.tracer.wait(p.PID); err != nil {
		return err
	}
	return p.look()
}

// look reads the registers and what is registered with the kernel.
func (p *Process) look() (err error) {
	if p.Regs, err = p.tracer.regs64(p.PID); err != nil {
		return err
	}
	if p.Rseq, err = getRseq(p.PID); err != nil {
		return fmt.Errorf("read the rseq registration: %w", err)
	}
	p.RobustHead, p.RobustLen, err = getRobustList(p.PID)
	return err
}

// FloatControl are the control words of the floating-point units, which unlike
// their data are alive between two functions: x87's and SSE's (struct
// user_fpregs_struct, arch/x86/include/asm/user_64.h).
func (p *Process) FloatControl() (x87 uint16, sse uint32, err error) {
	var regs struct {
		cwd    uint16
		_      [22]byte
		mxcsr  uint32
		unused [484]byte
	}
	const getFPRegs = 14 // PTRACE_GETFPREGS
	err = p.tracer.do(func() error {
		_, err := ptrace(getFPRegs, p.PID, 0, uintptr(unsafe.Pointer(&regs)))
		return err
	})
	if err != nil {
		err = fmt.Errorf("read the floating-point registers of process %d: %w", p.PID, err)
	}
	return regs.cwd, regs.mxcsr, err
}

// Adopt gives an attached process this process's files as its descriptors 0, 1
// and 2, and its current folder. They are the same open files, offsets and all
// (pidfd_getfd(2), Linux 5.6), which the process fetches itself.
func (p *Process) Adopt(files [3]*os.File) error {
	dir, err := os.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	err = p.tracer.do(func() error {
		maps, err := linux.ReadMaps(p.PID)
		if err != nil {
			return err
		}
		insn, err := findSyscall(p.PID, maps)
		if err != nil {
			return err
		}
		us, err := p.tracer.inject(p.PID, insn, unix.SYS_PIDFD_OPEN, uint64(os.Getpid()), 0)
		if err != nil {
			return err
		}
		fetch := func(f *os.File, use func(fd uint64) error) error {
			fd, err := p.tracer.inject(p.PID, insn, unix.SYS_PIDFD_GETFD, us, uint64(f.Fd()), 0)
			if err == nil {
				err = use(fd)
			}
			if err == nil {
				_, err = p.tracer.inject(p.PID, insn, unix.SYS_CLOSE, fd)
			}
			return err
		}
		for i, f := range files {
			err := fetch(f, func(fd uint64) error {
				_, err := p.tracer.inject(p.PID, insn, unix.SYS_DUP2, fd, uint64(i))
				return err
			})
			if err != nil {
				return err
			}
		}
		err = fetch(dir, func(fd uint64) error {
			_, err := p.tracer.inject(p.PID, insn, unix.SYS_FCHDIR, fd)
			return err
		})
		if err != nil {
			return err
		}
		_, err = p.tracer.inject(p.PID, insn, unix.SYS_CLOSE, us)
		return err
	})
	if err != nil {
		return fmt.Errorf("hand descriptors and folder to process %d: %w", p.PID, err)
	}
	return nil
}

// Release lets an attached process run, traced by nobody. It is this process's
// child still, to be waited for.
func (p *Process) Release() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.tracer.do(func() error {
		if _, err := ptrace(unix.PTRACE_DETACH, p.PID, 0, 0); err != nil {
			return err
		}
		// It goes back to the stop in which it was found.
		err := unix.Kill(p.PID, unix.SIGCONT)
		p.tracer.mu.Lock()
		p.tracer.group = 0
		p.tracer.mu.Unlock()
		return err
	})
	if err != nil {
		return fmt.Errorf("release process %d: %w", p.PID, err)
	}
	p.tracer.end()
	p.ended = true
	return nil
}
