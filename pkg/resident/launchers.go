package resident

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/launcher"
	"github.com/residentctl/residentctl/pkg/readers"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// An entry has a launcher file for each of its names, at that name below
// launchers/<dev>-<ino>/. So comm is the name's last component, and the path of the
// launcher file, which the kernel has put on the stack, is longer than the name that
// takes its place as AT_EXECFN.

// writeLaunchers writes the launcher files of all of an entry's names, and removes what
// else is there. A file that is right already stays, so that it is still the executable
// of the processes that run it.
func (m *Manager) writeLaunchers(rec registry.Record) error {
	for _, name := range rec.Names() {
		raw, err := m.launcherFile(rec, name)
		if err != nil {
			return err
		}
		if err := m.store.WriteLauncher(rec.Binary.Inode(), name, raw, readers.Access); err != nil {
			return err
		}
	}
	for _, path := range m.surplusLaunchers(rec) {
		if err := m.removeLauncher(rec.Binary.Inode(), path); err != nil {
			return err
		}
	}
	return nil
}

// launcherFile is the launcher file of one of an entry's names.
func (m *Manager) launcherFile(rec registry.Record, name string) ([]byte, error) {
	return launcher.File(rec.LauncherPlace, m.store.ForLaunchers(), store.IndexName(rec.Binary.Inode()), name, rec.LauncherRoom)
}

// launchersAreCurrent reports whether an entry's launcher files are as this residentctl
// would write them, and for the same users.
func (m *Manager) launchersAreCurrent(rec registry.Record) bool {
	faults, exact := m.launcherFaults(rec)
	return exact && len(faults) == 0
}

// launcherFaults says which launcher files of an entry are missing or not what
// this residentctl would write. Exact is set if they are also for the same users.
func (m *Manager) launcherFaults(rec registry.Record) (faults []string, exact bool) {
	for _, name := range rec.Names() {
		path := m.store.LauncherPath(rec.Binary.Inode(), name)
		want, err := m.launcherFile(rec, name)
		if err != nil {
			faults = append(faults, err.Error())
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			faults = append(faults, fmt.Sprintf("its launcher file cannot be read (%v)", err))
			continue
		}
		got, err := os.ReadFile(path)
		switch {
		case err != nil:
			faults = append(faults, err.Error())
		case info.Mode().Perm()&0o111 == 0:
			faults = append(faults, path+" is not executable")
		case !bytes.Equal(got, want):
			faults = append(faults, fmt.Sprintf("the launcher file %s is not what this residentctl writes", path))
		}
	}
	exposed, exact := m.launcherExposure(rec)
	return append(faults, exposed...), exact
}

// surplusLaunchers are the files and links in an entry's directory of launcher files that
// are under no name of the entry: another file has taken the name, an add was killed, or
// an older residentctl has made links there.
func (m *Manager) surplusLaunchers(rec registry.Record) (surplus []string) {
	binary, wanted := rec.Binary.Inode(), map[string]bool{}
	for _, name := range rec.Names() {
		wanted[m.store.LauncherPath(binary, name)] = true
	}
	surplus = filesBut(wanted, m.store.LaunchersDir(binary), nil)
	slices.Sort(surplus)
	return surplus
}

// filesBut adds to files those below a directory that are not wanted. What cannot be read has
// none.
func filesBut(wanted map[string]bool, dir string, files []string) []string {
	entries, err := linux.ReadDir(dir)
	if err != nil {
		return files
	}
	for _, e := range entries {
		path := dir + "/" + e.Name
		switch {
		case e.IsDir:
			files = filesBut(wanted, path, files)
		case !wanted[path]:
			files = append(files, path)
		}
	}
	return files
}

// removeLauncher removes a launcher file or link of a binary, and the directories that
// are empty then.
func (m *Manager) removeLauncher(b linux.Inode, path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	for dir := filepath.Dir(path); dir != m.store.LaunchersDir(b); dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil {
			break // the first that is not empty
		}
	}
	return nil
}
