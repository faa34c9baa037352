package resident

import (
	"cmp"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
	"github.com/residentctl/residentctl/pkg/warm"
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
	imports  []string       // what the shim is to import
	images   []*warmImage   // so far; starts find the first one
	notFor   []string       // the terminals for which there is no image, and why, for people
	whole    *registry.Timing

	began int64 // when the first template did, linux.CoarseNow
	learnt
}

// learnt is what the templates of a program's images have shown so far.
type learnt struct {
	accepted []string // the findings that were accepted, for people
	excluded []string // modules that are not in the images
	leftOut  []string // what these do, for people

	// They have read these variables, looked at these paths, mapped these files and read these
	// directories, and perhaps all of ld.so.cache.
	variables []string
	env       []string // which they get
	probes    []fingerprint.Probe
	mapped    []string
	searched  []string
	readCache bool
	deps      *fingerprint.Dependencies // that follow
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
	if err := w.makeImages(ctx); err != nil {
		return nil, err
	}
	if err := w.gate(ctx); err != nil {
		return nil, err
	}
	if err := a.end(); err != nil {
		return nil, err
	}
	if err := w.layouts[0].unchanged(); err != nil {
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

// record is the entry of the image.
func (w *warming) record() (*registry.Record, error) {
	rec, err := w.adding.record()
	if err != nil {
		return nil, err
	}
	rec.NotFor = w.notFor
	rec.Layouts, rec.Variants = w.opts.Layouts, len(w.images)/w.opts.Layouts
	rec.Kind, rec.Whole, rec.Accepted, rec.LeftOut = registry.KindWarm, w.whole, w.accepted, w.leftOut
	if report := w.images[0].report; report != nil {
		rec.Modules = len(report.Modules)
	}
	return rec, nil
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
