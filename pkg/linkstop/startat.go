package linkstop

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// StartOptions are those of StartAt.
type StartOptions struct {
	SoftBreakpoint bool          // INT3 even where there are debug registers
	Timeout        time.Duration // DefaultTimeout if 0
	Dir            string        // the current folder, "/" if empty
	Stdout, Stderr *os.File      // /dev/null if nil
}

// A Process stands where StartAt stopped it.
type Process struct {
	PID  int
	Regs unix.PtraceRegs // Fs_base among them

	// What it has registered with the kernel.
	Rseq                  RseqConfig
	RobustHead, RobustLen uint64

	tracer *tracer
	mu     sync.Mutex
	ended  bool
}

// StartAt executes path with argv and env and lets it run until it is about to
// execute the instruction at ip, an address that need not be mapped yet. It is
// for trial starts. The errors are ErrStartedNormally if the process executes
// another program before, *EndedError if it ends, and *Refusal.
func StartAt(ctx context.Context, path string, argv, env []string, ip uint64, opts StartOptions) (*Process, error) {
	if opts.Timeout == 0 {
		opts.Timeout = DefaultTimeout
	}
	ctx, cancel := withTimeout(ctx, opts.Timeout, "it is not started")
	defer cancel()
	p := &Process{tracer: newTracer()}
	unwatch := context.AfterFunc(ctx, p.tracer.kill)
	err := p.tracer.do(func() error { return p.start(path, argv, env, ip, opts) })
	unwatch()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		p.tracer.end()
		return nil, fmt.Errorf("start %s up to %#x: %w", path, ip, err)
	}
	return p, nil
}

// start is StartAt on the tracer's thread.
func (p *Process) start(path string, argv, env []string, ip uint64, opts StartOptions) (err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
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
	if p.PID, err = p.tracer.start(path, argv, env, dir, files); err != nil {
		return err
	}
	if err := letLauncher(p.PID); err != nil {
		return err
	}
	soft, err := p.tracer.softBreakpoints(p.PID)
	if err != nil {
		return err
	}
	var b *breakpoint
	if soft || opts.SoftBreakpoint {
		b, err = p.tracer.whenMapped(p.PID, ip)
	} else {
		b, err = setBreakpoint(p.PID, ip, false)
	}
	if err != nil {
		return err
	}
	if err := p.tracer.runTo(b); err != nil {
		return err
	}
	if err := unix.PtraceGetRegs(p.PID, &p.Regs); err != nil {
		return p.tracer.gone(p.PID, err)
	}
	if p.Rseq, err = getRseq(p.PID); err != nil {
		return fmt.Errorf("read the rseq registration: %w", err)
	}
	if p.RobustHead, p.RobustLen, err = getRobustList(p.PID); err != nil {
		return err
	}
	return b.remove(&p.Regs)
}

// anotherProcess refuses a process that has made another one, which is traced too, so
// that they would wait for each other.
func anotherProcess() error { return refusef("it starts another process before the stop point") }

// whenMapped lets a process run from system call to system call until there is
// code at addr, and sets an INT3 there.
func (t *tracer) whenMapped(pid int, addr uint64) (*breakpoint, error) {
	sig := 0
	for {
		if linux.ReadMem(pid, addr, make([]byte, 1)) == nil {
			return setBreakpoint(pid, addr, true)
		}
		ws, err := t.toSyscall(pid, sig)
		if err != nil {
			return nil, err
		}
		sig = 0
		switch {
		case event(ws) == unix.PTRACE_EVENT_EXEC:
			return nil, ErrStartedNormally
		case event(ws) != 0:
			return nil, anotherProcess()
		case !isSyscall(ws):
			sig = int(ws.StopSignal())
		}
	}
}

// Maps are the process's mappings.
func (p *Process) Maps() ([]linux.Mapping, error) { return linux.ReadMaps(p.PID) }

// ReadMem fills buf from addr on.
func (p *Process) ReadMem(addr uint64, buf []byte) error { return linux.ReadMem(p.PID, addr, buf) }

// Kill ends and reaps the process. It may be called more than once.
func (p *Process) Kill() error {
	p.tracer.kill()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.tracer.end()
		p.ended = true
	}
	return nil
}
