package resident

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/binfmt"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// The ways in that a user has enabled, shims and registrations for the whole system, are
// part of the wish. A way is noted in the wish before its link is made, and taken from
// it after the link has gone. So a link that is missing is made again by refresh, and one
// that goes with an image comes back with the next image.

// inherit notes in a record the ways in of the wishes whose names it takes over, and which
// of these configuration files asked for.
func (m *Manager) inherit(rec *registry.Record) error {
	for _, name := range rec.Names() {
		old, err := m.registry.ByPath(name)
		switch {
		case errors.Is(err, registry.ErrNotFound), errors.Is(err, registry.ErrCorrupt):
			continue // Put says what is wrong with the registry
		case err != nil:
			return err
		}
		if slices.Contains(old.Shims, name) {
			rec.Shims = with(rec.Shims, name)
		}
		if slices.Contains(old.Configured, name) {
			rec.Configured = with(rec.Configured, name)
		}
		for _, l := range systemWays(old) {
			if l.Program == name {
				rec.SetSystemFor(l.Instance, with(rec.SystemFor(l.Instance), name))
			}
		}
	}
	return nil
}

// adopt notes in a record the links of its names, which no wish has where a residentctl
// made them that kept none; and that it was wanted although it starts no faster. It
// reports whether there was something to note.
func (m *Manager) adopt(rec *registry.Record) (changed bool, err error) {
	for _, name := range rec.Names() {
		if shim, ok := m.store.Shim(filepath.Base(name)); ok && shim.Program == name && !slices.Contains(rec.Shims, name) {
			rec.Shims, changed = with(rec.Shims, name), true
		}
	}
	if !rec.EvenIfSlower && slower(rec) {
		rec.EvenIfSlower, changed = true, true
	}
	for instance := range rec.SystemIn {
		if binfmt.Ended(instance) {
			rec.SetSystemFor(instance, nil)
			changed = true
		}
	}
	links, _, err := m.store.SystemLinks()
	for _, l := range links {
		known := rec.SystemFor(l.Instance)
		if slices.Contains(rec.Names(), l.Program) && !slices.Contains(known, l.Program) && !binfmt.Ended(l.Instance) {
			rec.SetSystemFor(l.Instance, with(known, l.Program))
			changed = true
		}
	}
	return changed, err
}

// slower reports whether an entry was made although it starts no faster.
func slower(rec *registry.Record) bool { return rec.Timing != nil && !faster(rec.Timing) }

// with is names and one more, each once.
func with(names []string, name string) []string {
	if slices.Contains(names, name) {
		return names
	}
	return append(slices.Clone(names), name)
}

// systemWays are the links that an entry's names are to have in system/.
func systemWays(rec registry.Record) (links []store.SystemLink) {
	for _, instance := range append([]string{""}, slices.Sorted(maps.Keys(rec.SystemIn))...) {
		for _, name := range rec.SystemFor(instance) {
			links = append(links, store.SystemLink{Program: name, Binary: rec.Binary.Inode(), Instance: instance})
		}
	}
	return links
}

// missingShims are the names of an entry that are to have a shim and have none. One of
// the same name that leads to another program stays.
func (m *Manager) missingShims(rec registry.Record) []string {
	return slices.DeleteFunc(slices.Clone(rec.Shims), func(name string) bool {
		_, err := os.Lstat(m.store.ShimPath(filepath.Base(name)))
		return !errors.Is(err, fs.ErrNotExist)
	})
}

// missingSystem are the links that an entry is to have in system/ and has not. Those for
// a kernel instance of an earlier boot are none.
func (m *Manager) missingSystem(rec registry.Record) []store.SystemLink {
	return slices.DeleteFunc(systemWays(rec), func(l store.SystemLink) bool {
		_, ok := m.store.SystemLink(l.Binary, l.Instance)
		return ok || binfmt.Ended(l.Instance)
	})
}

// lacksWays reports whether an entry is to have links that are missing.
func (m *Manager) lacksWays(rec registry.Record) bool {
	return len(m.missingShims(rec))+len(m.missingSystem(rec)) > 0
}

// enableAgain makes the links that an entry is to have and has not. What must not be seen
// by others waits. The store must be locked.
func (m *Manager) enableAgain(rec registry.Record) error {
	for _, name := range m.missingShims(rec) {
		if secret, err := isSecret(name); err != nil || secret && m.store.Shared() && !m.store.Holds(name) {
			continue
		}
		if err := m.store.WriteShim(rec.Binary.Inode(), name); err != nil {
			return err
		}
	}
	missing := m.missingSystem(rec)
	if len(missing) == 0 {
		return nil
	}
	instance, err := binfmt.Instance()
	if err != nil {
		return err
	}
	for _, l := range missing {
		if l.Instance == instance {
			_, err = m.register(rec, l.Program)
		} else { // a refresh there will find it
			err = m.store.WriteSystemLink(l)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wishShim notes that one of an entry's names is enabled by a shim. A name in PATH has
// one shim, so other names with the same last component have none any more. The store
// must be locked.
func (m *Manager) wishShim(rec registry.Record, path string) error {
	others, err := m.registry.ByName(filepath.Base(path))
	if err != nil && !errors.Is(err, registry.ErrCorrupt) {
		return err
	}
	replaced := func(name string) bool { return name != path && filepath.Base(name) == filepath.Base(path) }
	for _, other := range others {
		if slices.ContainsFunc(other.Shims, replaced) && other.Program != rec.Program {
			other.Shims = slices.DeleteFunc(other.Shims, replaced)
			if _, err := m.registry.Put(other); err != nil {
				return err
			}
		}
	}
	shims := with(slices.DeleteFunc(slices.Clone(rec.Shims), replaced), path)
	if slices.Equal(shims, rec.Shims) {
		return nil
	}
	rec.Shims = shims
	_, err = m.registry.Put(rec)
	return err
}

// wishSystem notes that one of an entry's names is enabled for the whole system of a
// kernel instance. The store must be locked.
func (m *Manager) wishSystem(rec registry.Record, path, instance string) error {
	if slices.Equal(rec.SystemFor(instance), []string{path}) {
		return nil
	}
	rec.SetSystemFor(instance, []string{path}) // a binary has one link
	_, err := m.registry.Put(rec)
	return err
}

// endShim takes a shim from the wish that has it. The store must be locked.
func (m *Manager) endShim(program string) error {
	return m.changeWish(program, func(w *registry.Wish) bool {
		n := len(w.Shims)
		w.Shims = slices.DeleteFunc(w.Shims, func(name string) bool { return name == program })
		return len(w.Shims) < n
	})
}

// endSystem takes a link in system/ from the wish that has it. The store must be locked.
func (m *Manager) endSystem(l store.SystemLink) error {
	return m.changeWish(l.Program, func(w *registry.Wish) bool {
		names := w.SystemFor(l.Instance)
		left := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == l.Program })
		w.SetSystemFor(l.Instance, left)
		return len(left) < len(names)
	})
}

// changeWish changes the wish for a program, if change says that it has. One that cannot
// be read stays as it is. The store must be locked.
func (m *Manager) changeWish(program string, change func(*registry.Wish) bool) error {
	rec, err := m.registry.ByPath(program)
	switch {
	case errors.Is(err, registry.ErrNotFound), errors.Is(err, registry.ErrCorrupt):
		return nil
	case err != nil:
		return err
	case !change(&rec.Wish):
		return nil
	}
	_, err = m.registry.Put(rec)
	return err
}

// reclaim removes an entry's image; it stays registered. The record goes first, so that what
// is left if this process is killed has no record, and gc finds it. The store must be
// locked.
func (m *Manager) reclaim(rec registry.Record, reason string) error {
	if _, err := m.adopt(&rec); err != nil {
		return err
	}
	wish := registry.Record{Wish: rec.Wish}
	wish.Reason = reason
	if _, err := m.registry.Put(wish); err != nil {
		return err
	}
	store.Fault("after-reclaim")
	if err := m.unpublish(rec.Binary.Inode()); err != nil {
		return err
	}
	return m.store.RemoveImage(rec.ID)
}

// noImage says why an entry has no image.
func noImage(rec registry.Record) string {
	if thereIs(rec.Names()) == "" {
		return rec.Program + " " + away(rec)
	}
	return rec.Reason
}

// notThereYet is the reason of a wish for a program that was not there when it was wished.
const notThereYet = "is not there yet"

// away says of a program that is not there whether it ever was.
func away(rec registry.Record) string {
	if !rec.HasImage() && rec.Reason == notThereYet {
		return notThereYet
	}
	return "is gone"
}

// whyGone is the reason that a wish is given whose program is gone: it may come back.
func whyGone(rec registry.Record) string { return rec.Program + " was gone" }

// thereIs is the first of a program's names that leads to something, or "".
func thereIs(names []string) string {
	for _, name := range names {
		if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return name
		}
	}
	return ""
}

// waiting says why there is no link although the wish has it.
func waiting(rec registry.Record) string {
	if !rec.HasImage() {
		return "no image: " + noImage(rec)
	}
	return "its link is missing; `residentctl refresh` makes it again"
}

// hasImage is an error for an entry without an image, which says why.
func hasImage(rec registry.Record) error {
	if rec.HasImage() {
		return nil
	}
	return problem.Newf(problem.Program, "%s has no image: %s", rec.Program, noImage(rec)).
		WithHint("run `residentctl refresh`, which makes one as soon as the program can be resident")
}

// withImage are those of some records that have an image.
func withImage(records []registry.Record) []registry.Record {
	return slices.DeleteFunc(slices.Clone(records), func(r registry.Record) bool { return !r.HasImage() })
}
