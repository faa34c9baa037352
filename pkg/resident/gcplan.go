package resident

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/plural"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// GCKind says what kind of garbage something is.
type GCKind string

// Kinds of garbage.
const (
	GCEntry     GCKind = "entry"     // the image of an entry that no start uses, with all that leads to it; the wish stays
	GCShim      GCKind = "shim"      // a link for PATH under a name that no entry has
	GCSystem    GCKind = "system"    // what makes a program without a record be enabled for the system
	GCLink      GCKind = "link"      // an index link without a record
	GCLauncher  GCKind = "launcher"  // a launcher file under a name that its entry does not have
	GCLaunchers GCKind = "launchers" // launcher files without a record
	GCImage     GCKind = "image"     // an image without a record
	GCNamed     GCKind = "named"     // the wrapper of an interpreter's name that no entry has
	GCExec      GCKind = "exec"      // a covered dynamic linker of another libc or residentctl
	GCNote      GCKind = "note"      // a file of counts or times that cannot be read
	GCStaging   GCKind = "staging"   // what a killed process was making
	GCRegistry  GCKind = "registry"  // a registry that a killed process was making
	GCTemporary GCKind = "temporary" // a killed add's directory for CRIU's log, in TMPDIR
)

// garbageKind is one kind of garbage, from its discovery to its removal.
type garbageKind struct {
	kind   GCKind
	reason string // why an item is garbage, if it has no reason of its own
	plan   func(s *gcSearch) ([]GCItem, error)

	// collect removes an item, with the store locked, unless it is no longer garbage.
	collect func(m *Manager, item GCItem) (gone bool, err error)
	// collectMissing is set if an item goes even where its path is gone.
	collectMissing bool

	// report is how check reports the items, if it does, and what kept others from being
	// found. It returns whether the store is clean of the kind.
	report func(c *checker, items []GCItem, err error) (clean bool)
	// reportLocked is set if without the lock they may be something in the making.
	reportLocked bool
}

// garbage is every kind, in the order in which they are removed: what leads to an image
// goes before it.
var garbage = []garbageKind{
	{kind: GCEntry, plan: (*gcSearch).entries, collect: (*Manager).collectEntry, collectMissing: true},
	{kind: GCShim, reason: noEntry, plan: (*gcSearch).shims, collect: (*Manager).collectShim, report: (*checker).leftInStore},
	{kind: GCSystem, reason: noEntry, plan: (*gcSearch).system, collect: (*Manager).collectSystem, report: (*checker).leftInStore},
	{kind: GCLink, reason: noEntry, plan: (*gcSearch).links, collect: (*Manager).collectLink, report: (*checker).leftInStore},
	{kind: GCLauncher, reason: "the entry does not have this name",
		plan: (*gcSearch).surplus, collect: (*Manager).collectLauncher, report: (*checker).leftInStore},
	{kind: GCLaunchers, reason: "no entry of the registry has them",
		plan: (*gcSearch).launchers, collect: (*Manager).collectLaunchers, report: (*checker).leftInStore},
	{kind: GCImage, reason: noEntry, plan: (*gcSearch).images, collect: (*Manager).collectImage, report: (*checker).leftInStore},
	{kind: GCNamed, reason: noEntry, plan: (*gcSearch).named, collect: (*Manager).collectNamed, report: (*checker).leftInStore, reportLocked: true},
	{kind: GCExec, reason: "the dynamic linker, or residentctl, is another one now",
		plan: (*gcSearch).execs, collect: (*Manager).collectExec},
	{kind: GCNote, reason: "it cannot be read, and counts as empty",
		plan: (*gcSearch).notes, collect: (*Manager).collectNote, report: (*checker).leftInStore},
	{kind: GCStaging, reason: makerKilled,
		plan: (*gcSearch).staging, collect: (*Manager).collectStaging, report: (*checker).leftInStore, reportLocked: true},
	{kind: GCRegistry, reason: "there is a registry, and this one never became it",
		plan: (*gcSearch).leftovers, collect: (*Manager).collectLeftover, report: (*checker).leftInStore, reportLocked: true},
	{kind: GCTemporary, reason: makerKilled,
		plan: (*gcSearch).temporary, collect: (*Manager).collectTemporary, report: (*checker).leftInTemporary, reportLocked: true},
}

// Reasons of several kinds.
const (
	noEntry     = "no entry of the registry has it"
	makerKilled = "the process that made it was killed"
)

// GCItem is one thing that goes, or is kept.
type GCItem struct {
	Kind    GCKind `json:"kind"`
	Path    string `json:"path"`              // in the store: the image's directory for an entry
	ID      string `json:"id,omitempty"`      // of the image
	Program string `json:"program,omitempty"` // of an entry
	Reason  string `json:"reason"`
	Bytes   int64  `json:"bytes"` // on the disk: blocks, not lengths

	binary linux.Inode       // whose link, launcher files or entry it is
	ended  *store.SystemLink // of GCSystem: only this link, for an instance that has ended
}

// GCPlan is what a collection would do.
type GCPlan struct {
	Items []GCItem `json:"items"`
	// Kept are entries that no start uses just now, but of which nobody can
	// say that this will stay so: what they depend on could not be looked at.
	Kept  []GCItem `json:"kept"`
	Bytes int64    `json:"bytes"` // of Items
}

// gcSearch is a search for garbage, and what it knows of the store.
type gcSearch struct {
	*Manager
	ctx      context.Context
	records  []registry.Record   // that have an image
	binaries map[linux.Inode]int // that have a record: its place in records
	ids      map[string]bool     // of the records' images
	names    map[string]bool     // of all records
	going    map[string]bool     // ids of the entries that are garbage themselves
	kept     []GCItem
}

func (m *Manager) searchGarbage(ctx context.Context, records []registry.Record) *gcSearch {
	s := &gcSearch{
		Manager: m, ctx: ctx, records: withImage(records), binaries: map[linux.Inode]int{},
		ids: map[string]bool{}, names: map[string]bool{}, going: map[string]bool{},
	}
	for _, rec := range records {
		for _, name := range rec.Names() {
			s.names[name] = true
		}
	}
	for i, rec := range s.records {
		s.binaries[rec.Binary.Inode()], s.ids[rec.ID] = i, true
	}
	return s
}

// knows reports whether a record is of that binary.
func (s *gcSearch) knows(b linux.Inode) bool {
	_, known := s.binaries[b]
	return known
}

// find finds the garbage of one kind. Where there is an error too, it is not all.
func (s *gcSearch) find(k *garbageKind) ([]GCItem, error) {
	items, err := k.plan(s)
	for i := range items {
		item := &items[i]
		item.Kind, item.Reason = k.kind, cmp.Or(item.Reason, k.reason)
		item.Bytes += diskUsage(item.Path)
	}
	return items, err
}

// PlanGC finds what is garbage and changes nothing. Its error is
// registry.ErrCorrupt when the registry cannot be read whole, and ErrMissing when
// there is none beside images: what should exist is not known then.
//
// The store is locked meanwhile, so nothing that is half published or half
// removed is taken for garbage.
func (m *Manager) PlanGC(ctx context.Context) (*GCPlan, error) {
	p := &GCPlan{Items: []GCItem{}, Kept: []GCItem{}}
	if m.store == nil {
		return p, nil
	}
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	records, err := m.wholeRegistry()
	if err != nil {
		return nil, err
	}
	s := m.searchGarbage(ctx, records)
	for i := range garbage {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		items, err := s.find(&garbage[i])
		if err != nil {
			return nil, err
		}
		p.Items = append(p.Items, items...)
	}
	p.Kept = append(p.Kept, s.kept...)
	for _, item := range p.Items {
		p.Bytes += item.Bytes
	}
	return p, nil
}

// wholeRegistry returns every record of a registry without a fault. That there is none
// is one, unless nothing was ever entered: an image is made before its record, but
// the registry before the image. Where a record is damaged it is not known which
// images and links are its own, so that none can be called garbage.
func (m *Manager) wholeRegistry() ([]registry.Record, error) {
	fail := func(why error, detail any) error {
		return registry.Failed("collect garbage by registry", m.registry.Path(), fmt.Errorf("%w: %v", why, detail))
	}
	records, faults, err := m.registry.Whole()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		ids, _, err := m.store.Images()
		if len(ids) > 0 {
			err = fail(registry.ErrMissing, "the store has "+plural.Count(len(ids), "image"))
		}
		return nil, err
	case err != nil:
		return nil, err
	case len(faults) > 0:
		if _, err := m.registry.List(); len(registry.Damaged(err)) > 0 {
			return nil, fmt.Errorf("collect garbage: %w", err)
		}
		return nil, fail(registry.ErrCorrupt, faults[0])
	}
	return records, nil
}

// entries finds those whose image no start would use. The image goes, whatever the reason:
// one can be made again in a tenth of a second, and an unmounted file system looks like
// deleted files. Where only times differ it is kept for refresh, and
// where looking itself failed.
func (s *gcSearch) entries() (items []GCItem, err error) {
	type verdict struct {
		reasons []string
		unsure  string
	}
	verdicts := make([]verdict, len(s.records))
	seen := &fingerprint.Seen{}
	if err := forEach(s.ctx, len(s.records), func(i int) {
		verdicts[i].reasons, verdicts[i].unsure = s.useless(s.records[i], seen)
	}); err != nil {
		return nil, err
	}
	for i, rec := range s.records {
		reasons, unsure := verdicts[i].reasons, verdicts[i].unsure
		if len(reasons) == 0 && unsure == "" {
			continue
		}
		item := GCItem{
			Kind: GCEntry, Path: s.store.ImageDir(rec.ID), ID: rec.ID, Program: rec.Program, binary: rec.Binary.Inode(),
			Bytes: diskUsage(s.store.LaunchersDir(rec.Binary.Inode())), // and its path's
		}
		if unsure != "" {
			item.Reason = unsure
			item.Bytes += diskUsage(item.Path)
			s.kept = append(s.kept, item)
			continue
		}
		item.Reason = reasons[0]
		s.going[rec.ID] = true
		items = append(items, item)
	}
	return items, nil
}

// useless says why no start would use an entry's image; unsure, unless empty,
// why that cannot be said.
func (m *Manager) useless(rec registry.Record, seen *fingerprint.Seen) (reasons []string, unsure string) {
	if reasons = m.damage(rec); len(reasons) > 0 && m.startsByOlder(rec) {
		return nil, olderEntry
	}
	var deps fingerprint.Dependencies
	if err := json.Unmarshal(rec.Deps, &deps); err != nil {
		return append(reasons, fmt.Sprintf("what it depends on cannot be read (%v)", err)), ""
	}
	stale := deps.StaleSeen(seen)
	if len(stale) > 0 && len(reasons) == 0 {
		unsure = cannotLook(&deps)
	}
	if len(stale) > 0 && unsure == "" && canRenew(rec) {
		return nil, "only times of files have changed: `residentctl refresh` renews it"
	}
	return append(reasons, stale...), unsure
}

// canRenew reports whether an entry needs nothing but new times, or, as far as can be
// said now, may not need more.
func canRenew(rec registry.Record) bool {
	_, err := renewable(context.Background(), rec)
	return err == nil || tryAgain(err)
}

// cannotLook names a file or directory that a program depends on and that could not
// be looked at: neither is it there, nor is it known to be gone.
func cannotLook(deps *fingerprint.Dependencies) string {
	paths := []string{deps.Program.Path, deps.Linker.Path}
	for _, l := range deps.Libraries {
		paths = append(paths, l.Path)
	}
	for _, c := range deps.Checks {
		paths = append(paths, c.Path)
	}
	for _, f := range deps.Directories {
		paths = append(paths, f.Path)
	}
	for _, path := range paths {
		_, err := fingerprint.StatID(path)
		if err != nil && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ENOTDIR) {
			return err.Error()
		}
	}
	return ""
}

// surplus finds the launcher files under no name of an entry that stays.
func (s *gcSearch) surplus() (items []GCItem, err error) {
	surplus := make([][]string, len(s.records))
	if err := forEach(s.ctx, len(s.records), func(i int) {
		if !s.going[s.records[i].ID] {
			surplus[i] = s.surplusLaunchers(s.records[i])
		}
	}); err != nil {
		return nil, err
	}
	for i, rec := range s.records {
		for _, path := range surplus[i] {
			items = append(items, GCItem{Path: path, ID: rec.ID, Program: rec.Program, binary: rec.Binary.Inode()})
		}
	}
	return items, nil
}

// links finds those of no entry. One of an entry that leads to another image makes the
// entry useless.
func (s *gcSearch) links() (items []GCItem, err error) {
	links, _, err := s.store.LinksBut(s.knows)
	for _, l := range links {
		items = append(items, GCItem{Path: s.store.IndexPath(l.Binary), ID: l.ID, binary: l.Binary})
	}
	return items, err
}

func (s *gcSearch) launchers() (items []GCItem, err error) {
	binaries, _, err := s.store.Launchers()
	for _, b := range binaries {
		if !s.knows(b) {
			items = append(items, GCItem{Path: s.store.LaunchersDir(b), binary: b})
		}
	}
	return items, err
}

func (s *gcSearch) images() (items []GCItem, err error) {
	ids, _, err := s.store.Images()
	for _, id := range ids {
		if !s.ids[id] {
			items = append(items, GCItem{Path: s.store.ImageDir(id), ID: id})
		}
	}
	return items, err
}

func (s *gcSearch) execs() ([]GCItem, error) { return itemsAt(intercept.Outdated(s.store)) }

func (s *gcSearch) notes() ([]GCItem, error) { return itemsAt(damagedNotes(s.store), nil) }

func (s *gcSearch) staging() ([]GCItem, error) { return itemsAt(s.store.Abandoned()) }

// leftovers finds half-made registries. Without a registry one of them may be about to
// become it.
func (s *gcSearch) leftovers() ([]GCItem, error) {
	if !store.HasRegistry(s.store.Dir()) {
		return nil, nil
	}
	return itemsAt(s.registry.Leftovers())
}

func (s *gcSearch) temporary() ([]GCItem, error) { return itemsAt(store.AbandonedTemporary()) }

func itemsAt(paths []string, err error) (items []GCItem, _ error) {
	for _, path := range paths {
		items = append(items, GCItem{Path: path})
	}
	return items, err
}

// diskUsage is what du(1) would say, in bytes: 512 for each of stat(2)'s
// st_blocks. What has gone meanwhile counts nothing.
func diskUsage(path string) (bytes int64) {
	_ = filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := os.Lstat(path); err == nil {
			bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	return bytes
}
