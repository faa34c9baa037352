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
	"after-dump",       // add: CRIU's files are in staging/
	"after-compile",    // add: and the plan
	"after-trial",      // add: and it works
	"after-record",     // add: the image stands in images/, its record in the registry
	"before-name",      // add of another name: its launcher file is there
	"after-name",       // add of another name: and the name in the record
	"after-delete",     // remove, gc: the record is gone
	"after-gc-plan",    // gc: nothing is removed yet
	"after-gc-item",    // gc: the first item is gone
	"after-gc-remove",  // gc: all are gone
	"before-register",  // enable --system: the link is in system/, the line in binfmt.d
	"after-register",   // and the kernel knows it
	"after-unregister", // disable, remove: the kernel does not, the link is still there
}

// GCResult is what a collection did.
type GCResult struct {
	Removed []GCItem `json:"removed"`
	// Spared are items that were no longer garbage when their turn came:
	// somebody else had removed them, or had made something new.
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
	if _, err := os.Lstat(item.Path); item.Kind != GCEntry && errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	switch item.Kind {
	case GCEntry:
		return m.collectEntry(item)
	case GCShim:
		return m.collectShim(item)
	case GCSystem:
		return m.collectSystem(item)
	case GCLink:
		return m.ifUnknown(item.binary, func() error { return m.store.Unlink(item.binary) })
	case GCLauncher:
		return m.collectLauncher(item)
	case GCLaunchers:
		return m.ifUnknown(item.binary, func() error { return m.store.RemoveLaunchers(item.binary) })
	case GCImage:
		return m.collectImage(item.ID)
	case GCExec:
		return true, m.store.RemoveExec(item.Path)
	case GCStaging:
		return collectAbandoned(item.Path, m.store.RemoveAbandoned)
	case GCTemporary:
		return collectAbandoned(item.Path, store.RemoveTemporary)
	case GCRegistry:
		return m.collectLeftover(item.Path)
	}
	return false, fmt.Errorf("garbage of the unknown kind %q", item.Kind)
}

// collectEntry forgets an entry if it is the same one still and no better.
func (m *Manager) collectEntry(item GCItem) (bool, error) {
	rec, err := m.registry.Get(item.ID)
	if errors.Is(err, registry.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	reasons, unsure := m.useless(rec)
	if rec.ID != item.ID || len(reasons) == 0 || unsure != "" {
		return false, nil
	}
	return true, m.forget(rec)
}

// ifUnknown removes what belongs to a binary if that has no record.
func (m *Manager) ifUnknown(b linux.Inode, remove func() error) (bool, error) {
	_, err := m.registry.ByInode(b)
	if !errors.Is(err, registry.ErrNotFound) {
		return false, err
	}
	return true, remove()
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

func (m *Manager) collectImage(id string) (bool, error) {
	_, err := m.registry.Get(id)
	if !errors.Is(err, registry.ErrNotFound) {
		return false, err
	}
	return true, m.store.RemoveImage(id)
}

// lastWrites is how long CRIU may go on writing after the residentctl that
// started it was killed.
const lastWrites = time.Second

// collectAbandoned removes a folder that was left. A CRIU that has lost its
// residentctl may still write a file there while the others are being removed.
func collectAbandoned(path string, remove func(string) error) (bool, error) {
	for deadline := time.Now().Add(lastWrites); ; time.Sleep(10 * time.Millisecond) {
		err := remove(path)
		switch {
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil // somebody is at work there
		case errors.Is(err, syscall.ENOTEMPTY) && time.Now().Before(deadline):
			continue
		}
		return err == nil, err
	}
}

// collectLeftover removes a half-made registry: there is one, so whoever was
// making this one would throw it away.
func (m *Manager) collectLeftover(path string) (bool, error) {
	if filepath.Dir(path) != m.store.Dir() {
		return false, fs.ErrInvalid
	}
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
