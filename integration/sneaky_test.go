package integration

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
)

// TestAddLetsNoResolverWrite: whatever add runs of a program, in the twin and in the
// timed starts as well, writes no file: it is refused before.
func TestAddLetsNoResolverWrite(t *testing.T) {
	kit.RequireCRIU(t)
	for _, tc := range []struct{ name, where, want string }{
		{"in a timed start", "", "time a start of "},
		{"in the twin", "-DSNEAK_IN_TWIN", "in the second one: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("TMPDIR", kit.Dir(t))
			s := kit.NewStore(t, kit.Dir(t))
			mark := filepath.Join(kit.Dir(t), "mark")
			program := filepath.Join(kit.Dir(t), "sneaky")
			args := []string{"-Wl,-z,now", `-DMARK="` + mark + `"`}
			if tc.where != "" {
				args = append(args, tc.where)
			}
			kit.Compile(t, program, kit.FixtureSource("sneaky"), args...)
			cmd, stderr := wrapped(s, nil, nil, s.Residentctl, "--store", s.Dir, "add", "--even-if-slower", program)
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
