package resident

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/linkstop"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/warmstop"
)

// source puts together what the plan is compiled from: CRIU's images for what
// was mapped and dumped, the template for what belongs to the process, and the
// dependencies for what must still be true. The program looks at itself or not
// (looksAtItself).
func (l *layout) source(looks bool) (*plan.Source, error) {
	t, im := l.template, l.image
	if err := l.agree(); err != nil {
		return nil, err
	}
	src, err := l.sourceOf(t.Maps, t.Auxv, looks)
	if err != nil {
		return nil, err
	}
	src.Kind, src.Stop, src.Fixups = plan.KindLinked, t.Stop, t.Fixups
	src.MM.BrkBase = t.Auxv.Value(linux.ATEntry) - l.program.Entry + l.program.LoadEnd
	src.Kernel = plan.Kernel{
		FSBase: t.FSBase, TIDAddr: t.TIDAddr, RobustHead: t.RobustHead, RobustLen: t.RobustLen,
		RseqAddr: t.RseqAddr, RseqLen: t.RseqLen, RseqSig: t.RseqSig,
	}
	if usesOrigin(l.program) {
		src.Flags |= plan.FlagOwnPath
	}
	src.Entry.RIP, src.Entry.R12 = linkstop.Enter(t.Stop, t.Regs.Rax)
	if t.Stop.Point.KeepsHeap() {
		src.Flags |= plan.FlagKeepBrk
		src.MM.BrkBase, src.MM.Brk = im.MM.StartBrk, im.MM.Brk
	}
	return src, nil
}

// sourceOf is what of a source does not depend on the kind of image: of a template with these
// mappings and this auxiliary vector.
func (l *layout) sourceOf(maps []linux.Mapping, auxv linux.Auxv, looks bool) (*plan.Source, error) {
	im := l.image
	boot, err := linux.BootID()
	if err != nil {
		return nil, err
	}
	src := &plan.Source{
		Plan: plan.Plan{
			Path: l.program.Path, ID: l.id, CPUID: fingerprint.CPUTable(),
			Caller: plan.Caller{
				HWCap: auxv.Value(linux.ATHWCap), HWCap2: auxv.Value(linux.ATHWCap2),
				PageSize: auxv.Value(linux.ATPageSize), ClockTick: auxv.Value(linux.ATClockTick),
				Flags: auxv.Value(linux.ATFlags), MinSigStack: auxv.Value(linux.ATMinSigStackSize),
				RseqSize: auxv.Value(linux.ATRseqFeatureSize), RseqAlign: auxv.Value(linux.ATRseqAlign),
				XCR0: l.deps.XCR0, MachineSum: l.deps.MachineSum(), BootMark: bootMark(l.deps),
			},
			MM: plan.MM{
				StartCode: im.MM.StartCode, EndCode: im.MM.EndCode,
				StartData: im.MM.StartData, EndData: im.MM.EndData,
			},
			Entry: plan.Entry{
				Phdr: auxv.Value(linux.ATPhdr), Phent: auxv.Value(linux.ATPhent), Phnum: auxv.Value(linux.ATPhnum),
				Base: auxv.Value(linux.ATBase), ProgramEntry: auxv.Value(linux.ATEntry),
			},
		},
		Linker: l.deps.Linker.Path,
	}
	if src.PagesAt, err = l.store.NameOf(filepath.Join(l.at, filepath.Base(im.PagesPath))); err != nil {
		return nil, err
	}
	copy(src.Caller.BootID[:], boot)
	src.Flags |= execFlag(l.program)
	if looks {
		src.Flags |= plan.FlagNeedsExe
		if intercept.MayMakeUserNamespaces() {
			src.Flags |= plan.FlagSetExe
		}
	}
	if src.Real, err = filepath.EvalSymlinks(l.program.Path); err != nil {
		return nil, err
	}
	if src.VDSO, err = vdso(maps, auxv); err != nil {
		return nil, err
	}
	if src.PagesID, err = linux.StatID(im.PagesPath); err != nil {
		return nil, err
	}
	if src.Areas, err = l.areas(); err != nil {
		return nil, err
	}
	for _, r := range im.Pages {
		if !kernels(im.VMAs, r.Addr) {
			src.Runs = append(src.Runs, plan.Run{Addr: r.Addr, Len: r.Pages * criuwrap.PageSize, Off: r.FileOff})
		}
	}
	src.Checks, src.Directories = checksOf(l.deps), directoriesOf(l.deps)
	for _, dir := range l.others {
		name, err := l.store.NameOf(filepath.Join(dir, planName(l.store)))
		if err != nil {
			return nil, err
		}
		src.Layouts = append(src.Layouts, name)
	}
	return src, nil
}

// execFlag is plan.FlagCheckExec for a program that not everyone who reads it may execute.
func execFlag(program *elfinfo.File) uint32 {
	if program.Mode&0o111 != 0o111 || program.ACL {
		return plan.FlagCheckExec
	}
	return 0
}

func checksOf(deps *fingerprint.Dependencies) (checks []plan.CheckedFile) {
	for _, c := range deps.Checks {
		if deps.IsManaged(c) {
			continue
		}
		check := plan.CheckedFile{Path: c.Path, ID: c.ID}
		for _, a := range c.Answers {
			check.Answers = append(check.Answers, plan.CacheAnswer{Name: a.Name, Entries: a.Entries})
		}
		checks = append(checks, check)
	}
	return checks
}

func directoriesOf(deps *fingerprint.Dependencies) (directories []plan.SearchedDirectory) {
	for _, f := range deps.Directories {
		directories = append(directories, plan.SearchedDirectory{Path: f.Path, ID: f.ID, Misses: f.Misses, Exact: f.Exact})
	}
	return directories
}

// agree holds that CRIU saw the process that the template is.
func (l *layout) agree() error {
	t, im := l.template, l.image
	return agree([]agreement{
		{"the instruction pointer", t.Regs.Rip, im.Regs.IP},
		{"the stack pointer", t.Regs.Rsp, im.Regs.SP},
		{"rax", t.Regs.Rax, im.Regs.AX},
		{"the thread pointer", t.FSBase, im.Regs.FSBase},
		{"the robust list", t.RobustHead, im.RobustHead},
		{"rseq", t.RseqAddr, im.Rseq.Addr},
	})
}

// An agreement is a value of the template's that CRIU should have seen as well.
type agreement struct {
	what       string
	ours, criu uint64
}

func agree(values []agreement) error {
	for _, w := range values {
		if w.ours != w.criu {
			return plan.Unusable("CRIU dumped %s as %#x, it is %#x", w.what, w.criu, w.ours)
		}
	}
	return nil
}

// kernels reports whether the kernel gives every process its own of the VMA at
// addr: the stack, the vDSO and its data.
func kernels(vmas []criuwrap.VMA, addr uint64) bool {
	for _, v := range vmas {
		if v.Start <= addr && addr < v.End {
			return v.Stack && !warmstop.Moved(v.Start) || v.VDSO || v.VVar || v.VSyscall
		}
	}
	return false
}

// areas are CRIU's VMAs with the paths that the dynamic linker opened, which a
// start opens again.
func (l *layout) areas() ([]plan.Area, error) {
	opened := map[linux.Inode]fingerprint.File{}
	for _, f := range append([]fingerprint.File{l.deps.Program, l.deps.Linker}, l.deps.Libraries...) {
		opened[f.ID.Inode()] = f
	}
	var areas []plan.Area
	for _, v := range l.image.VMAs {
		area := plan.Area{Start: v.Start, End: v.End, Prot: v.Prot, Shared: v.Shared, Grows: v.Stack}
		switch {
		case kernels(l.image.VMAs, v.Start):
			continue
		case v.Special || v.Shared && !(l.warm && v.File && v.Prot&unix.PROT_WRITE == 0):
			return nil, plan.Unusable("the mapping at %#x is shared or of a special kind", v.Start)
		case v.File:
			id, err := linux.StatID(v.Path)
			if err != nil {
				return nil, err
			}
			f, ok := opened[id.Inode()]
			if !ok || f.ID != id {
				return nil, fmt.Errorf("%s %w", v.Path, fingerprint.ErrChanged)
			}
			area.Path, area.ID, area.Off = f.Path, f.ID, v.Offset
		}
		areas = append(areas, area)
	}
	return areas, nil
}

// vdso finds where the template had the vDSO and its data pages, which the
// kernel maps one after the other, data first.
func vdso(maps []linux.Mapping, auxv linux.Auxv) (v plan.VDSO, err error) {
	n := 0
	for _, m := range maps {
		if !m.Kernel() || m.Path == "[vsyscall]" {
			continue
		}
		if n == 0 {
			v.Addr = m.Start
		}
		if n == len(v.Parts) || m.Start != v.Addr+v.Len {
			return v, plan.Unusable("the vDSO and its data are not mapped as one")
		}
		v.Parts[n] = m.Len()
		v.Len += m.Len()
		n++
	}
	if n == 0 {
		return v, plan.Unusable("the kernel gave no vDSO")
	}
	v.Code = auxv.Value(linux.ATSysinfoEhdr)
	bytes, err := fingerprint.OwnVDSO()
	if err != nil {
		return v, err
	}
	off, id, err := fingerprint.VDSOBuildID(bytes)
	if err != nil {
		return v, err
	}
	v.BuildOff, v.BuildLen = off, uint32(copy(v.BuildID[:], id))
	return v, nil
}
