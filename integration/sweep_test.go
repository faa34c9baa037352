package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/residentctl/residentctl/integration/kit"
)

// sweepSlices is how many slices the programs of this machine are cut into, of
// which one is swept; scripts/sweep sweeps all of them.
const sweepSlices = 40

// TestSweepSlice compares every few of this machine's programs, plain with
// resident.
func TestSweepSlice(t *testing.T) {
	kit.RequireCRIU(t)
	var swept struct {
		Summary struct {
			Programs, Equal, Different, Failed int
		}
		Results []struct {
			Program, Failure string
			Cases            []struct {
				Args []string
				Kind string
				What string
			}
		}
	}
	stdout, err := sweep(t, "--json", "--timeout", "5s", "--slice", fmt.Sprintf("1/%d", sweepSlices))
	if jsonErr := json.Unmarshal(stdout, &swept); jsonErr != nil {
		t.Fatalf("scripts/sweep: %v, %v\n%s", err, jsonErr, stdout)
	}
	for _, result := range swept.Results {
		if result.Failure != "" {
			t.Errorf("%s: %s", result.Program, result.Failure)
		}
		for _, c := range result.Cases {
			if c.Kind == "different" {
				t.Errorf("%s %q: %s", result.Program, c.Args, c.What)
			}
		}
	}
	if sum := swept.Summary; err != nil || sum.Equal < sum.Programs/2 || sum.Different+sum.Failed > 0 {
		t.Errorf("scripts/sweep: %v: %+v", err, sum)
	}
}

// TestSweepFinds plants differences, which the sweep must find.
func TestSweepFinds(t *testing.T) {
	kit.RequireCRIU(t)
	if stdout, err := sweep(t, "--self-test"); err != nil {
		t.Errorf("scripts/sweep --self-test: %v\n%s", err, stdout)
	}
}

// sweep runs scripts/sweep with the command under test.
func sweep(t *testing.T, args ...string) ([]byte, error) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "../scripts/sweep", append([]string{"--residentctl", kit.Residentctl(t)}, args...)...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	c.WaitDelay = 5 * time.Second
	stdout, err := c.Output()
	if err != nil && stderr.Len() > 0 {
		err = fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return stdout, err
}
