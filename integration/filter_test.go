package integration

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestAddUnderFilter: under a filter of system calls CRIU cannot dump, and every start
// would be a normal one. add says so, and leaves nothing behind.
func TestAddUnderFilter(t *testing.T) {
	requireCRIU(t)
	program := filepath.Join(folder(t), "multicall")
	copyFile(t, fixture(t, "multicall"), program)
	s := newStore(t, folder(t))
	filtered := []string{fixture(t, "situation"), "--filter-errno", "169", "--"}
	cmd, stderr := s.wrapped(filtered, nil, s.residentctl, s.residentctl, "--store", s.dir, "add", program)
	if out, err := cmd.Output(); cmd.ProcessState.ExitCode() != statusSystem {
		t.Fatalf("%v\n%s%s", err, out, stderr)
	}
	for _, want := range []string{"residentctl: error: ", "seccomp", "residentctl: hint: "} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("%q is not in %s", want, stderr)
		}
	}
	if list := s.do(t, "list", "-q"); list != "" {
		t.Errorf("it is listed: %s", list)
	}
	s.add(t, program) // and without the filter it becomes resident
	s.wantResident(t, program)
}
