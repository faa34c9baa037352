package integration

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const unitFolder = "../doc/systemd"

// TestUnits: systemd understands the units, with what they execute in its place.
func TestUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not on this machine")
	}
	units, err := filepath.Glob(filepath.Join(unitFolder, "*.service"))
	if err != nil || len(units) != 3 {
		t.Fatalf("%v, %v", units, err)
	}
	dir := folder(t)
	args := []string{"verify", "--man=no"}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.NewReplacer("/usr/local/bin/residentctl", residentctl(t),
			"/usr/local/lib/residentctl", absolute(t, unitFolder)).Replace(string(text))
		path := filepath.Join(dir, filepath.Base(unit))
		if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	out, err := exec.Command(analyze, args...).CombinedOutput()
	// It also tells of faults in the machine's own units.
	for _, line := range strings.Split(string(out), "\n") {
		if strings.Contains(line, "residentctl") {
			t.Errorf("%v: %s", err, line)
		}
	}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// TestUnitByExec does what residentctl-example.service says, as root with systemd's
// few variables.
func TestUnitByExec(t *testing.T) {
	s := newStore(t, folder(t))
	perl := installed(t, "perl")
	s.do(t, "add", "--even-if-slower", perl)
	c := exec.Command(s.residentctl, "exec", "--strict", "--store", s.dir, "--", perl, "-e", "print $$")
	wantResidentUnit(t, c)
}

// TestUnitByMounts makes the mounts of residentctl-bind-example.service, in the
// order that systemd makes them: sorted by where they go (src/core/namespace.c,
// mount_path_compare).
func TestUnitByMounts(t *testing.T) {
	requireCRIU(t)
	dir, err := os.MkdirTemp("/srv", "residentctl-test-") // sorts as the unit's does
	if err != nil {
		t.Skipf("no folder in /srv: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, dir)
	perl := installed(t, "perl")
	s.do(t, "add", "--even-if-slower", perl)
	for range 2 { // the second time over what is there
		if out, err := exec.Command(filepath.Join(unitFolder, "residentctl-cover"), s.residentctl, s.dir).CombinedOutput(); err != nil {
			t.Fatalf("residentctl-cover: %v\n%s", err, out)
		}
	}
	unit, err := os.ReadFile(filepath.Join(unitFolder, "residentctl-bind-example.service"))
	if err != nil {
		t.Fatal(err)
	}
	var binds [][2]string
	for lines := bufio.NewScanner(strings.NewReader(string(unit))); lines.Scan(); {
		if bind, ok := strings.CutPrefix(lines.Text(), "BindReadOnlyPaths="); ok {
			from, to, _ := strings.Cut(strings.ReplaceAll(bind, "/srv/residentctl", s.dir), ":")
			binds = append(binds, [2]string{from, to})
		}
	}
	if len(binds) != 2 {
		t.Fatalf("the unit binds %v", binds)
	}
	slices.SortFunc(binds, func(a, b [2]string) int { return strings.Compare(a[1], b[1]) })
	script := "set -e\n"
	for _, b := range binds {
		script += fmt.Sprintf("mount --bind '%s' '%s'; mount -o remount,bind,ro '%s'\n", b[0], b[1], b[1])
	}
	script += `exec setpriv --reuid=nobody --regid=nogroup --clear-groups --no-new-privs "$@"`
	wantResidentUnit(t, exec.Command("unshare", "--mount", "sh", "-c", script, "sh", perl, "-e", "print $$"))
}

// wantResidentUnit runs a service's command, which prints its process id: that of the
// process that was started.
func wantResidentUnit(t *testing.T, c *exec.Cmd) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var stdout, stderr strings.Builder
	c.Stdout, c.Stderr = &stdout, &stderr
	c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG=C.UTF-8", "INVOCATION_ID=0", "RESIDENTCTL_EXPLAIN=1"}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Process.Kill() })
	defer stop()
	err := c.Wait()
	if err != nil || stdout.String() != fmt.Sprint(c.Process.Pid) || !strings.Contains(stderr.String(), "perl: resident start") {
		t.Errorf("%v, process %d: %q\n%s", err, c.Process.Pid, &stdout, &stderr)
	}
}
