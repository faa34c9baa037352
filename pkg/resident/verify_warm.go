package resident

import (
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// A warm image cannot be made again to be compared with: the program's own start-up does not
// give the same memory twice. So the reference of its starts are CRIU's files, and with
// ReferenceCRIU the process that CRIU makes of them.

// redZone is what is dead below the stack pointer at the point, bytes.
const redZone = 128

// notComparedWarm is what belongs to the process and not to a warm image.
var notComparedWarm = []string{
	"the process's own stack, which is the kernel's at each start",
	"the vDSO's data pages, which the kernel gives every process",
	"registers that are dead at the point, and the 128 bytes below its stack",
	"what the plan has of the template alone: words that belong to the process, signals, environment, limits",
}

// heldPages is how many pages a start has of CRIU's.
func heldPages(p *plan.Plan) (pages int) {
	for _, m := range slices.Concat(p.Pages().Maps, p.Copies) {
		pages += int(m.Len / linux.PageSize)
	}
	return pages
}

// compileWarmAgain makes the plan of a warm layout as add does, with what only the template
// could say taken from the plan.
func (v *verifying) compileWarmAgain() (*plan.Plan, error) {
	template, err := dumpedTemplate(v.image)
	if err != nil {
		return nil, err
	}
	exe := v.plan.Exe().Path
	program, err := elfinfo.Open(exe)
	if err != nil {
		return nil, err
	}
	l := &layout{store: v.store, id: v.rec.ID, program: program, warm: true, at: v.dir, others: v.others(), deps: &v.deps, image: v.image}
	looks, err := looksAtItself(l.deps)
	if err != nil {
		return nil, err
	}
	src, err := l.warmSource(template.Maps, template.Auxv, looks)
	if err != nil {
		return nil, err
	}
	p := v.plan
	src.Path, src.Fixups, src.Signals, src.Args, src.Env, src.Warm, src.Populate = p.Path, p.Fixups, p.Signals, p.Args, p.Env, p.Warm, p.Populate
	src.Executed = p.Executed
	for _, c := range p.Checks {
		if !filepath.IsAbs(c.Path) { // what was looked for in the working directory
			src.Checks = append(src.Checks, c)
		}
	}
	src.Caller.BootID, src.Caller.BootMark = p.Caller.BootID, p.Caller.BootMark
	src.Flags |= p.Flags & (plan.FlagSlowFaults | plan.FlagProgramArg)
	if exe != p.Path {
		src.Exe, src.ProgramID = exe, v.deps.Program.ID
	}
	return l.planFrom(src)
}

// asLinked are the flags that a linked plan would have for a mapping of a warm one: files may
// be shared that nobody can write to there, and the template's stack grows (plan.Check).
func asLinked(m plan.Map) uint32 {
	flags := m.Flags &^ (unix.MAP_POPULATE | unix.MAP_GROWSDOWN | unix.MAP_STACK | unix.MAP_NORESERVE)
	if m.Prot&unix.PROT_WRITE == 0 && flags&unix.MAP_SHARED != 0 {
		flags = flags&^unix.MAP_SHARED | unix.MAP_PRIVATE
	}
	return flags
}

// stackOf is the initial stack of the reference: that of a warm image's template, which was
// moved, is where the kernel was told that it begins.
func (v *verifying) stackOf(ref *ptrace.Process) (linux.InitialStack, linux.Auxv, error) {
	if v.plan.Kind != plan.KindWarm {
		return ref.Stack()
	}
	maps, err := ref.Maps()
	if err != nil {
		return linux.InitialStack{}, nil, err
	}
	stack, auxv, _, err := linux.ReadStack(ref.PID, v.image.MM.StartStack, maps)
	return stack, auxv, err
}

// sameWarmRegisters compares the registers that a function preserves, and where it goes on.
func (v *verifying) sameWarmRegisters(proc, ref *ptrace.Process) {
	v.same([]value{
		{"rip", proc.Regs.Rip, ref.Regs.Rip}, {"rsp", proc.Regs.Rsp, ref.Regs.Rsp},
		{"rbx", proc.Regs.Rbx, ref.Regs.Rbx}, {"rbp", proc.Regs.Rbp, ref.Regs.Rbp},
		{"r12", proc.Regs.R12, ref.Regs.R12}, {"r13", proc.Regs.R13, ref.Regs.R13},
		{"r14", proc.Regs.R14, ref.Regs.R14}, {"r15", proc.Regs.R15, ref.Regs.R15},
	})
}
