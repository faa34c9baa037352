package linkstop

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// A Layout says where a program is to be linked.
type Layout struct {
	// Maps are the image's mappings in order, without the stack and what the
	// kernel gives every process. Of each only addresses, path and offset count.
	Maps []linux.Mapping
	VDSO linux.PageRange // the vDSO and its data

	Memory uint64 // as Options have it
	// What PR_SET_MM_MAP (prctl(2)) describes.
	StartCode, EndCode, StartData, EndData, StartBrk, Brk uint64
}

// A Relinked is a program that its dynamic linker has just linked, at the
// addresses of a Layout.
type Relinked struct {
	*ptrace.Process
	Stop    plan.Stop // where it is
	Stack   linux.InitialStack
	Auxv    linux.Auxv
	TIDAddr uint64 // set_tid_address(2)
	Bound   []Call // that a Template would have bound; it has not

	known comparison
}

// Relink starts the program at path and lets its dynamic linker do its work
// again, but at the addresses of an image: at the exec stop what the kernel has
// mapped is moved there, and later each mmap without an address is given the
// one that the kernel chose for the image. Two processes that were linked at the
// same addresses can be compared word by word.
//
// A file's place is that of its first mapping. For other memory the kernel's
// rule is applied: as high as it fits below where mappings begin (mm/vma.c,
// unmapped_area_topdown), which in an image is its highest mapping's end. Where
// that is not what the kernel did, because it aligned for huge pages, say, the
// layouts differ, and a comparison shows it. The parameter allow may refuse a file
// before it is mapped; it may be nil.
func Relink(ctx context.Context, path string, l Layout, allow Allow) (*Relinked, error) {
	if l.Memory == 0 {
		l.Memory = DefaultMemory
	}
	ctx, cancel := ptrace.WithTimeout(ctx, DefaultTimeout, "it is not linked")
	defer cancel()
	tr, r := ptrace.NewTracer(), &Relinked{}
	if err := tr.Run(ctx, func() error { return r.relink(tr, path, l, allow) }); err != nil {
		tr.End()
		return nil, fmt.Errorf("link %s again: %w", path, err)
	}
	return r, nil
}

// relink is Relink on the tracer's thread.
func (r *Relinked) relink(tr *ptrace.Tracer, path string, l Layout, allow Allow) error {
	tscStart := linux.TSC()
	first, err := startClean(tr, path)
	if err != nil {
		return err
	}
	limit, _, err := prepare(tr, first)
	if err != nil {
		return err
	}
	if _, err := tr.ExecAgain(first.pid, first.insn, first.stack); err != nil {
		return err
	}
	pid := first.pid
	if _, err := limitMemory(pid, l.Memory); err != nil {
		return err
	}
	if err := pinCPU(pid); err != nil {
		return err
	}
	p := &placer{pid: pid, layout: l}
	if err := p.move(tr); err != nil {
		return err
	}
	r.Stop = p.stop
	binder, binderPlacer, err := placedBinder(tr, p, limit)
	if err != nil {
		return err
	}
	rec := &recorder{pid: pid, memory: l.Memory, placer: p, allow: allow}
	b, err := ptrace.SetBreakpoint(pid, r.Stop.Addr, first.soft)
	if err != nil {
		return fmt.Errorf("set a breakpoint: %w", err)
	}
	if err := rec.run(tr, b); err != nil {
		return linkError(path, rec.message, err)
	}
	regs, err := tr.Regs(pid)
	if err != nil {
		return err
	}
	if err := b.Remove(&regs); err != nil {
		return fmt.Errorf("remove the breakpoint: %w", err)
	}
	if r.Process, err = tr.Process(pid); err != nil {
		return err
	}
	r.TIDAddr = rec.tidAddr
	maps, err := linux.ReadMaps(pid)
	if err != nil {
		return err
	}
	var block []byte
	if r.Stack, r.Auxv, block, err = linux.ReadStack(pid, r.Regs.Rsp, maps); err != nil {
		return err
	}
	r.known = comparison{
		template: newSide(pid, r.Stack, block[r.Stack.Random-r.Stack.SP:], limit),
		point:    r.Stop.Point, tscStart: tscStart, tscEnd: linux.TSC(), random: rec.random,
		linker: linkerRange(maps, p.linkerEntry),
	}
	m, _ := linux.FindMapping(maps, r.Regs.Rsp)
	r.known.template.stackLow = m.Start
	if binder == 0 {
		return nil
	}
	r.Bound = runBinder(tr, pid, binder, r.Stop.Addr, first.soft, maps, binderPlacer)
	return nil
}

// placedBinder makes a binder that is given the same places; 0 if nothing is bound
// lazily.
func placedBinder(tr *ptrace.Tracer, p *placer, limit uint64) (binder int, its *placer, err error) {
	regs, err := tr.Regs64(p.pid)
	if err != nil {
		return 0, nil, err
	}
	maps, err := linux.ReadMaps(p.pid)
	if err != nil {
		return 0, nil, err
	}
	stack, auxv, block, err := linux.ReadStack(p.pid, regs.Rsp, maps)
	if err != nil || !p.stop.Point.BindsLazily() {
		return 0, nil, err
	}
	its = &placer{layout: p.layout, top: p.top, used: slices.Clone(p.used), linkerEntry: p.linkerEntry}
	its.pid, err = makeBinder(tr, p.pid, p.insn, stack, auxv, block, limit)
	return its.pid, its, err
}

// A placer gives a process that is being linked the addresses of a layout.
type placer struct {
	pid         int
	layout      Layout
	top         uint64            // nothing is placed above
	used        []linux.PageRange // what is mapped below top, in order, joined
	linkerEntry uint64
	stop        plan.Stop // as the dynamic linker has it at its place
	insn        uint64    // the address of a SYSCALL instruction
}

// move puts what the kernel has mapped for the exec to its place: the program,
// the dynamic linker, the vDSO. It may be that what is moved would meet what is
// there; with 28 random bits each that is too rare to be worth another try.
func (p *placer) move(t *ptrace.Tracer) error {
	regs, err := t.Regs64(p.pid)
	if err != nil {
		return err
	}
	maps, err := linux.ReadMaps(p.pid)
	if err != nil {
		return err
	}
	stack, auxv, _, err := linux.ReadStack(p.pid, regs.Rsp, maps)
	if err != nil {
		return err
	}
	p.insn, err = ptrace.FindSyscall(p.pid, maps)
	if err != nil {
		return err
	}
	away, err := p.distances(maps)
	if err != nil {
		return err
	}
	moved := func(addr uint64) uint64 {
		for i, m := range maps {
			if m.Contains(addr) {
				return addr + away[i]
			}
		}
		return addr
	}
	// The vDSO first, for the dynamic linker may come to stand where it was.
	for _, kernel := range []bool{true, false} {
		for i, m := range maps {
			if m.Kernel() != kernel || away[i] == 0 {
				continue
			}
			_, err := t.Inject(p.pid, p.insn, unix.SYS_MREMAP, m.Start, m.Len(), m.Len(),
				unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, m.Start+away[i])
			if err != nil {
				return fmt.Errorf("move %s to %#x: %w", m, m.Start+away[i], err)
			}
			if m.Contains(p.insn) {
				p.insn += away[i]
			}
		}
	}
	for i, e := range auxv {
		switch e.Type {
		case linux.ATPhdr, linux.ATBase, linux.ATEntry, linux.ATSysinfoEhdr:
			auxv[i].Value = moved(e.Value)
			word := binary.LittleEndian.AppendUint64(nil, auxv[i].Value)
			if err := linux.WriteMem(p.pid, stack.Auxv+uint64(i)*16+8, word); err != nil {
				return err
			}
		}
	}
	if err := p.describe(t, stack); err != nil {
		return err
	}
	p.linkerEntry = moved(regs.Rip)
	if p.stop, err = findStop(p.pid, p.linkerEntry, auxv); err != nil {
		return err
	}
	regs.Rip, regs.Orig_rax = p.linkerEntry, ^uint64(0)
	if err := t.SetRegs(p.pid, &regs); err != nil {
		return err
	}
	return p.look()
}

// distances returns for each mapping at the exec stop how far it has to be moved.
// Memory after a file's mappings is the end of its data.
func (p *placer) distances(maps []linux.Mapping) ([]uint64, error) {
	away := make([]uint64, len(maps))
	vdso := uint64(0)
	for i, m := range maps {
		switch {
		case m.Path == "[stack]" || m.Path == "[vsyscall]" || m.Path == "[heap]":
		case m.Kernel():
			if vdso == 0 {
				vdso = m.Start
			}
			away[i] = p.layout.VDSO.Start - vdso
		case m.Path == "" && i > 0 && maps[i-1].End == m.Start:
			away[i] = away[i-1]
		case i > 0 && m.Path == maps[i-1].Path:
			away[i] = away[i-1]
		default:
			at, ok := p.place(m.Path)
			if !ok {
				return nil, fmt.Errorf("%s is nowhere in the image", m)
			}
			away[i] = at - m.Start
		}
	}
	return away, nil
}

// place is where the layout has a file's first mapping.
func (p *placer) place(path string) (uint64, bool) {
	i := slices.IndexFunc(p.layout.Maps, func(m linux.Mapping) bool { return path != "" && m.Path == path })
	if i < 0 {
		return 0, false
	}
	return p.layout.Maps[i].Start, true
}

// describe tells the kernel where the program's data and break are now
// (include/uapi/linux/prctl.h, struct prctl_mm_map). The argument stands below
// the stack pointer, where all is zeros before and after.
func (p *placer) describe(t *ptrace.Tracer, stack linux.InitialStack) error {
	l := p.layout
	fields := []uint64{l.StartCode, l.EndCode, l.StartData, l.EndData, l.StartBrk, l.Brk, stack.SP,
		stack.AuxvEnd, stack.Execfn, stack.Execfn, stack.Execfn, 0, 0xffffffff << 32} // no auxv, no exe_fd
	arg := make([]byte, 0, 8*len(fields))
	for _, f := range fields {
		arg = binary.LittleEndian.AppendUint64(arg, f)
	}
	at := (stack.SP - 1024) &^ 15
	if err := linux.WriteMem(p.pid, at, arg); err != nil {
		return err
	}
	_, err := t.Inject(p.pid, p.insn, unix.SYS_PRCTL, unix.PR_SET_MM, unix.PR_SET_MM_MAP, at, uint64(len(arg)), 0)
	if err != nil {
		return fmt.Errorf("describe the memory map: %w", err)
	}
	return linux.WriteMem(p.pid, at, make([]byte, len(arg)))
}

// look reads what is mapped below the image's highest mapping. The stack, and
// what follows it, lies above.
func (p *placer) look() error {
	stack := uint64(0)
	maps, err := linux.ReadMaps(p.pid)
	if err != nil {
		return err
	}
	for _, m := range maps {
		if m.Path == "[stack]" {
			stack = m.Start
		}
	}
	for _, r := range append([]linux.PageRange{p.layout.VDSO}, ranges(p.layout.Maps)...) {
		if r.End <= stack {
			p.top = max(p.top, r.End)
		}
	}
	for _, m := range maps {
		if m.End <= p.top {
			p.add(linux.PageRange{Start: m.Start, End: m.End})
		}
	}
	return nil
}

func ranges(maps []linux.Mapping) []linux.PageRange {
	var all []linux.PageRange
	for _, m := range maps {
		all = append(all, linux.PageRange{Start: m.Start, End: m.End})
	}
	return all
}

func (p *placer) add(r linux.PageRange) {
	p.used = linux.UnionRanges(p.used, []linux.PageRange{r})
}

func (p *placer) remove(r linux.PageRange) {
	var left []linux.PageRange
	for _, u := range p.used {
		if r.End <= u.Start || u.End <= r.Start {
			left = append(left, u)
			continue
		}
		if u.Start < r.Start {
			left = append(left, linux.PageRange{Start: u.Start, End: r.Start})
		}
		if r.End < u.End {
			left = append(left, linux.PageRange{Start: r.End, End: u.End})
		}
	}
	p.used = left
}

// at looks at either end of a system call; entry is the call's beginning.
func (p *placer) at(t *ptrace.Tracer, entry *ptrace.SyscallInfo, info ptrace.SyscallInfo) error {
	size := func(n uint64) uint64 { return (n + linux.PageSize - 1) &^ (linux.PageSize - 1) }
	switch nr := entry.Number(); {
	case nr == unix.SYS_MMAP && info.Entry() && entry.Arg(0) == 0:
		return p.choose(t, size(entry.Arg(1)), entry.Arg(3), int32(entry.Arg(4)))
	case info.Entry() || info.Result() < 0 && info.Result() > -4096:
	case nr == unix.SYS_MMAP:
		at := uint64(info.Result())
		p.add(linux.PageRange{Start: at, End: at + size(entry.Arg(1))})
	case nr == unix.SYS_MUNMAP:
		p.remove(linux.PageRange{Start: entry.Arg(0), End: entry.Arg(0) + size(entry.Arg(1))})
	case nr == unix.SYS_MREMAP:
		p.remove(linux.PageRange{Start: entry.Arg(0), End: entry.Arg(0) + size(entry.Arg(1))})
		at := uint64(info.Result())
		p.add(linux.PageRange{Start: at, End: at + size(entry.Arg(2))})
	}
	return nil
}

// choose gives an mmap that is about to be made its address.
func (p *placer) choose(t *ptrace.Tracer, size, flags uint64, fd int32) error {
	at, ok := uint64(0), false
	if flags&unix.MAP_ANONYMOUS == 0 {
		path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", p.pid, fd))
		if err != nil {
			return err
		}
		at, ok = p.place(path)
	}
	if !ok {
		at = p.highest(size)
	}
	regs, err := t.Regs(p.pid)
	if err != nil {
		return err
	}
	regs.Rdi = at
	regs.R10 |= unix.MAP_FIXED_NOREPLACE
	return t.SetRegs(p.pid, &regs)
}

// highest is the highest address below top at which there is room.
func (p *placer) highest(size uint64) uint64 {
	end := p.top
	for _, u := range slices.Backward(p.used) {
		if end-u.End >= size {
			break
		}
		end = u.Start
	}
	return end - size
}
