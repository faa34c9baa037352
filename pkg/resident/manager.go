package resident

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// Manager carries out the verbs on one store. It holds nothing open.
type Manager struct {
	store    *store.Store
	registry *registry.Registry // nil where there is no store yet, and if it is foreign
	foreign  bool               // the registry is another's (OpenToRead)
	dir      string             // also where there is no store yet

	// quiet is held for reading by what takes the machine's time, and for writing while
	// starts are timed: of several adds at once the others pause then.
	quiet sync.RWMutex
}

// Dir is the path of the store, also where there is none yet.
func (m *Manager) Dir() string { return m.dir }

// NotFound returns registry.ErrNotFound for a query that was looked for in these stores.
func NotFound(query string, dirs ...string) error {
	err := fmt.Errorf("%s: %w", query, registry.ErrNotFound)
	if len(dirs) > 0 {
		err = fmt.Errorf("%w in %s", err, strings.Join(dirs, " or "))
	}
	return err
}

// Open opens the store in dir. With create it is made where there is none, the
// registry too; without, one that is not there is an empty one, and nothing is made
// or written before there is something to change.
func Open(dir string, create bool) (*Manager, error) {
	m, err := openIn(dir, create)
	if m != nil {
		m.dir = absolute(dir)
	}
	return m, err
}

func absolute(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
}

// OpenToPurge is Open without create, but a registry that is damaged is no error.
func OpenToPurge(dir string) (*Manager, error) {
	m, err := Open(dir, false)
	if errors.Is(err, registry.ErrCorrupt) {
		m.registry, err = registry.At(m.store.RegistryPath(), registry.Options{Existing: true}), nil
	}
	return m, err
}

func openIn(dir string, create bool) (*Manager, error) {
	if create {
		s, err := store.Create(dir)
		if err != nil {
			return nil, err
		}
		r, err := registry.Open(s.RegistryPath(), registry.Options{})
		return &Manager{store: s, registry: r}, err
	}
	s, err := store.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return &Manager{}, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := registry.Open(s.RegistryPath(), registry.Options{Existing: true})
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		r, err = registry.Open(s.RegistryPath(), registry.Options{Existing: true, ReadOnly: true})
	}
	return &Manager{store: s, registry: r}, err
}

// State says what there is of a program that is to be resident.
type State string

// States of entries.
const (
	StateCurrent State = "current" // starts use its image
	StateStale   State = "stale"   // they do not, or not all of them
	StateNone    State = "none"    // it has no image
)

// Entry is a program that is to be resident and whether a start would use its image.
type Entry struct {
	registry.Record
	Gain     float64  `json:"gain,omitempty"`     // see Gain
	Launcher string   `json:"launcher,omitempty"` // the launcher file of Program; "" without an image
	State    State    `json:"state"`
	Reasons  []string `json:"reasons,omitempty"` // of any state but current, for people
}

// Entry is a record with the state that it is in now.
func (m *Manager) Entry(rec registry.Record) Entry { return m.entry(rec, nil) }

// entry is an entry in its state.
func (m *Manager) entry(rec registry.Record, seen *fingerprint.Seen) Entry {
	e := Entry{Record: rec, Gain: Gain(rec.Timing), State: StateCurrent}
	if !rec.HasImage() {
		e.State, e.Reasons = StateNone, []string{noImage(rec)}
		e.Reason = "" // that was when the image went
		return e
	}
	e.Launcher = m.Launcher(rec)
	if e.Reasons = m.staleSeen(rec, seen); len(e.Reasons) > 0 {
		e.State = StateStale
		if m.startsByOlder(rec) {
			e.Reasons = []string{olderEntry}
		}
	}
	return e
}

// List returns every entry, sorted by program.
func (m *Manager) List(ctx context.Context) ([]Entry, error) {
	entries, _, err := m.Select(ctx, Selection{})
	return entries, err
}

// stale says why a start would not use the entry's image: it is damaged, or what it
// depends on has changed. Nothing of that is hashed.
func (m *Manager) stale(rec registry.Record) []string { return m.staleSeen(rec, nil) }

// staleSeen is stale for one of many entries.
func (m *Manager) staleSeen(rec registry.Record, seen *fingerprint.Seen) []string {
	reasons := m.damage(rec)
	var deps fingerprint.Dependencies
	if err := json.Unmarshal(rec.Deps, &deps); err != nil {
		return append(reasons, fmt.Sprintf("what it depends on cannot be read (%v)", err))
	}
	return append(reasons, deps.StaleSeen(seen)...)
}

// Remove forgets the entries that the queries name, the wish and the image, if there is
// one: an id or a unique prefix of one, a path, a program's name, or the key of a damaged
// record. It goes on
// after a query that names nothing, and returns what was removed beside the errors
// of all. Of a damaged record the result has what the registry's indexes say of it.
func (m *Manager) Remove(ctx context.Context, queries ...string) ([]registry.Record, error) {
	var removed []registry.Record
	var failed []error
	for _, q := range queries {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		if m.registry == nil {
			failed = append(failed, NotFound(q, m.dir))
			continue
		}
		rec, err := m.forgetOne(ctx, func() (registry.Record, error) { return m.registry.Find(q) }, true)
		switch {
		case errors.Is(err, registry.ErrNotFound):
			failed = append(failed, NotFound(q, m.dir))
			continue
		case err != nil:
			failed = append(failed, fmt.Errorf("%s: %w", q, err))
			continue
		}
		removed = append(removed, rec)
	}
	return removed, errors.Join(failed...)
}

// RemoveAll forgets every entry.
func (m *Manager) RemoveAll(ctx context.Context) ([]registry.Record, error) {
	if m.registry == nil {
		return nil, nil
	}
	records, err := m.registry.List()
	if err != nil {
		return nil, err
	}
	var removed []registry.Record
	for _, rec := range records {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		_, err := m.forgetOne(ctx, func() (registry.Record, error) { return m.again(rec) }, false)
		if errors.Is(err, registry.ErrNotFound) {
			continue // another process was quicker
		}
		if err != nil {
			return removed, fmt.Errorf("%s: %w", rec.Program, err)
		}
		removed = append(removed, rec)
	}
	return removed, nil
}

// again looks an entry up that was found before.
func (m *Manager) again(rec registry.Record) (registry.Record, error) {
	if rec.HasImage() {
		return m.registry.Get(rec.ID)
	}
	return m.registry.ByPath(rec.Program)
}

// forgetOne looks an entry up and forgets it, with the store locked: what was
// looked up before might have been replaced by an add since. A damaged one is
// forgotten only if the caller means it.
func (m *Manager) forgetOne(ctx context.Context, lookUp func() (registry.Record, error), alsoDamaged bool) (registry.Record, error) {
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return registry.Record{}, err
	}
	defer unlock()
	rec, err := lookUp()
	if damaged := registry.Damaged(err); len(damaged) == 1 && alsoDamaged {
		return m.forgetDamaged(damaged[0])
	}
	if err != nil {
		return registry.Record{}, err
	}
	return rec, m.forget(rec)
}

// forgetDamaged forgets a damaged record. What the indexes say of it is not what
// decides about its image: that goes, with all that leads to it, if the registry is
// whole now and has no record of it. Otherwise it is left to gc, which works by the
// same rule. The store must be locked.
func (m *Manager) forgetDamaged(d *registry.DamagedError) (registry.Record, error) {
	rec := registry.Record{Wish: registry.Wish{Program: d.Key}}
	if len(d.Names) > 0 {
		rec.Program, rec.Paths = d.Names[0], d.Names[1:]
	}
	if len(d.IDs) > 0 {
		rec.ID = d.IDs[0]
	}
	if err := m.registry.Forget(d.Key); err != nil {
		return registry.Record{}, err
	}
	store.Fault("after-delete")
	if _, err := m.wholeRegistry(); err != nil {
		return rec, nil // another is damaged, and says so itself
	}
	for _, b := range d.Binaries {
		if _, err := m.ifUnknown(b, func() error { return m.unpublish(b) }); err != nil {
			return rec, err
		}
	}
	for _, id := range d.IDs {
		if _, err := m.collectImage(GCItem{ID: id}); err != nil {
			return rec, err
		}
	}
	return rec, nil
}

// forget removes an entry: first what leads to it, then its record, and the
// image last, so that at every moment what is found is whole. The store must be
// locked.
func (m *Manager) forget(rec registry.Record) error {
	if !rec.HasImage() {
		_, err := m.registry.Delete(rec.Program)
		return errors.Join(err, m.store.RemoveNamed(rec.Program))
	}
	if err := m.unpublish(rec.Binary.Inode()); err != nil {
		return err
	}
	if _, err := m.registry.Delete(rec.ID); err != nil {
		return err
	}
	store.Fault("after-delete")
	return errors.Join(m.store.RemoveImage(rec.ID), m.store.RemoveNamed(rec.Program))
}

// unpublish removes all that leads to the image of one binary.
func (m *Manager) unpublish(b linux.Inode) error {
	if err := m.removeSystem(b); err != nil {
		return err
	}
	if err := m.removeShims(b); err != nil {
		return err
	}
	if err := m.store.Unlink(b); err != nil {
		return err
	}
	return m.store.RemoveLaunchers(b)
}

// Launcher is the path of the launcher file of an entry's program.
func (m *Manager) Launcher(rec registry.Record) string {
	return m.store.LauncherPath(rec.Binary.Inode(), rec.Program)
}
