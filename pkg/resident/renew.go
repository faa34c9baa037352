package resident

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/plan"
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

// renewed is a renewal under way.
type renewed struct {
	rec   registry.Record
	deps  *fingerprint.Dependencies
	files map[string][]byte // what is replaced, by name in the image
	names []string          // of files, in the order in which they are replaced
}

// renew gives an entry new plans where only times differ from what it depends on. Its
// error is ErrChanged or errWriter where another try might do that, and any other where the
// image has to be made again.
func (m *Manager) renew(ctx context.Context, rec registry.Record) (registry.Record, error) {
	deps, err := renewable(ctx, rec)
	if err != nil {
		return rec, err
	}
	r := &renewed{rec: rec, deps: deps, files: map[string][]byte{}}
	if err := m.prepare(r); err != nil {
		return rec, err
	}
	return r.rec, m.publishRenewed(ctx, r, rec)
}

// currentOrRenewed is current, of an entry that is renewed before where that makes it
// current, or its starts shorter. Its error is that of a renewal which another try might
// carry out.
func (m *Manager) currentOrRenewed(ctx context.Context, path string) (rec registry.Record, isRenewed, ok bool, err error) {
	rec, ok, err = m.current(path)
	if err != nil || !rec.HasImage() || ok && !dated(rec) {
		return rec, false, ok, err
	}
	_, err = m.renew(ctx, rec)
	switch {
	case err != nil && ok:
		return rec, false, true, nil // as before
	case errors.Is(err, fingerprint.ErrChanged), errors.Is(err, errWriter), err != nil && ctx.Err() != nil:
		return rec, false, false, err
	case err != nil:
		return rec, false, false, nil // it is made again, or refused for the same reason
	}
	rec, ok, err = m.current(path)
	return rec, ok, ok, err
}

// dated reports whether new times would make an entry's starts shorter.
func dated(rec registry.Record) bool {
	var deps fingerprint.Dependencies
	return json.Unmarshal(rec.Deps, &deps) == nil && deps.Dated()
}

// renewable are an entry's dependencies with new times, if only those differ.
func renewable(ctx context.Context, rec registry.Record) (*fingerprint.Dependencies, error) {
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
func (m *Manager) prepare(r *renewed) error {
	program, err := elfinfo.Open(r.deps.Program.Path)
	if err != nil {
		return err
	}
	if err := program.CanBeResident(); err != nil {
		return err
	}
	image := m.store.ImageDir(r.rec.ID)
	r.rec.PlanSums = nil
	for _, dir := range layoutDirs(image, r.rec.Layouts) {
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
func (r *renewed) newPlan(program *elfinfo.File, path string) ([]byte, error) {
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
	p.Checks, p.Folders = checksOf(r.deps), foldersOf(r.deps)
	return p.Encode()
}

// newRecord completes the new record, and its copy in the image.
func (m *Manager) newRecord(r *renewed) (err error) {
	if r.rec.Deps, err = json.Marshal(r.deps); err != nil {
		return err
	}
	r.rec.Binary = r.deps.Program.ID
	if faults, exact := m.exposure(r.rec); len(faults) > 0 || !exact {
		return madeAgain("it is for other users now")
	}
	about := filepath.Base(m.store.AboutPath(r.rec.ID))
	r.names = append(r.names, about)
	r.files[about], err = json.Marshal(&r.rec)
	return err
}

// publishRenewed puts the new plans in the place of those of was.
func (m *Manager) publishRenewed(ctx context.Context, r *renewed, was registry.Record) error {
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	now, err := m.registry.Get(was.ID)
	if err != nil {
		return err
	}
	if string(now.Deps) != string(was.Deps) {
		return fmt.Errorf("%s %w", was.Program, fingerprint.ErrChanged)
	}
	r.rec.Wish = now.Wish
	staging, err := m.store.Stage()
	if err != nil {
		return err
	}
	defer func() { _ = staging.Discard() }()
	if err := m.stage(staging, r); err != nil {
		return err
	}
	if err := staging.Replace(was.ID, func() error { return m.recordRenewed(r) }, r.names...); err != nil {
		return err
	}
	return m.stampBoot(r.deps)
}

// stage writes the files, which the same users may read as the image.
func (m *Manager) stage(staging *store.Staging, r *renewed) error {
	for _, name := range r.names {
		path := filepath.Join(staging.Dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, r.files[name], 0o600); err != nil {
			return err
		}
	}
	return expose(staging, r.rec.Program, r.deps)
}

// recordRenewed enters the new record, unless a file is open for writing by now.
func (m *Manager) recordRenewed(r *renewed) error {
	if reasons := r.deps.Stale(); len(reasons) > 0 {
		return fmt.Errorf("%s %w: %s", r.rec.Program, fingerprint.ErrChanged, reasons[0])
	}
	if err := notWritten(r.deps); err != nil {
		return err
	}
	if _, err := m.registry.Put(r.rec); err != nil {
		return err
	}
	store.Fault("after-renew-record")
	return nil
}
