package ptrace

import (
	"context"
	"fmt"
	"os"

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
	t := NewTracer()
	var p *Process
	err := t.Run(ctx, func() (err error) {
		p, err = t.attach(pid)
		return err
	})
	if err != nil {
		t.End()
		return nil, fmt.Errorf("attach to process %d: %w", pid, err)
	}
	return p, nil
}

// attach is Attach on the tracer's thread. A process that is stopped already
// stops once more, for its tracer (ptrace(2), PTRACE_SEIZE).
func (t *Tracer) attach(pid int) (*Process, error) {
	group, err := unix.Getpgid(pid)
	if err != nil {
		return nil, err
	}
	if group != pid {
		return nil, fmt.Errorf("it belongs to process group %d", group)
	}
	if _, err := ptrace(unix.PTRACE_SEIZE, pid, 0, traceOptions); err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.group = pid
	if t.killed {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	t.mu.Unlock()
	if _, err := t.Wait(pid); err != nil {
		return nil, err
	}
	return t.Process(pid)
}

// Adopt gives an attached process this process's files as its descriptors 0, 1
// and 2, and its working directory. They are the same open files, offsets and all
// (pidfd_getfd(2), Linux 5.6), which the process fetches itself.
func (p *Process) Adopt(files [3]*os.File) error {
	dir, err := os.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	err = p.tracer.Do(func() error {
		maps, err := linux.ReadMaps(p.PID)
		if err != nil {
			return err
		}
		insn, err := FindSyscall(p.PID, maps)
		if err != nil {
			return err
		}
		us, err := p.tracer.Inject(p.PID, insn, unix.SYS_PIDFD_OPEN, uint64(os.Getpid()), 0)
		if err != nil {
			return err
		}
		fetch := func(f *os.File, use func(fd uint64) error) error {
			fd, err := p.tracer.Inject(p.PID, insn, unix.SYS_PIDFD_GETFD, us, uint64(f.Fd()), 0)
			if err == nil {
				err = use(fd)
			}
			if err == nil {
				_, err = p.tracer.Inject(p.PID, insn, unix.SYS_CLOSE, fd)
			}
			return err
		}
		for i, f := range files {
			err := fetch(f, func(fd uint64) error {
				_, err := p.tracer.Inject(p.PID, insn, unix.SYS_DUP2, fd, uint64(i))
				return err
			})
			if err != nil {
				return err
			}
		}
		err = fetch(dir, func(fd uint64) error {
			_, err := p.tracer.Inject(p.PID, insn, unix.SYS_FCHDIR, fd)
			return err
		})
		if err != nil {
			return err
		}
		_, err = p.tracer.Inject(p.PID, insn, unix.SYS_CLOSE, us)
		return err
	})
	if err != nil {
		return fmt.Errorf("hand descriptors and working directory to process %d: %w", p.PID, err)
	}
	return nil
}

// Release lets an attached process run, no longer traced. It is this process's
// child still, to be waited for.
func (p *Process) Release() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.tracer.Do(func() error {
		if err := p.tracer.Detach(p.PID, 0); err != nil {
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
	p.tracer.End()
	p.ended = true
	return nil
}
