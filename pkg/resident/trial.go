package resident

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/plural"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/launcher"
	"github.com/residentctl/residentctl/pkg/linkstop"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// errTrial is a start from a new image that was not what it should be. The image is not
// used.
var errTrial = errors.New("the trial start failed")

const trialHint = "run `residentctl check` to see whether resident starts work here; the program starts normally, as before"

// wrong says in what a start was not what it should be.
func wrong(format string, args ...any) error {
	return problem.Errorf("%w: %w", errTrial, fmt.Errorf(format, args...)).WithHint(trialHint)
}

// try starts the program from the staged image up to the launcher's jump, and
// compares what is there with what the plan and CRIU's images say. The first
// layout is timed, if it is right.
func (a *adding) try(ctx context.Context, l *layout) error {
	side, err := a.store.Stage()
	if err != nil {
		return err
	}
	defer func() { _ = side.Discard() }()

	trial, err := l.trialPlan()
	if err != nil {
		return err
	}
	start, err := starterOf(a.store.ForLaunchers(), side.Dir, trial)
	if err != nil {
		return err
	}
	if err := l.tryOnce(ctx, start, trial); err != nil {
		return err
	}
	if a.timing != nil { // as fast as the first layout
		return nil
	}
	a.opts.Step("time")
	raw, err := trial.EncodeToNowhere()
	if err != nil {
		return err
	}
	if start, err = writeStarter(a.store.ForLaunchers(), side.Dir, plan.LauncherPlace(len(raw), trial), trial, raw); err != nil {
		return err
	}
	return a.gate(ctx, l, start)
}

// trialPlan is the layout's plan, but for the name of CRIU's pages, which are still in staging.
func (l *layout) trialPlan() (trial *plan.Plan, err error) {
	trial = aloneOf(l.plan)
	trial.Pages().Path, err = l.store.NameOf(l.image.PagesPath)
	return trial, err
}

// tryOnce starts the program up to the launcher's jump, with the environment that the plan
// wants, and compares.
func (l *layout) tryOnce(ctx context.Context, start string, trial *plan.Plan) error {
	p, err := startTrial(ctx, start, trial)
	if err != nil {
		return err
	}
	defer func() { _ = p.Kill() }()
	if err := compareStart(trial, l.image.PagesPath, p); err != nil {
		return err
	}
	return p.Kill()
}

// starterOf writes a plan, and a launcher file that carries it out, to dir in the store.
func starterOf(s launcher.Store, dir string, p *plan.Plan) (string, error) {
	raw, err := p.Encode()
	if err != nil {
		return "", err
	}
	return writeStarter(s, dir, plan.LauncherPlace(len(raw), p), p, raw)
}

// aloneOf is a copy of a plan that may be changed, without other layouts.
func aloneOf(p *plan.Plan) *plan.Plan {
	alone := *p
	alone.Files = slices.Clone(p.Files)
	alone.Layouts = nil
	if p.Kind == plan.KindWarm {
		alone.Warm.Terminals, alone.Warm.FirstLayouts, alone.Warm.LayoutCounts = 0, [8]uint8{}, [8]uint8{1}
	}
	return &alone
}

// writeStarter writes a plan, encoded as raw, and a launcher file at place that carries it out, to
// dir in the store, over what was written there before.
func writeStarter(s launcher.Store, dir string, place uint64, p *plan.Plan, raw []byte) (string, error) {
	planPath := filepath.Join(dir, "plan")
	if err := os.WriteFile(planPath, raw, 0o600); err != nil {
		return "", err
	}
	name, err := filepath.Rel(s.Dir, planPath)
	if err != nil {
		return "", err
	}
	file, err := launcher.File(place, s, name, p.Path, p.StackRoom())
	if err != nil {
		return "", err
	}
	start := filepath.Join(dir, filepath.Base(p.Path))
	// A process that is being made for something else meanwhile would have it open for
	// writing until its own exec, so that this one's fails (ETXTBSY).
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return start, os.WriteFile(start, file, 0o700)
}

// startTrial executes a launcher file, with what the plan wants of the environment, and stops it at its jump. What the
// launcher says of a normal start is in the error.
func startTrial(ctx context.Context, file string, pl *plan.Plan) (*ptrace.Process, error) {
	said, messages, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer said.Close()
	p, err := ptrace.StartAt(ctx, file, []string{pl.Path}, append(environmentOf(pl), "RESIDENTCTL_EXPLAIN=1"), pl.Entry.RIP,
		ptrace.StartOptions{Stderr: messages})
	messages.Close()
	switch {
	case errors.Is(err, ptrace.ErrStartedNormally):
		// Nobody is left to write: this ends.
		text, _ := io.ReadAll(said)
		return nil, wrong("%s: %w", strings.TrimSpace(string(text)), err)
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, wrong("the launcher did not come to its end: %w", err)
	}
	return p, nil
}

// compareStart compares a process that is at the launcher's jump with its
// plan: registers, registrations, mappings, and every page of CRIU's, word by
// word where words were corrected.
func compareStart(p *plan.Plan, pagesPath string, proc *ptrace.Process) error {
	stack, auxv, err := startedWith(p, proc)
	if err != nil {
		return err
	}
	if err := compareRegisters(p, proc, stack, auxv); err != nil {
		return err
	}
	maps, err := proc.Maps()
	if err != nil {
		return err
	}
	if err := compareMaps(p, maps); err != nil {
		return err
	}
	return comparePages(p, pagesPath, proc, stack)
}

// startedWith is what the kernel has left on the stack for a process that is at the
// launcher's jump. In a warm start the stack pointer is the template's by then, and the
// answer to the point leads to it.
func startedWith(p *plan.Plan, proc *ptrace.Process) (linux.InitialStack, linux.Auxv, error) {
	if p.Kind != plan.KindWarm {
		return proc.Stack()
	}
	answer := slices.IndexFunc(p.Fixups, func(f plan.Fixup) bool { return f.Kind == plan.FixSP })
	if answer < 0 {
		return linux.InitialStack{}, nil, wrong("its point gets no answer")
	}
	var sp [8]byte
	if err := proc.ReadMem(p.Fixups[answer].Addr, sp[:]); err != nil {
		return linux.InitialStack{}, nil, err
	}
	maps, err := proc.Maps()
	if err != nil {
		return linux.InitialStack{}, nil, err
	}
	stack, auxv, _, err := linux.ReadStack(proc.PID, binary.LittleEndian.Uint64(sp[:]), maps)
	return stack, auxv, err
}

func compareRegisters(p *plan.Plan, proc *ptrace.Process, stack linux.InitialStack, auxv linux.Auxv) error {
	for _, w := range []struct {
		what      string
		got, want uint64
	}{
		{"rsp", proc.Regs.Rsp, cmp.Or(p.Entry.RSP, stack.SP)},
		{"rbx", proc.Regs.Rbx, p.Entry.RBX},
		{"rbp", proc.Regs.Rbp, p.Entry.RBP},
		{"r12", proc.Regs.R12, p.Entry.R12},
		{"r13", proc.Regs.R13, p.Entry.R13},
		{"r14", proc.Regs.R14, p.Entry.R14},
		{"r15", proc.Regs.R15, p.Entry.R15},
		{"the thread pointer", proc.Regs.Fs_base, p.Kernel.FSBase},
		{"the robust list", proc.RobustHead, p.Kernel.RobustHead},
		{"rseq", proc.Rseq.Addr, p.Kernel.RseqAddr},
		{"AT_PHDR", auxv.Value(linux.ATPhdr), p.Entry.Phdr},
		{"AT_PHNUM", auxv.Value(linux.ATPhnum), p.Entry.Phnum},
		{"AT_BASE", auxv.Value(linux.ATBase), p.Entry.Base},
		{"AT_ENTRY", auxv.Value(linux.ATEntry), p.Entry.ProgramEntry},
		{"AT_SYSINFO_EHDR", auxv.Value(linux.ATSysinfoEhdr), p.VDSO.Code},
	} {
		if w.got != w.want {
			return wrong("%s is %#x instead of %#x", w.what, w.got, w.want)
		}
	}
	return nil
}

// shown is what one stretch of memory is to be, or is.
type shown struct {
	start, end uint64
	prot       uint32
	ino, off   uint64 // 0 for anonymous memory
}

// compareMaps compares the mappings, cut and joined as the kernel may.
func compareMaps(p *plan.Plan, maps []linux.Mapping) error {
	var want, got []shown
	for _, f := range p.Files {
		for _, m := range f.Maps {
			want = append(want, shown{m.Addr, m.Addr + m.Len, m.Prot, f.ID.Ino, m.Off})
		}
	}
	for _, m := range p.Anon {
		want = append(want, shown{m.Addr, m.Addr + m.Len, m.Prot, 0, 0})
	}
	for i := range want {
		for _, pr := range p.Protects {
			if pr.Addr == want[i].start {
				want[i].prot = pr.Prot
			}
		}
	}
	for _, m := range maps {
		if m.Kernel() || m.Path == "[stack]" {
			continue
		}
		got = append(got, shown{m.Start, m.End, uint32(m.Prot), m.Ino, m.Offset})
	}
	want, got = joined(want), joined(got)
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			return wrong("there is %s where there should be %s", got[i], want[i])
		}
	}
	if len(want) != len(got) {
		return wrong("it has %s instead of %d", plural.Count(len(got), "mapping"), len(want))
	}
	return nil
}

func (s shown) String() string {
	return fmt.Sprintf("%x-%x prot %d inode %d offset %#x", s.start, s.end, s.prot, s.ino, s.off)
}

// joined sorts and joins what continues each other.
func joined(all []shown) []shown {
	slices.SortFunc(all, func(a, b shown) int { return int(int64(a.start - b.start)) })
	var out []shown
	for _, s := range all {
		if n := len(out) - 1; n >= 0 {
			l := &out[n]
			if l.end == s.start && l.prot == s.prot && l.ino == s.ino && (s.ino == 0 || l.off+(l.end-l.start) == s.off) {
				l.end = s.end
				continue
			}
		}
		out = append(out, s)
	}
	return out
}

// comparePages compares what is mapped of CRIU's pages with the file, and each
// corrected word with what it must be in this process.
func comparePages(p *plan.Plan, pagesPath string, proc *ptrace.Process, stack linux.InitialStack) error {
	f, err := os.Open(pagesPath)
	if err != nil {
		return err
	}
	defer f.Close()
	value, err := linkstop.FixupValues(proc.PID, stack)
	if err != nil {
		return err
	}
	value[plan.FixFlags] = plan.StartExplain // startTrial has asked for it
	for _, m := range slices.Concat(p.Pages().Maps, p.Copies) {
		want, got := make([]byte, m.Len), make([]byte, m.Len)
		if _, err := io.ReadFull(io.NewSectionReader(f, int64(m.Off), int64(m.Len)), want); err != nil {
			return fmt.Errorf("read %s: %w", pagesPath, err)
		}
		if err := proc.ReadMem(m.Addr, got); err != nil {
			return err
		}
		for _, fix := range p.Fixups {
			if fix.Addr < m.Addr || fix.Addr >= m.Addr+m.Len {
				continue
			}
			at := want[fix.Addr-m.Addr:]
			if fix.Kind == plan.FixIgnored { // of which the plan's own actions have become a part
				copy(at, got[fix.Addr-m.Addr:][:fix.Size])
				continue
			}
			if fix.Size == 4 {
				binary.LittleEndian.PutUint32(at, uint32(value[fix.Kind]))
			} else {
				binary.LittleEndian.PutUint64(at, value[fix.Kind])
			}
		}
		maskRange(m, p.Kernel.RseqAddr, uint64(p.Kernel.RseqLen), want, got)
		if p.Entry.RSP != 0 { // where the launcher's last jump has its target
			maskRange(m, p.Entry.RSP-8, 8, want, got)
		}
		if !bytes.Equal(want, got) {
			i := 0
			for want[i] == got[i] {
				i++
			}
			return wrong("the byte at %#x is %#x instead of %#x", m.Addr+uint64(i), got[i], want[i])
		}
	}
	return nil
}

// maskRange leaves some bytes of memory out of a comparison: the rseq area, to which the
// kernel writes whenever the thread is scheduled, for instance.
func maskRange(m plan.Map, from, size uint64, want, got []byte) {
	for a := from; a < from+size; a++ {
		if a >= m.Addr && a < m.Addr+m.Len {
			want[a-m.Addr], got[a-m.Addr] = 0, 0
		}
	}
}
