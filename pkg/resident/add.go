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
	"time"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/linkstop"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// AddOptions says how a program is made resident. What was asked for at an earlier add of
// the program goes on counting: the larger number of layouts, the memory limit unless
// another is given, and EvenIfSlower and TrustOwner.
type AddOptions struct {
	Follow       bool              // what the program is a wrapper of, instead of itself
	EvenIfSlower bool              // also if it does not start faster
	TrustOwner   bool              // also, as root, what other users may change: else problem.Untrusted
	Layouts      int               // how many layouts to make, of which a start takes one at random; 0 is 1
	MemoryLimit  uint64            // how many bytes of its own it may have when it is linked, and its image may take; 0 is DefaultMemoryLimit
	Again        bool              // also if there is a good image already
	Exactly      bool              // what was asked for at earlier adds counts no more, but for Warm
	Unasked      bool              // the user did not name it: resident.conf may say that it is never to be resident
	Warm         *registry.Warm    // an image that is taken after the program's own start-up; its Interpreter comes from Name
	Name         string            // with Warm: the program is an interpreter, to be started by a wrapper of this name
	Step         func(what string) // told each step as it begins; may be nil
}

// Added is what Add did.
type Added struct {
	Record  registry.Record `json:"record"`
	Path    string          `json:"path"`    // the program's name among Record's
	Already bool            `json:"already"` // it was resident and current; at most its launcher files were made again
	Renewed bool            `json:"renewed"` // only times of files differed: its image is the same
	Named   bool            `json:"named"`   // an image was there: it has one more name now
}

// Add makes a program resident. The name is looked up as LookPath does. Its
// errors are problem.Refused for what cannot be made resident, problem.Untrusted for
// files that other users may change, *SlowerError for an image that would not pay,
// fingerprint.ErrChanged if something keeps changing, criuwrap's, and those of the store
// and the registry.
func (m *Manager) Add(ctx context.Context, name string, opts AddOptions) (*Added, error) {
	if opts.Step == nil {
		opts.Step = func(string) {}
	}
	path, err := m.lookPath(name)
	if err != nil {
		return nil, err
	}
	if opts.Name != "" {
		return m.addNamed(ctx, path, opts)
	}
	if opts.Unasked {
		if err := m.mayBeAdded(path); err != nil {
			return nil, err
		}
	}
	if opts.Follow {
		opts.Step("follow")
		if path, err = Follow(ctx, path, opts.TrustOwner); err != nil {
			return nil, err
		}
	}
	return m.addAt(ctx, path, opts)
}

// addAt is Add of the program at path.
func (m *Manager) addAt(ctx context.Context, path string, opts AddOptions) (*Added, error) {
	added, err := m.addPath(ctx, path, opts)
	if errors.Is(err, fingerprint.ErrChanged) {
		// An upgrade under way, most likely at its end by now.
		added, err = m.addPath(ctx, path, opts)
	}
	if p := problem.Of(err); p != nil && p.Kind == problem.Refused && p.Hint == "" {
		p.Hint = "leave it as it is: it starts normally, as before"
	}
	return added, err
}

// addPath does what there is to do for the program at path: nothing, one more
// name, or an image. Of several who want the same image at once, one makes it
// and the others find it.
func (m *Manager) addPath(ctx context.Context, path string, opts AddOptions) (*Added, error) {
	opts, err := m.asWished(path, opts)
	if err != nil {
		return nil, err
	}
	if opts.Unasked && opts.Warm != nil {
		return nil, problem.Refusef("%s is to have a warm image, which runs it", path).
			WithHint("make the image with `residentctl refresh %s`", path)
	}
	if opts.Layouts > MaxLayouts {
		return nil, fmt.Errorf("%d layouts are more than an image may have (%d)", opts.Layouts, MaxLayouts)
	}
	if added, err := m.addCurrent(ctx, path, opts); added != nil || err != nil {
		return added, err
	}
	if id, err := linux.StatID(path); err == nil {
		opts.Step("wait")
		unlock, err := m.store.LockProgram(ctx, id.Inode())
		if err != nil {
			return nil, err
		}
		defer unlock()
		if added, err := m.addCurrent(ctx, path, opts); added != nil || err != nil {
			return added, err
		}
	}
	a := &adding{Manager: m, opts: opts, owners: ownersUnless(opts.TrustOwner)}
	rec, err := a.makeResident(ctx, path)
	if err != nil {
		return nil, a.changedMeanwhile(path, err)
	}
	return &Added{Record: *rec, Path: path}, nil
}

// changedMeanwhile returns fingerprint.ErrChanged in place of a refusal if the program is
// no longer what was inspected: processes of two programs cannot be alike.
func (a *adding) changedMeanwhile(path string, err error) error {
	if a.inspected.Ino == 0 || problem.KindOf(err) != problem.Refused {
		return err
	}
	if id, statErr := linux.StatID(path); statErr == nil && id == a.inspected {
		return err
	}
	return fmt.Errorf("%s %w: %w", path, fingerprint.ErrChanged, err)
}

// asWished adds to opts what has been asked for before, for the program at path or for
// another name of the same file. What is at the path may be another file by now.
func (m *Manager) asWished(path string, opts AddOptions) (AddOptions, error) {
	opts.Layouts = max(opts.Layouts, 1)
	exactly, limit := opts.Exactly, opts.MemoryLimit
	for _, find := range []func() (registry.Record, error){
		func() (registry.Record, error) { return m.registry.ByPath(path) },
		func() (registry.Record, error) { return m.sameFile(path) },
	} {
		rec, err := find()
		switch {
		case errors.Is(err, registry.ErrNotFound), errors.Is(err, registry.ErrCorrupt):
			continue // Put replaces a damaged record
		case err != nil:
			return opts, err
		}
		opts.Warm = warmAsWished(opts.Warm, rec.Warm)
		if exactly {
			continue
		}
		opts.Layouts = max(opts.Layouts, rec.Layouts)
		opts.TrustOwner = opts.TrustOwner || rec.TrustOwner
		opts.EvenIfSlower = opts.EvenIfSlower || rec.EvenIfSlower || slower(&rec)
		if limit == 0 {
			opts.MemoryLimit = max(opts.MemoryLimit, rec.MemoryLimit)
		}
	}
	return opts, nil
}

// sameFile is the entry of which a name still leads to the file that path leads to. An
// inode alone may be used again by another program.
func (m *Manager) sameFile(path string) (registry.Record, error) {
	id, err := linux.StatID(path)
	if err != nil {
		return registry.Record{}, registry.ErrNotFound // inspection says it better
	}
	rec, err := m.registry.ByInode(id.Inode())
	if err == nil && !slices.ContainsFunc(rec.Names(), func(name string) bool { return linux.SameFile(name, path) }) {
		err = registry.ErrNotFound
	}
	return rec, err
}

// addCurrent is what is done for a program of which there is a good image; nil
// if there is none.
func (m *Manager) addCurrent(ctx context.Context, path string, opts AddOptions) (*Added, error) {
	if opts.Again {
		return nil, nil
	}
	rec, isRenewed, ok, err := m.currentOrRenewed(ctx, path)
	if err != nil || !ok || opts.Layouts > max(rec.Layouts, 1) || opts.TrustOwner && !rec.TrustOwner {
		return nil, err
	}
	if opts.Exactly && opts.Layouts < max(rec.Layouts, 1) || !sameWarm(opts.Warm, rec.Warm) {
		return nil, nil
	}
	if err := m.noteOptions(ctx, &rec, opts); err != nil {
		return nil, err
	}
	known := slices.Contains(rec.Names(), path)
	if known && m.launchersAreCurrent(rec) && !m.lacksWays(rec) {
		return &Added{Record: rec, Path: path, Already: !isRenewed, Renewed: isRenewed}, nil
	}
	rec, err = m.addName(ctx, rec.ID, path)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, nil // removed, or replaced, just now
	}
	if err != nil {
		return nil, err
	}
	return &Added{Record: rec, Path: path, Already: known && !isRenewed, Renewed: isRenewed, Named: !known}, nil
}

// adding is an add under way: of one program, which is not resident yet.
type adding struct {
	*Manager
	opts   AddOptions
	owners *ownerRule // nil where anyone's files may be executed

	id      string // of the image
	entry   string // the path of what is resident; the program's but for a script
	program *elfinfo.File
	// inspected is the identity of what is resident, as it was then.
	inspected linux.FileID
	criu      criuwrap.Release
	criuPath  string
	staging   *store.Staging

	layouts []*layout        // so far; the first one is the image's own directory
	looks   *bool            // whether the program looks at itself, once that is known
	timing  *registry.Timing // of the first layout
}

// makeResident is the whole way, step by step.
func (a *adding) makeResident(ctx context.Context, path string) (*registry.Record, error) {
	if a.opts.Warm != nil {
		return a.makeWarm(ctx, path)
	}
	// What can be refused without running anything is.
	a.opts.Step("inspect")
	if err := a.inspect(path); err != nil {
		return nil, err
	}
	back, err := aside(ctx, path)
	if err != nil {
		return nil, err
	}
	defer back()

	// Everything is made in a staging directory, which is garbage until it is
	// renamed.
	if a.staging, err = a.store.Stage(); err != nil {
		return nil, err
	}
	defer func() { _ = a.staging.Discard() }()
	for i := range a.opts.Layouts {
		l, err := a.makeLayout(ctx, i)
		if err != nil {
			return nil, err
		}
		a.layouts = append(a.layouts, l)
	}
	if err := a.end(); err != nil {
		return nil, err
	}
	if err := a.layouts[0].unchanged(); err != nil {
		return nil, err
	}
	store.Fault("after-trial")

	a.opts.Step("publish")
	return a.publish(ctx)
}

// inspect looks at the program and at what an image of it is made with.
func (a *adding) inspect(path string) (err error) {
	if a.program, err = elfinfo.Open(path); err != nil {
		return err
	}
	a.entry, a.inspected = path, a.program.ID
	if err := a.program.CanBeResident(); err != nil {
		return err
	}
	if err := notInside(); err != nil {
		return err
	}
	if a.criuPath, err = criuwrap.Find(); err != nil {
		return err
	}
	if a.criu, err = criuwrap.Version(a.criuPath); err != nil {
		return err
	}
	if err := criuwrap.MayDump(a.criuPath); err != nil {
		return err
	}
	a.id, err = newID()
	return err
}

// makeLayout makes the layout of this number, from the same files as the first one.
func (a *adding) makeLayout(ctx context.Context, number int) (*layout, error) {
	a.quiet.RLock() // nothing in here waits for another add
	defer a.quiet.RUnlock()
	began, err := linux.CoarseNow()
	if err != nil {
		return nil, err
	}
	l := a.newLayout(number)
	if number == 0 { // starts find this one, and from there all others
		for other := range a.opts.Layouts - 1 {
			l.others = append(l.others, layoutDir(a.store.ImageDir(a.id), other+1))
		}
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, err
	}

	// The template stands just after linking, and which of its words belong
	// to the process is known.
	a.opts.Step("link")
	program, linker, err := a.begin()
	if err != nil {
		return nil, err
	}
	if l.template, err = linkstop.Stop(ctx, a.program.Path, linkstop.Options{FewTables: fewTables(), Allow: a.allow, Memory: a.opts.MemoryLimit}); err != nil {
		return nil, err
	}
	defer func() { _ = l.template.Kill() }()
	if err := sameDomain("/proc/self/attr/current", fmt.Sprintf("/proc/%d/attr/current", l.template.PID)); err != nil {
		return nil, err
	}

	// What the dynamic linker saw is recorded before the dump, and must not
	// have changed while it looked.
	a.opts.Step("hash")
	if l.deps, err = fingerprint.Record(ctx, a.program.Path, a.program.Interp, l.template.Probes, mappedFiles(l.template.Maps)); err != nil {
		return nil, err
	}
	if changed := l.deps.ChangedSince(began); len(changed) > 0 {
		return nil, fmt.Errorf("%s %w", changed[0], fingerprint.ErrChanged)
	}
	if l.deps.Program.ID != program || l.deps.Linker.ID != linker {
		return nil, fmt.Errorf("%s, or its dynamic linker, %w", a.program.Path, fingerprint.ErrChanged)
	}

	if err := a.makeImage(ctx, l); err != nil {
		return nil, l.explained(ctx, err)
	}
	if number > 0 && l.deps.Digest() != a.layouts[0].deps.Digest() {
		return nil, fmt.Errorf("a library of %s %w", a.program.Path, fingerprint.ErrChanged)
	}
	return l, nil
}

// makeImage makes the image of the template.
func (a *adding) makeImage(ctx context.Context, l *layout) error {
	a.opts.Step("dump")
	reap := func() error {
		_, err := l.template.Reap()
		return err
	}
	if err := a.dump(ctx, l, l.template.PID, l.template.Detach, reap); err != nil {
		return err
	}
	store.Fault("after-dump")

	a.opts.Step("compile")
	if err := a.compile(l, l.source); err != nil {
		return err
	}
	store.Fault("after-compile")

	// The image has to do what it is for before anybody relies on it, and to
	// pay.
	a.opts.Step("try")
	return a.try(ctx, l)
}

// newID returns a new image's name, which means nothing: what an image is of is in
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
		return problem.Refusef("an exec moves it into the security domain %q", bytes.TrimRight(its, "\x00\n")).
			WithHint("leave it as it is: a start from an image would run in the caller's domain")
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

// dump has CRIU write the image of a template into the layout's directory, and ends
// the template. CRIU's log is kept only if it failed.
func (a *adding) dump(ctx context.Context, l *layout, pid int, detach, reap func() error) error {
	if err := detach(); err != nil {
		return err
	}
	// CRIU restores the policy that it has dumped, and that is not to be ours in the background.
	_ = linux.Foreground(pid)
	// Not in the store: where there is no room for an image there must be some
	// for the log that says so.
	work, err := store.StageTemporary()
	if err != nil {
		return err
	}
	defer func() { _ = work.Discard() }()
	err = criuwrap.Dump(ctx, criuwrap.DumpOptions{PID: pid, ImagesDir: l.dir, WorkDir: work.Dir, CRIU: a.criuPath})
	if err != nil {
		return keepLog(work, err)
	}
	if err := reap(); err != nil {
		return err
	}
	if err := withinLimit(l.dir, cmp.Or(a.opts.MemoryLimit, DefaultMemoryLimit)); err != nil {
		return err
	}
	if err := a.expose(l.deps); err != nil {
		return err
	}
	if l.image, err = criuwrap.Open(l.dir); err != nil {
		return otherFormat(a.criu, a.criuPath, err)
	}
	return nil
}

// otherFormat is the error of an image that CRIU has just made and that cannot be read.
func otherFormat(criu criuwrap.Release, path string, err error) error {
	return problem.Newf(problem.System, "an image made by CRIU %v (%s): %w", criu, path, err).WithHint(otherCRIU)
}

const otherCRIU = "this CRIU writes images that this residentctl cannot read: use another version of either"

// keepLog keeps the log that an error of CRIU's names, and says where it is then.
func keepLog(work *store.Temporary, err error) error {
	var failed *criuwrap.Error
	if errors.As(err, &failed) && failed.Log != "" {
		failed.Log = work.Keep(failed.Log, "residentctl-dump-")
	}
	return err
}

// compile makes the plan of what source puts together, and writes it beside CRIU's files. It
// names them by the path that they will have.
func (a *adding) compile(l *layout, source func(looks bool) (*plan.Source, error)) error {
	looks, err := a.looksAtItself(l.deps)
	if err != nil {
		return err
	}
	src, err := source(looks)
	if err != nil {
		return err
	}
	if slowFaults() {
		src.Flags |= plan.FlagSlowFaults
	}
	if l.plan, err = l.planFrom(src); err != nil {
		return err
	}
	return a.writePlan(l)
}

// writePlan writes a layout's plan beside CRIU's files.
func (a *adding) writePlan(l *layout) error {
	raw, err := l.plan.Encode()
	if err != nil {
		return err
	}
	l.planSize, l.planSum = len(raw), planSum(raw)
	name := filepath.Join(l.dir, planName(a.store))
	if err := os.WriteFile(name, raw, 0o600); err != nil {
		return err
	}
	return a.expose(l.deps)
}

// publish makes the image findable: image, record, launcher file, index, in
// this order, each durable before the next. What it replaces goes last. The
// store is locked meanwhile, so that no other add, remove or gc sees half of it.
func (a *adding) publish(ctx context.Context) (*registry.Record, error) {
	rec, err := a.record()
	if err != nil {
		return nil, err
	}
	return rec, a.publishRecord(ctx, rec)
}

func (a *adding) publishRecord(ctx context.Context, rec *registry.Record) error {
	if err := a.describe(rec); err != nil {
		return err
	}
	unlock, err := a.store.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	rec.Paths = a.otherNames(rec.Program, rec.Binary)
	if err := a.inherit(rec); err != nil {
		return err
	}
	if _, err := a.adopt(rec); err != nil {
		return err
	}
	return a.publishLocked(rec)
}

func (a *adding) publishLocked(rec *registry.Record) error {
	if err := a.stampBoot(a.layouts[0].deps); err != nil {
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
		return errors.Join(err, a.takeBack(*rec, replaced, err))
	}
	for _, old := range replaced {
		if err := a.takeAway(rec, old); err != nil {
			return err
		}
	}
	return nil
}

// takeBack removes an image that no start could be made to find, so that a full disk gets
// its room back, unless it has replaced another. A wish that was there before stays.
func (a *adding) takeBack(rec registry.Record, replaced []registry.Record, why error) error {
	switch {
	case len(replaced) == 0:
		return a.forget(rec)
	case len(withImage(replaced)) == 0:
		return a.reclaim(rec, why.Error())
	}
	return nil
}

// lead makes starts find the image of an entry: by its launcher files, its link, and
// what is enabled of it.
func (a *adding) lead(rec registry.Record) error {
	if err := a.writeLaunchers(rec); err != nil {
		return err
	}
	if err := a.store.Link(rec.Binary.Inode(), a.id); err != nil {
		return err
	}
	return a.moveEnabled(rec)
}

// takeAway removes what is left of an entry whose place rec has taken. If it was
// of another file, which rec's path led to before, then that had a link and
// launcher files of its own.
func (m *Manager) takeAway(rec *registry.Record, old registry.Record) error {
	if !old.HasImage() {
		return nil
	}
	if old.Binary.Inode() != rec.Binary.Inode() {
		if err := m.unpublish(old.Binary.Inode()); err != nil {
			return err
		}
	}
	return m.store.RemoveImage(old.ID)
}

func (a *adding) record() (*registry.Record, error) {
	first := a.layouts[0]
	deps, err := json.Marshal(first.deps)
	if err != nil {
		return nil, err
	}
	rec := &registry.Record{
		Wish: registry.Wish{
			Program: a.entry, Layouts: len(a.layouts), TrustOwner: a.opts.TrustOwner, MemoryLimit: a.opts.MemoryLimit,
			EvenIfSlower: a.opts.EvenIfSlower, Warm: a.opts.Warm,
		},
		Image: registry.Image{
			ID: a.id, Binary: first.deps.Program.ID, Digest: first.deps.Digest(), Deps: deps, Lookups: first.deps.Lookups(),
			Kind: registry.KindLinked, Created: time.Now(), CRIU: a.criu.String(), Kernel: first.deps.Kernel,
			Libraries: len(first.deps.Libraries), Mappings: first.plan.Mappings(), Timing: a.timing,
			LauncherPlace: launcherPlace(a.layouts), LauncherRoom: first.plan.StackRoom(),
		},
	}
	if first.template != nil {
		rec.Bound = len(first.template.Bound)
	}
	for _, l := range a.layouts {
		rec.PlanSums = append(rec.PlanSums, l.planSum)
	}
	for _, f := range append([]fingerprint.File{first.deps.Linker}, first.deps.Libraries...) {
		rec.LibraryPaths = append(rec.LibraryPaths, f.Path)
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
func (m *Manager) stampBoot(deps *fingerprint.Dependencies) error {
	boot, err := linux.BootID()
	if err != nil {
		return err
	}
	now := store.Boot{ID: boot, MachineSum: deps.MachineSum(), Mark: bootMark(deps)}
	if was, err := m.store.ReadBoot(); err == nil && was == now {
		return nil
	}
	return m.store.StampBoot(now)
}

// stampNewBoot is stampBoot where the stamp is of another boot: an entry that is current has
// been compared with this CPU and vDSO.
func (m *Manager) stampNewBoot(ctx context.Context, rec registry.Record) error {
	boot, err := linux.BootID()
	if err != nil {
		return err
	}
	if was, err := m.store.ReadBoot(); err == nil && was.ID == boot {
		return nil
	}
	var deps fingerprint.Dependencies
	if err := json.Unmarshal(rec.Deps, &deps); err != nil {
		return err
	}
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return m.stampBoot(&deps)
}

// bootMark takes the dynamic linker's for a file that was built long ago.
func bootMark(deps *fingerprint.Dependencies) uint64 { return linux.BootMark(deps.Linker.ID.Mtime) }
