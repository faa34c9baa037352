package conformance

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
)

// TestManyStarts starts programs again and again: every start is resident, and says
// and ends as a plain one. RESIDENTCTL_TEST_STARTS says how many starts of each.
func TestManyStarts(t *testing.T) {
	kit.RequireCRIU(t)
	starts := 20
	if s := os.Getenv("RESIDENTCTL_TEST_STARTS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		starts = n
	}
	s := kit.SharedStore(t)
	for _, test := range []struct {
		program string
		args    []string
	}{
		{"c-main", nil},
		{"cxx-main", nil},
		{"perl", []string{"-MPOSIX", "-e", "print floor(7.5)"}},
		{"bash", []string{"-c", "echo $((6 * 7))"}},
		{"git", []string{"--version"}},
		{"python3", []string{"-c", "import json; print(json.dumps([1]))"}},
		{"gdb", []string{"--version"}},
		{"ffmpeg", []string{"-version"}},
		{"inkscape", []string{"--version"}},
	} {
		t.Run(test.program, func(t *testing.T) {
			var program string
			if kit.FixtureSource(test.program) != "" {
				program = kit.Fixture(t, test.program)
			} else {
				program = kit.Installed(t, test.program)
			}
			s.Do(t, "add", "--even-if-slower", program)
			launcher := s.Launcher(program)
			start := func(path string) (did, said string) {
				c := exec.Command(path, test.args...)
				c.Env = append(s.Environment("/root"), "RESIDENTCTL_EXPLAIN=1")
				var stdout, stderr strings.Builder
				c.Stdout, c.Stderr = &stdout, &stderr
				_ = c.Run()
				return c.ProcessState.String() + "\n" + stdout.String(), stderr.String()
			}
			want, _ := start(program)
			for i := range starts {
				if got, said := start(launcher); got != want || !strings.Contains(said, ": resident start: ") {
					t.Fatalf("start %d of %d: %s, not %s\n%s", i+1, starts, got, want, said)
				}
			}
		})
	}
}
