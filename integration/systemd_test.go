package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/residentctl/residentctl/integration/kit"
)

const unitDirectory = "../docs/systemd"

// TestUnits: systemd understands the units, with what they execute in its place.
func TestUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not on this machine")
	}
	units, err := filepath.Glob(filepath.Join(unitDirectory, "*.service"))
	if err != nil || len(units) != 3 {
		t.Fatalf("%v, %v", units, err)
	}
	dir := kit.Dir(t)
	args := []string{"verify", "--man=no"}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.NewReplacer("/usr/local/bin/residentctl", kit.Residentctl(t),
			"/usr/local/lib/residentctl", absolute(t, unitDirectory)).Replace(string(text))
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

// TestUnitsBySystemd has systemd itself, as the first process of namespaces of its
// own, start what the units describe, with the store and the command in the places
// of the test's. Nothing else is started: the units have no default dependencies there.
func TestUnitsBySystemd(t *testing.T) {
	const systemd = "/lib/systemd/systemd"
	if _, err := os.Stat(systemd); err != nil {
		t.Skip("systemd is not on this machine")
	}
	kit.RequireCRIU(t)
	// The units hide /tmp from their services.
	dir, err := os.MkdirTemp("/var/lib", "residentctl-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := kit.NewStore(t, dir)
	perl := kit.Installed(t, "perl")
	s.Do(t, "add", "--even-if-slower", perl)
	command := filepath.Join(dir, "command")
	kit.CopyFile(t, s.Residentctl, command)
	places := strings.NewReplacer("/usr/local/bin/residentctl exec", command+" exec --store "+s.Dir, "/usr/local/bin/residentctl", command, "/usr/local/lib/residentctl", absolute(t, unitDirectory),
		"/var/lib/residentctl", s.Dir, "/usr/bin/perl -e 'sleep'", perl+" -e 'print getppid'",
		"[Unit]\n", "[Unit]\nDefaultDependencies=no\n")
	units := filepath.Join(dir, "units")
	if err := os.Mkdir(units, 0o755); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(unitDirectory, "*.service"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		unit := places.Replace(string(text))
		if strings.Contains(name, "-example") {
			unit = strings.NewReplacer("[Unit]\n", "[Unit]\nSuccessAction=exit-force\nFailureAction=exit-force\n",
				"[Service]\n", fmt.Sprintf("[Service]\nEnvironment=RESIDENTCTL_EXPLAIN=1\nStandardOutput=file:%s/stdout\nStandardError=file:%s/stderr\n", dir, dir)).Replace(unit)
		}
		if err := os.WriteFile(filepath.Join(units, filepath.Base(name)), []byte(unit), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, unit := range []string{"residentctl-example.service", "residentctl-bind-example.service"} {
		t.Run(unit, func(t *testing.T) {
			c := exec.Command("unshare", "--pid", "--fork", "--kill-child", "--mount", "--cgroup", "--uts", "--ipc", "sh", "-ec", `
			mount --make-rprivate /
			mount -t proc proc /proc
			mount --bind /proc/sys /proc/sys
			mount -o remount,bind,ro /proc/sys # they are the machine's
			mount -t tmpfs tmpfs /run
			mount --bind "$0" /etc/systemd/system
			mount -t cgroup2 none /sys/fs/cgroup
			exec env -i container=test PATH=/usr/sbin:/usr/bin "$1" --system --unit="$2" --log-target=console --show-status=no`,
				units, systemd, unit)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var said strings.Builder
			c.Stdout, c.Stderr = &said, &said
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			stop := context.AfterFunc(ctx, func() { _ = c.Process.Kill() })
			defer stop()
			waited := c.Wait()
			stdout, _ := os.ReadFile(filepath.Join(dir, "stdout"))
			stderr, _ := os.ReadFile(filepath.Join(dir, "stderr"))
			if waited != nil || string(stdout) != "1" || !strings.Contains(string(stderr), "perl: resident start") {
				t.Errorf("%v: %q\n%s\n%s", waited, stdout, stderr, &said)
			}
			for _, name := range []string{"stdout", "stderr"} {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
