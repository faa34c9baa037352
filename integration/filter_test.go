package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
)

// TestAddUnderFilter: under a filter of system calls CRIU cannot dump, and every start
// would be a normal one. add says so, and leaves nothing behind.
func TestAddUnderFilter(t *testing.T) {
	kit.RequireCRIU(t)
	program := filepath.Join(kit.Dir(t), "multicall")
	kit.CopyFile(t, kit.Fixture(t, "multicall"), program)
	s := kit.NewStore(t, kit.Dir(t))
	filtered := []string{kit.Fixture(t, "situation"), "--filter-errno", "169", "--"}
	cmd, stderr := wrapped(s, filtered, nil, s.Residentctl, s.Residentctl, "--store", s.Dir, "add", program)
	if out, err := cmd.Output(); cmd.ProcessState.ExitCode() != statusSystem {
		t.Fatalf("%v\n%s%s", err, out, stderr)
	}
	for _, want := range []string{"residentctl: error: ", "seccomp", "residentctl: hint: "} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("%q is not in %s", want, stderr)
		}
	}
	if list := s.Do(t, "list", "-q"); list != "" {
		t.Errorf("it is listed: %s", list)
	}
	s.Add(t, program) // and without the filter it becomes resident
	s.WantResident(t, program)
}
