package resident

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/plural"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// Area is what a finding of Check is about.
type Area string

// Areas, in the order in which they are checked.
const (
	AreaProgram  Area = "program" // residentctl itself
	AreaKernel   Area = "kernel"
	AreaCRIU     Area = "criu"
	AreaTrial    Area = "trial" // a program made resident for the occasion
	AreaStore    Area = "store"
	AreaRegistry Area = "registry"
	AreaEntry    Area = "entry"
)

// Status of a finding.
type Status string

// A fault needs a person's action; a note is good to know.
const (
	StatusOK    Status = "ok"
	StatusNote  Status = "note"
	StatusFault Status = "fault"
)

// Finding is what one probe found.
type Finding struct {
	Area   Area   `json:"area"`
	What   string `json:"what"` // that was looked at
	Status Status `json:"status"`
	Detail string `json:"detail,omitempty"`
	Advice string `json:"advice,omitempty"` // what to do about it
}

// checker collects findings.
type checker struct {
	dir   string
	found func(Finding)
}

func (c *checker) ok(a Area, what, detail string) { c.found(Finding{a, what, StatusOK, detail, ""}) }
func (c *checker) note(a Area, what, detail, advice string) {
	c.found(Finding{a, what, StatusNote, detail, advice})
}
func (c *checker) fault(a Area, what, detail, advice string) {
	c.found(Finding{a, what, StatusFault, detail, advice})
}

// CheckMachine tries out everything that residentctl needs of the machine. Found is
// told each finding as it is made. The error is the context's.
func CheckMachine(ctx context.Context, found func(Finding)) error {
	c := &checker{found: found}
	c.kernel(ctx)
	if err := notInside(); err != nil {
		c.note(AreaTrial, "program", err.Error(), "run check outside to try out CRIU and add")
	} else if path, ok := c.criu(ctx); ok {
		c.trial(ctx, path)
	}
	return context.Cause(ctx)
}

// CheckStore looks at all that is in the store in dir, and changes nothing in it.
// Found and the error are as CheckMachine's.
func CheckStore(ctx context.Context, dir string, found func(Finding)) error {
	c := &checker{dir: dir, found: found}
	if m := c.openStore(); m != nil {
		c.contents(ctx, m)
	}
	return context.Cause(ctx)
}

// openStore opens the store and the registry as they are. Unlike Open it makes
// nothing, and distinguishes a store that does not exist from one that is damaged.
func (c *checker) openStore() *Manager {
	if _, err := os.Lstat(c.dir); errors.Is(err, fs.ErrNotExist) {
		c.note(AreaStore, c.dir, "there is none yet", "run `residentctl add PROGRAM` to make it")
		return nil
	}
	s, err := store.Open(c.dir)
	if errors.Is(err, fs.ErrNotExist) && !store.HasRegistry(c.dir) {
		c.note(AreaStore, c.dir, "it is unfinished; nothing is resident yet", "run `residentctl add PROGRAM` to complete it")
		return nil
	}
	if err != nil {
		c.fault(AreaStore, c.dir, err.Error(), problem.HintOf(err))
		return nil
	}
	for _, directory := range s.Missing() {
		c.fault(AreaStore, directory, "it is missing", "run `residentctl add PROGRAM` to make it again")
	}
	c.ok(AreaStore, c.dir, "it belongs to root or to you, and nobody else may write to it")
	c.files(s)
	c.boot(s)
	return c.openRegistry(s)
}

// files looks who may write to the store's own small files. Starts take the boot
// stamp's word for it that the CPU is the right one, and who can open the registry's
// gate can keep its writers waiting. The registry looks at itself.
func (c *checker) files(s *store.Store) {
	for _, path := range s.NamesShown() {
		c.fault(AreaStore, path, "others can list it, which shows the inode of every resident program", "run `residentctl refresh` to end that")
	}
	for _, file := range []struct {
		path, what string
		mode       fs.FileMode // what others must not have
		right      string
	}{
		{s.BootPath(), "write", 0o022, "644"},
		{registry.GatePath(s.RegistryPath()), "open", 0o077, "600"},
	} {
		info, err := os.Lstat(file.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			c.fault(AreaStore, file.path, err.Error(), problem.HintOf(err))
			continue
		}
		if mode := info.Mode(); mode.IsRegular() && mode&file.mode != 0 {
			c.fault(AreaStore, file.path, fmt.Sprintf("others may %s it (mode %03o)", file.what, mode.Perm()), "chmod "+file.right+" "+file.path)
		} else if why := mistrust(file.path, info.Sys().(*syscall.Stat_t)); why != "" {
			c.fault(AreaStore, file.path, why, "remove it; the next `residentctl add` makes it")
		}
	}
}

// boot looks at the boot stamp. Without a fitting one starts are right, but
// each of them looks at the CPU.
func (c *checker) boot(s *store.Store) {
	const again = "run `residentctl refresh` to write it; until then each start asks the CPU, up to 0.5 ms in a virtual machine"
	boot, err := linux.BootID()
	if err != nil {
		c.fault(AreaKernel, "boot id", err.Error(), "check that /proc is mounted")
		return
	}
	switch was, err := s.ReadBoot(); {
	case errors.Is(err, fs.ErrNotExist):
		c.note(AreaStore, "boot stamp", "there is none", again)
	case err != nil:
		c.fault(AreaStore, "boot stamp", err.Error(), "remove the file; "+again)
	case was.ID != boot:
		c.note(AreaStore, "boot stamp", "it is from another boot of this machine", again)
	case was.Mark != 0 && was.Mark != linux.BootMark(0):
		c.note(AreaStore, "boot stamp", "it is of this boot, and /dev/null has been changed since",
			"wait for the next `residentctl add`, which writes it; until then each start reads the boot id too, up to 20 µs in a virtual machine")
	default:
		c.ok(AreaStore, "boot stamp", "of this boot")
	}
}

func (c *checker) openRegistry(s *store.Store) *Manager {
	path := s.RegistryPath()
	const again = "move the file away and add the programs again; then run `residentctl gc` to remove what is left"
	r := registry.At(path, registry.Options{ReadOnly: true})
	faults, err := r.Check()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		ids, _, _ := s.Images()
		if len(ids) == 0 {
			c.note(AreaRegistry, path, "there is none yet", "run `residentctl add PROGRAM` to make it")
		} else {
			c.fault(AreaRegistry, path, "it is missing, and the store has "+plural.Count(len(ids), "image"), "put it back, or add the programs again; then run `residentctl gc` to remove what is left")
		}
		return nil
	case errors.Is(err, fs.ErrPermission):
		c.note(AreaRegistry, path, "only the store's owner may read it", "")
		return nil
	case errors.Is(err, registry.ErrLocked):
		c.note(AreaRegistry, path, err.Error(), problem.HintOf(err))
		return nil
	case errors.Is(err, registry.ErrUnsafe):
		c.fault(AreaRegistry, path, err.Error(), problem.HintOf(err))
		return nil
	case err != nil:
		c.fault(AreaRegistry, path, err.Error(), again)
		return nil
	}
	isDamaged := func(f registry.Fault) bool { return f.Kind == registry.FaultRecord }
	damaged := slices.ContainsFunc(faults, isDamaged) // contents says which
	for _, f := range faults {
		switch advice := again; f.Kind {
		case registry.FaultRecord:
		case registry.FaultOlder:
			c.note(AreaRegistry, path, "an older residentctl wrote it, and its content was not examined",
				"run `residentctl list` as its owner to bring it up to date")
		case registry.FaultSchema:
			advice = "use the version of residentctl that wrote it, or " + again
			fallthrough
		default:
			c.fault(AreaRegistry, path, f.String(), advice)
		}
	}
	if !damaged && len(faults) > 0 {
		return nil
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		c.fault(AreaRegistry, path, fmt.Sprintf("it names every program, and others may read it (mode %04o)", info.Mode().Perm()),
			"chmod 600 it, as the next `residentctl add` does")
	}
	if !damaged {
		c.ok(AreaRegistry, path, "every page, record and index entry fits")
	}
	return &Manager{store: s, registry: r, dir: s.Dir()}
}

// contents compares registry, index, images and launcher files, with the store
// locked if this user may lock it.
func (c *checker) contents(ctx context.Context, m *Manager) {
	unlock, err := m.store.Lock(ctx)
	mine := err == nil
	switch {
	case mine:
		defer unlock()
	case !errors.Is(err, fs.ErrPermission):
		c.fault(AreaStore, c.dir, err.Error(), problem.HintOf(err))
		return
	}
	records, err := m.registry.List()
	damaged := registry.Damaged(err)
	if err != nil && len(damaged) == 0 {
		c.fault(AreaRegistry, m.registry.Path(), err.Error(), problem.HintOf(err))
		return
	}
	for _, rec := range records {
		if ctx.Err() != nil {
			return
		}
		c.entry(m, rec)
	}
	if search := m.searchGarbage(ctx, records); len(damaged) > 0 {
		c.damaged(m, damaged, search.ids)
	} else {
		c.system(ctx, m)
		c.garbage(search, mine)
	}
	c.strays(m)
}

// damaged reports damaged records, and the images of which one may be theirs: those
// that no whole record explains. While there is one, nothing is garbage.
func (c *checker) damaged(m *Manager, damaged []*registry.DamagedError, explained map[string]bool) {
	for _, e := range damaged {
		detail := e.Error()
		if of := e.Of(); of != "" {
			detail += "; the indexes say that it is of " + of
		}
		c.fault(AreaRegistry, m.registry.Path(), detail, problem.HintOf(e))
	}
	ids, _, err := m.store.Images()
	if err != nil {
		c.fault(AreaStore, c.dir, err.Error(), problem.HintOf(err))
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return explained[id] })
	for _, id := range ids {
		c.note(AreaStore, m.store.ImageDir(id), "no record that can be read has this image; a damaged one may", "")
	}
}

// entry checks one program's record, image, plan, index link and launcher files.
func (c *checker) entry(m *Manager, rec registry.Record) {
	if !rec.HasImage() {
		c.note(AreaEntry, rec.Program, "no image: "+noImage(rec),
			fmt.Sprintf("run `residentctl refresh` to make it resident again, or `residentctl remove %s` to forget it; until then it is executed normally", rec.Program))
		return
	}
	what := fmt.Sprintf("%s (id %.12s)", rec.Program, rec.ID)
	again := fmt.Sprintf("run `residentctl refresh %s` to make it resident again; until then it is executed normally", rec.Program)
	wrong := m.damage(rec)
	if len(wrong) > 0 && m.startsByOlder(rec) {
		c.note(AreaEntry, what, olderEntry, "run `residentctl refresh` to make it again")
		return
	}
	for _, f := range wrong {
		c.fault(AreaEntry, what, f, again)
	}
	exposed, _ := m.exposure(rec)
	exposed = slices.DeleteFunc(exposed, func(f string) bool { // said already, of a layout
		return slices.ContainsFunc(wrong, func(w string) bool { return strings.HasSuffix(w, f) })
	})
	for _, f := range exposed {
		c.fault(AreaEntry, what, f, fmt.Sprintf("find out who could have read or changed it; then run `residentctl add %s` to make the image again", rec.Program))
	}
	about := m.aboutFault(rec)
	if about != "" {
		c.fault(AreaEntry, what, about, fmt.Sprintf("run `residentctl add %s` to make the image again; until then it is not shown to others", rec.Program))
	}
	files, _ := m.launcherFaults(rec)
	for _, f := range files {
		c.fault(AreaEntry, what, f, fmt.Sprintf("run `residentctl add %s` to write it again", rec.Program))
	}
	var deps fingerprint.Dependencies
	if err := json.Unmarshal(rec.Deps, &deps); err != nil {
		c.fault(AreaEntry, what, fmt.Sprintf("what it depends on cannot be read: %v", err), again)
		return
	}
	if len(wrong)+len(exposed)+len(files) > 0 || about != "" {
		return
	}
	if stale := deps.Stale(); len(stale) > 0 {
		c.note(AreaEntry, what, "stale: "+stale[0], again)
		return
	}
	c.ok(AreaEntry, what, "current; its image, plan, link and launcher file fit")
}

// system says of what is enabled for the whole system whether it is so.
func (c *checker) system(ctx context.Context, m *Manager) {
	all, err := m.System(ctx)
	if err != nil {
		c.fault(AreaStore, "binfmt_misc", err.Error(), problem.HintOf(err))
	}
	for _, s := range all {
		what := s.Program + " (system-wide)"
		switch s.State {
		case SystemOff:
			c.note(AreaEntry, what, s.Reason, "run `residentctl refresh` to register it again; until then it is executed normally")
		case SystemWaiting:
			c.note(AreaEntry, what, s.Reason, "run `residentctl refresh` to enable it again; until then it is executed normally")
		case SystemElsewhere:
			c.note(AreaEntry, what, s.Reason, fmt.Sprintf("run `residentctl enable --system %s` to enable it here too", s.Program))
		case SystemNormal:
			c.note(AreaEntry, what, s.Reason, "it is executed normally")
		default:
			c.ok(AreaEntry, what, "every exec of it is a start from its image")
		}
	}
}

// garbage reports what gc would remove, but for the entries, which have been reported;
// mine: the store is locked.
func (c *checker) garbage(search *gcSearch, mine bool) {
	clean := true
	for i := range garbage {
		if k := &garbage[i]; k.report != nil && (mine || !k.reportLocked) {
			items, err := search.find(k)
			if search.ctx.Err() != nil {
				return
			}
			clean = k.report(c, items, err) && clean
		}
	}
	if clean {
		c.ok(AreaStore, "garbage", "nothing is there without an entry")
	}
}

func (c *checker) leftInStore(items []GCItem, err error) (clean bool) {
	if err != nil {
		c.fault(AreaStore, c.dir, err.Error(), problem.HintOf(err))
	}
	for _, item := range items {
		c.fault(AreaStore, item.Path, fmt.Sprintf("garbage (%s): %s", item.Kind, item.Reason), "run `residentctl gc` to remove it; it is harmless")
	}
	return err == nil && len(items) == 0
}

// leftInTemporary reports the directories of killed adds in TMPDIR, which may have been
// at work on any store.
func (c *checker) leftInTemporary(items []GCItem, err error) (clean bool) {
	if err != nil {
		c.note(AreaStore, os.TempDir(), err.Error(), problem.HintOf(err))
	}
	if n := len(items); n > 0 {
		c.note(AreaStore, os.TempDir(), plural.Count(n, "directory")+" residentctl-work-*, made by commands that were killed",
			"run `residentctl gc` to remove it; it is harmless")
	}
	return true
}

// strays reports what residentctl never puts into a store.
func (c *checker) strays(m *Manager) {
	_, images, err1 := m.store.Images()
	_, links, err2 := m.store.Links()
	_, launchers, err3 := m.store.Launchers()
	_, shims, err4 := m.store.Shims()
	_, system, err5 := m.store.SystemLinks()
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		c.fault(AreaStore, c.dir, err.Error(), problem.HintOf(err))
	}
	for _, paths := range [][]string{images, links, launchers, shims, system} {
		for _, path := range paths {
			c.fault(AreaStore, path, "not made by residentctl", fmt.Sprintf("look at it, and remove %s by hand", filepath.Base(path)))
		}
	}
}
