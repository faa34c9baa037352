package integration

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestAddBoundsMemory: a program that has much memory of its own before it starts is
// refused, unless that is allowed.
func TestAddBoundsMemory(t *testing.T) {
	requireCRIU(t)
	t.Setenv("TMPDIR", folder(t))
	s := newStore(t, folder(t))
	glutton := func(size string) string {
		program := filepath.Join(folder(t), "glutton")
		compile(t, program, fixtureSource("glutton"), "-Wl,-z,now", "-DMEBIBYTES="+size)
		return program
	}
	refused := func(program, want string, options ...string) {
		t.Helper()
		cmd, stderr := s.wrapped(nil, nil, append(append([]string{s.residentctl, "--store", s.dir, "add", "--even-if-slower"}, options...), program)...)
		stdout, _ := cmd.Output()
		if status := cmd.ProcessState.ExitCode(); status != statusFailed || !strings.Contains(stderr.String(), want) ||
			!strings.Contains(stderr.String(), "hint: if it is to have so much, allow it: `residentctl add --memory-limit SIZE`") {
			t.Errorf("status %d\n%s%s", status, stdout, stderr)
		}
	}
	refused(glutton("400"), "it has 400 MiB of memory of its own when it is linked, more than the limit of 256 MiB")
	program := glutton("20")
	refused(program, "it has 20 MiB of memory of its own when it is linked, more than the limit of 16 MiB", "--memory-limit", "16M")
	s.do(t, "add", "--even-if-slower", "--memory-limit", "24M", program)
	s.wantResident(t, program)
}
