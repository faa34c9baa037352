package resident

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// A binary may have several names: links of either kind. They share one entry
// and one image; each has a launcher file. /proc/self/exe of a resident start is
// the name that the image was made by.

// current returns the entry of the binary at path, if a start would use its image and
// nothing else is wrong with that. Its names must not have path among them.
func (m *Manager) current(path string) (rec registry.Record, ok bool, err error) {
	id, err := linux.StatID(path)
	if err != nil {
		return rec, false, nil // inspection says it better
	}
	rec, err = m.registry.ByInode(id.Inode())
	switch {
	case errors.Is(err, registry.ErrNotFound), errors.Is(err, registry.ErrCorrupt):
		return rec, false, nil // Put replaces a damaged record
	case err != nil:
		return rec, false, err
	}
	return rec, rec.Binary == id && len(m.stale(rec)) == 0 && m.sound(rec), nil
}

// addName makes path one more name of an entry: first its launcher file, which is
// good without the record and which gc finds, then the record. It is also how a
// launcher file that is missing comes back.
func (m *Manager) addName(ctx context.Context, id, path string) (registry.Record, error) {
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return registry.Record{}, err
	}
	defer unlock()
	// Looked up now, for it may have been another one before.
	rec, err := m.registry.Get(id)
	if err != nil {
		return rec, err
	}
	if err := sameOrigin(rec.Program, path); err != nil {
		return rec, err
	}
	known := slices.Contains(rec.Names(), path)
	if !known {
		rec.Paths = append(rec.Paths, path)
	}
	if err := m.inherit(&rec); err != nil {
		return rec, err
	}
	if err := m.writeLaunchers(rec); err != nil {
		return rec, err
	}
	store.Fault("before-name")
	if known {
		return rec, m.moveEnabled(rec) // the kernel has the old launcher file open
	}
	replaced, err := m.registry.Put(rec)
	if err != nil {
		return rec, err
	}
	store.Fault("after-name")
	if err := m.moveEnabled(rec); err != nil {
		return rec, err
	}
	for _, old := range replaced {
		if err := m.takeAway(&rec, old); err != nil {
			return rec, err
		}
	}
	return rec, nil
}

// sameOrigin refuses a hard link in another directory, if the program has its
// libraries searched relative to the one that it is in ($ORIGIN, ld.so(8)):
// there they may be others.
func sameOrigin(program, path string) error {
	was, err := filepath.EvalSymlinks(program)
	if err != nil {
		return err
	}
	is, err := filepath.EvalSymlinks(path)
	if err != nil || filepath.Dir(was) == filepath.Dir(is) {
		return err
	}
	searched, err := searchedBeside(path)
	if err != nil {
		return err
	}
	if searched != "" {
		return problem.Refusef("%s is the same file as %s, which is resident, and its %s are searched relative to its directory", path, program, searched).
			WithHint("use the name that is resident, or replace the hard link with a copy: there is one image per file")
	}
	return nil
}

// searchedBeside is what a program has searched relative to its own directory, or "".
func searchedBeside(path string) (what string, err error) {
	if isScript(path) {
		return "modules", nil
	}
	f, err := elfinfo.Open(path)
	if err == nil && usesOrigin(f) {
		what = "libraries"
	}
	return what, err
}

// usesOrigin reports whether a program has libraries searched relative to itself.
func usesOrigin(f *elfinfo.File) bool {
	return slices.ContainsFunc(append([]string{f.RPath, f.RunPath}, f.Needed...), func(s string) bool {
		return strings.Contains(s, "ORIGIN")
	})
}

// otherNames are the further names that a new entry of the binary takes over
// from the entries whose place it takes: those that lead to the binary. Of a damaged
// record the registry's indexes have the names.
func (m *Manager) otherNames(program string, binary linux.FileID) []string {
	var names []string
	for _, find := range []func() (registry.Record, error){
		func() (registry.Record, error) { return m.registry.ByInode(binary.Inode()) },
		func() (registry.Record, error) { return m.registry.ByPath(program) },
	} {
		rec, err := find()
		old := rec.Names()
		if err != nil {
			old = nil // Put says what is wrong with the registry
			for _, d := range registry.Damaged(err) {
				old = append(old, d.Names...)
			}
		}
		for _, name := range old {
			id, err := linux.StatID(name)
			if err == nil && id == binary && name != program && !slices.Contains(names, name) &&
				sameOrigin(program, name) == nil {
				names = append(names, name)
			}
		}
	}
	return names
}
