package resident

import (
	"fmt"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/plural"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/readers"
	"github.com/residentctl/residentctl/pkg/registry"
)

// damage returns what is wrong with an entry's own files, so that not every start uses
// its image, although nothing that it depends on may have changed. Plans are read,
// of some KiB each, and pages only looked at. Unless the store is locked, another process
// may be changing them.
func (m *Manager) damage(rec registry.Record) (faults []string) {
	dirs := layoutDirs(m.store.ImageDir(rec.ID), &rec)
	for i, dir := range dirs {
		which := ""
		if len(dirs) > 1 {
			which = fmt.Sprintf("layout %d of %d: ", i+1, len(dirs))
		}
		others := dirs[1:]
		if i > 0 {
			others = nil // it is the first one's plan that names the others
		}
		found, file := m.layoutDamage(rec, i, dir, others)
		if i == 0 { // starts look for this one
			if why := m.notFound(rec, file); why != "" {
				faults = append(faults, why)
			}
		}
		for _, f := range found {
			faults = append(faults, which+f)
		}
	}
	return faults
}

// notFound says why starts do not find an entry's image, given the file of its plan, or nil.
func (m *Manager) notFound(rec registry.Record, file *syscall.Stat_t) string {
	leads, err := linux.StatID(m.store.IndexPath(rec.Binary.Inode()))
	if err != nil {
		return fmt.Sprintf("no start finds it (%v)", err)
	}
	if file != nil && leads.Inode() != linux.IDOf(file).Inode() {
		return "starts find another image of it"
	}
	return ""
}

// layoutDamage says the same of the layout with this number in one directory, whose plan names
// those in the directories others. It also returns the plan's file, unless that cannot be opened.
func (m *Manager) layoutDamage(rec registry.Record, number int, dir string, others []string) (faults []string, file *syscall.Stat_t) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	path := filepath.Join(dir, planName(m.store))
	p, sum, file, err := plan.ReadWhole(path)
	if file == nil {
		fault("its plan cannot be read (%v)", err)
		return faults, nil
	}
	if why := mistrust(path, file); why != "" {
		fault("%s", why)
	}
	if number < len(rec.PlanSums) && sum != 0 && rec.PlanSums[number] != fmt.Sprintf("%016x", sum) {
		fault("%s", olderPlan)
	}
	if err != nil {
		fault("%v", err)
		return faults, file
	}
	named := func(name, dir string) bool {
		return filepath.Base(name) == planName(m.store) && filepath.Dir(m.store.At(name)) == dir
	}
	switch {
	case p.ID != rec.ID:
		fault("its plan is that of image %s", p.ID)
	case !slices.Contains(rec.Names(), p.Path): // that name leads to another file now
		fault("its plan is of %s", p.Path)
	case len(p.Files) < 2 || p.Program().ID != rec.Binary:
		fault("its plan is of another state of the program")
	case !slices.EqualFunc(p.Layouts, others, named):
		fault("its plan has %s instead of %d", plural.Count(len(p.Layouts), "other layout"), len(others))
	}
	if why := pagesFault(*p.Pages(), m.store.At(p.Pages().Path), dir); why != "" {
		fault("%s", why)
	}
	return faults, file
}

const olderPlan = "its plan is an older one, since a refresh was interrupted"

// pagesFault says why a start would not map CRIU's pages.
func pagesFault(pages plan.MappedFile, path, dir string) string {
	if filepath.Dir(path) != dir {
		return fmt.Sprintf("its plan maps pages from outside of the image: %s", path)
	}
	file, err := linux.Stat(path)
	if err != nil {
		return fmt.Sprintf("its pages cannot be read (%v)", err)
	}
	if linux.IDOf(file) != pages.ID {
		return fmt.Sprintf("%s was changed", path)
	}
	return mistrust(path, file)
}

// mistrust says why a start would not use a file of an image (pkg/launcher/src/store.c,
// trusted).
func mistrust(path string, file *syscall.Stat_t) string {
	if file.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return path + " is not a file"
	}
	return readers.Changeable(path, file)
}
