package resident

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// Purged is what Purge did.
type Purged struct {
	Dir     string            `json:"store"`
	Removed []registry.Record `json:"removed"`
	// Kept is what residentctl has not made, or what another one is at work on.
	Kept []string `json:"kept"`
}

// Purge removes a store whole: all wishes and images, what leads to them, what is
// registered with this kernel and for its boots, and the directory itself. What
// residentctl has not made in it stays. A store that is damaged goes too. Killed at any
// step it leaves a store from which programs start as they should, and that another
// Purge removes.
func (m *Manager) Purge(ctx context.Context) (*Purged, error) {
	p := &Purged{Dir: m.dir, Removed: []registry.Record{}, Kept: []string{}}
	if m.store == nil {
		return p, p.unfinished()
	}
	// Wishes end first, so that nothing makes images again if this ends before its end.
	removed, err := m.RemoveAll(ctx)
	p.Removed = append(p.Removed, removed...)
	if err != nil && !errors.Is(err, registry.ErrCorrupt) {
		return p, err
	}
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return p, err
	}
	defer unlock()
	if err := m.store.Idle(); err != nil {
		return p, err
	}
	store.Fault("after-purge-records")
	if err := m.purgeLinks(); err != nil {
		return p, err
	}
	store.Fault("after-purge-links")
	if err := errors.Join(m.purgeImages(), m.purgeLeftovers()); err != nil {
		return p, err
	}
	kept, err := m.store.RemoveEmpty()
	p.Kept = append(p.Kept, kept...)
	return p, err
}

// unfinished removes what a Purge has left that was killed at its very end.
func (p *Purged) unfinished() error {
	if _, err := os.Lstat(p.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	kept, err := store.RemoveUnfinished(p.Dir)
	if len(kept) > 0 {
		return problem.Errorf("purge %s: it is no store: it holds %s", p.Dir, kept[0]).
			WithHint("name the directory of a store with --store")
	}
	return err
}

// purgeLinks removes all that leads to images, by what is there and not by the registry:
// registrations, links, launcher files.
func (m *Manager) purgeLinks() error {
	links, _, err := m.store.SystemLinks()
	if err != nil {
		return err
	}
	for _, l := range links {
		if err := m.unregister(l); err != nil {
			return err
		}
	}
	if err := m.purgeRegistrations(); err != nil {
		return err
	}
	shims, _, err := m.store.Shims()
	err = ifThere(err)
	for _, s := range shims {
		err = errors.Join(err, m.store.RemoveShim(s.Name))
	}
	index, _, indexErr := m.store.Links()
	err = errors.Join(err, ifThere(indexErr))
	for _, l := range index {
		err = errors.Join(err, m.store.Unlink(l.Binary))
	}
	launchers, _, launchersErr := m.store.Launchers()
	err = errors.Join(err, ifThere(launchersErr))
	for _, b := range launchers {
		err = errors.Join(err, m.store.RemoveLaunchers(b))
	}
	return err
}

// purgeRegistrations has the kernel, and what registers programs at boot, forget all that
// leads into this store.
func (m *Manager) purgeRegistrations() error {
	if os.Geteuid() != 0 {
		return nil
	}
	entries, err := everyEntry()
	seen := map[linux.Inode]bool{}
	for _, e := range entries {
		if m.ours(e) && !seen[e.Binary] {
			seen[e.Binary] = true
			err = errors.Join(err, m.unregisterHere(e.Binary))
		}
	}
	return err
}

func (m *Manager) purgeImages() error {
	ids, _, err := m.store.Images()
	err = ifThere(err)
	for _, id := range ids {
		err = errors.Join(err, m.store.RemoveImage(id))
	}
	named, namedErr := m.store.Named()
	err = errors.Join(err, namedErr)
	for _, path := range named {
		err = errors.Join(err, m.store.RemoveNamed(path))
	}
	return errors.Join(err, m.store.RemoveExecs())
}

// purgeLeftovers removes what killed processes have left.
func (m *Manager) purgeLeftovers() error {
	abandoned, err := m.store.Abandoned()
	for _, path := range abandoned {
		_, e := collectAbandoned(path, m.store.RemoveAbandoned)
		err = errors.Join(err, e)
	}
	leftovers, leftoversErr := m.registry.Leftovers()
	err = errors.Join(err, leftoversErr)
	for _, path := range leftovers {
		err = errors.Join(err, ifThere(os.Remove(path)))
	}
	return err
}

// ifThere is an error other than that something is not there.
func ifThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
