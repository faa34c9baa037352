package resident

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/internal/problem"
)

// An image may be larger than what the template had of its own: other files count too.
func TestImageWithinLimit(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int64{"pages-1.img": 3 << 20, "core-7.img": 1 << 20, "1/pages-1.img": 64 << 20} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, size); err != nil {
			t.Fatal(err)
		}
	}
	if err := withinLimit(dir, 4<<20); err != nil {
		t.Errorf("an image of just the limit: %v", err)
	}
	err := withinLimit(dir, 4<<20-1)
	if problem.KindOf(err) != problem.Refused || problem.Of(err).Error() != "its image takes 4 MiB, more than the limit of 3 MiB" || !strings.Contains(problem.HintOf(err), "--memory-limit") {
		t.Errorf("got %v", err)
	}
}
