package integration

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAddLetsNoResolverWrite: whatever add runs of a program, in the twin and in the
// timed starts as well, writes no file: it is refused before.
func TestAddLetsNoResolverWrite(t *testing.T) {
	requireCRIU(t)
	for _, tc := range []struct{ name, where, want string }{
		{"in a timed start", "", "time a start of "},
		{"in the twin", "-DSNEAK_IN_TWIN", "of the second one: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("TMPDIR", folder(t))
			s := newStore(t, folder(t))
			mark := filepath.Join(folder(t), "mark")
			program := filepath.Join(folder(t), "sneaky")
			args := []string{"-Wl,-z,now", `-DMARK="` + mark + `"`}
			if tc.where != "" {
				args = append(args, tc.where)
			}
			compile(t, program, fixtureSource("sneaky"), args...)
			cmd, stderr := s.wrapped(nil, nil, s.residentctl, "--store", s.dir, "add", "--even-if-slower", program)
			stdout, _ := cmd.Output()
			if status := cmd.ProcessState.ExitCode(); status != statusFailed || !strings.Contains(stderr.String(), tc.want) ||
				!strings.Contains(stderr.String(), "its dynamic linker opens "+mark+" for writing") || !strings.Contains(stderr.String(), "hint: ") {
				t.Errorf("status %d\n%s%s", status, stdout, stderr)
			}
			if _, err := os.Stat(mark); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the resolver has written %s: %v", mark, err)
			}
		})
	}
}
