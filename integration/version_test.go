package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
)

// TestVersionIsSetAtBuild: what scripts/build makes says which sources it is of.
func TestVersionIsSetAtBuild(t *testing.T) {
	if os.Getenv("RESIDENTCTL_TEST_BINARY") != "" {
		t.Skip("RESIDENTCTL_TEST_BINARY may be of other sources")
	}
	script := exec.Command("scripts/version")
	script.Dir = ".."
	want, err := script.Output()
	if err != nil {
		t.Fatal(err)
	}
	output, err := exec.Command(kit.Residentctl(t), "version", "--format", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Residentctl string }
	if err := json.Unmarshal(output, &got); err != nil {
		t.Fatal(err)
	}
	if got.Residentctl != strings.TrimSpace(string(want)) {
		t.Errorf("the version is %q, want %q", got.Residentctl, want)
	}
}
