package resident

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/launcher"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// What stands in a store for a program, below launchers/<dev>-<ino>/, has the
// shape of the file system: the launcher file stands at the path to which the
// program's names resolve, names that are links are links to it, and so are
// folders. After an exec of such a name /proc/self/exe and comm are what they are
// after an exec of the original, but for the store's path in front of the first.
//
// Where the kernel does not let a process name its executable that prefix stays.
// For a program that looks at its own path the folders that lead to the launcher
// file are therefore a mirror: every other name in them is a link to the original.

// selfExe is what a program opens that looks at its own path.
const selfExe = "/proc/self/exe"

// binFolders are where programs stand that are not told by their own path where
// their files are, unless they ask.
var binFolders = []string{"/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"}

// looksAtItself tells whether a program may look for files relative to its own
// path. The C library and the dynamic linker know the name for $ORIGIN only, which
// is settled before the stop point.
func looksAtItself(deps *fingerprint.Dependencies) (bool, error) {
	real, err := filepath.EvalSymlinks(deps.Program.Path)
	if err != nil || !slices.Contains(binFolders, filepath.Dir(real)) {
		return true, err
	}
	for _, f := range append([]fingerprint.File{deps.Program}, deps.Libraries...) {
		if f.ID == deps.Linker.ID || strings.HasPrefix(filepath.Base(f.Path), "libc.") {
			continue
		}
		if found, err := fileContains(f.Path, selfExe); found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// looksAtItself is the same of the program that is being added, found out once.
func (a *adding) looksAtItself() (looks bool, err error) {
	if a.looks == nil {
		looks, err = looksAtItself(a.deps)
		if err != nil {
			return false, err
		}
		a.looks = &looks
	}
	return *a.looks, nil
}

// fileContains looks for a short text in a file of any size.
func fileContains(path, text string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	buf, kept := make([]byte, 1<<20), 0
	for {
		n, err := io.ReadFull(f, buf[kept:])
		if bytes.Contains(buf[:kept+n], []byte(text)) {
			return true, nil
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("read %s: %w", path, err)
		}
		kept = copy(buf, buf[len(buf)-len(text):])
	}
}

// launcherTree is what stands in the store for the names of one entry. All paths
// are those of the originals.
type launcherTree struct {
	files   map[string][]string // a launcher file, and the names that an exec of it may mean
	links   map[string]string   // a link, and where it leads: to a launcher file or a folder
	folders map[string]string   // a folder, and the name for which it is there
	gone    bool                // one of the names does not lead to the program any more
}

// treeOf finds out where an entry's names lead just now.
func treeOf(rec registry.Record) *launcherTree {
	t := &launcherTree{files: map[string][]string{}, links: map[string]string{}, folders: map[string]string{}}
	for _, name := range rec.Names() {
		target, err := filepath.EvalSymlinks(name)
		if err == nil {
			var id linux.FileID
			if id, err = linux.StatID(target); err == nil && id != rec.Binary {
				err = fingerprint.ErrChanged
			}
		}
		if err != nil || t.add(name, target) != nil {
			// As good as can be: under the name itself.
			t.gone = true
			t.files[name] = append(t.files[name], name)
			t.addFolders(filepath.Dir(name), name)
		}
	}
	for path, names := range t.files {
		if !slices.Contains(names, path) {
			t.files[path] = append(names, path)
		}
	}
	return t
}

// add places a name that leads to target.
func (t *launcherTree) add(name, target string) error {
	folder, links, err := resolveFolder(filepath.Dir(name))
	if err != nil {
		return err
	}
	known, err := sameReaders(name, target)
	if err != nil {
		return err
	}
	t.addFolders(filepath.Dir(target), target)
	if known || target == name {
		t.files[target] = append(t.files[target], name)
	} else if _, ok := t.files[target]; !ok {
		t.files[target] = nil
	}
	t.addFolders(folder, name)
	if place := filepath.Join(folder, filepath.Base(name)); place != target {
		t.links[place] = target
	}
	for link, to := range links {
		t.links[link] = to
		t.addFolders(filepath.Dir(link), name)
	}
	return nil
}

func (t *launcherTree) addFolders(folder, name string) {
	for {
		if _, ok := t.folders[folder]; !ok {
			t.folders[folder] = name
		}
		if folder == "/" {
			return
		}
		folder = filepath.Dir(folder)
	}
}

// own tells whether something of the entry's own stands at path.
func (t *launcherTree) own(path string) bool {
	_, file := t.files[path]
	_, link := t.links[path]
	_, folder := t.folders[path]
	return file || link || folder
}

// resolveFolder resolves the links in the path of a folder: those that were met,
// and where each leads at last.
func resolveFolder(path string) (real string, links map[string]string, err error) {
	real, links = "/", map[string]string{}
	for _, name := range strings.Split(path, "/") {
		if name == "" {
			continue
		}
		at := filepath.Join(real, name)
		if real, err = filepath.EvalSymlinks(at); err != nil {
			return "", nil, err
		}
		if real != at {
			links[at] = real
		}
	}
	return real, links, nil
}

// sameReaders tells whether two paths of one file are known to the same users. A
// launcher file that all may read must not hold a path that some may not know.
func sameReaders(a, b string) (bool, error) {
	var r [2]readers
	for i, path := range []string{a, b} {
		r[i] = readers{mode: everyone}
		if err := r[i].reach(path, bothMay, map[string]bool{}); err != nil {
			return false, err
		}
	}
	groupMatters := r[0].mode>>3&7 != r[0].mode&7
	return r[0].mode == r[1].mode && (!groupMatters || r[0].gid == r[1].gid), nil
}

// maxMirrored bounds the links in one folder of a mirror.
const maxMirrored = 50_000

// mirrored gives the names in a folder that a mirror of it links to. Folders into
// which everybody may put something (/tmp) are not mirrored: they are no program's
// place, and anybody could fill the store with names; nor are those that cannot be
// listed.
func (t *launcherTree) mirrored(folder string) []string {
	info, err := os.Stat(folder)
	if err != nil || info.Mode().Perm()&0o002 != 0 {
		return nil
	}
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) > maxMirrored {
		return nil
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if !t.own(filepath.Join(folder, e.Name())) {
			names = append(names, e.Name())
		}
	}
	return names
}

// writeLaunchers writes what stands in the store for all of an entry's names: the
// folders with the links of the mirror, then the launcher files, then the links to
// them. What is there already and right stays as it is, so that the launcher file
// is still the executable of those who run it.
func (m *Manager) writeLaunchers(rec registry.Record) error {
	dev, ino, t := rec.Binary.Dev, rec.Binary.Ino, treeOf(rec)
	for _, folder := range slices.Sorted(maps.Keys(t.folders)) { // those that lead to others first
		var names []string
		if rec.Mirror {
			names = t.mirrored(folder)
		}
		if err := m.store.MirrorFolder(dev, ino, folder, names, launcherAccess(t.folders[folder])); err != nil {
			return err
		}
	}
	for _, path := range slices.Sorted(maps.Keys(t.files)) {
		names := t.files[path]
		raw, err := m.launcherFile(rec, names)
		if err != nil {
			return err
		}
		if err := m.store.WriteLauncher(dev, ino, path, raw, launcherAccess(path)); err != nil {
			return err
		}
	}
	for _, path := range slices.Sorted(maps.Keys(t.links)) {
		target := t.links[path]
		if err := m.store.LinkLauncher(dev, ino, path, target); err != nil {
			return err
		}
	}
	return nil
}

// launcherFile is what a launcher file holds that stands for these names of an
// entry.
func (m *Manager) launcherFile(rec registry.Record, names []string) ([]byte, error) {
	return launcher.File(rec.LauncherPlace, launcherStore(m.store), store.IndexName(rec.Binary.Dev, rec.Binary.Ino), names[0], names[1:]...)
}

// launcherStore is a store as launchers know it.
func launcherStore(s *store.Store) launcher.Store {
	dev, ino := s.Identity()
	return launcher.Store{Dir: s.Dir(), Dev: dev, Ino: ino}
}

// wantedFile is what a start by one of an entry's names should find in the store.
func (m *Manager) wantedFile(rec registry.Record, t *launcherTree, name string) ([]byte, error) {
	path := name
	if _, ok := t.files[name]; !ok {
		if target, err := filepath.EvalSymlinks(name); err == nil {
			path = target
		}
	}
	names, ok := t.files[path]
	if !ok {
		names = []string{name}
	}
	return m.launcherFile(rec, names)
}

// launchersAreCurrent tells whether an entry's launcher files are there, what this
// residentctl would write, and for whom they have to be.
func (m *Manager) launchersAreCurrent(rec registry.Record) bool {
	t := treeOf(rec)
	if faults, exact := m.launcherExposure(rec, t); !exact || len(faults) > 0 {
		return false
	}
	for _, name := range rec.Names() {
		want, err := m.wantedFile(rec, t, name)
		if err != nil {
			return false
		}
		got, err := os.ReadFile(m.store.LauncherPath(rec.Binary.Dev, rec.Binary.Ino, name))
		if err != nil || !bytes.Equal(got, want) {
			return false
		}
	}
	return true
}

// mirrorIsCurrent tells whether the mirror of an entry has the names that the
// folders have now.
func (m *Manager) mirrorIsCurrent(rec registry.Record) bool {
	if !rec.Mirror {
		return true
	}
	t := treeOf(rec)
	for folder := range t.folders {
		entries, err := os.ReadDir(m.store.LauncherPath(rec.Binary.Dev, rec.Binary.Ino, folder))
		if err != nil {
			return false
		}
		there := map[string]bool{}
		for _, e := range entries {
			if e.Type()&fs.ModeSymlink != 0 && !t.own(filepath.Join(folder, e.Name())) {
				there[e.Name()] = true
			}
		}
		names := t.mirrored(folder)
		if len(names) != len(there) || slices.ContainsFunc(names, func(n string) bool { return !there[n] }) {
			return false
		}
	}
	return true
}

// surplusLaunchers are launcher files and links of an entry that are under names
// which it does not have (any more): another file has taken a name, or an add was
// killed. A mirror's link is not, even if what it leads to is gone: so is it in
// the original.
func (m *Manager) surplusLaunchers(rec registry.Record) (surplus []string) {
	t, top := treeOf(rec), m.store.LaunchersDir(rec.Binary.Dev, rec.Binary.Ino)
	wanted := map[string]bool{}
	for _, name := range rec.Names() {
		// Of a name that leads elsewhere now, what was written for it.
		if path, err := filepath.EvalSymlinks(m.store.LauncherPath(rec.Binary.Dev, rec.Binary.Ino, name)); t.gone && err == nil {
			wanted[path] = true
		}
	}
	_ = filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil
		}
		original := strings.TrimPrefix(path, top)
		switch _, file := t.files[original]; {
		case e.Type().IsRegular():
			if !file && !wanted[path] {
				surplus = append(surplus, path)
			}
		case e.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err == nil && target != original && !t.gone && t.links[original] == "" {
				surplus = append(surplus, path)
			}
		}
		return nil
	})
	return surplus
}
