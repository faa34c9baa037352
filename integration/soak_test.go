package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/residentctl/residentctl/integration/kit"
)

// TestSoakSlice makes some of the starts of which scripts/soak makes thousands, 50 at once.
func TestSoakSlice(t *testing.T) {
	kit.RequireCRIU(t)
	output, err := soak(t, kit.Residentctl(t), "--starts", "60")
	if err != nil || !strings.Contains(output, ", 50 at once: 60 warm, 0 wrong ") {
		t.Errorf("scripts/soak: %v:\n%s", err, output)
	}
}

// TestSoakNotices: starts that are not warm, or not right, are found out.
func TestSoakNotices(t *testing.T) {
	// In the place of the launcher file it puts a script that changes the umask.
	const pretender = `#!/bin/sh -eu
		script=
		for script; do :; done
		case " $* " in
		*" add "*) printf '#!/bin/sh\numask 7\nexec %s "$@"\n' "$script" >"$2" && chmod 755 "$2" ;;
		*) echo "$2" ;;
		esac
	`
	fake := filepath.Join(kit.Dir(t), "residentctl")
	if err := os.WriteFile(fake, []byte(pretender), 0o755); err != nil {
		t.Fatal(err)
	}
	output, err := soak(t, fake, "--starts", "4", "--at-once", "2")
	if err == nil {
		t.Error("it found nothing wrong")
	}
	for _, want := range []string{"4 starts", ", 2 at once: 0 warm, 4 wrong ", "mode: got 660, want ", "4 starts were wrong"} {
		if !strings.Contains(output, want) {
			t.Errorf("the output lacks %q:\n%s", want, output)
		}
	}
}

func soak(t *testing.T, residentctl string, args ...string) (string, error) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "../scripts/soak", append([]string{"--residentctl", residentctl}, args...)...)
	c.WaitDelay = 5 * time.Second
	output, err := c.CombinedOutput()
	return string(output), err
}
