package warmstop

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/linkstop"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// startSize is sizeof(struct residentctl_start): three words.
const startSize = 24

// arrive looks at the process at its point: whether an image can hold all that it is, and
// which of its words belong to the process. Those of its standard streams that are a terminal are
// not any more.
func (t *Template) arrive(start uint64, terminals uint32) (err error) {
	t.Start = start
	if t.Regs, err = t.tracer.Regs64(t.PID); err != nil {
		return err
	}
	if err := t.tracer.EndOnCall(t.PID, t.insn()); err != nil {
		return err
	}
	if err := t.leaveTerminal(terminals); err != nil {
		return fmt.Errorf("leave the terminal: %w", err)
	}
	if t.Maps, err = linux.ReadMaps(t.PID); err != nil {
		return err
	}
	t.RobustHead, t.RobustLen, err = ptrace.RobustList(t.PID)
	if err != nil {
		return err
	}
	if t.Rseq, err = ptrace.Rseq(t.PID); err != nil {
		return fmt.Errorf("read the rseq registration: %w", err)
	}
	var stack unix.Rlimit
	if err := unix.Prlimit(t.PID, unix.RLIMIT_STACK, nil, &stack); err != nil {
		return fmt.Errorf("read the limit of the stack: %w", err)
	}
	t.StackLimit = stack.Cur
	for _, check := range []func() error{t.checkProcess, t.checkDescriptors, t.checkUnits, t.checkTimers, t.checkAlternateStack} {
		if err := check(); err != nil {
			return err
		}
	}
	if err := linkstop.CheckMaps(t.Maps, true); err != nil {
		return err
	}
	if t.Signals, err = t.signals(); err != nil {
		return err
	}
	t.tracer.AllowAny(t.PID, t.insn()) // which a child does not inherit
	t.Fixups, err = t.fixups()
	return err
}

// inject has the template make a system call.
func (t *Template) inject(nr uint64, args ...uint64) (uint64, error) {
	return t.tracer.Inject(t.PID, t.insn(), nr, args...)
}

// insn is the address of the SYSCALL instruction (two bytes) after which the template stands.
func (t *Template) insn() uint64 { return t.Regs.Rip - 2 }

// leaveTerminal has /dev/null take the place of the standard streams, if some are a terminal: the
// program may have made others of them.
func (t *Template) leaveTerminal(terminals uint32) error {
	if terminals == 0 {
		return nil
	}
	var null uint64
	path := append([]byte(os.DevNull), 0)
	err := t.withScratch(len(path), func() (err error) {
		if err = linux.WriteMem(t.PID, t.scratch(), path); err == nil {
			null, err = t.inject(unix.SYS_OPEN, t.scratch(), unix.O_RDWR)
		}
		return err
	})
	if err != nil {
		return err
	}
	for fd := range uint64(3) {
		if fd != null {
			if _, err := t.inject(unix.SYS_DUP2, null, fd); err != nil {
				return err
			}
		}
	}
	if null > 2 {
		_, err = t.inject(unix.SYS_CLOSE, null)
	}
	return err
}

func (t *Template) checkProcess() error {
	s, err := linux.ReadStatus(t.PID)
	if err != nil {
		return err
	}
	mask, err := ptrace.SignalMask(t.PID)
	if err != nil {
		return err
	}
	switch {
	case s.Pending != 0:
		return problem.Refusef("signals are pending at its point")
	case mask != 0:
		return problem.Refusef("it blocks signals at its point")
	case s.Umask != t.umask:
		return problem.Refusef("it changes its umask when it starts, from %#o to %#o", t.umask, s.Umask)
	}
	return nil
}

// checkDescriptors refuses what is open beyond the standard descriptors: the number may be
// taken in the process that starts.
func (t *Template) checkDescriptors() error {
	descriptor, what, err := linux.OpenBeyond(t.PID)
	if err == nil && descriptor != "" {
		err = problem.Refusef("it keeps %s open (descriptor %s)", what, descriptor).
			WithHint("leave it as it is: it starts normally, as before")
	}
	return err
}

// checkUnits refuses a program that has changed how the floating-point units work: a start
// has the values of an exec (fxsave's control words, Intel SDM volume 1, 8.1.5 and 10.2.3).
func (t *Template) checkUnits() error {
	x87, sse, err := ptrace.FloatControl(t.PID)
	const x87Initial, sseInitial, sseStatus = 0x37f, 0x1f80, 0x3f
	switch {
	case err != nil:
		return err
	case x87 != x87Initial || sse&^sseStatus != sseInitial:
		return problem.Refusef("it changes how the floating-point units work (x87 %#x, SSE %#x)", x87, sse)
	}
	return nil
}

// checkTimers refuses timers that run: those of timer_create(2), and those of setitimer(2) and
// alarm(2), which /proc/PID/timers does not list.
func (t *Template) checkTimers() error {
	timers, err := os.ReadFile(fmt.Sprintf("/proc/%d/timers", t.PID))
	running := err == nil && len(timers) > 0
	for which := uint64(unix.ITIMER_REAL); which <= unix.ITIMER_PROF; which++ {
		timer, err := t.ask(unix.SYS_GETITIMER, which, t.scratch()) // struct itimerval: its interval, what is left
		if err != nil {
			return fmt.Errorf("read the interval timers: %w", err)
		}
		running = running || timer[2] != 0 || timer[3] != 0
	}
	if running {
		return problem.Refusef("it has timers at its point")
	}
	return nil
}

// checkAlternateStack refuses an alternate stack for signals, which would have to be told to
// the kernel again.
func (t *Template) checkAlternateStack() error {
	stack, err := t.ask(unix.SYS_SIGALTSTACK, 0, t.scratch()) // struct stack_t: address, flags, size
	if err != nil {
		return fmt.Errorf("read the alternate signal stack: %w", err)
	}
	const disabled = 2 // SS_DISABLE
	if stack[1]&disabled == 0 {
		return problem.Refusef("it has an alternate signal stack (sigaltstack), as python's faulthandler makes one")
	}
	return nil
}

// signals are the actions that differ from those of a new process.
func (t *Template) signals() ([]plan.SignalAction, error) {
	s, err := linux.ReadStatus(t.PID)
	if err != nil {
		return nil, err
	}
	var actions []plan.SignalAction
	for set := s.Ignored | s.Caught; set != 0; set &= set - 1 {
		sig := uint64(bits.TrailingZeros64(set)) + 1
		a, err := t.ask(unix.SYS_RT_SIGACTION, sig, 0, t.scratch(), 8) // struct kernel_sigaction: handler, flags, restorer, mask
		if err != nil {
			return nil, fmt.Errorf("read the action of signal %d: %w", sig, err)
		}
		actions = append(actions, plan.SignalAction{Signal: uint32(sig), Handler: a[0], Flags: a[1], Restorer: a[2], Mask: a[3]})
	}
	return actions, nil
}

// scratch is the address of memory for what the kernel answers, below the stack's red zone
// (System V ABI, AMD64, 3.2.2).
func (t *Template) scratch() uint64 { return (t.Regs.Rsp - 1024) &^ 15 }

// withScratch lets f use so many bytes of the scratch memory, which are then put back.
func (t *Template) withScratch(size int, f func() error) error {
	saved := make([]byte, size)
	if err := linux.ReadMem(t.PID, t.scratch(), saved); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return linux.WriteMem(t.PID, t.scratch(), saved)
}

// ask has the template make a system call that writes its answer to the scratch memory.
func (t *Template) ask(nr uint64, args ...uint64) (words [4]uint64, err error) {
	var answer [8 * len(words)]byte
	err = t.withScratch(len(answer), func() error {
		if _, err := t.inject(nr, args...); err != nil {
			return err
		}
		return linux.ReadMem(t.PID, t.scratch(), answer[:])
	})
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(answer[8*i:])
	}
	return words, err
}

// fixups are the words that belong to the process: what the point is to fill in, the thread's
// id, and what points to where the kernel has put environment and auxiliary vector.
func (t *Template) fixups() ([]plan.Fixup, error) {
	fixups := []plan.Fixup{
		{Addr: t.Start, Kind: plan.FixSP, Size: 8},
		{Addr: t.Start + 8, Kind: plan.FixIgnored, Size: 8},
		{Addr: t.Start + 16, Kind: plan.FixFlags, Size: 8},
	}
	if t.Start%8 != 0 || !t.writable(t.Start) || !t.writable(t.Start+startSize-1) {
		return nil, problem.Refusef("its point has the address %#x for the answer, where nothing can be written", t.Start)
	}
	// struct pthread has the id 16 bytes before the robust list (glibc nptl/descr.h), and that is
	// where set_tid_address(2) and clone(2) are told to keep it.
	if t.RobustHead == 0 {
		return nil, problem.Refusef("its C library keeps no robust list, so that the thread's id is not found").
			WithHint("only programs of glibc can have a warm image")
	}
	tid := make([]byte, 4)
	if err := linux.ReadMem(t.PID, t.RobustHead-16, tid); err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint32(tid) != uint32(t.PID) {
		return nil, problem.Refusef("its thread's id is not 16 bytes before the robust list at %#x", t.RobustHead)
	}
	fixups = append(fixups, plan.Fixup{Addr: t.TIDAddr(), Kind: plan.FixTID, Size: 4})
	words, err := t.pointers(map[uint64]uint32{t.Stack.Argv: plan.FixArgv, t.Stack.Envp: plan.FixEnvp, t.Stack.Auxv: plan.FixAuxv})
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(words, func(f plan.Fixup) bool { return f.Kind == plan.FixEnvp && !t.isLinkers(f.Addr) }) {
		return nil, problem.Refusef("it has made another environment for itself when it starts").
			WithHint("leave it as it is: it starts normally, as before")
	}
	fixups = append(fixups, words...)
	slices.SortFunc(fixups, func(a, b plan.Fixup) int { return int(int64(a.Addr - b.Addr)) })
	return fixups, nil
}

// isLinkers reports whether an address is in the dynamic linker's data, which keeps the
// environment that the process began with.
func (t *Template) isLinkers(addr uint64) bool {
	linker, _ := linux.FindMapping(t.Maps, t.Auxv.Value(linux.ATBase))
	m, _ := linux.FindMapping(t.Maps, addr)
	return m.Path != "" && m.Path == linker.Path
}

// TIDAddr is where the kernel is to keep the thread's id (set_tid_address(2)).
func (t *Template) TIDAddr() uint64 { return t.RobustHead - 16 }

// OldStack is the mapping that the template's stack was moved to.
func (t *Template) OldStack() linux.Mapping {
	m, _ := linux.FindMapping(t.Maps, t.Stack.SP)
	return m
}

func (t *Template) writable(addr uint64) bool {
	m, ok := linux.FindMapping(t.Maps, addr)
	return ok && m.Prot&unix.PROT_WRITE != 0
}

// pointers looks for the words of the template's own memory that hold one of these addresses
// on its stack, which nothing else can be by chance. Some are in memory that is read-only by
// now: _dl_auxv, which getauxval(3) reads (elf/rtld.c, _rtld_global_ro). Those on the stack
// itself are of functions that have them in use.
func (t *Template) pointers(kinds map[uint64]uint32) ([]plan.Fixup, error) {
	var image []linux.Mapping
	for _, m := range t.Maps {
		if !m.Kernel() && m.Prot&unix.PROT_READ != 0 && m.Prot&unix.PROT_EXEC == 0 && !m.Contains(t.Stack.SP) {
			image = append(image, m)
		}
	}
	own, err := linux.AnonPages(t.PID, image)
	if err != nil {
		return nil, err
	}
	var found []plan.Fixup
	for _, r := range own {
		buf := make([]byte, r.Len())
		if err := linux.ReadMem(t.PID, r.Start, buf); err != nil {
			return nil, err
		}
		for i := 0; i < len(buf); i += 8 {
			if kind, ok := kinds[binary.LittleEndian.Uint64(buf[i:])]; ok {
				found = append(found, plan.Fixup{Addr: r.Start + uint64(i), Kind: kind, Size: 8})
			}
		}
	}
	return found, nil
}
