package resident

import (
	"cmp"
	"context"
	"errors"
	"os"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/linkstop"
	"github.com/residentctl/residentctl/pkg/registry"
)

// DefaultMemoryLimit is AddOptions' MemoryLimit where that is 0.
const DefaultMemoryLimit = linkstop.DefaultMemory

// withinLimit refuses an image in dir that CRIU has made larger than it may be, in bytes.
func withinLimit(dir string, limit uint64) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	size := uint64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() { // other layouts are in directories
			size += uint64(info.Size())
		}
	}
	if size > limit {
		return problem.Refusef("its image takes %d MiB, more than the limit of %d MiB", size>>20, limit>>20).
			WithHint(linkstop.MemoryHint)
	}
	return nil
}

// noteOptions records what of opts an entry whose image is current does not say yet: a
// higher limit, and that it is wanted even if it starts no faster. Refresh and verify go
// by it. An entry that is gone meanwhile, or has another image, is left to the caller, who
// finds that out.
func (m *Manager) noteOptions(ctx context.Context, rec *registry.Record, opts AddOptions) error {
	if opts.MemoryLimit <= cmp.Or(rec.MemoryLimit, DefaultMemoryLimit) && opts.EvenIfSlower == rec.EvenIfSlower {
		return nil
	}
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	now, err := m.registry.Get(rec.ID)
	if errors.Is(err, registry.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if opts.MemoryLimit > cmp.Or(now.MemoryLimit, DefaultMemoryLimit) {
		now.MemoryLimit = opts.MemoryLimit
	}
	now.EvenIfSlower = now.EvenIfSlower || opts.EvenIfSlower
	if _, err := m.registry.Put(now); err != nil {
		return err
	}
	*rec = now
	return nil
}
