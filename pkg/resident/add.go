package resident

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/linkstop"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// AddOptions says how a program is made resident.
type AddOptions struct {
	Follow       bool              // what the program is a wrapper of, instead of itself
	EvenIfSlower bool              // also if it does not start faster
	TrustOwner   bool              // also, as root, what other users may change: see OwnerError
	Layouts      int               // how many layouts to make, of which a start takes one at random; 0 is 1
	MemoryLimit  uint64            // how many bytes of its own it may have when it is linked, and its image may take; 0 is DefaultMemoryLimit
	Anew         bool              // also if there is a good image already
	Step         func(what string) // told each step as it begins; may be nil
}

// Added is what Add did.
type Added struct {
	Record  registry.Record `json:"record"`
	Path    string          `json:"path"`    // the program's name among Record's
	Already bool            `json:"already"` // it was resident and current; at most its launcher files were made anew
	Named   bool            `json:"named"`   // an image was there: it has one more name now
}

// Add makes a program resident. The name is looked up as LookPath does. Its
// errors are *elfinfo.Refusal and *linkstop.Refusal for what cannot be made
// resident, *OwnerError and *WriterError for files that other users may change or
// that are open for writing, *FormatError, *plan.ImageError and *TrialError for an
// image that would not do, *SlowerError for one that would not pay, fingerprint.ErrChanged if
// something keeps changing, criuwrap's, and those of the store and the registry.
func (m *Manager) Add(ctx context.Context, name string, opts AddOptions) (*Added, error) {
	if opts.Step == nil {
		opts.Step = func(string) {}
	}
	path, err := LookPath(name)
	if err != nil {
		return nil, err
	}
	if opts.Follow {
		opts.Step("follow")
		if _, err := ownersUnless(opts.TrustOwner).allow(path); err != nil {
			return nil, err
		}
		if path, err = follow(ctx, path); err != nil {
			return nil, err
		}
	}
	added, err := m.addPath(ctx, path, opts)
	if errors.Is(err, fingerprint.ErrChanged) {
		// An upgrade under way, most likely at its end by now.
		added, err = m.addPath(ctx, path, opts)
	}
	var refusal *linkstop.Refusal
	if errors.As(err, &refusal) && refusal.Hint == "" {
		refusal.Hint = "it starts normally, as before; there is nothing to be done"
	}
	return added, err
}

// addPath does what there is to do for the program at path: nothing, one more
// name, or an image. Of several who want the same image at once, one makes it
// and the others find it.
func (m *Manager) addPath(ctx context.Context, path string, opts AddOptions) (*Added, error) {
	opts.Layouts = max(opts.Layouts, 1)
	if opts.Layouts > MaxLayouts {
		return nil, fmt.Errorf("%d layouts are more than an image may have (%d)", opts.Layouts, MaxLayouts)
	}
	if added, err := m.addCurrent(ctx, path, opts); added != nil || err != nil {
		return added, err
	}
	if id, err := linux.StatID(path); err == nil {
		opts.Step("wait")
		unlock, err := m.store.LockProgram(ctx, id.Dev, id.Ino)
		if err != nil {
			return nil, err
		}
		defer unlock()
		if added, err := m.addCurrent(ctx, path, opts); added != nil || err != nil {
			return added, err
		}
	}
	a := &adding{
		Manager: m, step: opts.Step, evenIfSlower: opts.EvenIfSlower, layouts: opts.Layouts,
		trustOwner: opts.TrustOwner, owners: ownersUnless(opts.TrustOwner),
		memory: cmp.Or(opts.MemoryLimit, DefaultMemoryLimit),
	}
	rec, err := a.makeResident(ctx, path)
	if err != nil {
		return nil, err
	}
	return &Added{Record: *rec, Path: path}, nil
}

// addCurrent is what is done for a program of which there is a good image; nil
// if there is none.
func (m *Manager) addCurrent(ctx context.Context, path string, opts AddOptions) (*Added, error) {
	rec, ok, err := m.current(path)
	if err != nil || !ok || opts.Anew || opts.Layouts > max(rec.Layouts, 1) || opts.TrustOwner && !rec.TrustOwner {
		return nil, err
	}
	known := slices.Contains(rec.Names(), path)
	if known && m.launchersAreCurrent(rec) {
		return &Added{Record: rec, Path: path, Already: true}, nil
	}
	rec, err = m.addName(ctx, rec.ID, path)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, nil // removed, or replaced, just now
	}
	if err != nil {
		return nil, err
	}
	return &Added{Record: rec, Path: path, Already: known, Named: !known}, nil
}

// adding is one program on its way.
type adding struct {
	*Manager
	step         func(string)
	evenIfSlower bool
	layouts      int
	trustOwner   bool
	owners       *ownerRule // nil where anyone's files may be executed
	memory       uint64     // AddOptions' MemoryLimit

	id      string
	program *elfinfo.File
	criu    criuwrap.Release
	path    string // CRIU's
	staging *store.Staging
	looks   *bool // at itself, once that is known
	timing  *registry.Timing

	// Of the layout that is being made; afterwards of the first.
	another  bool   // not the first one, which has told whether it pays
	dir, at  string // where it is made, and where it will stand
	template *linkstop.Template
	deps     *fingerprint.Dependencies
	image    *criuwrap.Image
	plan     *plan.Plan
	planSize int // encoded

	others []*plan.Plan // of the further layouts
}

// MaxLayouts is how many layouts an image may have.
const MaxLayouts = 64

// makeResident is the whole way, step by step.
func (a *adding) makeResident(ctx context.Context, path string) (*registry.Record, error) {
	var err error

	// What can be refused without running anything is.
	a.step("inspect")
	if a.program, err = elfinfo.Open(path); err != nil {
		return nil, err
	}
	if err := a.program.CanBeResident(); err != nil {
		return nil, err
	}
	if err := notInside(); err != nil {
		return nil, err
	}
	if a.path, err = criuwrap.Find(); err != nil {
		return nil, err
	}
	if a.criu, err = criuwrap.Version(a.path); err != nil {
		return nil, err
	}
	if err := criuwrap.MayDump(a.path); err != nil {
		return nil, err
	}
	if a.id, err = newID(); err != nil {
		return nil, err
	}
	back, err := aside(ctx, path)
	if err != nil {
		return nil, err
	}
	defer back()

	// Everything is made in a staging folder, which is garbage until it is
	// renamed. The first layout is the image's own folder, others are below it.
	if a.staging, err = a.store.Stage(); err != nil {
		return nil, err
	}
	defer func() { _ = a.staging.Discard() }()
	a.dir, a.at = a.staging.Dir, a.store.ImageDir(a.id)
	if err := a.makeLayout(ctx); err != nil {
		return nil, err
	}
	for i := 1; i < a.layouts; i++ {
		if err := a.makeAnother(ctx, i); err != nil {
			return nil, err
		}
	}
	if err := a.end(); err != nil {
		return nil, err
	}
	if err := a.unchanged(); err != nil {
		return nil, err
	}
	store.Fault("after-trial")

	a.step("publish")
	return a.publish(ctx)
}

// makeLayout makes one image of the program, at addresses of its own.
func (a *adding) makeLayout(ctx context.Context) error {
	began, err := linux.CoarseNow()
	if err != nil {
		return err
	}

	// The template stands just after linking, and which of its words belong
	// to the process is known.
	a.step("link")
	program, linker, err := a.begin()
	if err != nil {
		return err
	}
	if a.template, err = linkstop.Stop(ctx, a.program.Path, linkstop.Options{FewTables: fewTables(), Allow: a.allow, Memory: a.memory}); err != nil {
		return err
	}
	defer func() { _ = a.template.Kill() }()
	if err := sameDomain("/proc/self/attr/current", fmt.Sprintf("/proc/%d/attr/current", a.template.PID)); err != nil {
		return err
	}

	// What the dynamic linker saw is recorded before the dump, and must not
	// have changed while it looked.
	a.step("hash")
	if a.deps, err = fingerprint.Record(ctx, a.program.Path, a.program.Interp, a.template.Probes, mappedFiles(a.template.Maps)); err != nil {
		return err
	}
	if changed := a.deps.ChangedSince(began); len(changed) > 0 {
		return fmt.Errorf("%s %w", changed[0], fingerprint.ErrChanged)
	}
	if a.deps.Program.ID != program || a.deps.Linker.ID != linker {
		return fmt.Errorf("%s, or its dynamic linker, %w", a.program.Path, fingerprint.ErrChanged)
	}

	if err = a.makeImage(ctx); err != nil && ctx.Err() == nil {
		if changed := a.unchanged(); changed != nil {
			return changed // which explains whatever it was
		}
	}
	return err
}

// unchanged is ErrChanged where a start would no longer find what was linked.
func (a *adding) unchanged() error {
	if reasons := a.deps.Stale(); len(reasons) > 0 {
		return fmt.Errorf("%w: %s", fingerprint.ErrChanged, reasons[0])
	}
	return nil
}

// makeImage makes the image of the template.
func (a *adding) makeImage(ctx context.Context) error {
	a.step("dump")
	if err := a.dump(ctx); err != nil {
		return err
	}
	store.Fault("after-dump")

	a.step("compile")
	if err := a.compile(); err != nil {
		return err
	}
	store.Fault("after-compile")

	// The image has to do what it is for before anybody relies on it, and to
	// pay.
	a.step("try")
	return a.try(ctx)
}

// makeAnother makes one more layout, from the same files.
func (a *adding) makeAnother(ctx context.Context, i int) error {
	b := *a
	b.dir, b.at = filepath.Join(a.dir, strconv.Itoa(i)), filepath.Join(a.at, strconv.Itoa(i))
	b.layouts, b.another = 1, true
	if err := os.Mkdir(b.dir, 0o700); err != nil {
		return err
	}
	if err := b.makeLayout(ctx); err != nil {
		return err
	}
	if b.deps.Digest() != a.deps.Digest() {
		return fmt.Errorf("a library of %s %w", a.program.Path, fingerprint.ErrChanged)
	}
	a.others = append(a.others, b.plan)
	a.planSize = max(a.planSize, b.planSize)
	return nil
}

// layoutDirs are the folders of an image's layouts, the first one first.
func (m *Manager) layoutDirs(rec registry.Record) []string {
	dirs := []string{m.store.ImageDir(rec.ID)}
	for i := 1; i < min(rec.Layouts, MaxLayouts); i++ {
		dirs = append(dirs, filepath.Join(dirs[0], strconv.Itoa(i)))
	}
	return dirs
}

// planName is a plan's name in its layout's folder.
func planName(s *store.Store) string { return filepath.Base(s.PlanPath("")) }

// newID is a new image's name. It says nothing: what an image is of stands in
// its record.
func newID() (string, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make an image id: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// sameDomain refuses a program that an exec moves into a security domain of its
// own (a profile of AppArmor's, a type transition of SELinux's): it goes by the
// path of what is executed, and that would be the launcher's. The files are
// /proc/pid/attr/current (proc(5)) of both; without such a module there is nothing to
// read.
func sameDomain(oursFile, itsFile string) error {
	ours, err := os.ReadFile(oursFile)
	if err != nil {
		return nil
	}
	its, err := os.ReadFile(itsFile)
	if err == nil && !bytes.Equal(ours, its) {
		return &linkstop.Refusal{
			Reason: fmt.Sprintf("an exec moves it into the security domain %q", bytes.TrimRight(its, "\x00\n")),
			Hint:   "a start from an image would run in the caller's domain; leave it as it is",
		}
	}
	return nil
}

// mappedFiles are the paths that /proc/PID/maps showed, each once.
func mappedFiles(maps []linux.Mapping) []string {
	var paths []string
	seen := map[string]bool{}
	for _, m := range maps {
		if filepath.IsAbs(m.Path) && !seen[m.Path] {
			seen[m.Path] = true
			paths = append(paths, m.Path)
		}
	}
	return paths
}

// dump has CRIU write the template's image into the staging folder, and ends
// the template. CRIU's log is kept only if it failed.
func (a *adding) dump(ctx context.Context) error {
	if err := a.template.Detach(); err != nil {
		return err
	}
	// Not in the store: where there is no room for an image there must be some
	// for the log that says so.
	work, err := store.StageTemporary()
	if err != nil {
		return err
	}
	defer func() { _ = work.Discard() }()
	err = criuwrap.Dump(ctx, criuwrap.DumpOptions{PID: a.template.PID, ImagesDir: a.dir, WorkDir: work.Dir, CRIU: a.path})
	if err != nil {
		return keepLog(work, err)
	}
	if _, err := a.template.Reap(); err != nil {
		return err
	}
	if err := a.withinLimit(); err != nil {
		return err
	}
	if err := a.expose(); err != nil {
		return err
	}
	if a.image, err = criuwrap.Open(a.dir); err != nil {
		return &FormatError{Path: a.path, CRIU: a.criu, Err: err}
	}
	return nil
}

// FormatError is an image that CRIU has just made and that cannot be read.
type FormatError struct {
	Path string // of CRIU
	CRIU criuwrap.Release
	Err  error
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("an image that CRIU %v (%s) has made: %v", e.CRIU, e.Path, e.Err)
}
func (e *FormatError) Unwrap() error { return e.Err }

// Hint says what a person can do about it.
func (e *FormatError) Hint() string { return otherCRIU }

const otherCRIU = "this CRIU writes images that this residentctl cannot read: use another version of either"

// keepLog keeps the log that an error of CRIU's names, and says where it is then.
func keepLog(work *store.Temporary, err error) error {
	var failed *criuwrap.Error
	if errors.As(err, &failed) && failed.Log != "" {
		failed.Log = work.Keep(failed.Log, "residentctl-dump-")
	}
	return err
}

// compile makes the plan and writes it beside CRIU's files. It names them by
// the path that they will have.
func (a *adding) compile() error {
	src, err := a.source()
	if err != nil {
		return err
	}
	if slowFaults() {
		src.Flags |= plan.FlagSlowFaults
	}
	pages, err := os.Open(a.image.PagesPath)
	if err != nil {
		return err
	}
	defer pages.Close()
	src.Pages = pages
	if a.plan, err = plan.Compile(src); err != nil {
		return err
	}
	raw, err := a.plan.Encode()
	if err != nil {
		return err
	}
	a.planSize = len(raw)
	name := filepath.Join(a.dir, planName(a.store))
	if err := os.WriteFile(name, raw, 0o600); err != nil {
		return err
	}
	return a.expose()
}

// publish makes the image findable: image, record, launcher file, index, in
// this order, each durable before the next. What it replaces goes last. The
// store is locked meanwhile, so that no other add, remove or gc sees half of it.
func (a *adding) publish(ctx context.Context) (*registry.Record, error) {
	rec, err := a.record()
	if err != nil {
		return nil, err
	}
	if err := a.describe(rec); err != nil {
		return nil, err
	}
	unlock, err := a.store.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	rec.Paths = a.otherNames(rec.Program, rec.Binary)
	return rec, a.publishLocked(rec)
}

func (a *adding) publishLocked(rec *registry.Record) error {
	if err := a.stampBoot(); err != nil {
		return err
	}
	if err := a.staging.Publish(a.id); err != nil {
		return err
	}
	replaced, err := a.registry.Put(*rec)
	if err != nil {
		// Without its record it is garbage; gc would find it too.
		return errors.Join(err, a.store.RemoveImage(a.id))
	}
	store.Fault("after-record")
	if err := a.lead(*rec); err != nil {
		if len(replaced) == 0 { // nothing is lost, and a full disk gets its room back
			err = errors.Join(err, a.forget(*rec))
		}
		return err
	}
	for _, old := range replaced {
		if err := a.takeAway(rec, old); err != nil {
			return err
		}
	}
	return nil
}

// lead makes starts find the image of an entry: by its launcher files, its link, and
// what is enabled of it.
func (a *adding) lead(rec registry.Record) error {
	if err := a.writeLaunchers(rec); err != nil {
		return err
	}
	if err := a.store.Link(rec.Binary.Dev, rec.Binary.Ino, a.id); err != nil {
		return err
	}
	return a.moveEnabled(rec)
}

// takeAway removes what is left of an entry whose place rec has taken. If it was
// of another file, which rec's path led to before, then that had a link and
// launcher files of its own.
func (m *Manager) takeAway(rec *registry.Record, old registry.Record) error {
	if old.Binary.Dev != rec.Binary.Dev || old.Binary.Ino != rec.Binary.Ino {
		if err := m.unpublish(old.Binary.Dev, old.Binary.Ino); err != nil {
			return err
		}
	}
	return m.store.RemoveImage(old.ID)
}

func (a *adding) record() (*registry.Record, error) {
	deps, err := json.Marshal(a.deps)
	if err != nil {
		return nil, err
	}
	rec := &registry.Record{
		Wish: registry.Wish{Program: a.program.Path, Layouts: a.layouts, TrustOwner: a.trustOwner},
		Image: registry.Image{
			ID: a.id, Binary: a.deps.Program.ID, Digest: a.deps.Digest(), Deps: deps,
			Kind: "linked", Created: time.Now(), CRIU: a.criu.String(), Kernel: a.deps.Kernel,
			Libraries: len(a.deps.Libraries), Mappings: a.plan.Mappings(), Timing: a.timing,
			Bound:         len(a.template.Bound),
			LauncherPlace: plan.LauncherPlace(a.planSize, append([]*plan.Plan{a.plan}, a.others...)...),
		},
	}
	for _, l := range append([]fingerprint.File{a.deps.Linker}, a.deps.Libraries...) {
		rec.LibraryPaths = append(rec.LibraryPaths, l.Path)
	}
	return rec, filepath.WalkDir(a.staging.Dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			rec.ImageBytes += info.Size()
		}
		return err
	})
}

// stampBoot notes that CPU and vDSO were looked at in this boot.
func (a *adding) stampBoot() error {
	boot, err := linux.BootID()
	if err != nil {
		return err
	}
	now := store.Boot{ID: boot, MachineSum: a.deps.MachineSum(), Mark: a.bootMark()}
	if was, err := a.store.ReadBoot(); err == nil && was == now {
		return nil
	}
	return a.store.StampBoot(now)
}

// bootMark takes the dynamic linker's for a file that was built long ago.
func (a *adding) bootMark() uint64 { return linux.BootMark(a.deps.Linker.ID.Mtime) }
