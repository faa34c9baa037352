package integration

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/pkg/criuwrap"
)

// nextVariable names the CRIU that these tests use besides the system's own;
// scripts/criu-next builds one and prints its path.
const nextVariable = "RESIDENTCTL_TEST_CRIU_NEXT"

// nextCRIU is the path of a CRIU that is newer than the one that scripts/setup
// provides.
func nextCRIU(t *testing.T) string {
	t.Helper()
	path := os.Getenv(nextVariable)
	if path == "" {
		t.Skipf("needs a CRIU of the next version: %s=$(scripts/criu-next)", nextVariable)
	}
	release, err := criuwrap.Version(path)
	if err != nil {
		t.Fatalf("%s: %v", nextVariable, err)
	}
	if release.Less(criuwrap.Release{Major: 4, Minor: 2}) {
		t.Fatalf("%s: %s is CRIU %v, and 4.2 or newer is meant", nextVariable, path, release)
	}
	return path
}

// TestNextCRIU makes images with the next CRIU, which counts pages in another
// field, and starts, verifies and restores them. What the system's own CRIU made
// the next one restores too.
func TestNextCRIU(t *testing.T) {
	next := nextCRIU(t)
	s := kit.NewStore(t, kit.Dir(t))
	own, err := criuwrap.Find()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		program string
		command kit.Command
	}{
		{"perl", kit.Command{Args: []string{"-MPOSIX", "-e", `print "$0 ", POSIX::floor(2.5), "\n"; exit 3`}}},
		{"bash", kit.Command{Args: []string{"-c", `echo $0 $((1 + 1)); exit 4`}}},
	} {
		t.Run(test.program, func(t *testing.T) {
			program := kit.Installed(t, test.program)
			t.Setenv(criuwrap.PathVariable, next)
			s.Do(t, "add", program)
			image := s.Image(t, program)
			if len(image.Pages) == 0 {
				t.Error("the image has no pages")
			}
			for _, u := range kit.Users {
				want := s.Start(t, kit.Plain, u, program, test.command)
				for _, w := range append(kit.ResidentWays, kit.Strictly) {
					s.RequireResident(t, w, u, program, test.command)
					if got := s.Start(t, w, u, program, test.command); got.Stdout != want.Stdout || got.Status != want.Status {
						t.Errorf("%s as %s: %+v, and plain %+v", w.Name, u.Name, got, want)
					}
				}
			}
			for _, engine := range []string{"link", "criu"} {
				if r := s.Verify(t, program, engine); !r.OK || r.Pages == 0 {
					t.Errorf("verify --engine %s: %d pages, %v", engine, r.Pages, r.Failures)
				}
			}

			// The older CRIU cannot restore it, and says why; the start and the
			// comparison with a fresh link need none.
			t.Setenv(criuwrap.PathVariable, own)
			if release, err := criuwrap.Version(own); err == nil && release.Less(criuwrap.Release{Major: 4, Minor: 2}) {
				message, err := s.Command("verify", "--engine", "criu", program).CombinedOutput()
				if _, failed := err.(*exec.ExitError); !failed || !strings.Contains(string(message), "a newer CRIU than this one made the image") {
					t.Errorf("%s restores an image of %s: %v, %s", own, next, err, message)
				}
			}
			if r := s.Verify(t, program, "link"); !r.OK {
				t.Errorf("verify: %v", r.Failures)
			}

			s.Do(t, "remove", program)
			s.Do(t, "add", program)
			t.Setenv(criuwrap.PathVariable, next)
			if r := s.Verify(t, program, "criu"); !r.OK {
				t.Errorf("%s restores an image of %s: %v", next, own, r.Failures)
			}
		})
	}
}
