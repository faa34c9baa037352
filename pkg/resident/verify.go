package resident

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/plural"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/launcher"
	"github.com/residentctl/residentctl/pkg/linkstop"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/ptrace"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// A Reference is what a start from an image is compared with.
type Reference string

const (
	// ReferenceLink is the program, linked again by its dynamic linker.
	ReferenceLink Reference = "link"
	// ReferenceCRIU is the same image, restored by CRIU.
	ReferenceCRIU Reference = "criu"
)

// Verified is what Verify found out about one image.
type Verified struct {
	ID        string    `json:"id"`
	Program   string    `json:"program"`
	Reference Reference `json:"reference"`
	Warm      bool      `json:"warm,omitempty"` // with ReferenceLink it is compared with CRIU's files
	OK        bool      `json:"ok"`
	Failures  []string  `json:"failures,omitempty"` // what is wrong, for people

	// What was read: files hashed, and pages of memory compared word by word.
	// All other pages of the image are those of the hashed files.
	Files int `json:"files"`
	Pages int `json:"pages"`
	// Differences are the words that differ for a known reason.
	Differences []Difference `json:"differences,omitempty"`
	// NotCompared is what belongs to the process, not to the image.
	NotCompared []string `json:"not_compared,omitempty"`
}

func (v *Verified) failf(format string, args ...any) {
	v.Failures = append(v.Failures, fmt.Sprintf(format, args...))
}

// Entries returns the entries that the queries name, each once and in their order,
// or without queries all of them that have an image, by program. A query that names none, or more
// than one, is registry.ErrNotFound or ErrAmbiguous, and then nothing else is
// returned. Beside another error is what could be read all the same.
func (m *Manager) Entries(queries ...string) ([]registry.Record, error) {
	all, unread := m.records()
	if len(queries) == 0 {
		return withImage(all), unread
	}
	var named []registry.Record
	for _, q := range queries {
		found, _ := choose(all, []string{q})
		switch {
		case len(found) == 0:
			return nil, errors.Join(NotFound(q, m.dir), unread)
		case len(found) > 1:
			return nil, &registry.AmbiguousError{Query: q, Candidates: found}
		case !slices.ContainsFunc(named, func(r registry.Record) bool { return r.Program == found[0].Program }):
			named = append(named, found[0])
		}
	}
	return named, unread
}

// Verify checks that a start from the entry's image is what it has to be. It
// hashes the files that the image depends on, checks that the plan is what the
// record and CRIU's files make it, starts the program by its launcher file up to
// the jump, and compares that process with the reference. What is not as it should
// be is in the result; the error says why it could not be found out: problem.Untrusted
// where the record does not say that the owner is trusted, and others.
func (m *Manager) Verify(ctx context.Context, rec registry.Record, ref Reference) (*Verified, error) {
	if err := hasImage(rec); err != nil {
		return nil, err
	}
	if err := notInside(); err != nil {
		return nil, err
	}
	v := &verifying{Manager: m, rec: rec, owners: ownersUnless(rec.TrustOwner), result: &Verified{
		ID: rec.ID, Program: rec.Program, Reference: ref, Warm: rec.Kind == registry.KindWarm,
	}}
	if err := v.files(ctx); err != nil {
		return nil, err
	}
	back, err := aside(ctx, rec.Program)
	if err != nil {
		return nil, err
	}
	defer back()
	for _, v.dir = range layoutDirs(m.store.ImageDir(rec.ID), &rec) {
		v.layout()
		// With something wrong here a start is a normal one, so there is
		// nothing to compare.
		if len(v.result.Failures) > 0 {
			break
		}
		if err := v.mayExecute(); err != nil {
			return nil, err
		}
		if err := v.memory(ctx, ref); err != nil {
			return nil, err
		}
	}
	v.result.OK = len(v.result.Failures) == 0
	return v.result, nil
}

// verifying is one entry on its way.
type verifying struct {
	*Manager
	rec    registry.Record
	result *Verified

	deps   fingerprint.Dependencies
	owners *ownerRule // nil where anyone's files may be executed

	dir   string // of the layout that is being looked at
	plan  *plan.Plan
	image *criuwrap.Image

	pagesPath string // of CRIU's pages in the start that is compared
}

// files checks everything that does not need a process.
func (v *verifying) files(ctx context.Context) error {
	// planAgrees reports in what an older plan differs.
	v.result.Failures = slices.DeleteFunc(v.stale(v.rec), func(why string) bool { return strings.HasSuffix(why, olderPlan) })
	if err := json.Unmarshal(v.rec.Deps, &v.deps); err != nil {
		return nil // v.stale has said so
	}
	changed, err := v.deps.Verify(ctx)
	if err != nil {
		return err
	}
	for _, c := range changed {
		if !slices.Contains(v.result.Failures, c) {
			v.result.Failures = append(v.result.Failures, c)
		}
	}
	v.result.Files = len(v.deps.Hashed())
	if v.deps.Digest() != v.rec.Digest {
		v.result.failf("the record's digest is not that of the files it names")
	}
	return nil
}

// mayExecute holds the program and its dynamic linker to the rule about owners. To the
// libraries it is applied when they are opened.
func (v *verifying) mayExecute() error {
	for _, path := range []string{v.plan.Path, v.plan.Exe().Path, v.deps.Linker.Path} {
		if _, err := v.owners.allow(path); err != nil {
			return err
		}
	}
	return nil
}

// layout reads one layout's plan and image. Why they cannot be read v.files has said, most
// likely.
func (v *verifying) layout() {
	var err error
	if v.plan, err = plan.Read(filepath.Join(v.dir, planName(v.store))); err == nil {
		v.image, err = criuwrap.Open(v.dir)
	}
	switch {
	case err == nil:
		v.planAgrees()
	case len(v.result.Failures) == 0:
		v.result.failf("%s", problem.Text(err))
	}
}

// memory starts the program and compares it with the reference.
func (v *verifying) memory(ctx context.Context, ref Reference) error {
	start, p, remove, err := v.starter()
	if err != nil {
		return err
	}
	defer remove()
	proc, err := startTrial(ctx, start, p)
	if err == nil {
		defer func() { _ = proc.Kill() }()
		err = compareStart(p, v.pagesPath, proc)
	}
	if errors.Is(err, errTrial) {
		v.result.failf("%v", err)
		return nil
	}
	if err != nil {
		return err
	}
	switch {
	case ref == ReferenceCRIU:
		err = v.withCRIU(ctx, proc)
	case p.Kind == plan.KindWarm: // running the program again would not make the same memory
		v.result.Pages, v.result.NotCompared = heldPages(p), notComparedWarm
	default:
		err = v.withLink(ctx, proc)
	}
	if errors.Is(err, errLayout) {
		v.result.failf("it cannot be compared: %v", err)
		return nil
	}
	return err
}

// starter returns a launcher file that starts the layout, and its plan. The entry's own
// takes any of several at random, so for those there is one with a plan that has no
// others, which are the caller's, as the launcher wants it: in the store if the caller may
// write to it, for nothing may be executed in some temporary directories (noexec). One
// outside the store has a copy of CRIU's pages beside it, since a plan reaches no
// further than its store.
func (v *verifying) starter() (path string, p *plan.Plan, remove func(), err error) {
	v.pagesPath = v.image.PagesPath
	if v.rec.LayoutCount() == 1 {
		return v.Launcher(v.rec), v.plan, func() {}, nil
	}
	alone := aloneOf(v.plan)
	var s launcher.Store
	var dir string
	if side, stageErr := v.store.Stage(); stageErr == nil {
		s, dir, remove = v.store.ForLaunchers(), side.Dir, func() { _ = side.Discard() }
	} else if temporary, stageErr := store.StageTemporary(); stageErr == nil {
		dir, remove = temporary.Dir, func() { _ = temporary.Discard() }
		s, err = v.copyPages(dir, alone)
	} else {
		return "", nil, nil, stageErr
	}
	if err == nil {
		path, err = starterOf(s, dir, alone)
	}
	if err != nil {
		remove()
	}
	return path, alone, remove, err
}

// copyPages copies CRIU's pages to dir, for a plan that is to be started from there.
func (v *verifying) copyPages(dir string, p *plan.Plan) (launcher.Store, error) {
	at, err := linux.StatID(dir)
	if err != nil {
		return launcher.Store{}, err
	}
	pages := p.Pages()
	pages.Path = filepath.Base(v.pagesPath)
	raw, err := os.ReadFile(v.pagesPath)
	if err != nil {
		return launcher.Store{}, err
	}
	v.pagesPath = filepath.Join(dir, pages.Path)
	if err := os.WriteFile(v.pagesPath, raw, 0o600); err != nil {
		return launcher.Store{}, err
	}
	pages.ID, err = linux.StatID(v.pagesPath)
	return launcher.Store{Dir: dir, Inode: at.Inode()}, err
}

// withLink compares with the program as its dynamic linker links it now, at the
// same addresses.
func (v *verifying) withLink(ctx context.Context, proc *ptrace.Process) error {
	mm := v.image.MM
	layout := linkstop.Layout{
		VDSO:      linux.PageRange{Start: v.plan.VDSO.Addr, End: v.plan.VDSO.Addr + v.plan.VDSO.Len},
		StartCode: mm.StartCode, EndCode: mm.EndCode, StartData: mm.StartData, EndData: mm.EndData,
		StartBrk: mm.StartBrk, Brk: mm.StartBrk,
		Memory: v.rec.MemoryLimit,
	}
	for _, a := range v.image.VMAs {
		if !kernels(v.image.VMAs, a.Start) {
			layout.Maps = append(layout.Maps, linux.Mapping{Start: a.Start, End: a.End, Path: a.Path, Offset: a.Offset})
		}
	}
	ref, err := linkstop.Relink(ctx, v.plan.Path, layout, v.owners.allowOpened)
	if err != nil {
		return err
	}
	defer func() { _ = ref.Kill() }()
	if ref.Stop != v.plan.Stop {
		v.result.failf("the stop point is %v at %#x instead of %v at %#x", v.plan.Stop.Point, v.plan.Stop.Addr, ref.Stop.Point, ref.Stop.Addr)
	}
	if ref.TIDAddr != v.plan.Kernel.TIDAddr {
		v.result.failf("the thread id's address is %#x instead of %#x", v.plan.Kernel.TIDAddr, ref.TIDAddr)
	}
	if v.rec.Bound > 0 && len(ref.Bound) == 0 {
		v.result.failf("it cannot be compared: it has bound %s in advance, and a process that binds all at once does not get to the stop point now", plural.Count(v.rec.Bound, "call"))
		return nil
	}
	bound := map[uint64]uint64{}
	for _, call := range ref.Bound {
		bound[call.Slot] = call.Function
	}
	return v.compare(proc, ref.Process, bound, ref.Noise)
}

// comparison prepares the comparison of the trial start with another process.
func (v *verifying) comparison(proc *ptrace.Process, pid int, stack linux.InitialStack) (*comparison, error) {
	c := &comparison{plan: v.plan}
	var err error
	if c.pagesPath, err = filepath.EvalSymlinks(v.pagesPath); err != nil {
		return nil, err
	}
	ours, _, err := startedWith(v.plan, proc)
	if err != nil {
		return nil, err
	}
	if c.trial, err = newSide(proc.PID, ours); err != nil {
		return nil, err
	}
	if c.ref, err = newSide(pid, stack); err != nil {
		return nil, err
	}
	c.trial.values[plan.FixFlags] = plan.StartExplain // startTrial has asked for it
	c.image = imageStretches(v.image, v.plan.VDSO)
	return c, nil
}

// sameVDSO compares the vDSO's code.
func (v *verifying) sameVDSO(c *comparison) error {
	ours, err := vdsoCode(c.trial)
	if err != nil {
		return err
	}
	theirs, err := vdsoCode(c.ref)
	if err == nil && !bytes.Equal(ours, theirs) {
		v.result.failf("the vDSO's code is another one")
	}
	return err
}

// sameAreas compares where the kernel believes code and data of the program to
// be.
func (v *verifying) sameAreas(proc, ref *ptrace.Process) error {
	got, err := readAreas(proc.PID)
	if err != nil {
		return err
	}
	want, err := readAreas(ref.PID)
	if err != nil {
		return err
	}
	for i, what := range areaNames {
		if got[i] != want[i] {
			v.result.failf("for the kernel the %s is at %#x instead of %#x", what, got[i], want[i])
		}
	}
	return nil
}

func vdsoCode(s side) ([]byte, error) {
	for _, m := range s.maps {
		if m.Path == linux.VDSO {
			code := make([]byte, m.Len())
			return code, linux.ReadMem(s.pid, m.Start, code)
		}
	}
	return nil, fmt.Errorf("process %d has no vDSO", s.pid)
}

var areaNames = [...]string{"start of the code", "end of the code", "start of the data", "end of the data"}

// readAreas reads proc_pid_stat(5): startcode, endcode, start_data, end_data.
func readAreas(pid int) (areas [len(areaNames)]uint64, err error) {
	fields, err := linux.StatFields(pid)
	for i, n := range []int{26, 27, 45, 46} {
		areas[i] = fields[n]
	}
	return areas, err
}

// withCRIU compares with the image as CRIU restores it. Every word must be the
// same one, but for those that belong to the process.
func (v *verifying) withCRIU(ctx context.Context, proc *ptrace.Process) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ref, err := restoreStopped(ctx, v.dir, false)
	if err != nil {
		return err
	}
	defer func() { _ = ref.Kill() }()
	if ref.Regs.Rsp != v.image.Regs.SP || ref.Regs.Rip != v.image.Regs.IP {
		v.result.failf("CRIU restores rip %#x and rsp %#x instead of %#x and %#x",
			ref.Regs.Rip, ref.Regs.Rsp, v.image.Regs.IP, v.image.Regs.SP)
	}
	return v.compare(proc, ref, nil, nil)
}

// compare compares the resident start with the reference: registers,
// registrations, mappings and memory.
func (v *verifying) compare(proc, ref *ptrace.Process, bound map[uint64]uint64, noise func(addr, word uint64) string) error {
	stack, auxv, err := v.stackOf(ref)
	if err != nil {
		return err
	}
	c, err := v.comparison(proc, ref.PID, stack)
	if err != nil {
		return err
	}
	c.bound, c.noise = bound, noise
	if err := c.run(); err != nil {
		return err
	}
	v.result.Failures = append(v.result.Failures, c.failures()...)
	v.result.Differences, v.result.Pages = c.found(), c.pages
	v.result.NotCompared = notCompared
	if v.plan.Kind == plan.KindWarm {
		v.result.NotCompared = notComparedWarm
	}
	v.same([]value{
		{"the robust list", proc.RobustHead, ref.RobustHead},
		{"the robust list's length", proc.RobustLen, ref.RobustLen},
		{"rseq", proc.Rseq.Addr, ref.Rseq.Addr},
		{"rseq's length", uint64(proc.Rseq.Len), uint64(ref.Rseq.Len)},
		{"rseq's signature", uint64(proc.Rseq.Sig), uint64(ref.Rseq.Sig)},
		{"AT_PHDR", v.plan.Entry.Phdr, auxv.Value(linux.ATPhdr)},
		{"AT_PHNUM", v.plan.Entry.Phnum, auxv.Value(linux.ATPhnum)},
		{"AT_BASE", v.plan.Entry.Base, auxv.Value(linux.ATBase)},
		{"AT_ENTRY", v.plan.Entry.ProgramEntry, auxv.Value(linux.ATEntry)},
		{"AT_SYSINFO_EHDR", v.plan.VDSO.Code, auxv.Value(linux.ATSysinfoEhdr)},
	})
	if err := v.sameRegisters(proc, ref); err != nil {
		return err
	}
	if err := v.sameVDSO(c); err != nil {
		return err
	}
	return v.sameAreas(proc, ref)
}

// notCompared is what belongs to the process and not to the image.
var notCompared = []string{
	"the stack, which is the kernel's own at each start",
	"the vDSO's data pages, which the kernel gives every process",
	"the program break, which is random at each start",
	"registers that nothing reads after the stop point",
	"the boot in which the plan was made, until whose end the CPU is not compared again",
}

const directionFlag = 1 << 10

// sameRegisters compares the registers that are alive at the stop point, where the
// reference is. The resident start has gone on from there already.
func (v *verifying) sameRegisters(proc, ref *ptrace.Process) error {
	x87, sse, err := proc.FloatControl()
	if err != nil {
		return err
	}
	refX87, refSSE, err := ref.FloatControl()
	if err != nil {
		return err
	}
	if v.plan.Kind == plan.KindWarm {
		v.sameWarmRegisters(proc, ref)
	} else {
		rip, r12 := linkstop.Enter(plan.Stop{Addr: ref.Regs.Rip, Point: v.plan.Stop.Point}, ref.Regs.Rax)
		v.same([]value{{"rip", proc.Regs.Rip, rip}, {"r12", proc.Regs.R12, r12}})
	}
	const status = 0x3f // what operations have left (Intel SDM volume 1, 10.2.3): an exec's in a warm start
	if v.plan.Kind == plan.KindWarm {
		refSSE &^= status
	}
	v.same([]value{
		{"the thread pointer", proc.Regs.Fs_base, ref.Regs.Fs_base},
		{"the gs base", proc.Regs.Gs_base, ref.Regs.Gs_base},
		{"the direction flag", proc.Regs.Eflags & directionFlag, ref.Regs.Eflags & directionFlag},
		{"the x87 control word", uint64(x87), uint64(refX87)},
		{"the SSE control word", uint64(sse), uint64(refSSE)},
	})
	return nil
}

// A value is one that the resident start must have as the reference has it.
type value struct {
	what      string
	got, want uint64
}

func (v *verifying) same(values []value) {
	for _, w := range values {
		if w.got != w.want {
			v.result.failf("%s is %#x instead of %#x", w.what, w.got, w.want)
		}
	}
}

// restoreStopped has CRIU restore an image as a child of this process, stopped
// and traced, in a session of its own or in this process's. CRIU does not change the
// image; its log is kept only if it failed.
//
// The caller keeps the goroutine on its thread (runtime.LockOSThread) for as
// long as the process is to live: the image holds PR_SET_PDEATHSIG, which kills
// it at the end of the thread that started CRIU (prctl(2)), and the thread of a
// tracer that has done its work ends.
func restoreStopped(ctx context.Context, dir string, callersSession bool) (*ptrace.Process, error) {
	work, err := store.StageTemporary()
	if err != nil {
		return nil, err
	}
	defer func() { _ = work.Discard() }()
	pid, err := criuwrap.Restore(ctx, criuwrap.RestoreOptions{
		ImagesDir: dir, WorkDir: work.Dir, Sibling: true, Stopped: true, CallersSession: callersSession,
	})
	if err != nil {
		return nil, keepLog(work, err)
	}
	proc, err := ptrace.Attach(ctx, pid)
	if err != nil {
		// It is our child: its pid cannot be anybody else's yet.
		_ = unix.Kill(pid, unix.SIGKILL)
		_ = linux.EINTR(func() error { _, err := syscall.Wait4(pid, nil, 0, nil); return err })
		return nil, err
	}
	return proc, nil
}
