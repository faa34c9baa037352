package resident

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/readers"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// An image of which nothing has changed but times of files that it depends on need not be
// made again. It gets new plans with the identities that these files have now, and its
// record the same; CRIU's files stay. In this order, each step durable before the next:
//
//   - The new plans and about.json are in staging/. Starts use the old plan, which the
//     new times make a normal one.
//   - The record has the new identities, and the checksums of the new plans. Starts still
//     use the old plan, and the checksum says that it is an old one.
//   - The new plans are renamed to the places of the old ones, then about.json.
//
// Killed in between, it leaves an entry that is not current, which the next refresh takes
// up from the beginning.

// madeAgain is why an image cannot be renewed although what it depends on could be.
func madeAgain(why string) error { return fmt.Errorf("it has to be made again: %s", why) }

// A renewal is that of one entry.
type renewal struct {
	was, rec registry.Record // as it was and as it will be
	deps     *fingerprint.Dependencies
	files    map[string][]byte // what is replaced, by name in the image
	names    []string          // of files, in the order in which they are replaced

	// err is fingerprint.ErrChanged or errWriter where another try might renew it, and any
	// other where the image has to be made again.
	err error
}

// renewAll gives entries new plans where only times differ from what they depend on.
// Several take not much longer than one: they become durable together.
func (m *Manager) renewAll(ctx context.Context, records []registry.Record) []*renewal {
	var all, ready []*renewal
	for _, rec := range records {
		r := &renewal{was: rec, rec: rec, files: map[string][]byte{}}
		if r.deps, r.err = renewable(ctx, rec); r.err == nil {
			r.err = m.prepare(r)
		}
		if all = append(all, r); r.err == nil {
			ready = append(ready, r)
		}
	}
	if err := m.publishRenewed(ctx, ready); err != nil {
		for _, r := range ready {
			r.err = cmp.Or(r.err, err)
		}
	}
	return all
}

// currentOrRenewed is current, of an entry that is renewed before where that makes it
// current (isRenewed), or its starts shorter. Its error is that of a renewal which another
// try might carry out.
func (m *Manager) currentOrRenewed(ctx context.Context, path string) (rec registry.Record, isRenewed, ok bool, err error) {
	rec, ok, err = m.current(path)
	if err != nil || !rec.HasImage() || ok && !dated(rec) {
		return rec, false, ok, err
	}
	err = m.renewAll(ctx, []registry.Record{rec})[0].err
	switch {
	case err != nil && ok:
		return rec, false, true, nil // as before
	case tryAgain(err), err != nil && ctx.Err() != nil:
		return rec, false, false, err
	case err != nil:
		return rec, false, false, nil // it is made again, or refused for the same reason
	}
	rec, now, err := m.current(path)
	return rec, now && !ok, now, err
}

// tryAgain reports whether another try might carry a renewal out.
func tryAgain(err error) bool {
	return errors.Is(err, fingerprint.ErrChanged) || errors.Is(err, errWriter)
}

// renewNeeded renews those entries that would be current then, or start faster. It returns
// how that went, by image.
func (m *Manager) renewNeeded(ctx context.Context, records []registry.Record) map[string]error {
	seen := &fingerprint.Seen{}
	records = slices.DeleteFunc(slices.Clone(records), func(rec registry.Record) bool {
		return !rec.HasImage() || !dated(rec) && len(m.staleSeen(rec, seen)) == 0 && m.sound(rec)
	})
	results := map[string]error{}
	for _, r := range m.renewAll(ctx, records) {
		results[r.was.ID] = r.err
	}
	return results
}

// dated reports whether new times would make an entry's starts shorter.
func dated(rec registry.Record) bool {
	var deps fingerprint.Dependencies
	return rec.Kind != registry.KindWarm && json.Unmarshal(rec.Deps, &deps) == nil && deps.Dated()
}

// renewable are an entry's dependencies with new times, if only those differ.
func renewable(ctx context.Context, rec registry.Record) (*fingerprint.Dependencies, error) {
	if rec.Kind == registry.KindWarm {
		return nil, madeAgain("what the program has read of times is in its memory")
	}
	var deps fingerprint.Dependencies
	if err := json.Unmarshal(rec.Deps, &deps); err != nil {
		return nil, madeAgain(fmt.Sprintf("what it depends on cannot be read (%v)", err))
	}
	now, err := deps.Renew(ctx, noWriter)
	if err != nil {
		return nil, err
	}
	if now.Program.ID.Ctime != deps.Program.ID.Ctime && labelled() {
		return nil, madeAgain("its security label may be another one")
	}
	return now, nil
}

// noWriter is errWriter for a file that is open for writing.
func noWriter(path string) error {
	_, err := refuseWriters(path, path, linux.FileID{})
	return err
}

// labelled reports whether a security module gives processes labels, which an exec may
// change by a label of the file (proc(5), /proc/pid/attr/current): a new label changes a
// file's ctime only.
func labelled() bool {
	label, err := os.ReadFile("/proc/self/attr/current")
	return err == nil && len(label) > 0
}

// prepare makes an entry's new plans and its new record.
func (m *Manager) prepare(r *renewal) error {
	program, err := elfinfo.Open(r.deps.Program.Path)
	if err != nil {
		return err
	}
	if err := program.CanBeResident(); err != nil {
		return err
	}
	image := m.store.ImageDir(r.rec.ID)
	r.rec.PlanSums = nil
	for _, dir := range layoutDirs(image, &r.rec) {
		name, err := filepath.Rel(image, filepath.Join(dir, planName(m.store)))
		if err != nil {
			return err
		}
		if r.files[name], err = r.newPlan(program, filepath.Join(image, name)); err != nil {
			return err
		}
		r.names = append(r.names, name)
		r.rec.PlanSums = append(r.rec.PlanSums, planSum(r.files[name]))
	}
	return m.newRecord(r)
}

func planSum(raw []byte) string { return fmt.Sprintf("%016x", plan.Sum(raw)) }

// newPlan is the plan in a file with the identities that are true now.
func (r *renewal) newPlan(program *elfinfo.File, path string) ([]byte, error) {
	p, err := plan.Read(path)
	if err != nil {
		return nil, madeAgain(err.Error())
	}
	if real, err := filepath.EvalSymlinks(program.Path); err != nil || real != p.Real {
		return nil, madeAgain("it is in another place")
	}
	boot, err := linux.BootID()
	if err != nil {
		return nil, err
	}
	copy(p.Caller.BootID[:], boot)
	p.Caller.BootMark = bootMark(r.deps)
	p.Flags = p.Flags&^plan.FlagCheckExec | execFlag(program)
	ids := map[string]linux.FileID{r.deps.Program.Path: r.deps.Program.ID, r.deps.Linker.Path: r.deps.Linker.ID}
	for _, l := range r.deps.Libraries {
		ids[l.Path] = l.ID
	}
	for i := range p.Files[:len(p.Files)-1] {
		f := &p.Files[i]
		id, known := ids[f.Path]
		if !known {
			return nil, madeAgain("its plan maps " + f.Path + ", of which the record knows nothing")
		}
		f.ID = id
	}
	p.Checks, p.Directories = checksOf(r.deps), directoriesOf(r.deps)
	return p.Encode()
}

// newRecord completes the new record, and its copy in the image.
func (m *Manager) newRecord(r *renewal) (err error) {
	if r.rec.Deps, err = json.Marshal(r.deps); err != nil {
		return err
	}
	r.rec.Binary, r.rec.Lookups = r.deps.Program.ID, r.deps.Lookups()
	if faults, exact := m.exposure(r.rec); len(faults) > 0 || !exact {
		return madeAgain("it is for other users now")
	}
	about := filepath.Base(m.store.AboutPath(r.rec.ID))
	r.names = append(r.names, about)
	r.files[about], err = json.Marshal(&r.rec)
	return err
}

// publishRenewed puts new plans in the place of the old ones, and takes down in each
// renewal what is against it. Its error is about all of them.
func (m *Manager) publishRenewed(ctx context.Context, all []*renewal) error {
	if len(all) == 0 {
		return nil
	}
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	staging, err := m.store.Stage()
	if err != nil {
		return err
	}
	defer func() { _ = staging.Discard() }()
	names := map[string][]string{}
	for _, r := range all {
		if r.err = m.stage(staging, r); r.err == nil {
			names[r.rec.ID] = r.names
		}
	}
	if err := staging.Replace(func() error { return m.recordRenewed(all, names) }, names); err != nil {
		return err
	}
	return m.stampBoot(all[0].deps)
}

// stage writes the files of an entry that is still the same one.
func (m *Manager) stage(staging *store.Staging, r *renewal) error {
	now, err := m.registry.Get(r.was.ID)
	if err != nil {
		return err
	}
	if string(now.Deps) != string(r.was.Deps) {
		return fmt.Errorf("%s %w", r.was.Program, fingerprint.ErrChanged)
	}
	r.rec.Wish = now.Wish
	for _, name := range r.names {
		path := filepath.Join(staging.Dir, r.rec.ID, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, r.files[name], 0o600); err != nil {
			return err
		}
	}
	readers, err := readers.Of(r.rec.Program, r.deps)
	if err != nil {
		return err
	}
	return staging.ExposePart(r.rec.ID, readers.Mode, readers.GID)
}

// recordRenewed enters the new records, and leaves out what cannot be renewed.
func (m *Manager) recordRenewed(all []*renewal, names map[string][]string) error {
	var records []registry.Record
	for _, r := range all {
		if r.err == nil {
			r.err = r.stillTrue()
		}
		if r.err != nil {
			delete(names, r.rec.ID)
			continue
		}
		records = append(records, r.rec)
	}
	if _, err := m.registry.PutAll(records); err != nil {
		return err
	}
	store.Fault("after-renew-record")
	return nil
}

// stillTrue is what has changed meanwhile, or is open for writing.
func (r *renewal) stillTrue() error {
	if reasons := r.deps.Stale(); len(reasons) > 0 {
		return fmt.Errorf("%s %w: %s", r.rec.Program, fingerprint.ErrChanged, reasons[0])
	}
	return notWritten(r.deps)
}
