package resident

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/store"
	"github.com/residentctl/residentctl/pkg/warm"
	"github.com/residentctl/residentctl/pkg/warmstop"
)

// streams are the sets of standard streams, bit 0 for 0, that are terminals where a program asks
// which are: none, as in a build; all, as in a shell; all but standard output, as before a pipe.
var streams = [...]uint32{0, 1<<0 | 1<<1 | 1<<2, 1<<0 | 1<<2}

// makeImages makes an image for each set of terminals that makes a difference, as often as there
// are to be layouts.
func (w *warming) makeImages(ctx context.Context) (err error) {
	if w.began, err = linux.CoarseNow(); err != nil {
		return err
	}
	w.env = warm.Environment(os.Environ(), nil)
	var excluded []string // from the first image
	for _, terminals := range streams {
		if _, count := w.serving(terminals); count > 0 {
			continue
		}
		before := w.learnt
		w.excluded = excluded
		err := w.makeLayouts(ctx, terminals)
		if kind := problem.KindOf(err); len(w.images) > 0 && ctx.Err() == nil && (kind == problem.Refused || kind == problem.Program) {
			w.learnt = before
			w.notFor = append(w.notFor, fmt.Sprintf("%s as terminals: %v", strings.Join(streamNames(terminals), ", "), err))
			continue
		}
		if err != nil {
			return err
		}
		if excluded == nil { // other sets need not do without what a later one does without
			excluded = slices.Clip(w.excluded)
		}
	}
	return w.finish(ctx)
}

// streamNames are the names of a set of standard streams.
func streamNames(set uint32) []string {
	names := []string{}
	for fd, name := range []string{"stdin", "stdout", "stderr"} {
		if set>>fd&1 != 0 {
			names = append(names, name)
		}
	}
	return names
}

// serving are the images for starts in which these of the standard streams are terminals: which
// is the first one, and how many there are.
func (w *warming) serving(terminals uint32) (first, count int) {
	for first := 0; first < len(w.images); first += w.opts.Layouts {
		layouts := w.images[first:][:w.opts.Layouts]
		if !slices.ContainsFunc(layouts, func(i *warmImage) bool { return (i.terminals^terminals)&i.template.ReadTerminals != 0 }) {
			return first, len(layouts)
		}
	}
	return 0, 0
}

// makeLayouts makes the images for a set of terminals: all of them, or none.
func (w *warming) makeLayouts(ctx context.Context, terminals uint32) error {
	before := len(w.images)
	for range w.opts.Layouts {
		i := &warmImage{warming: w, layout: w.newLayout(len(w.images)), terminals: terminals, env: w.env}
		w.images = append(w.images, i)
		if err := i.make(ctx); err != nil {
			for _, i := range w.images[max(1, before):] { // the first one's directory has all others in it
				_ = os.RemoveAll(i.layout.dir)
			}
			w.images = w.images[:before]
			return err
		}
	}
	return nil
}

// finish has the first image's plan lead to the others, and tries each of them as it will be.
func (w *warming) finish(ctx context.Context) error {
	w.opts.Step("try")
	for n, i := range w.images {
		i.layout.deps = w.deps
		w.layouts = append(w.layouts, i.layout)
		if n > 0 {
			w.images[0].layout.others = append(w.images[0].layout.others, i.layout.at)
		}
	}
	for _, i := range w.images {
		if err := w.compile(i.layout, i.source); err != nil {
			return i.layout.explained(ctx, err)
		}
		err := i.withTrial(func(t *warmTrial) error { return i.layout.tryOnce(ctx, t.start, t.plan) })
		if err != nil {
			return err
		}
	}
	return nil
}

// A warmImage is one of the images of a program.
type warmImage struct {
	*warming
	layout    *layout
	terminals uint32   // the standard streams that are terminals in its template, as bits
	env       []string // of its template
	template  *warmstop.Template
	report    *warm.Report // of the shim, nil without one
	populated []plan.Map   // what its starts populate
}

// make starts the template, dumps it, compiles the plan and tries what has come out.
func (w *warmImage) make(ctx context.Context) error {
	w.layout.warm = true
	if err := os.MkdirAll(w.layout.dir, 0o700); err != nil {
		return err
	}
	w.opts.Step("warm up")
	if err := w.stop(ctx); err != nil {
		return err
	}
	defer func() { _ = w.template.Kill() }()
	if err := sameDomain("/proc/self/attr/current", fmt.Sprintf("/proc/%d/attr/current", w.template.PID)); err != nil {
		return err
	}
	if err := w.imported(); err != nil {
		return err
	}
	if err := w.accept(); err != nil {
		return err
	}
	w.opts.Step("hash")
	if err := w.depend(ctx); err != nil {
		return err
	}
	w.opts.Step("dump")
	t := w.template
	if err := w.dump(ctx, w.layout, t.PID, t.Detach, t.Kill); err != nil {
		return w.layout.explained(ctx, err)
	}
	store.Fault("after-dump")
	w.opts.Step("compile")
	if err := w.compile(w.layout, w.source); err != nil {
		return w.layout.explained(ctx, err)
	}
	store.Fault("after-compile")
	w.opts.Step("try")
	return w.withTrial(func(t *warmTrial) error { return w.tryRuns(ctx, t) })
}

// maxTemplates is how often the template is run at most until it has all of the environment
// that it was seen to read, and imports nothing that an image cannot hold.
const maxTemplates = 12

// stop runs the template to its point: again with more of the environment if it has read what it
// did not get, and without the modules that do what a start would not repeat.
func (w *warmImage) stop(ctx context.Context) error {
	for range maxTemplates {
		if err := w.stopOnce(ctx); err != nil {
			return err
		}
		w.variables = union(w.variables, w.read())
		env := warm.Environment(os.Environ(), w.variables)
		again := w.leaveOut()
		if !again && slices.Equal(env, w.env) {
			return nil
		}
		w.env, w.warming.env = env, env
		_ = w.template.Kill()
	}
	return problem.Refusef("what it does when it starts is different each time")
}

// findings are what the template was found to do, by its system calls and by the shim.
func (w *warmImage) findings() []warmstop.Finding {
	if w.report == nil {
		return slices.Clone(w.template.Findings)
	}
	return slices.Concat(w.template.Findings, w.report.Findings)
}

// found are those of them that an image cannot have and that are not accepted.
func (w *warmImage) found() []warmstop.Finding {
	return slices.DeleteFunc(w.findings(), func(f warmstop.Finding) bool {
		return isCompared(f) || w.renewed(f) || slices.Contains(w.want.Accept, f.What)
	})
}

// renewed reports whether the shim makes up for a finding at each start.
func (w *warmImage) renewed(f warmstop.Finding) bool {
	return w.report != nil && slices.ContainsFunc(w.report.Renewed, func(r warmstop.Finding) bool {
		return r.What == f.What && r.Module == f.Module
	})
}

// isCompared reports whether a finding is of what each start compares then.
func isCompared(f warmstop.Finding) bool {
	return f.What == warmstop.FoundHost || f.What == warmstop.FoundUmask
}

// has reports whether there is a finding of this kind that the shim does not make up for.
func (w *warmImage) has(what string) bool {
	return slices.ContainsFunc(w.findings(), func(f warmstop.Finding) bool { return f.What == what && !w.renewed(f) })
}

// leaveOut takes the modules that were found to do something from what is imported. It reports
// whether there are any.
func (w *warmImage) leaveOut() (any bool) {
	for _, f := range w.found() {
		if f.Module != "" && !slices.Contains(w.excluded, f.Module) {
			w.excluded, any = append(w.excluded, f.Module), true
			w.leftOut = with(w.leftOut, f.Module+" "+f.Detail)
		}
	}
	return any
}

func (w *warmImage) stopOnce(ctx context.Context) error {
	ours := func(path string) bool {
		return path == w.staging.Dir || strings.HasPrefix(path, w.staging.Dir+"/")
	}
	here, err := store.StageTemporary() // gc knows it
	if err != nil {
		return err
	}
	defer func() { _ = here.Discard() }()
	o := warmstop.Options{Path: w.program.Path, Argv: []string{w.path}, Env: w.env, Dir: here.Dir, Ours: ours, Allow: w.allow, Terminals: w.terminals}
	report := filepath.Join(w.staging.Dir, "report")
	if w.script != nil {
		shim, err := w.writeShim(w.shimConfig(report, here.Dir))
		if err != nil {
			return err
		}
		defer os.Remove(shim)
		defer os.Remove(report)
		o.Argv = append(slices.Clone(w.script.Argv), shim)
	}
	said, err := os.CreateTemp("", "residentctl-warm-")
	if err != nil {
		return err
	}
	defer said.Close()
	if err := os.Remove(said.Name()); err != nil {
		return err
	}
	o.Stderr = said
	if w.template, err = warmstop.Stop(ctx, o); err != nil {
		return w.withMessage(err, said)
	}
	if w.script == nil {
		return nil
	}
	text, err := os.ReadFile(report)
	if err == nil {
		w.report, err = warm.ParseReport(text)
	}
	if err != nil {
		_ = w.template.Kill()
	}
	return err
}

// shimConfig is what the shim does in the template.
func (w *warmImage) shimConfig(report, dir string) warm.PythonConfig {
	cfg := warm.PythonConfig{Mode: warm.PythonTemplate, Imports: w.imports, Exclude: w.excluded, Report: report}
	cfg.Audit = []warm.Kept{{warmstop.FoundHere, dir, 1}}
	if name, err := os.Hostname(); err == nil && name != "" {
		cfg.Audit = append(cfg.Audit, warm.Kept{warmstop.FoundHost, name, 0})
	}
	if w.named() {
		cfg.Kind, cfg.Program = warm.KindInterpreter, w.want.Interpreter
	} else {
		cfg.Kind, cfg.Program, cfg.Script, cfg.Prefix = warm.KindScript, w.path, w.path, len(w.script.Argv)
	}
	return cfg
}

// imported is the error of a module that was asked for and cannot be imported. What a script
// could import in training and cannot now it may import later.
func (w *warmImage) imported() error {
	if !w.named() || len(w.report.Failed) == 0 {
		return nil
	}
	if len(w.leftOut) > 0 {
		return problem.Refusef("the module %s when it is imported, which a start from an image would not repeat", w.leftOut[0]).
			WithHint("leave what imports it out of --import, or give --accept")
	}
	return problem.Newf(problem.Program, "import %s", w.report.Failed[0]).
		WithHint("install it for %s, or leave it out of --import", w.want.Interpreter)
}

// accept refuses the template for what was found and is not accepted.
func (w *warmImage) accept() error {
	if found := w.found(); len(found) > 0 {
		return problem.Refusef("it %s when it starts, which a start from an image would not repeat", found[0].Detail).
			WithHint("give --accept %s if that does not matter", found[0].What)
	}
	for _, f := range w.findings() {
		if slices.Contains(w.want.Accept, f.What) {
			w.accepted = with(w.accepted, f.Detail)
		}
	}
	return nil
}

// depend records what the image depends on, and those that were made before it: a program's
// images have all that one of them depends on.
func (w *warmImage) depend(ctx context.Context) (err error) {
	t, l := w.template, w.layout
	w.probes = append(w.probes, t.Probes...)
	w.mapped = union(w.mapped, mappedFiles(t.Maps))
	w.searched = union(w.searched, w.listed())
	w.readCache = w.readCache || t.ReadCache
	probes := w.probes
	if w.script != nil {
		probes = append([]fingerprint.Probe{{Call: "open", Path: w.program.Path}}, probes...)
		for _, path := range w.script.Misses {
			probes = append(probes, fingerprint.Probe{Call: "stat", Path: path, Errno: syscall.ENOENT})
		}
	}
	if l.deps, err = fingerprint.Record(ctx, w.path, w.program.Interp, probes, w.mapped); err != nil {
		return err
	}
	if w.readCache {
		l.deps.DependOnCache()
	}
	// Memory of its owner's processes: his secrets may be in it.
	l.deps.OwnerOnly = true
	if err := l.deps.DependOnDirectories(w.searched); err != nil {
		return err
	}
	if err := l.deps.DependOnManaged(packaged); err != nil {
		return err
	}
	if err := fingerprint.Settle(ctx, l.deps); err != nil {
		return err
	}
	if changed := l.deps.ChangedSince(w.began); len(changed) > 0 {
		return fmt.Errorf("%s %w", changed[0], fingerprint.ErrChanged)
	}
	if l.deps.Program.ID != w.id || l.deps.Linker.ID != w.linker || l.deps.IDOf(w.program.Path) != w.executed {
		return fmt.Errorf("%s, or what is executed for it, %w", w.path, fingerprint.ErrChanged)
	}
	w.deps = l.deps
	return nil
}

// listed are the directories that the template has read, but for the script's own: the shim
// compares that at each start, since what comes there may shadow a module.
func (w *warmImage) listed() []string {
	real, err := filepath.EvalSymlinks(w.path)
	if w.script == nil || err != nil || slices.Contains(w.report.Path, filepath.Dir(real)) {
		return w.template.Listed
	}
	return slices.DeleteFunc(slices.Clone(w.template.Listed), func(dir string) bool { return dir == filepath.Dir(real) })
}

// source puts together what the plan is compiled from.
func (w *warmImage) source(looks bool) (*plan.Source, error) {
	t, l := w.template, w.layout
	if err := w.agree(); err != nil {
		return nil, err
	}
	src, err := l.warmSource(t.Maps, t.Auxv, looks)
	if err != nil {
		return nil, err
	}
	src.Path, src.Fixups, src.Signals = w.path, t.Fixups, t.Signals
	src.Warm = plan.Warm{StackLimit: t.StackLimit, PID: uint64(t.PID)}
	w.lead(&src.Warm)
	src.Populate = w.populated
	if err := w.compareCaller(&src.Warm); err != nil {
		return nil, err
	}
	for _, name := range t.Missed {
		src.Checks = append(src.Checks, plan.CheckedFile{Path: name})
	}
	src.Env = warm.Checks(w.env, w.read())
	if w.script != nil {
		src.Exe, src.ProgramID = w.program.Path, w.id
		src.Args = w.script.Argv
		if w.named() || w.script.ByEnv {
			src.Executed = w.script.Interpreter
		}
		if !w.named() {
			src.Flags |= plan.FlagProgramArg
		}
	}
	return src, nil
}

// compareCaller adds what the template has asked for of where it runs.
func (w *warmImage) compareCaller(c *plan.Warm) error {
	if w.template.ReadNetwork {
		id, err := linux.StatID("/proc/self/ns/net")
		if err != nil {
			return err
		}
		c.NetNS = id.Ino
	}
	if w.has(warmstop.FoundHost) {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		copy(c.Host[:len(c.Host)-1], name)
	}
	if w.has(warmstop.FoundUmask) {
		c.Umask = w.template.Umask() | plan.UmaskCompared
	}
	if w.template.ReadCPUs || w.report != nil && w.report.ReadCPUs {
		var set unix.CPUSet
		n, err := linux.Affinity(0, &set)
		if err != nil {
			return err
		}
		c.CPUsLen = uint32(copy(c.CPUs[:], unsafe.Slice((*byte)(unsafe.Pointer(&set)), n)))
	}
	return nil
}

// lead has a plan lead to the images for each set of terminals: the first one's, once all are
// made, and any other to its own alone.
func (w *warmImage) lead(c *plan.Warm) {
	c.LayoutCounts[0] = 1
	if len(w.layouts) == 0 || w != w.images[0] {
		return
	}
	for _, i := range w.images {
		c.Terminals |= i.template.ReadTerminals
	}
	for terminals := range c.LayoutCounts {
		first, count := w.serving(uint32(terminals))
		c.FirstLayouts[terminals], c.LayoutCounts[terminals] = uint8(first), uint8(count)
	}
}

// read are the environment variables that the template was seen to read.
func (w *warmImage) read() []string {
	names := w.template.Variables
	if w.report != nil {
		names = union(slices.Clone(names), w.report.Read)
	}
	if w.script != nil && w.script.ByPATH { // which interpreter it is depends on that
		names = with(names, "PATH")
	}
	return names
}

// agree holds that CRIU saw the process that the template is.
func (w *warmImage) agree() error {
	t, im := w.template, w.layout.image
	return agree([]agreement{
		{"the instruction pointer", t.Regs.Rip, im.Regs.IP},
		{"the stack pointer", t.Regs.Rsp, im.Regs.SP},
		{"rbx", t.Regs.Rbx, im.Regs.BX},
		{"rbp", t.Regs.Rbp, im.Regs.BP},
		{"r12", t.Regs.R12, im.Regs.R12},
		{"r13", t.Regs.R13, im.Regs.R13},
		{"r14", t.Regs.R14, im.Regs.R14},
		{"r15", t.Regs.R15, im.Regs.R15},
		{"the thread pointer", t.Regs.Fs_base, im.Regs.FSBase},
		{"the thread id's address", t.TIDAddr(), im.ClearTIDAddr},
		{"the robust list", t.RobustHead, im.RobustHead},
		{"the robust list's length", t.RobustLen, uint64(im.RobustLen)},
		{"rseq", t.Rseq.Addr, im.Rseq.Addr},
	})
}

// warmSource is sourceOf with what CRIU's image says of a process at its point.
func (l *layout) warmSource(maps []linux.Mapping, auxv linux.Auxv, looks bool) (*plan.Source, error) {
	src, err := l.sourceOf(maps, auxv, looks)
	if err != nil {
		return nil, err
	}
	im, r := l.image, l.image.Regs
	src.Kind, src.Stop = plan.KindWarm, plan.Stop{Addr: r.IP, Point: plan.StopWarm}
	src.Flags |= plan.FlagKeepBrk
	src.MM.BrkBase, src.MM.Brk = im.MM.StartBrk, im.MM.Brk
	src.Kernel = plan.Kernel{
		FSBase: r.FSBase, TIDAddr: im.ClearTIDAddr, RobustHead: im.RobustHead, RobustLen: im.RobustLen,
		RseqAddr: im.Rseq.Addr, RseqLen: im.Rseq.Len, RseqSig: im.Rseq.Sig,
	}
	src.Entry.RIP, src.Entry.RSP = r.IP, r.SP
	src.Entry.RBX, src.Entry.RBP = r.BX, r.BP
	src.Entry.R12, src.Entry.R13, src.Entry.R14, src.Entry.R15 = r.R12, r.R13, r.R14, r.R15
	return src, nil
}
