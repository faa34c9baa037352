package resident

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/binfmt"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// A program that is enabled for the whole system has three things: a link in the
// store's system/, which says that it is meant to be; a line in binfmt.d, by which
// it is registered at each boot; and the kernel's own entry, which does the work.
// The link is made first and goes last, so that whatever is there is found by it. It is
// for one binfmt_misc, the machine's or a user namespace's own (binfmt.Instance): what
// is enabled for another is left alone here, but goes with the program's entry.

// MayEnableSystem returns nil for root, and an error for any other user.
func MayEnableSystem() error {
	if os.Geteuid() == 0 {
		return nil
	}
	return problem.Errorf("only root can enable a program for the whole system").
		WithHint("run it as root, or enable a shim of your own (without --system)")
}

// EnableSystem has every exec of a program, by whatever user and path,
// start from its image, which is made if there is none. It is for root: the entry
// counts for all users and containers.
func (m *Manager) EnableSystem(ctx context.Context, name string, opts AddOptions) (*Enabled, error) {
	path, err := LookPath(name)
	if err != nil {
		return nil, err
	}
	if err := MayEnableSystem(); err != nil {
		return nil, err
	}
	if err := binfmt.Supported(); err != nil {
		return nil, err
	}
	if err := binfmt.Mount(); err != nil {
		return nil, err
	}
	named := path
	if path, err = followTo(ctx, path, &opts); err != nil {
		return nil, err
	}
	if rec, err := m.entryOf(path); err == nil && rec.Warm != nil {
		return nil, problem.Errorf("%s is to have a warm image, which starts by its launcher file only", path).
			WithHint("enable it with a shim (without --system)")
	}
	if err := m.mayBeEnabled(path); err != nil {
		return nil, err
	}
	// Whether it can be read at all Add says better.
	if reads, err := readsItself(path); err == nil && reads {
		return nil, problem.Errorf("it reads its own file through /proc/self/exe, which not every start by binfmt_misc can set").
			WithHint("enable it with a shim (without --system)")
	}
	added, err := m.Add(ctx, path, opts)
	if err != nil {
		return nil, err
	}
	if err := maySetExe(added.Record); err != nil {
		return nil, err
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
	e := &Enabled{Added: *added, System: true}
	if path != named {
		e.Followed = path
	}
	instance, err := binfmt.Instance()
	if err != nil {
		return nil, err
	}
	if link, ok := m.store.SystemLink(rec.Binary.Inode(), instance); ok {
		kernels, err := kernelEntries()
		if err != nil {
			return nil, err
		}
		state, _ := m.systemState(link, instance, kernels, []registry.Record{rec})
		e.Was = state == SystemResident
	}
	if err := m.wishSystem(rec, path, instance); err != nil {
		return nil, err
	}
	if e.AtBoot, err = m.register(rec, path); err != nil {
		if _, ok := m.store.SystemLink(rec.Binary.Inode(), instance); !ok {
			err = errors.Join(err, m.endSystem(store.SystemLink{Program: path, Instance: instance}))
		}
		return nil, err
	}
	e.Collides = collisions(path)
	return e, nil
}

// maySetExe refuses a program that looks at itself where ordinary users' starts of it could
// not set /proc/self/exe, a normal start by binfmt_misc no more than a resident one.
func maySetExe(rec registry.Record) error {
	if intercept.MayMakeUserNamespaces() {
		return nil
	}
	var deps fingerprint.Dependencies
	if err := json.Unmarshal(rec.Deps, &deps); err != nil {
		return err
	}
	looks, err := looksAtItself(&deps)
	if err == nil && looks {
		err = problem.Errorf("it looks at itself through /proc/self/exe, which a start by binfmt_misc can set for ordinary users only where they can make user namespaces").
			WithHint("enable it with a shim (without --system), or allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)")
	}
	return err
}

// mayBeEnabled refuses a program whose path and first bytes the kernel's entry would
// show to those who may not know them, and one that the kernel executes for files of
// another format: it takes no interpreter's interpreter (fs/exec.c, exec_binprm).
func (m *Manager) mayBeEnabled(path string) error {
	switch secret, err := isSecret(path); {
	case err != nil:
		return err
	case secret:
		return problem.Errorf("not every user may read %s, and binfmt_misc would show its path and first bytes to all", path).
			WithHint("enable it with a shim (without --system) in a store that only you may read")
	}
	others, err := binfmt.Interpreters()
	if err != nil {
		return err
	}
	for _, other := range others {
		if linux.SameFile(other, path) {
			return problem.Errorf("it is the interpreter of another format in binfmt_misc, and an interpreter cannot have one itself").
				WithHint("enable it with a shim (without --system)")
		}
	}
	return nil
}

// register makes what a program that is enabled for the system has, or makes it
// again; it reports whether something will register it at the next boot. The store
// must be locked.
func (m *Manager) register(rec registry.Record, program string) (atBoot bool, err error) {
	if err := binfmt.Mount(); err != nil {
		return false, err
	}
	magic, err := binfmt.Magic(program)
	if err != nil {
		return false, err
	}
	instance, err := binfmt.Instance()
	if err != nil {
		return false, err
	}
	binary := rec.Binary.Inode()
	launcher := m.store.LauncherPath(binary, program)
	theirs, err := m.others(binary)
	if err != nil {
		return false, err
	}
	if len(theirs) > 0 {
		return false, problem.Errorf("another store has enabled it, with %s", theirs[0].Interpreter).
			WithHint("run `residentctl --store DIR disable` with that store's directory first")
	}
	if err := m.store.WriteSystemLink(store.SystemLink{Program: program, Binary: binary, Instance: instance}); err != nil {
		return false, err
	}
	if atBoot, err = binfmt.RegisterAtBoot(binary, magic, launcher); err != nil {
		return false, err
	}
	store.Fault("before-register")
	if err := binfmt.Register(binary, magic, launcher); err != nil {
		return atBoot, err
	}
	store.Fault("after-register")
	return atBoot, nil
}

// unregister undoes register for one link. The store must be locked.
func (m *Manager) unregister(l store.SystemLink) error {
	instance, err := binfmt.Instance()
	if err != nil {
		return err
	}
	undo := l.Instance == instance
	if _, here := m.store.SystemLink(l.Binary, instance); !here {
		// Something else may have registered it here, by the line in binfmt.d.
		undo, err = m.registered(l.Binary)
	}
	if err == nil && undo {
		err = m.unregisterHere(l.Binary)
	}
	if err != nil {
		return err
	}
	return m.store.RemoveSystemLink(l)
}

// unregisterHere has this kernel, and what registers programs at boot, forget a binary,
// but for what is another store's.
func (m *Manager) unregisterHere(binary linux.Inode) error {
	theirs, err := m.others(binary)
	if err != nil || len(theirs) > 0 {
		return err
	}
	if err := binfmt.RemoveAtBoot(binary); err != nil {
		return err
	}
	if err := binfmt.Remove(binary); err != nil {
		return err
	}
	store.Fault("after-unregister")
	return nil
}

// registered reports whether this kernel, or what registers programs at boot, has a
// launcher file of this store for a binary.
func (m *Manager) registered(binary linux.Inode) (bool, error) {
	all, err := everyEntry()
	return slices.ContainsFunc(all, func(e binfmt.Entry) bool {
		return e.Binary == binary && m.ours(e)
	}), err
}

// others are what the kernel knows, and what it will be told at boot, of a binary by a
// launcher file of another store, as long as that is there.
func (m *Manager) others(binary linux.Inode) ([]binfmt.Entry, error) {
	all, err := everyEntry()
	return slices.DeleteFunc(all, func(e binfmt.Entry) bool {
		return e.Binary != binary || m.ours(e) || leadsNowhere(e)
	}), err
}

// kernelEntries returns residentctl's, as far as binfmt_misc is mounted.
func kernelEntries() ([]binfmt.Entry, error) {
	entries, err := binfmt.Entries()
	if errors.Is(err, binfmt.ErrNotMounted) {
		return nil, nil
	}
	return entries, err
}

// everyEntry returns the kernel's and those for the boot.
func everyEntry() ([]binfmt.Entry, error) {
	entries, err := kernelEntries()
	if err != nil {
		return nil, err
	}
	atBoot, err := binfmt.AtBoot()
	return append(entries, atBoot...), err
}

// ours reports whether an entry leads into this store, however that was named.
func (m *Manager) ours(e binfmt.Entry) bool {
	if m.store.Holds(e.Interpreter) {
		return true
	}
	dir, err1 := filepath.EvalSymlinks(m.store.Dir())
	path, err2 := filepath.EvalSymlinks(e.Interpreter)
	return err1 == nil && err2 == nil && strings.HasPrefix(path, dir+"/")
}

func leadsNowhere(e binfmt.Entry) bool {
	_, err := os.Stat(e.Interpreter)
	return errors.Is(err, fs.ErrNotExist)
}

// moveSystem registers again what is enabled among an entry's names: its launcher
// file may be another one, and the file that the kernel knows by its first bytes as
// well.
func (m *Manager) moveSystem(rec registry.Record) error {
	links, _, err := m.store.SystemLinks()
	if err != nil {
		return err
	}
	instance, err := binfmt.Instance()
	if err != nil {
		return err
	}
	for _, l := range links {
		moved := l.Binary != rec.Binary.Inode()
		switch {
		case moved && !slices.Contains(rec.Names(), l.Program):
			continue
		case moved && l.Instance != instance: // a refresh there will find it
			to := store.SystemLink{Program: l.Program, Binary: rec.Binary.Inode(), Instance: l.Instance}
			err = errors.Join(m.store.WriteSystemLink(to), m.store.RemoveSystemLink(l))
		case moved:
			err = m.unregister(l)
		}
		if err == nil && l.Instance == instance {
			_, err = m.register(rec, l.Program)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// restoreSystem registers what is enabled of an entry and the kernel does not know,
// since a reboot for example.
func (m *Manager) restoreSystem(ctx context.Context, rec registry.Record) error {
	instance, err := binfmt.Instance()
	if err != nil {
		return err
	}
	link, ok := m.store.SystemLink(rec.Binary.Inode(), instance)
	if !ok {
		return nil
	}
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	kernels, err := kernelEntries()
	if err != nil {
		return err
	}
	if state, _ := m.systemState(link, instance, kernels, []registry.Record{rec}); state != SystemOff && !lacksBootLine(link.Binary) {
		return nil
	}
	_, err = m.register(rec, link.Program)
	return err
}

// lacksBootLine reports whether something would register a program at boot, and has not
// been told to.
func lacksBootLine(binary linux.Inode) bool {
	_, err := os.Stat(binfmt.BootPath(binary))
	_, noDirectory := os.Stat(binfmt.BootDir)
	return errors.Is(err, fs.ErrNotExist) && noDirectory == nil
}

// removeSystem ends what a binary is enabled for, by each of its links.
func (m *Manager) removeSystem(binary linux.Inode) error {
	links, err := m.systemLinksOf(binary)
	for _, l := range links {
		err = errors.Join(err, m.unregister(l))
	}
	return err
}

// systemLinksOf are a binary's links, for whatever instance.
func (m *Manager) systemLinksOf(binary linux.Inode) ([]store.SystemLink, error) {
	links, _, err := m.store.SystemLinks()
	return slices.DeleteFunc(links, func(l store.SystemLink) bool { return l.Binary != binary }), err
}

// DisableSystem ends what a query names: the name of an enabled program, or its
// path, also of one that waits for an image. It stays resident. Of several links, for
// several instances, that for this one goes first.
func (m *Manager) DisableSystem(ctx context.Context, query string) (program string, err error) {
	if m.store == nil {
		return "", ErrNotEnabled
	}
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	links, _, err := m.store.SystemLinks()
	if err != nil {
		return "", err
	}
	abs, err := filepath.Abs(query)
	if err != nil {
		return "", err
	}
	instance, err := binfmt.Instance()
	if err != nil {
		return "", err
	}
	elsewhere := func(l store.SystemLink) bool { return l.Instance != instance }
	here := slices.DeleteFunc(slices.Clone(links), elsewhere)
	records, err := m.registry.List()
	if err != nil && !errors.Is(err, registry.ErrCorrupt) {
		return "", err
	}
	for _, l := range slices.Concat(here, links, waitingSystem(records, links)) {
		if l.Program != abs && (filepath.Base(query) != query || filepath.Base(l.Program) != query) {
			continue
		}
		if l.Binary != (linux.Inode{}) {
			if err := m.unregister(l); err != nil {
				return l.Program, err
			}
		}
		return l.Program, m.endSystem(l)
	}
	return "", ErrNotEnabled
}

// waitingSystem are the links that entries are to have and that are not among links.
func waitingSystem(records []registry.Record, links []store.SystemLink) (waiting []store.SystemLink) {
	for _, rec := range records {
		for _, l := range systemWays(rec) {
			linked := func(is store.SystemLink) bool { return is.Program == l.Program && is.Instance == l.Instance }
			if !slices.ContainsFunc(links, linked) && !binfmt.Ended(l.Instance) {
				waiting = append(waiting, l)
			}
		}
	}
	return waiting
}

// LostSystem returns what is enabled for the whole system by a store that is gone, by
// the kernel's entries and the lines for the boot. Those programs start normally, by
// the launcher files that the kernel holds open.
func LostSystem() ([]SystemStatus, error) {
	lost, err := lostEntries()
	var all []SystemStatus
	for _, e := range lost {
		_, program := splitLauncher(e)
		st := SystemStatus{Program: program, Launcher: e.Interpreter, State: SystemNormal, Reason: "its store is gone"}
		if _, err := os.Lstat(binfmt.BootPath(e.Binary)); err == nil {
			st.AtBoot = true
		}
		all = append(all, st)
	}
	return all, err
}

// lostEntries are those whose launcher file's store is gone, one of each program.
func lostEntries() (lost []binfmt.Entry, err error) {
	all, err := everyEntry()
	seen := map[linux.Inode]bool{}
	for _, e := range all {
		dir, program := splitLauncher(e)
		if _, err := os.Stat(dir); program == "" || seen[e.Binary] || !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		seen[e.Binary] = true
		lost = append(lost, e)
	}
	return lost, err
}

// splitLauncher takes a launcher file's path apart: the store, and the program. Both
// are "" for another path.
func splitLauncher(e binfmt.Entry) (dir, program string) {
	between := "/launchers/" + e.Binary.String() + "/"
	dir, rest, found := strings.Cut(e.Interpreter, between)
	if !found {
		return "", ""
	}
	return dir, "/" + rest
}

// DisableLost is DisableSystem for what LostSystem returns.
func DisableLost(query string) (program string, err error) {
	lost, err := lostEntries()
	if err != nil {
		return "", err
	}
	for _, e := range lost {
		if _, program := splitLauncher(e); program == query || filepath.Base(program) == query {
			return program, errors.Join(binfmt.RemoveAtBoot(e.Binary), binfmt.Remove(e.Binary))
		}
	}
	return "", ErrNotEnabled
}

// SystemState says what becomes of an exec of a program that is enabled for the
// whole system.
type SystemState string

// States of such programs.
const (
	SystemResident SystemState = "resident"
	SystemNormal   SystemState = "normal" // its image is stale, or another file stands there: the launcher executes it
	SystemOff      SystemState = "off"    // the kernel does not know it, and executes it itself

	SystemElsewhere SystemState = "elsewhere" // it is enabled for another binfmt_misc than this kernel instance's
	SystemWaiting   SystemState = "waiting"   // it is to be enabled again with the next image
)

// SystemStatus is a program that is enabled for the whole system.
type SystemStatus struct {
	Program  string      `json:"program"`
	Launcher string      `json:"launcher,omitempty"` // the interpreter that the kernel is given; none while it waits
	State    SystemState `json:"state"`
	Reason   string      `json:"reason,omitempty"` // of any state but resident
	AtBoot   bool        `json:"at_boot"`          // systemd-binfmt registers it at boot
}

// System returns every program that is enabled for the whole system, and then those that
// wait for an image.
func (m *Manager) System(ctx context.Context) ([]SystemStatus, error) {
	all := []SystemStatus{}
	if m.store == nil {
		return all, nil
	}
	links, _, err := m.store.SystemLinks()
	if err != nil {
		return all, err
	}
	records, unread := m.records()
	wait := waitingSystem(records, links)
	if len(links)+len(wait) == 0 {
		return all, unread
	}
	instance, err := binfmt.Instance()
	if err != nil {
		return all, err
	}
	kernels, err := kernelEntries()
	if err != nil {
		return all, err
	}
	for _, l := range links {
		if ctx.Err() != nil {
			return all, context.Cause(ctx)
		}
		st := SystemStatus{Program: l.Program, Launcher: m.store.LauncherPath(l.Binary, l.Program)}
		st.State, st.Reason = m.systemState(l, instance, kernels, records)
		_, err := os.Lstat(binfmt.BootPath(l.Binary))
		st.AtBoot = err == nil
		all = append(all, st)
	}
	for _, l := range wait {
		rec := records[slices.IndexFunc(records, func(r registry.Record) bool { return slices.Contains(systemWays(r), l) })]
		all = append(all, SystemStatus{Program: l.Program, State: SystemWaiting, Reason: waiting(rec)})
	}
	return all, unread
}

// systemState returns that of one of them, given this kernel instance and its entries.
func (m *Manager) systemState(l store.SystemLink, instance string, kernels []binfmt.Entry, records []registry.Record) (SystemState, string) {
	switch {
	case l.Instance == instance:
	case l.Instance == "":
		return SystemElsewhere, "for another kernel instance, the machine's own"
	case binfmt.Ended(l.Instance):
		return SystemElsewhere, "for another kernel instance, which ended with an earlier boot"
	default:
		return SystemElsewhere, "for another kernel instance, a user namespace's own"
	}
	i := slices.IndexFunc(kernels, func(e binfmt.Entry) bool { return e.Binary == l.Binary })
	switch {
	case i < 0 && !binfmt.Mounted():
		return SystemOff, binfmt.ErrNotMounted.Error()
	case i < 0:
		return SystemOff, "the kernel does not know it (any more)"
	case !kernels[i].Enabled:
		return SystemOff, "it is switched off in " + binfmt.Dir
	case !m.ours(kernels[i]):
		return SystemOff, "another store has enabled it: " + kernels[i].Interpreter
	}
	if id, err := linux.StatID(l.Program); err != nil || id.Inode() != l.Binary {
		return SystemNormal, "another file, or none, is at its path"
	}
	if magic, err := binfmt.Magic(l.Program); err == nil && !bytes.HasPrefix(magic, kernels[i].Magic) {
		return SystemOff, "its first bytes have changed"
	}
	i = slices.IndexFunc(records, func(r registry.Record) bool { return r.Binary.Inode() == l.Binary })
	switch {
	case i < 0 && m.foreign:
		return SystemNormal, "you cannot read its image"
	case i < 0:
		return SystemNormal, "it is not resident any more"
	}
	switch reasons, older := m.byLauncher(records[i], l.Program); {
	case len(reasons) > 0:
		return SystemNormal, reasons[0]
	case older:
		return SystemResident, olderStart
	}
	return SystemResident, ""
}

// collisions are programs in the usual directories that the kernel cannot tell from the
// one at path. They start through its launcher file, normally.
func collisions(path string) []string {
	magic, err := binfmt.Magic(path)
	own, idErr := linux.StatID(path)
	if err != nil || idErr != nil {
		return nil
	}
	seen := map[linux.Inode]bool{own.Inode(): true}
	var found []string
	for _, dir := range binDirectories {
		if real, err := filepath.EvalSymlinks(dir); err != nil || real != dir {
			continue // /bin, where it is a link to /usr/bin
		}
		names, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range names {
			other := filepath.Join(dir, e.Name())
			id, err := linux.StatID(other)
			if err != nil || seen[id.Inode()] {
				continue
			}
			seen[id.Inode()] = true
			if got, err := binfmt.Magic(other); err == nil && bytes.Equal(got, magic) {
				found = append(found, other)
			}
		}
	}
	slices.Sort(found)
	return found
}

// system finds what belongs to no entry: links, and of the lines for the boot and the
// entries of the kernel those that lead into this store, or nowhere. All that a binary has
// is one item. Of an entry, it finds the links for kernel instances that have ended.
func (s *gcSearch) system() (items []GCItem, err error) {
	links, _, err := s.store.SystemLinks()
	if err != nil {
		return nil, err
	}
	linked := map[linux.Inode]bool{}
	for _, l := range links {
		known := s.knows(l.Binary)
		item := GCItem{Path: s.store.SystemPath(l), Program: l.Program, binary: l.Binary}
		switch {
		case !known && !linked[l.Binary]:
			items = append(items, item)
		case known && binfmt.Ended(l.Instance):
			item.ended, item.Reason = &l, "the kernel instance that it was enabled for ended with an earlier boot"
			items = append(items, item)
		}
		linked[l.Binary] = true
	}
	if os.Geteuid() != 0 {
		return items, nil
	}
	entries, err := everyEntry()
	for _, e := range entries {
		if !linked[e.Binary] && (s.ours(e) || leadsNowhere(e)) {
			items = append(items, GCItem{Path: e.Path, binary: e.Binary})
			linked[e.Binary] = true
		}
	}
	return items, err
}

// collectSystem ends what a binary is enabled for if it still has no entry, or is
// not enabled by this store.
func (m *Manager) collectSystem(item GCItem) (bool, error) {
	if item.ended != nil {
		return true, errors.Join(m.store.RemoveSystemLink(*item.ended), m.endSystem(*item.ended))
	}
	_, err := m.registry.ByInode(item.binary)
	links, linksErr := m.systemLinksOf(item.binary)
	switch {
	case err == nil && len(links) > 0:
		return false, nil
	case err != nil && !errors.Is(err, registry.ErrNotFound):
		return false, err
	case linksErr != nil:
		return false, linksErr
	case len(links) > 0:
		return true, m.removeSystem(item.binary)
	}
	return true, m.unregisterHere(item.binary)
}

// aside sees to it that the kernel itself executes a program, until back is called:
// what is traced or timed must not be a launcher. Only root can; for others linkstop
// notices.
func aside(ctx context.Context, program string) (back func(), err error) {
	if os.Geteuid() != 0 {
		return func() {}, nil
	}
	magic, err := binfmt.Magic(program)
	if err != nil {
		return func() {}, nil // whatever is done next says it better
	}
	back, err = binfmt.Aside(ctx, magic)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, fmt.Errorf("%s is enabled for the whole system: %w", program, err)
	}
	return back, nil
}
