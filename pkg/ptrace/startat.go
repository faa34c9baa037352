package ptrace

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/residentctl/residentctl/internal/problem"
)

// StartOptions are those of StartAt.
type StartOptions struct {
	SoftBreakpoint bool          // INT3 even where there are debug registers
	Timeout        time.Duration // DefaultTimeout if 0
	Dir            string        // the working directory, "/" if empty
	Stdout, Stderr *os.File      // /dev/null if nil
}

// StartAt executes path with argv and env and lets it run until it is about to
// execute the instruction at ip, an address that need not be mapped yet. It is
// for trial starts. The errors are ErrStartedNormally if the process executes
// another program before, *EndedError if it ends, and problem.Refused.
func StartAt(ctx context.Context, path string, argv, env []string, ip uint64, opts StartOptions) (*Process, error) {
	if opts.Timeout == 0 {
		opts.Timeout = DefaultTimeout
	}
	ctx, cancel := WithTimeout(ctx, opts.Timeout, "it is not started")
	defer cancel()
	t := NewTracer()
	var p *Process
	err := t.Run(ctx, func() (err error) {
		p, err = t.startAt(path, argv, env, ip, opts)
		return err
	})
	if err != nil {
		t.End()
		return nil, fmt.Errorf("start %s up to %#x: %w", path, ip, err)
	}
	return p, nil
}

// startAt is StartAt on the tracer's thread.
func (t *Tracer) startAt(path string, argv, env []string, ip uint64, opts StartOptions) (*Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	files := [3]uintptr{null.Fd(), null.Fd(), null.Fd()}
	if opts.Stdout != nil {
		files[1] = opts.Stdout.Fd()
	}
	if opts.Stderr != nil {
		files[2] = opts.Stderr.Fd()
	}
	dir := opts.Dir
	if dir == "" {
		dir = "/"
	}
	pid, err := t.Start(path, argv, env, dir, files)
	if err != nil {
		return nil, err
	}
	if err := AllowVfork(pid); err != nil {
		return nil, err
	}
	soft, err := t.SoftBreakpoints(pid)
	if err != nil {
		return nil, err
	}
	var b *Breakpoint
	if soft || opts.SoftBreakpoint {
		b, err = t.whenMapped(pid, ip)
	} else {
		b, err = SetBreakpoint(pid, ip, false)
	}
	if err != nil {
		return nil, err
	}
	if err := t.RunTo(b); err != nil {
		return nil, err
	}
	p, err := t.Process(pid)
	if err != nil {
		return nil, err
	}
	return p, b.Remove(&p.Regs)
}

// DefaultTimeout is how long a process may take to come to its point.
const DefaultTimeout = 30 * time.Second

// WithTimeout is context.WithTimeout with what has not been reached then as the
// reason: problem.Refused.
func WithTimeout(ctx context.Context, timeout time.Duration, what string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, timeout, problem.Refusef("%s after %v", what, timeout).
		WithHint("try again later if the machine is busy"))
}
