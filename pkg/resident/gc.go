package resident

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// FaultPoints are the steps of this package at which a test may have the process
// killed, beside store.FaultPoints.
var FaultPoints = []string{
	"after-dump",          // add: CRIU's files are in staging/
	"after-compile",       // add: and the plan
	"before-timing",       // add: and it starts as it should
	"after-trial",         // add: and it works
	"after-record",        // add: the image is in images/, its record in the registry
	"after-renew-record",  // refresh: the record has new identities, the plan is the old one
	"before-name",         // add of another name: its launcher file is there
	"after-name",          // add of another name: and the name in the record
	"after-wish",          // apply: the wish is there, without an image
	"after-split",         // apply: names that end have a record of their own
	"after-delete",        // remove: the record is gone
	"after-reclaim",       // gc: the wish has no image any more, and nothing is removed yet
	"after-gc-plan",       // gc: nothing is removed yet
	"after-gc-item",       // gc: the first item is gone
	"after-gc-remove",     // gc: all are gone
	"before-register",     // enable --system: the link is in system/, the line in binfmt.d
	"after-register",      // and the kernel knows it
	"after-purge-records", // purge: no wish is left
	"after-purge-links",   // and nothing that leads to an image
	"after-unregister",    // disable, remove: the kernel does not, the link is still there
}

// GCResult is what a collection did.
type GCResult struct {
	Removed []GCItem `json:"removed"`
	// Spared are items that were no longer garbage when their turn came:
	// another process had removed them, or had made something new.
	Spared []GCItem `json:"spared"`
	Kept   []GCItem `json:"kept"`  // as in the plan
	Bytes  int64    `json:"bytes"` // freed
}

// GC carries a plan out, item by item. Each is looked at again, with the store
// locked, before it goes: since the plan was made an add may have replaced an
// entry or another gc been there. So a plan may be of any age. After an error
// the result says what is gone already.
//
// An image that a process is just starting from may go: what the process has
// mapped stays until it ends, and one that finds the plan but not the pages any
// more starts the program normally.
func (m *Manager) GC(ctx context.Context, p *GCPlan) (*GCResult, error) {
	r := &GCResult{Removed: []GCItem{}, Spared: []GCItem{}, Kept: p.Kept}
	if len(p.Items) == 0 {
		return r, nil
	}
	store.Fault("after-gc-plan")
	if _, err := m.wholeRegistry(); err != nil {
		return r, err
	}
	for _, item := range p.Items {
		if ctx.Err() != nil {
			return r, context.Cause(ctx)
		}
		gone, err := m.collect(ctx, item)
		if err != nil {
			return r, fmt.Errorf("collect %s: %w", item.Path, err)
		}
		if !gone {
			r.Spared = append(r.Spared, item)
			continue
		}
		r.Removed = append(r.Removed, item)
		r.Bytes += item.Bytes
		store.Fault("after-gc-item")
	}
	store.Fault("after-gc-remove")
	return r, nil
}

// collect removes one item if it is garbage still.
func (m *Manager) collect(ctx context.Context, item GCItem) (gone bool, err error) {
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	i := slices.IndexFunc(garbage, func(k garbageKind) bool { return k.kind == item.Kind })
	if i < 0 {
		return false, fmt.Errorf("garbage of the unknown kind %q", item.Kind)
	}
	if _, err := os.Lstat(item.Path); errors.Is(err, fs.ErrNotExist) && !garbage[i].collectMissing {
		return false, nil
	}
	return garbage[i].collect(m, item)
}

// collectEntry takes the image from an entry if it is the same one still and no better.
func (m *Manager) collectEntry(item GCItem) (bool, error) {
	rec, err := m.registry.Get(item.ID)
	if errors.Is(err, registry.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	reasons, unsure := m.useless(rec, nil)
	if rec.ID != item.ID || len(reasons) == 0 || unsure != "" {
		return false, nil
	}
	if thereIs(rec.Names()) == "" {
		return true, m.reclaim(rec, whyGone(rec))
	}
	return true, m.reclaim(rec, reasons[0])
}

// ifUnknown removes what belongs to a binary if that has no record.
func (m *Manager) ifUnknown(b linux.Inode, remove func() error) (bool, error) {
	_, err := m.registry.ByInode(b)
	if !errors.Is(err, registry.ErrNotFound) {
		return false, err
	}
	return true, remove()
}

func (m *Manager) collectLink(item GCItem) (bool, error) {
	return m.ifUnknown(item.binary, func() error { return m.store.Unlink(item.binary) })
}

func (m *Manager) collectLaunchers(item GCItem) (bool, error) {
	return m.ifUnknown(item.binary, func() error { return m.store.RemoveLaunchers(item.binary) })
}

// collectLauncher removes a launcher file if its name is not among its entry's.
func (m *Manager) collectLauncher(item GCItem) (bool, error) {
	rec, err := m.registry.ByInode(item.binary)
	if errors.Is(err, registry.ErrNotFound) {
		return true, m.store.RemoveLaunchers(item.binary)
	}
	if err != nil {
		return false, err
	}
	if !slices.Contains(m.surplusLaunchers(rec), item.Path) {
		return false, nil
	}
	return true, m.removeLauncher(item.binary, item.Path)
}

func (m *Manager) collectImage(item GCItem) (bool, error) {
	_, err := m.registry.Get(item.ID)
	if !errors.Is(err, registry.ErrNotFound) {
		return false, err
	}
	return true, m.store.RemoveImage(item.ID)
}

func (m *Manager) collectExec(item GCItem) (bool, error) { return true, m.store.RemoveExec(item.Path) }

func (m *Manager) collectNote(item GCItem) (bool, error) {
	if !slices.Contains(damagedNotes(m.store), item.Path) {
		return false, nil
	}
	return true, m.store.RemoveNote(store.Note(filepath.Base(item.Path)))
}

func (m *Manager) collectStaging(item GCItem) (bool, error) {
	return collectAbandoned(item.Path, m.store.RemoveAbandoned)
}

func (m *Manager) collectTemporary(item GCItem) (bool, error) {
	return collectAbandoned(item.Path, store.RemoveTemporary)
}

// lastWrites is how long CRIU may go on writing after the residentctl that
// started it was killed.
const lastWrites = time.Second

// collectAbandoned removes a directory that was left. A CRIU that has lost its
// residentctl may still write a file there while the others are being removed.
func collectAbandoned(path string, remove func(string) error) (bool, error) {
	for deadline := time.Now().Add(lastWrites); ; time.Sleep(10 * time.Millisecond) {
		err := remove(path)
		switch {
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil // a process is at work there
		case errors.Is(err, syscall.ENOTEMPTY) && time.Now().Before(deadline):
			continue
		}
		return err == nil, err
	}
}

// collectLeftover removes a half-made registry. There is a registry, so the process that
// was making this one would throw it away.
func (m *Manager) collectLeftover(item GCItem) (bool, error) {
	if filepath.Dir(item.Path) != m.store.Dir() {
		return false, fs.ErrInvalid
	}
	err := os.Remove(item.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
