package warmstop

import (
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
	// Ours reports whether a path is residentctl's own, so that the program's looking at it is
	// no matter; may be nil.
	Ours    func(path string) bool
	Allow   Allow         // may be nil
	Timeout time.Duration // DefaultTimeout if 0
}

// An Allow is told each path that the program has opened, and a path in /proc by which the same
// file can be opened again, before anything is read of it. An error ends the program and is
// returned.
type Allow func(path, opened string) error

// Stop starts the program and stops it at its point. When ctx ends before Stop returns, all
// processes are killed; afterwards the template is the caller's. The errors of a program that
// cannot become an image are problem.Refused, of one that ends before problem.Program.
func Stop(ctx context.Context, opts Options) (*Template, error) {
	if opts.Timeout == 0 {
		opts.Timeout = DefaultTimeout
	}
	if !filepath.IsAbs(opts.Path) {
		return nil, fmt.Errorf("stop %s at its point: the path is not absolute", opts.Path)
	}
	ctx, cancel := ptrace.WithTimeout(ctx, opts.Timeout, "it does not come to its point")
	defer cancel()
	t := &Template{tracer: ptrace.NewTracer()}
	if err := t.tracer.Run(ctx, func() error { return t.stop(opts) }); err != nil {
		t.tracer.End()
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
	pid, err := t.tracer.WatchTree(first, r.look)
	if err != nil {
		return endedBefore(opts.Path, err)
	}
	t.PID, t.Probes, t.Listed, t.Missed, t.Findings = pid, r.probes, r.listed(), r.missed, r.found
	t.ReadCPUs, t.ReadNetwork, t.ReadCache, t.NoTerminals = r.cpus, r.network, r.cacheRead, r.terminals
	return t.arrive(r.start)
}

// begin executes the program, without anything of ours but the three standard descriptors,
// and moves its stack.
func (t *Template) begin(opts Options) (pid int, err error) {
	if pid, err = begin(t.tracer, opts); err != nil {
		return 0, err
	}
	regs, err := t.tracer.Regs64(pid)
	if err != nil {
		return 0, err
	}
	if t.Maps, err = linux.ReadMaps(pid); err != nil {
		return 0, err
	}
	insn, err := ptrace.FindSyscall(pid, t.Maps)
	if err != nil {
		return 0, err
	}
	if err := t.clean(pid, insn, regs.Rsp); err != nil {
		return 0, err
	}
	return pid, t.moveStack(pid, insn, regs)
}

// clean closes what is not the program's and sets the signals as for a first start: what is
// ignored here (nohup, a shell's background job) would be in each start.
func (t *Template) clean(pid int, insn, sp uint64) error {
	if _, err := t.tracer.Inject(pid, insn, unix.SYS_CLOSE_RANGE, 3, 1<<32-1, 0); err != nil {
		return fmt.Errorf("close descriptors (requires Linux 5.9): %w", err)
	}
	if err := ptrace.SetSignalMask(pid, 0); err != nil {
		return fmt.Errorf("unblock signals: %w", err)
	}
	status, err := readStatus(pid)
	if err != nil {
		return err
	}
	t.umask = status.umask
	for sig := uint64(1); sig <= 64; sig++ {
		if status.ignored>>(sig-1)&1 == 0 {
			continue
		}
		// Below a fresh stack pointer is nothing but zeros: a struct sigaction with SIG_DFL.
		if _, err := t.tracer.Inject(pid, insn, unix.SYS_RT_SIGACTION, sig, sp-1024, 0, 8); err != nil {
			return fmt.Errorf("reset signal %d: %w", sig, err)
		}
	}
	return nil
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
	// NoTerminals are the standard streams, as bits, that its modules know to be no terminals.
	NoTerminals uint32

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
