package resident

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/launcher"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/registry"
)

// After an upgrade of residentctl that has changed the format of plans, what the older one
// made still works together: a launcher file carries out the plans of its own version, and
// so starts its program from the image. The front door and exec are of the new version,
// and start the program normally.

// Reasons about what another residentctl made.
const (
	otherLauncher = "its launcher file is of another version of residentctl than its plan"
	olderEntry    = "another version of residentctl made it: its launcher file and shims start from it, `run` and `exec` do not"
	olderStart    = "by the launcher file of another version of residentctl; `residentctl refresh` makes it again"
)

// byLauncher says why a start by the launcher file of one of an entry's names would not
// use its image. Older is set if launcher file and image are those of another version of
// residentctl.
func (m *Manager) byLauncher(rec registry.Record, name string) (reasons []string, older bool) {
	file, err := os.ReadFile(m.store.LauncherPath(rec.Binary.Inode(), name))
	version := launcher.PlanVersion(file)
	switch {
	case err != nil, version == plan.Version:
		return m.stale(rec), false
	case version != m.planVersion(rec):
		return []string{otherLauncher}, false
	}
	planFile, _ := linux.Stat(m.store.PlanPath(rec.ID))
	if why := m.notFound(rec, planFile); why != "" {
		return []string{why}, true
	}
	var deps fingerprint.Dependencies
	if err := json.Unmarshal(rec.Deps, &deps); err != nil {
		return []string{fmt.Sprintf("what it depends on cannot be read (%v)", err)}, true
	}
	return deps.Stale(), true
}

// planVersion is the version of an entry's plan, 0 if that is not known.
func (m *Manager) planVersion(rec registry.Record) uint32 {
	version, err := plan.ReadVersion(m.store.PlanPath(rec.ID))
	if err != nil {
		return 0
	}
	return version
}

// startsByOlder reports whether launcher files of another version of residentctl still
// start from an entry's image.
func (m *Manager) startsByOlder(rec registry.Record) bool {
	for _, name := range rec.Names() {
		if reasons, older := m.byLauncher(rec, name); older && len(reasons) == 0 {
			return true
		}
	}
	return false
}
