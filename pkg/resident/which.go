package resident

import (
	"errors"
	"fmt"
	"slices"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/registry"
)

// A WayIn is a launcher file of a program and what becomes of a call of it.
type WayIn struct {
	Launcher string `json:"launcher,omitempty"` // "" without an image
	Store    string `json:"store"`
	ID       string `json:"id,omitempty"` // of the image
	Resident bool   `json:"resident"`
	Missing  bool   `json:"missing,omitempty"` // there is no launcher file that could be called
	Reason   string `json:"reason,omitempty"`  // why it is no resident start
}

// WayIn returns the one of the program at path, an absolute path, in this store; nil if it is not
// resident here. What depends on the caller, such as the environment, is not looked at.
// Beside an error is what could be found out all the same.
func (m *Manager) WayIn(path string) (*WayIn, error) {
	records, err := m.records()
	found, _ := choose(records, []string{path})
	switch images := withImage(found); {
	case len(images) > 0:
		return m.wayIn(images[0], path), err
	case len(found) > 0:
		return &WayIn{Store: m.dir, Missing: true, Reason: "no image: " + noImage(found[0])}, err
	}
	return nil, err
}

func (m *Manager) wayIn(rec registry.Record, path string) *WayIn {
	name := rec.Program
	if slices.Contains(rec.Names(), path) {
		name = path
	}
	w := &WayIn{Launcher: m.store.LauncherPath(rec.Binary.Inode(), name), Store: m.dir, ID: rec.ID}
	if why := linux.CanExecute(w.Launcher); why != nil {
		w.Missing, w.Reason = true, fmt.Sprintf("its launcher file cannot be executed (%v)", errors.Unwrap(why))
		return w
	}
	if reasons, _ := m.byLauncher(rec, name); len(reasons) > 0 {
		w.Reason = reasons[0]
	}
	w.Resident = w.Reason == ""
	return w
}
