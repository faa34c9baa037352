package integration

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/integration/kit"
)

// TestWarmBelowUsr: of what a package manager owns a start looks at the directories only: it
// sees a file that is replaced, not one that is edited in place, which verify and refresh see.
// Another boot changes nothing.
func TestWarmBelowUsr(t *testing.T) {
	kit.RequireCRIU(t)
	t.Parallel()
	// A part of /usr is on a file system of its own, in a mount namespace of its own.
	const script = `
		set -eu
		residentctl=$1 store=$2
		mount --make-rprivate /
		mount -t tmpfs -o mode=755 tmpfs /usr/src
		mkdir /usr/src/bin /usr/src/lib
		export PYTHONPATH=/usr/src/lib
		printf '#!/usr/bin/python3\nimport sys, json, versioned\nprint(versioned.VERSION)\n' >/usr/src/bin/tool
		chmod 755 /usr/src/bin/tool
		echo 'VERSION = 1' >/usr/src/lib/versioned.py
		r() { "$residentctl" --store "$store" "$@" 2>&1; }
		start() {
			"$store"/launchers/*/usr/src/bin/tool 2>&1 | sed 's/^residentctl: .*: resident start.*/resident/; s/^residentctl: .*: started normally: /normal: /'
		}
		export RESIDENTCTL_EXPLAIN=1
		r add --warm --even-if-slower /usr/src/bin/tool >&2
		echo added; start
		echo 'VERSION = 22' >/usr/src/lib/versioned.py
		echo edited; start
		r verify tool >&2 || echo "verify $?"
		r refresh tool >&2
		echo refreshed; start
		cp /usr/src/lib/versioned.py /usr/src/lib/new
		echo 'VERSION = 33' >>/usr/src/lib/new
		mv /usr/src/lib/new /usr/src/lib/versioned.py
		echo replaced; start
		r refresh tool >&2
		echo refreshed; start
		echo ` + kit.NextBoot + ` >/usr/src/boot_id
		mount --bind /usr/src/boot_id /proc/sys/kernel/random/boot_id
		echo booted; start
	`
	s := kit.NewStore(t, kit.Dir(t))
	c := exec.Command("/bin/bash", "-c", script, "bash", s.Residentctl, s.Dir)
	c.Env = s.Environment(kit.Dir(t))
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	r := kit.Finish(t, c)
	want := strings.Join([]string{
		"added", "resident", "1",
		"edited", "resident", "1", "verify 1",
		"refreshed", "resident", "22",
		"replaced", "normal: this has changed /usr/src/lib", "33",
		"refreshed", "resident", "33",
		"booted", "resident", "33", "",
	}, "\n")
	if diff := cmp.Diff(want, r.Stdout); diff != "" || r.Code != 0 {
		t.Errorf("want (-), got (+):\n%s\n%v", diff, r)
	}
}
