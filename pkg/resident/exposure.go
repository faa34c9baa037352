package resident

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/readers"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// The content of a store is for certain users to read and for its owner to change.
// A start asks that of the files that it maps; here it is asked of everything. There
// are two answers: faults, which a person must know of, since others could read or
// change something, and whether all is as add makes it now, so that nobody who may
// read a program is left out either.

// sound reports whether nothing is wrong with an entry's image that a start does not
// look at. What is not sound add and refresh make again, and gc leaves.
func (m *Manager) sound(rec registry.Record) bool {
	faults, exact := m.exposure(rec)
	return exact && len(faults) == 0 && m.aboutFault(rec) == ""
}

// private reports whether all of the store is for its owner alone.
func (m *Manager) private() bool {
	dir, err := os.Stat(m.store.Dir())
	return err == nil && dir.Mode()&readers.Everyone == 0
}

// exposure looks at the owners and modes of an entry's image. A program's own mode
// cannot change without its image being stale, but that of a directory which leads to
// it can.
func (m *Manager) exposure(rec registry.Record) (faults []string, exact bool) {
	var file, directory store.Access
	exact = true
	known := !m.private()
	if known {
		var deps fingerprint.Dependencies
		err := json.Unmarshal(rec.Deps, &deps)
		if err == nil {
			var r readers.Set
			r, err = readers.Of(rec.Program, &deps)
			file, directory = store.Exposed(r.Mode, r.GID)
		}
		if err != nil {
			known, exact = false, false // who may read it is not known
		}
	}
	faults, fits := readers.Exposure(m.store.ImageDir(rec.ID), file, directory, known)
	return faults, exact && fits
}

// launcherExposure looks at the owners and modes of an entry's launcher files and of the
// directories that lead to them.
func (m *Manager) launcherExposure(rec registry.Record) (faults []string, exact bool) {
	exact = true
	for _, original := range withDirectories(rec.Names()) {
		path := m.store.LauncherPath(rec.Binary.Inode(), original)
		info, err := os.Lstat(path)
		if err != nil {
			continue // whether it has to be there is another question
		}
		if why := readers.Changeable(path, info.Sys().(*syscall.Stat_t)); why != "" {
			faults = append(faults, why)
			continue
		}
		want, err := readers.Access(original)
		switch {
		case err != nil: // the original is gone
		case want.ExceededBy(info) && !m.private():
			faults = append(faults, readers.TooOpen(path, info))
		case !want.Fits(info):
			exact = false
		}
	}
	return faults, exact
}

// withDirectories are paths and the directories that lead to them, sorted, each once.
func withDirectories(paths []string) []string {
	var all []string
	for _, path := range paths {
		for ; path != "/"; path = filepath.Dir(path) {
			all = append(all, path)
		}
	}
	all = append(all, "/")
	slices.Sort(all)
	return slices.Compact(all)
}
