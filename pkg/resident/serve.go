package resident

import (
	"context"
	"errors"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/registry"
)

// Serve makes a program resident. One that has an entry is refreshed instead: it keeps
// its options and its other names. One that is to have a warm image is left alone. Made is false where there was nothing to do. The error
// is as Add's.
func (m *Manager) Serve(ctx context.Context, program string) (made bool, err error) {
	rec, err := m.entryOf(program)
	if errors.Is(err, registry.ErrNotFound) {
		added, err := m.Add(ctx, program, AddOptions{Unasked: true})
		return err == nil && !added.Already, err
	}
	if err != nil {
		return false, err
	}
	if rec.Warm != nil {
		return false, nil // making its image runs the program, which the user asks for
	}
	r := m.refresh(ctx, rec, RefreshOptions{}, m.renewNeeded(ctx, []registry.Record{rec}), func(string) {})
	return r.Err == nil && !r.Current && !r.Gone, r.Err
}

// entryOf is the entry that has the program among its names, or is of the same file.
func (m *Manager) entryOf(program string) (registry.Record, error) {
	rec, err := m.registry.Find(program)
	if !errors.Is(err, registry.ErrNotFound) {
		return rec, err
	}
	id, err := linux.StatID(program)
	if err != nil {
		return rec, err
	}
	return m.registry.ByInode(id.Inode())
}
