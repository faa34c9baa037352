package warmstop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/linkstop"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// The point's system call: prctl(2) with an option that no kernel has, and the version of
// include/residentctl.h.
const (
	PointOption  = 0x52455354
	PointVersion = 1
)

// DefaultTimeout is how long a program may take to come to its point.
const DefaultTimeout = 2 * time.Minute

// Options of Stop.
type Options struct {
	Path   string   // is executed, absolute
	Argv   []string // with these arguments, the first being its own name
	Env    []string
	Dir    string // in this directory
	Stderr *os.File
	// Terminals are the standard streams, bit 0 for 0, that are one terminal, of which what is
	// written to it goes to Stderr. The others are /dev/null, or Stderr.
	Terminals uint32
	// Ours reports whether a path is residentctl's own, so that the program's looking at it is
	// no matter; may be nil.
	Ours    func(path string) bool
	Allow   Allow         // may be nil
	Timeout time.Duration // DefaultTimeout if 0

	drained chan struct{} // closed when all is read that was written to the terminal; may be nil
}

// An Allow is told each path that the program has opened, and a path in /proc by which the same
// file can be opened again, before anything is read of it. An error ends the program and is
// returned.
type Allow func(path, opened string) error

// Stop starts the program and stops it at its point. When ctx ends before Stop returns, all
// processes are killed; afterwards the template is the caller's. The errors of a program that
// cannot become an image are problem.Refused, of one that ends before problem.Program.
func Stop(ctx context.Context, opts Options) (*Template, error) {
	if !filepath.IsAbs(opts.Path) {
		return nil, fmt.Errorf("stop %s at its point: the path is not absolute", opts.Path)
	}
	ctx, cancel := ptrace.WithTimeout(ctx, cmp.Or(opts.Timeout, DefaultTimeout), "it does not come to its point")
	defer cancel()
	opts.drained = make(chan struct{})
	t := &Template{tracer: ptrace.NewTracer()}
	if err := t.tracer.Run(ctx, func() error { return t.stop(opts) }); err != nil {
		t.tracer.End()
		if opts.Terminals != 0 { // the caller wants to know what was said last
			select {
			case <-opts.drained:
			case <-time.After(time.Second): // there was no terminal, or another process has it
			}
		}
		return nil, fmt.Errorf("stop %s at its point: %w", opts.Path, err)
	}
	return t, nil
}

// stop is the whole flow, on the tracer's thread.
func (t *Template) stop(opts Options) error {
	first, err := t.begin(opts)
	if err != nil {
		return err
	}
	r := newRecorder(first, opts)
	r.tracer, r.onTerminal = t.tracer, opts.Terminals
	pid, err := t.tracer.WatchTree(first, r.look)
	if err != nil {
		return endedBefore(opts.Path, err)
	}
	t.PID, t.Probes, t.Listed, t.Missed, t.Findings = pid, r.probes, r.listed(), r.missed, r.found
	t.ReadCPUs, t.ReadNetwork, t.ReadCache, t.ReadTerminals = r.cpus, r.network, r.cacheRead, r.terminals
	t.Variables = r.variables
	return t.arrive(r.start, opts.Terminals)
}

// begin executes the program, without anything of ours but the three standard descriptors,
// and moves its stack.
func (t *Template) begin(opts Options) (pid int, err error) {
	if pid, err = begin(t.tracer, opts); err != nil {
		return 0, err
	}
	regs, insn, err := t.atExec(pid)
	if err != nil {
		return 0, err
	}
	if err := linkstop.CheckExec(t.Auxv, false); err != nil {
		return 0, err
	}
	if err := t.tracer.Clean(pid, insn, regs.Rsp); err != nil {
		return 0, err
	}
	status, err := linux.ReadStatus(pid)
	if err != nil {
		return 0, err
	}
	t.umask = status.Umask
	if _, err := t.tracer.ExecAgain(pid, insn, t.Stack); err != nil {
		return 0, err
	}
	if regs, insn, err = t.atExec(pid); err != nil {
		return 0, err
	}
	return pid, t.moveStack(pid, insn, regs)
}

// atExec looks at a process that is at its exec stop: at its registers and a SYSCALL instruction,
// and for the template at its mappings and initial stack.
func (t *Template) atExec(pid int) (regs ptrace.Regs, insn uint64, err error) {
	if regs, err = t.tracer.Regs64(pid); err != nil {
		return regs, 0, err
	}
	if t.Maps, err = linux.ReadMaps(pid); err != nil {
		return regs, 0, err
	}
	if t.Stack, t.Auxv, _, err = linux.ReadStack(pid, regs.Rsp, t.Maps); err != nil {
		return regs, 0, err
	}
	insn, err = ptrace.FindSyscall(pid, t.Maps)
	return regs, insn, err
}

// endedBefore is err, or that of a program that ended before its point.
func endedBefore(path string, err error) error {
	var ended *ptrace.EndedError
	if !errors.As(err, &ended) || ended.Status.Signal() == unix.SIGKILL {
		return err
	}
	return problem.Newf(problem.Program, "%s ended before it came to its point (%s)", path, linux.StatusText(ended.Status)).
		WithHint("for a program in C or C++, call residentctl_point() of residentctl.h after its own start-up")
}

// A Template is a process that stands at its point. It must be given up with Kill.
type Template struct {
	PID   int
	Start uint64 // the address of the struct residentctl_start that a start fills in
	Regs  ptrace.Regs
	Maps  []linux.Mapping
	Auxv  linux.Auxv
	Stack linux.InitialStack // as it was executed, where it was moved to

	StackLimit            uint64 // soft, bytes
	RobustHead, RobustLen uint64
	Rseq                  ptrace.RseqConfig

	Fixups  []plan.Fixup
	Signals []plan.SignalAction

	// Probes are the paths that were looked at, Listed the directories that were read.
	Probes   []fingerprint.Probe
	Listed   []string
	Missed   []string // what it looked for in its working directory, relative to that
	Findings []Finding
	// ReadCPUs: it has asked for the CPUs that it may run on; ReadNetwork: which families of
	// addresses there are.
	ReadCPUs, ReadNetwork bool
	ReadCache             bool // all of what /etc/ld.so.cache says
	// Variables are the names that getenv(3) was called for: where modules are imported, since
	// the first of them.
	Variables []string
	// ReadTerminals are the standard streams, as bits, of which it has asked whether they are
	// terminals.
	ReadTerminals uint32

	tracer   *ptrace.Tracer
	umask    uint64
	detached bool
}

// Detach leaves the template stopped by SIGSTOP and not traced any more, as CRIU wants it.
func (t *Template) Detach() error {
	if t.detached {
		return nil
	}
	err := t.tracer.Do(func() error {
		if err := t.tracer.Detach(t.PID, unix.SIGSTOP); err != nil {
			return err
		}
		_, err := t.tracer.Wait(t.PID)
		return err
	})
	if err != nil {
		return fmt.Errorf("detach from process %d: %w", t.PID, err)
	}
	t.detached = true
	return nil
}

// Umask is the template's umask(2).
func (t *Template) Umask() uint32 { return uint32(t.umask) }

// Kill ends and reaps the template. It is the last call.
func (t *Template) Kill() error {
	if t.tracer != nil {
		t.tracer.End()
		t.tracer = nil
	}
	return nil
}
