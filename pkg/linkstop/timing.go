package linkstop

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// A TimedStart is one way to start a program.
type TimedStart struct {
	Path string // is executed with itself as its only argument and no environment
	// Filtered: code of the program's runs (its dynamic linker, IFUNC resolvers), which
	// may make no system call that Stop refuses for what it does, nor execute anything.
	Filtered bool
	// Until returns the address at which the start is over, from the auxiliary
	// vector of the new process. Either it is in what the kernel maps for the
	// exec, or nothing ever stands there (plan.Nowhere).
	Until func(linux.Auxv) uint64
}

// Linked returns the address at which the template stands, in another process that
// was executed from the same program.
func (t *Template) Linked() func(linux.Auxv) uint64 {
	if t.Stop.Point == plan.StopEntry {
		return func(a linux.Auxv) uint64 { return a.Value(linux.ATEntry) }
	}
	offset := t.Stop.Addr - t.Auxv.Value(linux.ATBase)
	return func(a linux.Auxv) uint64 { return a.Value(linux.ATBase) + offset }
}

// TimeOptions bound TimeStarts.
type TimeOptions struct {
	Rounds int // at most so many starts each
	Least  int // and so many even when the budget is used up
	Budget time.Duration
	Memory uint64 // as Stop's, of the starts that are filtered
}

// TimeStarts starts programs in turn, again and again, and says how long each
// start took, from its execve(2) to the instruction at which it is over. Each start is made by a fresh process
// of the program donor, which should be small, since the kernel takes its
// memory away within the measured time.
//
// A start is resumed and stopped twice, in execve and at its end. That costs
// some microseconds of the tracer's, the same for all.
//
// The errors are ptrace.ErrStartedNormally, *ptrace.EndedError and problem.Refused.
func TimeStarts(ctx context.Context, donor string, starts []TimedStart, opts TimeOptions) ([][]time.Duration, error) {
	ctx, cancel := ptrace.WithTimeout(ctx, DefaultTimeout, "its starts have not been timed")
	defer cancel()
	if opts.Memory == 0 {
		opts.Memory = DefaultMemory
	}
	t := ptrace.NewTracer()
	defer t.End()
	took := make([][]time.Duration, len(starts))
	err := t.Run(ctx, func() error {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer null.Close()
		// What is started inherits it.
		if err := pinCPU(0); err != nil {
			return err
		}
		began := time.Now()
		for round := range opts.Rounds {
			if round >= opts.Least && time.Since(began) > opts.Budget {
				break
			}
			for i, s := range starts {
				d, err := timeStart(t, donor, s, opts.Memory, null.Fd())
				if err != nil {
					return fmt.Errorf("time a start of %s: %w", s.Path, err)
				}
				took[i] = append(took[i], d)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return took, nil
}

func timeStart(t *ptrace.Tracer, donor string, s TimedStart, memory uint64, null uintptr) (time.Duration, error) {
	pid, err := t.Start(donor, []string{s.Path}, nil, "/", [3]uintptr{null, null, null})
	if err != nil {
		return 0, err
	}
	defer t.Discard(pid)
	if err := aimExec(t, pid, s.Filtered); err != nil {
		return 0, err
	}
	if s.Filtered { // the filter stops it at the execve
		if ws, err := t.Cont(pid, 0); err != nil || !ptrace.AtFilter(ws) {
			return 0, cmp.Or(err, fmt.Errorf("execute it: stopped by %s", unix.SignalName(ws.StopSignal())))
		}
	} else if err := ptrace.AllowVfork(pid); err != nil {
		return 0, err
	}
	began := time.Now()
	ws, err := t.Cont(pid, 0)
	took := time.Since(began)
	switch {
	case err != nil:
		return 0, err
	case !ptrace.AtExec(ws):
		return 0, fmt.Errorf("execute it: stopped by %s", unix.SignalName(ws.StopSignal()))
	}

	if s.Filtered {
		if _, err := limitMemory(pid, memory); err != nil {
			return 0, err
		}
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/auxv", pid))
	if err != nil {
		return 0, err
	}
	auxv, err := linux.ParseAuxv(raw)
	if err != nil {
		return 0, err
	}
	// No debug register: not every machine has them. The INT3 costs the start the
	// copy of a page, made here, and saves it the fault at that page.
	b, err := ptrace.SetBreakpoint(pid, s.Until(auxv), true)
	if err != nil {
		b = ptrace.FaultAt(pid, s.Until(auxv))
	}
	began = time.Now()
	if err := t.RunTo(b); err != nil {
		return 0, err
	}
	return took + time.Since(began), nil
}

// aimExec has a process at its exec stop call execve(2) next, on the path that
// is its first argument, under a filter if filtered.
func aimExec(t *ptrace.Tracer, pid int, filtered bool) error {
	regs, err := t.Regs64(pid)
	if err != nil {
		return err
	}
	maps, err := linux.ReadMaps(pid)
	if err != nil {
		return err
	}
	stack, _, block, err := linux.ReadStack(pid, regs.Rsp, maps)
	if err != nil {
		return err
	}
	insn, err := ptrace.FindSyscall(pid, maps)
	if err != nil {
		return err
	}
	if filtered {
		if err := filter(t, pid, insn, stack.SP); err != nil {
			return err
		}
	}
	regs.Rip, regs.Rax, regs.Orig_rax = insn, unix.SYS_EXECVE, ^uint64(0)
	regs.Rdi, regs.Rsi, regs.Rdx = binary.LittleEndian.Uint64(block[stack.Argv-stack.SP:]), stack.Argv, stack.Envp
	return t.SetRegs(pid, &regs)
}

// At returns an address that is the same in each start.
func At(ip uint64) func(linux.Auxv) uint64 { return func(linux.Auxv) uint64 { return ip } }
