package resident

import (
	"cmp"
	"context"
	"fmt"
	"io"
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
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
	"github.com/residentctl/residentctl/pkg/warm"
	"github.com/residentctl/residentctl/pkg/warmstop"
)

// A warm image is taken after the program's own start-up: at the point of package warmstop. A
// python script is such a program by the shim of package warm, which imports what a training
// run of the script has imported.

// warming is an add of a warm image under way.
type warming struct {
	*adding
	path     string         // of the program that is started
	id       linux.FileID   // of that
	executed linux.FileID   // of what is executed for it
	linker   linux.FileID   // of the dynamic linker of that
	script   *warm.Script   // nil for a program that has the point itself
	want     *registry.Warm // what was asked for
	env      []string       // of the template
	report   *warm.Report   // of the shim, nil without one
	imports  []string       // what the shim is to import
	layout   *layout
	template *warmstop.Template
	accepted []string // the findings that were accepted, for people
	excluded []string // modules that are not in the image
	leftOut  []string // what these do, for people
	whole    *registry.Timing
}

// makeWarm is the whole way of a warm image, step by step.
func (a *adding) makeWarm(ctx context.Context, path string) (*registry.Record, error) {
	w := &warming{adding: a, path: path, want: a.opts.Warm}
	a.opts.Step("inspect")
	if err := w.inspect(); err != nil {
		return nil, err
	}
	back, err := aside(ctx, w.program.Path)
	if err != nil {
		return nil, err
	}
	defer back()
	if a.staging, err = a.store.Stage(); err != nil {
		return nil, err
	}
	defer func() { _ = a.staging.Discard() }()
	a.quiet.RLock()
	defer a.quiet.RUnlock()
	if err := w.train(ctx); err != nil {
		return nil, err
	}
	if err := w.makeImage(ctx); err != nil {
		return nil, err
	}
	if err := w.gate(ctx); err != nil {
		return nil, err
	}
	if err := a.end(); err != nil {
		return nil, err
	}
	if err := w.layout.unchanged(); err != nil {
		return nil, err
	}
	store.Fault("after-trial")
	a.opts.Step("publish")
	rec, err := w.record()
	if err != nil {
		return nil, err
	}
	return rec, a.publishRecord(ctx, rec)
}

// inspect looks at the program, its interpreter if it is a script, and at what an image is
// made with.
func (w *warming) inspect() (err error) {
	if w.id, err = linux.StatID(w.path); err != nil {
		return err
	}
	executed := w.path
	if isScript(w.path) {
		if w.script, err = w.readScript(); err != nil {
			return err
		}
		executed = w.script.Interpreter
	}
	if _, err := w.owners.allow(w.path); err != nil {
		return err
	}
	if rec, err := w.entryOf(w.path); err == nil && len(systemWays(rec)) > 0 {
		return problem.Refusef("%s is enabled for the whole system, and a warm image starts by its launcher file only", w.path).
			WithHint("run `residentctl disable --system %s` first", w.path)
	}
	if err := w.adding.inspect(executed); err != nil {
		return err
	}
	if w.executed, w.linker, err = w.begin(); err != nil {
		return err
	}
	w.entry, w.inspected = w.path, w.id
	return nil
}

// isScript reports whether a file begins with #!.
func isScript(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var begin [2]byte
	_, err = f.Read(begin[:])
	return err == nil && string(begin[:]) == "#!"
}

// readScript is the program as a script: of a named entry, whose program is a wrapper, the
// interpreter is known.
func (w *warming) readScript() (*warm.Script, error) {
	if w.want.Interpreter != "" {
		return &warm.Script{Path: w.path, Interpreter: w.want.Interpreter, Argv: []string{w.want.Interpreter}}, nil
	}
	return warm.ReadScript(w.path, os.Getenv("PATH"))
}

// named reports whether it is an interpreter with a name of its own, which is not given a
// script's path by the launcher.
func (w *warming) named() bool { return w.want.Interpreter != "" }

// makeImage starts the template, dumps it and compiles the plan.
func (w *warming) makeImage(ctx context.Context) error {
	began, err := linux.CoarseNow()
	if err != nil {
		return err
	}
	w.layout = w.newLayout(0)
	w.layout.warm = true
	w.layouts = []*layout{w.layout}
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
	if err := w.depend(ctx, began); err != nil {
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
	return nil
}

// maxTemplates is how often the template is run at most until it has all of the environment
// that it was seen to read, and imports nothing that an image cannot hold.
const maxTemplates = 12

// stop runs the template to its point: again with more of the environment if it has read what it
// did not get, and without the modules that do what a start would not repeat.
func (w *warming) stop(ctx context.Context) error {
	w.env = warm.Environment(os.Environ(), nil)
	for range maxTemplates {
		if err := w.stopOnce(ctx); err != nil {
			return err
		}
		env := warm.Environment(os.Environ(), w.read())
		again := w.leaveOut()
		if !again && slices.Equal(env, w.env) {
			return nil
		}
		w.env = env
		_ = w.template.Kill()
	}
	return problem.Refusef("what it does when it starts is different each time")
}

// findings are what the template was found to do, by its system calls and by the shim.
func (w *warming) findings() []warmstop.Finding {
	if w.report == nil {
		return slices.Clone(w.template.Findings)
	}
	return slices.Concat(w.template.Findings, w.report.Findings)
}

// found are those of them that an image cannot have and that are not accepted.
func (w *warming) found() []warmstop.Finding {
	return slices.DeleteFunc(w.findings(), func(f warmstop.Finding) bool {
		return isCompared(f) || w.renewed(f) || slices.Contains(w.want.Accept, f.What)
	})
}

// renewed reports whether the shim makes up for a finding at each start.
func (w *warming) renewed(f warmstop.Finding) bool {
	return w.report != nil && slices.ContainsFunc(w.report.Renewed, func(r warmstop.Finding) bool {
		return r.What == f.What && r.Module == f.Module
	})
}

// isCompared reports whether a finding is of what each start compares then.
func isCompared(f warmstop.Finding) bool {
	return f.What == warmstop.FoundHost || f.What == warmstop.FoundUmask
}

// has reports whether there is a finding of this kind that the shim does not make up for.
func (w *warming) has(what string) bool {
	return slices.ContainsFunc(w.findings(), func(f warmstop.Finding) bool { return f.What == what && !w.renewed(f) })
}

// leaveOut takes the modules that were found to do something from what is imported. It reports
// whether there are any.
func (w *warming) leaveOut() (any bool) {
	for _, f := range w.found() {
		if f.Module != "" && !slices.Contains(w.excluded, f.Module) {
			w.excluded, any = append(w.excluded, f.Module), true
			w.leftOut = append(w.leftOut, f.Module+" "+f.Detail)
		}
	}
	return any
}

func (w *warming) stopOnce(ctx context.Context) error {
	ours := func(path string) bool {
		return path == w.staging.Dir || strings.HasPrefix(path, w.staging.Dir+"/")
	}
	here, err := store.StageTemporary() // gc knows it
	if err != nil {
		return err
	}
	defer func() { _ = here.Discard() }()
	o := warmstop.Options{Path: w.program.Path, Argv: []string{w.path}, Env: w.env, Dir: here.Dir, Ours: ours, Allow: w.allow}
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
func (w *warming) shimConfig(report, dir string) warm.PythonConfig {
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

// withMessage adds the last line that a template has written to standard error to its error.
func (w *warming) withMessage(err error, said *os.File) error {
	const enough = 4096 // bytes
	size, readErr := said.Seek(0, io.SeekEnd)
	text, _ := io.ReadAll(io.NewSectionReader(said, max(0, size-enough), enough))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if readErr != nil || last == "" || problem.KindOf(err) != problem.Program {
		return err
	}
	return problem.Newf(problem.Program, "%w: %s", err, last).WithHint("%s", problem.HintOf(err))
}

// writeShim writes the shim to the staging directory.
func (w *warming) writeShim(cfg warm.PythonConfig) (path string, err error) {
	text, err := warm.PythonShim(cfg)
	if err != nil {
		return "", err
	}
	path = filepath.Join(w.staging.Dir, "shim.py")
	return path, os.WriteFile(path, text, 0o600)
}

// imported is the error of a module that was asked for and cannot be imported. What a script
// could import in training and cannot now it may import later.
func (w *warming) imported() error {
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
func (w *warming) accept() error {
	if found := w.found(); len(found) > 0 {
		return problem.Refusef("it %s when it starts, which a start from an image would not repeat", found[0].Detail).
			WithHint("give --accept %s if that does not matter", found[0].What)
	}
	for _, f := range w.findings() {
		if slices.Contains(w.want.Accept, f.What) {
			w.accepted = append(w.accepted, f.Detail)
		}
	}
	return nil
}

// depend records what the image depends on.
func (w *warming) depend(ctx context.Context, began int64) (err error) {
	t, l := w.template, w.layout
	probes := t.Probes
	if w.script != nil {
		probes = append([]fingerprint.Probe{{Call: "open", Path: w.program.Path}}, probes...)
		for _, path := range w.script.Misses {
			probes = append(probes, fingerprint.Probe{Call: "stat", Path: path, Errno: syscall.ENOENT})
		}
	}
	if l.deps, err = fingerprint.Record(ctx, w.path, w.program.Interp, probes, mappedFiles(t.Maps)); err != nil {
		return err
	}
	if t.ReadCache {
		l.deps.DependOnCache()
	}
	// Memory of its owner's processes: his secrets may be in it.
	l.deps.OwnerOnly = true
	if err := l.deps.DependOnDirectories(w.listed()); err != nil {
		return err
	}
	if err := l.deps.DependOnManaged(packaged); err != nil {
		return err
	}
	if err := fingerprint.Settle(ctx, l.deps); err != nil {
		return err
	}
	if changed := l.deps.ChangedSince(began); len(changed) > 0 {
		return fmt.Errorf("%s %w", changed[0], fingerprint.ErrChanged)
	}
	if l.deps.Program.ID != w.id || l.deps.Linker.ID != w.linker || l.deps.IDOf(w.program.Path) != w.executed {
		return fmt.Errorf("%s, or what is executed for it, %w", w.path, fingerprint.ErrChanged)
	}
	return nil
}

// listed are the directories that the template has read, but for the script's own: the shim
// compares that at each start, since what comes there may shadow a module.
func (w *warming) listed() []string {
	real, err := filepath.EvalSymlinks(w.path)
	if w.script == nil || err != nil || slices.Contains(w.report.Path, filepath.Dir(real)) {
		return w.template.Listed
	}
	return slices.DeleteFunc(slices.Clone(w.template.Listed), func(dir string) bool { return dir == filepath.Dir(real) })
}

// record is the entry of the image.
func (w *warming) record() (*registry.Record, error) {
	rec, err := w.adding.record()
	if err != nil {
		return nil, err
	}
	rec.Kind, rec.Whole, rec.Accepted, rec.LeftOut = registry.KindWarm, w.whole, w.accepted, w.leftOut
	if w.report != nil {
		rec.Modules = len(w.report.Modules)
	}
	return rec, nil
}

// source puts together what the plan is compiled from.
func (w *warming) source(looks bool) (*plan.Source, error) {
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
func (w *warming) compareCaller(c *plan.Warm) error {
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
	c.NoTerminals = w.template.NoTerminals
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

// read are the environment variables that the template was seen to read.
func (w *warming) read() []string {
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
func (w *warming) agree() error {
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

// packaged reports whether what is in a directory is a package manager's, which replaces files
// and does not write to them: it is root's alone, below /usr but for /usr/local.
func packaged(dir string) bool {
	if !strings.HasPrefix(dir, "/usr/") || strings.HasPrefix(dir, "/usr/local/") {
		return false
	}
	info, err := os.Stat(dir)
	return err == nil && info.Mode().Perm()&0o022 == 0 && info.Sys().(*syscall.Stat_t).Uid == 0
}

// environmentOf are the variables that a plan wants to have.
func environmentOf(p *plan.Plan) []string {
	var env []string
	for _, c := range p.Env {
		if c.Kind == plan.EnvExact {
			env = append(env, c.Text)
		}
	}
	return env
}

// warmAsWished is a wish for a warm image with what was asked for at an earlier add: its
// training runs and modules, unless others are given, and all that was accepted.
func warmAsWished(now, earlier *registry.Warm) *registry.Warm {
	if now == nil || earlier == nil {
		return cmp.Or(now, earlier)
	}
	w := *now
	w.Interpreter = cmp.Or(w.Interpreter, earlier.Interpreter)
	if len(w.Imports) == 0 {
		w.Imports = earlier.Imports
	}
	if len(w.Train) == 0 {
		w.Train = earlier.Train
	}
	for _, what := range earlier.Accept {
		w.Accept = with(w.Accept, what)
	}
	return &w
}

// sameWarm reports whether two wishes for a warm image ask for the same one.
func sameWarm(a, b *registry.Warm) bool {
	if a == nil || b == nil {
		return a == b
	}
	sorted := func(words []string) []string { return slices.Sorted(slices.Values(words)) }
	return a.Interpreter == b.Interpreter && slices.Equal(a.Imports, b.Imports) && slices.Equal(a.Train, b.Train) &&
		slices.Equal(sorted(a.Accept), sorted(b.Accept))
}
