package ptrace

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// Attach traces a child of this process that is stopped by SIGSTOP, as CRIU restores
// one, and ends that stop: from then on only the tracer holds it. Until Release it leads
// a process group of its own. The Process must be given up with Kill or Release; should
// this process end before, it is killed.
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
	if err == nil && group != pid {
		err = unix.Setpgid(pid, pid)
	}
	if err != nil {
		return nil, err
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
	if err := t.endStop(pid); err != nil {
		return nil, err
	}
	p, err := t.Process(pid)
	if err == nil && group != pid {
		p.group = group
	}
	return p, err
}

// endStop ends the stop by SIGSTOP of a process that is in it. It comes to a stop
// that says so (ptrace(2), PTRACE_EVENT_STOP), then to that before SIGCONT is delivered,
// which it never is, and has executed no instruction.
func (t *Tracer) endStop(pid int) error {
	if err := unix.Kill(pid, unix.SIGCONT); err != nil {
		return err
	}
	for {
		ws, err := t.Cont(pid, 0)
		if err != nil {
			return err
		}
		switch {
		case event(ws) == unix.PTRACE_EVENT_STOP:
		case ws.StopSignal() == unix.SIGCONT:
			return nil
		default:
			return fmt.Errorf("stopped by %s instead of %s", unix.SignalName(ws.StopSignal()), unix.SignalName(unix.SIGCONT))
		}
	}
}

// Release lets an attached process run, no longer traced and in the process group in
// which it was found. It is this process's child still, to be waited for.
func (p *Process) Release() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.tracer.Do(func() (err error) {
		p.tracer.disown()
		if p.group != 0 {
			// A parent may do that until its child executes something (setpgid(2)).
			err = unix.Setpgid(p.PID, p.group)
		}
		if err == nil {
			err = p.tracer.Detach(p.PID, 0)
		}
		if err != nil {
			p.tracer.Discard(p.PID)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("release process %d: %w", p.PID, err)
	}
	p.tracer.End()
	p.ended = true
	return nil
}
