package resident

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/readers"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// A shim belongs to a name of an entry, and goes with its image. When an upgrade has put
// another file in place of the name, the shim moves to the new entry. That a name is
// to have one is part of the wish (ways.go).

// LookPath is elfinfo.LookPath, but of the shims in PATH it finds the programs
// that they stand for.
func LookPath(name string) (string, error) {
	path, err := elfinfo.LookPathPast(name, isShim)
	if program, ok := store.ShimOf(path); ok && err == nil {
		return program, nil
	}
	return path, err
}

func isShim(path string) bool {
	_, ok := store.ShimOf(path)
	return ok
}

// Enabled is what Enable did.
type Enabled struct {
	Added
	Shim    string `json:"shim,omitempty"`    // the link
	Was     bool   `json:"was"`               // it was there, nothing was changed
	Instead string `json:"instead,omitempty"` // the program that it led to before

	Followed string `json:"followed,omitempty"` // AddOptions.Follow: the program that the one that was named executes

	System   bool     `json:"system,omitempty"`   // not by a shim, but for the whole system
	AtBoot   bool     `json:"at_boot,omitempty"`  // and again at each boot
	Collides []string `json:"collides,omitempty"` // programs that the kernel cannot tell from it
}

// Enable makes a shim for a program, which is made resident if it is not.
func (m *Manager) Enable(ctx context.Context, name string, opts AddOptions) (*Enabled, error) {
	path, err := m.lookPath(name)
	if err != nil {
		return nil, err
	}
	if err := store.FitsPath(m.store.ShimsDir()); err != nil {
		return nil, err
	}
	if manager := VersionManager(path); manager != "" {
		return nil, choosesVersions(manager, path)
	}
	named := path
	if path, err = followTo(ctx, path, &opts); err != nil {
		return nil, err
	}
	if err := m.mayHaveShim(path); err != nil {
		return nil, err
	}
	if err := calledInPath(named, path); err != nil {
		return nil, err
	}
	added, err := m.Add(ctx, path, opts)
	if err != nil {
		return nil, err
	}
	if err := findsItsFiles(added.Record); err != nil {
		return nil, err
	}
	e := &Enabled{Added: *added, Shim: m.store.ShimPath(filepath.Base(path))}
	if path != named {
		e.Followed = path
	}
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	rec, err := m.registry.Get(added.Record.ID)
	if err != nil {
		return nil, err // removed just now
	}
	if err := m.wishShim(rec, path); err != nil {
		return nil, err
	}
	if s, ok := m.store.Shim(filepath.Base(path)); ok {
		if e.Was = s.Program == path && s.Binary == rec.Binary.Inode(); e.Was {
			return e, nil
		}
		if !linux.SameFile(s.Program, path) {
			e.Instead = s.Program
		}
	}
	return e, m.store.WriteShim(rec.Binary.Inode(), path)
}

// followTo is what Enable and EnableSystem make of a program with the option Follow, which
// has been done then.
func followTo(ctx context.Context, path string, opts *AddOptions) (string, error) {
	if !opts.Follow {
		return path, nil
	}
	opts.Follow = false
	if opts.Step != nil {
		opts.Step("follow")
	}
	return Follow(ctx, path, opts.TrustOwner)
}

// choosesVersions refuses a shim in front of a version manager's: that one chooses a program
// at each call, by things that a launcher file does not look at.
func choosesVersions(manager, path string) error {
	return problem.Errorf("%s is %s's, which chooses a program by directory and environment at each call, and a shim would freeze its choice", path, manager).
		WithHint("run `residentctl add --follow %[1]s` to make resident what it chooses here; `residentctl exec COMMAND`, or as root `residentctl enable --system --follow %[1]s`, then starts that from its image",
			filepath.Base(path))
}

// calledInPath refuses a shim for what another program executes if that cannot have found
// it in PATH.
func calledInPath(wrapper, program string) error {
	if wrapper == program {
		return nil
	}
	if found, err := LookPath(filepath.Base(program)); err == nil && linux.SameFile(found, program) {
		return nil
	}
	return problem.Errorf("%s executes %s, which is in no directory of PATH, so no shim would be found", wrapper, program).
		WithHint("make it resident with `residentctl add --follow %s`, and start it in a tree under `residentctl exec`, or enable it as root with --system", wrapper)
}

// relocatable are texts in programs, or libraries of theirs, that look for themselves in PATH
// by argv[0], resolve what they find, and then look for their files relative to that only.
// By a shim that is the launcher file, beside which there are none.
var relocatable = []struct {
	text     string
	anywhere bool // else only outside the usual directories: there it knows its files
}{
	{"GCC_EXEC_PREFIX", true}, // GCC's drivers (gcc/gcc.cc, process_command; libiberty/make-relative-prefix.c)
	{"PYTHONHOME", false},     // Python (Modules/getpath.py, real_executable_dir)
	{"SELFAUTOLOC", false},    // TeX Live (kpathsea/progname.c, kpathsea_selfdir)
}

// findsItsFiles refuses a program that would not find its files by a shim. A script's
// interpreter is executed by its own path.
func findsItsFiles(rec registry.Record) error {
	if isScript(rec.Program) {
		return nil
	}
	real, err := filepath.EvalSymlinks(rec.Program)
	if err != nil {
		return err
	}
	usual := slices.Contains(binDirectories, filepath.Dir(real))
	for _, r := range relocatable {
		if usual && !r.anywhere {
			continue
		}
		for _, file := range append([]string{real}, rec.LibraryPaths...) {
			switch found, err := fileContains(file, r.text); {
			case err != nil:
				return err
			case found:
				return problem.Errorf("%s looks for its files where it finds itself in PATH, and would find its shim there", rec.Program).
					WithHint("start it with `residentctl run`, in a tree under `residentctl exec`, or enable it as root with --system")
			}
		}
	}
	return nil
}

// mayHaveShim refuses a program that its shim would pass over, since PATH leads to
// another one, and one whose name and path the shim would show to every user.
func (m *Manager) mayHaveShim(path string) error {
	if found, err := LookPath(filepath.Base(path)); err == nil && found != path && !linux.SameFile(found, path) {
		return problem.Errorf("PATH leads to %s by this name, and a shim starts what PATH leads to", found).
			WithHint("put %s before %s in PATH, or start it with `residentctl run %s`", filepath.Dir(path), filepath.Dir(found), path)
	}
	if !m.store.Shared() || m.store.Holds(path) { // a wrapper
		return nil
	}
	switch secret, err := isSecret(path); {
	case err != nil:
		return err
	case secret:
		return problem.Errorf("not every user may read %s, and a shim in this store would show its path to all", path).
			WithHint("enable it in a store that only you may read: `mkdir -m 700 DIR`, then --store DIR")
	}
	return nil
}

// isSecret reports whether there is a program that some users may not read. Of one that
// is not there Add says it better.
func isSecret(path string) (bool, error) {
	a, err := readers.Access(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return a.Mode&readers.MayRead == 0, err
}

// ErrNotEnabled is a name without a shim.
var ErrNotEnabled = errors.New("it is not enabled")

// Disable removes the shim that a query names: by its name, its path, or that of
// its program, also one that waits for an image. The program stays resident.
func (m *Manager) Disable(ctx context.Context, query string) (store.Shim, error) {
	if m.store == nil {
		return store.Shim{}, ErrNotEnabled
	}
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return store.Shim{}, err
	}
	defer unlock()
	shims, _, err := m.store.Shims()
	if err != nil {
		return store.Shim{}, err
	}
	for _, s := range shims {
		if m.namesShim(query, s) {
			return s, errors.Join(m.store.RemoveShim(s.Name), m.endShim(s.Program))
		}
	}
	records, err := m.registry.List()
	if err != nil && !errors.Is(err, registry.ErrCorrupt) {
		return store.Shim{}, err
	}
	for _, s := range waitingShims(records, shims) {
		if m.namesShim(query, s) {
			return s, m.endShim(s.Program)
		}
	}
	return store.Shim{}, ErrNotEnabled
}

// waitingShims are those that entries are to have and that are not among shims.
func waitingShims(records []registry.Record, shims []store.Shim) (waiting []store.Shim) {
	for _, rec := range records {
		for _, name := range rec.Shims {
			if !slices.ContainsFunc(shims, func(s store.Shim) bool { return s.Program == name }) {
				waiting = append(waiting, store.Shim{Name: filepath.Base(name), Program: name, Binary: rec.Binary.Inode()})
			}
		}
	}
	return waiting
}

func (m *Manager) namesShim(query string, s store.Shim) bool {
	if !strings.Contains(query, "/") {
		return query == s.Name
	}
	abs, err := filepath.Abs(query)
	return err == nil && (abs == s.Program || abs == m.store.ShimPath(s.Name))
}

// ShimState says what becomes of a start through a shim.
type ShimState string

// States of shims.
const (
	ShimResident ShimState = "resident"
	ShimNormal   ShimState = "normal"   // its image is stale: the program is executed
	ShimOther    ShimState = "other"    // PATH leads to another program, which is executed
	ShimHidden   ShimState = "hidden"   // PATH leads there before it leads to the shim
	ShimDangling ShimState = "dangling" // it leads nowhere: shells go on to the next directory of PATH
	ShimWaiting  ShimState = "waiting"  // there is none before the program has an image again
)

// ShimStatus is a shim and what becomes of a start through it.
type ShimStatus struct {
	Name    string    `json:"name"`
	Program string    `json:"program"`
	Shim    string    `json:"shim"` // the link's path
	State   ShimState `json:"state"`
	Reason  string    `json:"reason,omitempty"` // of any state but resident, and then of how
}

// ShimsDir returns the directory of the shims, "" of a store that does not exist yet.
func (m *Manager) ShimsDir() string {
	if m.store == nil {
		return ""
	}
	return m.store.ShimsDir()
}

// Shims returns every shim, sorted by name, and then those that wait for an image. What PATH
// leads to is looked up in the caller's. Beside an error is what could be found out all the
// same.
func (m *Manager) Shims(ctx context.Context) ([]ShimStatus, error) {
	all := []ShimStatus{}
	if m.store == nil {
		return all, nil
	}
	shims, _, err := m.store.Shims()
	if err != nil {
		return all, err
	}
	records, unread := m.records()
	for _, s := range shims {
		if ctx.Err() != nil {
			return all, context.Cause(ctx)
		}
		st := ShimStatus{Name: s.Name, Program: s.Program, Shim: m.store.ShimPath(s.Name)}
		st.State, st.Reason = m.shimState(s, records)
		all = append(all, st)
	}
	for _, s := range waitingShims(records, shims) {
		rec := records[slices.IndexFunc(records, func(r registry.Record) bool { return slices.Contains(r.Shims, s.Program) })]
		all = append(all, ShimStatus{s.Name, s.Program, m.store.ShimPath(s.Name), ShimWaiting, waiting(rec)})
	}
	return all, unread
}

func (m *Manager) shimState(s store.Shim, records []registry.Record) (ShimState, string) {
	link := m.store.ShimPath(s.Name)
	if _, err := os.Stat(link); err != nil {
		return ShimDangling, fmt.Sprintf("its launcher file is missing (%v)", errors.Unwrap(err))
	}
	found, err := LookPath(s.Name)
	if err == nil && found != s.Program && !linux.SameFile(found, s.Program) {
		return ShimOther, fmt.Sprintf("PATH leads to %s", found)
	}
	// Whether a directory in front of the shims has it.
	if found, err := elfinfo.LookPath(s.Name); err == nil && !isShim(found) && inPath(m.store.ShimsDir()) {
		return ShimHidden, fmt.Sprintf("PATH leads to %s before it leads to the shim", found)
	}
	i := slices.IndexFunc(records, func(r registry.Record) bool { return m.belongs(s, r) })
	switch {
	case i < 0 && m.foreign:
		return ShimNormal, "you cannot read its image"
	case i < 0:
		return ShimNormal, "it is not resident any more"
	}
	switch reasons, older := m.byLauncher(records[i], s.Program); {
	case len(reasons) > 0:
		return ShimNormal, reasons[0]
	case older:
		return ShimResident, olderStart
	}
	return ShimResident, ""
}

func inPath(dir string) bool {
	return slices.ContainsFunc(filepath.SplitList(os.Getenv("PATH")), func(d string) bool {
		return d != "" && filepath.Clean(d) == dir
	})
}

func (m *Manager) belongs(s store.Shim, rec registry.Record) bool {
	return rec.Binary.Inode() == s.Binary && slices.Contains(rec.Names(), s.Program)
}

// moveEnabled makes what is enabled under an entry's names lead to its launcher
// files, and enables again what its wish has and went with an earlier image.
func (m *Manager) moveEnabled(rec registry.Record) error {
	if err := m.moveShims(rec); err != nil {
		return err
	}
	if err := m.moveSystem(rec); err != nil {
		return err
	}
	return m.enableAgain(rec)
}

// moveShims makes the shims of an entry's names lead to its launcher files. Those
// that they led to were of the files in whose place the entry's has come.
func (m *Manager) moveShims(rec registry.Record) error {
	shims, _, err := m.store.Shims()
	if err != nil {
		return err
	}
	for _, s := range shims {
		if slices.Contains(rec.Names(), s.Program) && s.Binary != rec.Binary.Inode() {
			if err := m.store.WriteShim(rec.Binary.Inode(), s.Program); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeShims removes those that lead to the launcher files of a binary.
func (m *Manager) removeShims(binary linux.Inode) error {
	shims, _, err := m.store.Shims()
	if err != nil {
		return err
	}
	for _, s := range shims {
		if s.Binary == binary {
			if err := m.store.RemoveShim(s.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// shims finds those whose name no entry has.
func (s *gcSearch) shims() (items []GCItem, err error) {
	shims, _, err := s.store.Shims()
	for _, shim := range shims {
		if i, known := s.binaries[shim.Binary]; !known || !s.belongs(shim, s.records[i]) {
			items = append(items, GCItem{Path: s.store.ShimPath(shim.Name), Program: shim.Program, binary: shim.Binary})
		}
	}
	return items, err
}

// collectShim removes a shim if its name is still no entry's.
func (m *Manager) collectShim(item GCItem) (bool, error) {
	shims, _, err := m.store.Shims()
	if err != nil {
		return false, err
	}
	for _, s := range shims {
		if m.store.ShimPath(s.Name) != item.Path {
			continue
		}
		rec, err := m.registry.ByInode(s.Binary)
		if err == nil && m.belongs(s, rec) {
			return false, nil
		}
		if err != nil && !errors.Is(err, registry.ErrNotFound) {
			return false, err
		}
		return true, m.store.RemoveShim(s.Name)
	}
	return false, nil
}
