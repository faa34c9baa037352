package linkstop

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// DefaultTimeout is how long a program may take to be linked.
const DefaultTimeout = ptrace.DefaultTimeout

// Options of Stop.
type Options struct {
	SoftBreakpoint bool          // INT3 even where there are debug registers
	Timeout        time.Duration // DefaultTimeout if 0
	Memory         uint64        // how many bytes of its own it may have; DefaultMemory if 0
	FewTables      bool          // layouts are taken that need few page tables: see layoutWish
	Allow          Allow         // may refuse a file before it is mapped; may be nil
}

// Stop starts the program at path, an absolute path, and stops it just after
// dynamic linking. When ctx ends before Stop returns, all processes are killed;
// afterwards the template is the caller's. The errors of a program that cannot
// become an image are problem.Refused, of one that does not start at all
// problem.Program.
func Stop(ctx context.Context, path string, opts Options) (*Template, error) {
	if opts.Timeout == 0 {
		opts.Timeout = DefaultTimeout
	}
	if opts.Memory == 0 {
		opts.Memory = DefaultMemory
	}
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("stop %s after linking: the path is not absolute", path)
	}
	linking, cancel := ptrace.WithTimeout(ctx, opts.Timeout, "it is not linked")
	defer cancel()
	wish := layoutWish{nearStack: opts.FewTables}
	t, err := stopOnce(linking, path, opts, wish)
	if err != nil || !opts.FewTables {
		return t, err
	}
	if wish.span = denserSpan(t.Maps, t.Stack.SP); wish.span == 0 {
		return t, nil
	}
	if denser, err := stopOnce(linking, path, opts, wish); err == nil {
		if wish.fulfilled(denser.Maps, denser.Stack.SP) {
			t, denser = denser, t
		}
		_ = denser.Kill()
	}
	if ctx.Err() != nil {
		_ = t.Kill()
		return nil, fmt.Errorf("stop %s after linking: %w", path, context.Cause(ctx))
	}
	return t, nil
}

func stopOnce(ctx context.Context, path string, opts Options, wish layoutWish) (*Template, error) {
	t := &Template{tracer: ptrace.NewTracer()}
	err := t.tracer.Run(ctx, func() error { return t.stop(path, opts, wish) })
	if err != nil {
		t.tracer.End()
		return nil, fmt.Errorf("stop %s after linking: %w", path, err)
	}
	return t, nil
}

// stop is the whole flow, on the tracer's thread.
func (t *Template) stop(path string, opts Options, wish layoutWish) error {
	tr := t.tracer
	tscStart := linux.TSC()

	// A first exec stop, only to have a process in which system calls can be
	// injected: what they set is in force when it executes the program again.
	first, err := startClean(tr, path)
	if err != nil {
		return linkError(path, nil, err)
	}
	limit, twinLimit, err := prepare(tr, first)
	if err != nil {
		return err
	}

	pid := first.pid
	t.PID = pid
	var (
		regs  ptrace.Regs
		stack linux.InitialStack
		auxv  linux.Auxv
		block []byte
	)
	for try := 1; ; try++ {
		if regs, err = tr.ExecAgain(first.pid, first.insn, first.stack); err != nil {
			return err
		}
		if t.Maps, err = linux.ReadMaps(pid); err != nil {
			return err
		}
		if stack, auxv, block, err = linux.ReadStack(pid, regs.Rsp, t.Maps); err != nil {
			return err
		}
		if try == layoutTries || wish.fulfilled(t.Maps, stack.SP) {
			break
		}
		first.stack = stack
		if first.insn, err = ptrace.FindSyscall(pid, t.Maps); err != nil {
			return err
		}
	}

	// From here on the addresses are those of the image.
	t.Stack, t.Auxv = stack, auxv
	if t.Stop, err = findStop(pid, regs.Rip, auxv); err != nil {
		return err
	}

	unlimit, err := limitMemory(pid, opts.Memory)
	if err != nil {
		return err
	}

	// The twin has to see the same CPU: its number is in the rseq area,
	// its APIC id in the linker's CPU features.
	if err := pinCPU(pid); err != nil {
		return err
	}
	insn, err := ptrace.FindSyscall(pid, t.Maps)
	if err != nil {
		return err
	}
	twinBlock, twinStack, err := twinStack(stack, auxv, block)
	if err != nil {
		return err
	}
	twin, err := makeTwin(tr, pid, insn, twinStack.SP, twinBlock, twinLimit)
	if err != nil {
		return err
	}
	if err := filter(tr, twin, insn, twinStack.SP); err != nil {
		return err
	}

	binder := 0
	if t.Stop.Point.BindsLazily() {
		if binder, err = makeBinder(tr, pid, insn, stack, auxv, block, limit); err != nil {
			return err
		}
	}

	// Run both. The template's calls are recorded; the twin only has to get
	// there, and must call nothing that the template must not.
	r := &recorder{pid: pid, memory: opts.Memory, allow: opts.Allow}
	soft := opts.SoftBreakpoint || first.soft
	b, err := ptrace.SetBreakpoint(pid, t.Stop.Addr, soft)
	if err != nil {
		return fmt.Errorf("set a breakpoint: %w", err)
	}
	if err := r.run(tr, b); err != nil {
		return linkError(path, r.message, err)
	}
	if err := checkMemory(pid, opts.Memory); err != nil {
		return err
	}
	twinBreak, err := ptrace.SetBreakpoint(twin, t.Stop.Addr, soft)
	if err != nil {
		return fmt.Errorf("set a breakpoint: %w", err)
	}
	if err := tr.RunTo(twinBreak); err != nil {
		return twinError(err)
	}

	// Both must be where and what they are believed to be.
	c := comparison{
		template: newSide(pid, stack, block[stack.Random-stack.SP:], limit),
		twin:     newSide(twin, twinStack, twinBlock[twinStack.Random-twinStack.SP:], twinLimit),
		point:    t.Stop.Point, tscStart: tscStart, random: r.random,
	}
	if t.Regs, err = t.arrive(&c.template, b); err != nil {
		return err
	}
	if _, err = t.arrive(&c.twin, twinBreak); err != nil {
		return twinError(err)
	}
	if m, same := sameMaps(c.template.maps, c.twin.maps); !same {
		return problem.Refusef("its layout depends on the process: %s", m)
	}
	t.Maps = c.template.maps
	if err := CheckMaps(t.Maps, false); err != nil {
		return err
	}
	if err := r.check(&t.Regs); err != nil {
		return err
	}
	t.FSBase, t.TIDAddr, t.Probes = r.fsBase, r.tidAddr, r.probes
	t.RobustHead, t.RobustLen = r.robustHead, r.robustLen
	t.RseqAddr, t.RseqLen, t.RseqSig = r.rseqAddr, r.rseqLen, r.rseqSig
	if len(r.message) > 0 {
		return problem.Refusef("its dynamic linker warns at each start: %s", strings.TrimSpace(string(r.message)))
	}

	// What differs belongs to the process.
	c.rseq = linux.PageRange{Start: t.RseqAddr, End: t.RseqAddr + uint64(t.RseqLen)}
	c.linker = linkerRange(t.Maps, regs.Rip)
	c.tscEnd = linux.TSC()
	if t.Fixups, t.Anon, err = c.fixups(); err != nil {
		return err
	}
	if err := checkFixups(t.Fixups, t.Stop.Point, t.TIDAddr, t.RobustHead); err != nil {
		return err
	}
	tr.Discard(twin)
	if binder != 0 {
		if err := t.bind(binder, soft); err != nil {
			return err
		}
	}
	if err := unlimit(); err != nil {
		return err
	}
	t.stopped = true
	return nil
}

// bind fills in the addresses of functions that each process would look up again at
// their first call.
func (t *Template) bind(binder int, soft bool) error {
	t.Bound = runBinder(t.tracer, t.PID, binder, t.Stop.Addr, soft, t.Maps, nil)
	return writeCalls(t.PID, t.Bound)
}
