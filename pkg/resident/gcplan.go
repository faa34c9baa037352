package resident

import (
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

// Kinds of garbage, in the order in which they are removed: what leads to an
// image goes before it.
const (
	GCEntry     GCKind = "entry"     // a record whose image no start uses, with all that belongs to it
	GCShim      GCKind = "shim"      // a link for PATH under a name that no entry has
	GCSystem    GCKind = "system"    // what makes a program without a record be enabled for the system
	GCLink      GCKind = "link"      // an index link without a record
	GCLauncher  GCKind = "launcher"  // a launcher file under a name that its entry does not have
	GCLaunchers GCKind = "launchers" // launcher files without a record
	GCImage     GCKind = "image"     // an image without a record
	GCExec      GCKind = "exec"      // a covered dynamic linker of another libc or residentctl
	GCStaging   GCKind = "staging"   // what a killed process was making
	GCRegistry  GCKind = "registry"  // a registry that a killed process was making
	GCTemporary GCKind = "temporary" // a killed add's folder for CRIU's log, in TMPDIR
)

// GCItem is one thing that goes, or is kept.
type GCItem struct {
	Kind    GCKind `json:"kind"`
	Path    string `json:"path"`              // in the store: the image's folder for an entry
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

func (p *GCPlan) add(item GCItem) {
	p.Items = append(p.Items, item)
	p.Bytes += item.Bytes
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
	known := map[linux.Inode]string{}
	images := map[string]bool{}
	for _, rec := range records {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		known[rec.Binary.Inode()] = rec.ID
		images[rec.ID] = true
		if !m.planEntry(p, rec) {
			m.planSurplus(p, rec)
		}
	}
	for _, find := range []func() error{
		func() error { return m.planShims(p, records) },
		func() error { return m.planSystem(p, records) },
		func() error { return m.planLinks(p, known) },
		func() error { return m.planLaunchers(p, known) },
		func() error { return m.planImages(p, images) },
		func() error { return m.planExec(p) },
		func() error { return m.planStaging(p) },
		func() error { return m.planLeftovers(p) },
		func() error { return planTemporary(p) },
	} {
		if err := find(); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// wholeRegistry gives every record of a registry without a fault. That there is none
// is one, unless nothing was ever entered: an image is made before its record, but
// the registry before the image. Where a record is damaged it is not known which
// images and links are its own, so that none can be called garbage.
func (m *Manager) wholeRegistry() ([]registry.Record, error) {
	fail := func(why error, detail any) error {
		return &registry.Error{Doing: "collect garbage by registry", Path: m.registry.Path(), Err: fmt.Errorf("%w: %v", why, detail)}
	}
	faults, err := m.registry.Check()
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
	return m.registry.List()
}

// planEntry looks at one entry. One that no start would use goes, whatever the
// reason: it can be made again in a tenth of a second, and an unmounted file
// system looks like deleted files. Only where looking itself failed is it kept.
func (m *Manager) planEntry(p *GCPlan, rec registry.Record) (goes bool) {
	reasons, unsure := m.useless(rec)
	if len(reasons) == 0 && unsure == "" {
		return false
	}
	item := GCItem{
		Kind: GCEntry, Path: m.store.ImageDir(rec.ID), ID: rec.ID, Program: rec.Program, binary: rec.Binary.Inode(),
		Bytes: diskUsage(m.store.ImageDir(rec.ID)) + diskUsage(m.store.LaunchersDir(rec.Binary.Inode())),
	}
	if unsure != "" {
		item.Reason = unsure
		p.Kept = append(p.Kept, item)
		return false
	}
	item.Reason = reasons[0]
	if m.enabled(item.binary) {
		item.Reason += "; it will not be enabled any more"
	}
	p.add(item)
	return true
}

// useless says why no start would use an entry's image; unsure, unless empty,
// why that cannot be said.
func (m *Manager) useless(rec registry.Record) (reasons []string, unsure string) {
	reasons = m.damage(rec)
	var deps fingerprint.Dependencies
	if err := json.Unmarshal(rec.Deps, &deps); err != nil {
		return append(reasons, fmt.Sprintf("what it depends on cannot be read (%v)", err)), ""
	}
	stale := deps.Stale()
	if len(stale) > 0 && len(reasons) == 0 {
		unsure = cannotLook(&deps)
	}
	return append(reasons, stale...), unsure
}

// cannotLook names a file or folder that a program depends on and that could not
// be looked at: neither is it there, nor is it known to be gone.
func cannotLook(deps *fingerprint.Dependencies) string {
	paths := []string{deps.Program.Path, deps.Linker.Path}
	for _, l := range deps.Libraries {
		paths = append(paths, l.Path)
	}
	for _, c := range deps.Checks {
		paths = append(paths, c.Path)
	}
	for _, f := range deps.Folders {
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

func (m *Manager) planSurplus(p *GCPlan, rec registry.Record) {
	for _, path := range m.surplusLaunchers(rec) {
		p.add(GCItem{
			Kind: GCLauncher, Path: path, ID: rec.ID, Program: rec.Program, Bytes: diskUsage(path), binary: rec.Binary.Inode(),
			Reason: "the entry does not have this name",
		})
	}
}

func (m *Manager) planLinks(p *GCPlan, known map[linux.Inode]string) error {
	links, _, err := m.store.Links()
	for _, l := range links {
		if _, ok := known[l.Binary]; ok {
			continue // one that leads to another image makes the entry useless
		}
		p.add(GCItem{
			Kind: GCLink, Path: m.store.IndexPath(l.Binary), ID: l.ID, binary: l.Binary,
			Reason: "no entry of the registry has it",
		})
	}
	return err
}

func (m *Manager) planLaunchers(p *GCPlan, known map[linux.Inode]string) error {
	binaries, _, err := m.store.Launchers()
	for _, b := range binaries {
		if _, ok := known[b]; ok {
			continue
		}
		path := m.store.LaunchersDir(b)
		p.add(GCItem{
			Kind: GCLaunchers, Path: path, Bytes: diskUsage(path), binary: b,
			Reason: "no entry of the registry has them",
		})
	}
	return err
}

func (m *Manager) planImages(p *GCPlan, known map[string]bool) error {
	ids, _, err := m.store.Images()
	for _, id := range ids {
		if known[id] {
			continue
		}
		path := m.store.ImageDir(id)
		p.add(GCItem{
			Kind: GCImage, Path: path, ID: id, Bytes: diskUsage(path),
			Reason: "no entry of the registry has it",
		})
	}
	return err
}

func (m *Manager) planExec(p *GCPlan) error {
	outdated, err := intercept.Outdated(m.store)
	for _, path := range outdated {
		p.add(GCItem{
			Kind: GCExec, Path: path, Bytes: diskUsage(path),
			Reason: "the dynamic linker, or residentctl, is another one now",
		})
	}
	return err
}

func (m *Manager) planStaging(p *GCPlan) error {
	left, err := m.store.Abandoned()
	for _, path := range left {
		p.add(GCItem{
			Kind: GCStaging, Path: path, Bytes: diskUsage(path),
			Reason: "whoever made it was killed",
		})
	}
	return err
}

func (m *Manager) planLeftovers(p *GCPlan) error {
	if !store.HasRegistry(m.store.Dir()) {
		return nil // one of them may be about to become it
	}
	left, err := m.registry.Leftovers()
	for _, path := range left {
		p.add(GCItem{
			Kind: GCRegistry, Path: path, Bytes: diskUsage(path),
			Reason: "there is a registry, and this one never became it",
		})
	}
	return err
}

func planTemporary(p *GCPlan) error {
	left, err := store.AbandonedTemporary()
	for _, path := range left {
		p.add(GCItem{
			Kind: GCTemporary, Path: path, Bytes: diskUsage(path),
			Reason: "whoever made it was killed",
		})
	}
	return err
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
