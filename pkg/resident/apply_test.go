package resident

import (
	"context"
	"testing"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/conf"
)

// A program that the user has not named is refused where a file says so, by each path.
func TestUnaskedProgramsObeyResidentConf(t *testing.T) {
	lines, err := conf.Parse("resident.conf", "!/bin/tru*\n")
	if err != nil {
		t.Fatal(err)
	}
	defer func(was func() (*conf.Config, error)) { rules = was }(rules)
	rules = func() (*conf.Config, error) { return &conf.Config{Lines: lines}, nil }
	m, err := Open(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/bin/true", "/usr/bin/true"} {
		if _, err := m.Add(context.Background(), path, AddOptions{Unasked: true}); problem.KindOf(err) != problem.Refused || problem.HintOf(err) == "" {
			t.Errorf("%s: error %v", path, err)
		}
	}
	if err := m.mayBeAdded("/bin/ls"); err != nil {
		t.Error(err)
	}
}
