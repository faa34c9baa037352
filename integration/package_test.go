package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/integration/kit"
)

// packages are the .deb and the .rpm of this tree.
func packages(t *testing.T) (deb, rpm string) {
	t.Helper()
	dir := kit.Dir(t)
	c := exec.Command("scripts/package", dir)
	c.Dir = ".."
	if output, err := c.CombinedOutput(); err != nil {
		t.Fatalf("scripts/package: %v\n%s", err, output)
	}
	one := func(pattern string) string {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(files) != 1 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		return files[0]
	}
	return one("*.deb"), one("*.rpm")
}

// dpkgPrograms are what a machine needs for dpkg, its maintainer scripts and weekScript.
var dpkgPrograms = []string{
	"/usr/bin/dpkg", "/usr/bin/dpkg-deb", "/usr/bin/dpkg-split", "/usr/bin/dpkg-query", "/usr/bin/dpkg-trigger", "/usr/bin/tar",
	"/bin/bash", "/bin/sh", "/usr/bin/env", "/usr/bin/timeout", "/bin/sed", "/bin/cat", "/bin/grep", "/bin/rm", "/bin/ls", "/bin/mount",
	"/bin/umount", "/bin/readlink", "/usr/bin/find", "/usr/bin/sort", "/usr/bin/basename", "/usr/bin/touch", "/bin/dd",
}

// A debFile is a file of a package of the test's own: a copy, or with text in it.
type debFile struct{ path, from, text string }

// debPackage makes NAME_VERSION.deb in the machine's /packages.
func debPackage(t *testing.T, m *kit.Machine, name, version string, files ...debFile) {
	t.Helper()
	tree := kit.Dir(t)
	files = append(files, debFile{path: "/DEBIAN/control", text: fmt.Sprintf(
		"Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: nobody <nobody@localhost>\nDescription: of a test\n", name, version)})
	for _, f := range files {
		to := filepath.Join(tree, f.path)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if f.from != "" {
			kit.CopyFile(t, f.from, to)
		} else if err := os.WriteFile(to, []byte(f.text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	kit.Chmod(t, filepath.Join(tree, "DEBIAN"), 0o755)
	if err := os.MkdirAll(m.Path("/packages"), 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, m.Path("/packages/"+name+"_"+version+".deb"))
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build.Args, err, output)
	}
}

// newDpkg is a machine with dpkg, residentctl's package as residentctl.deb, and packages to
// install beside it: a program with its library, and another library.
func newDpkg(t *testing.T) *kit.Machine {
	t.Helper()
	if os.Getenv("RESIDENTCTL_TEST_PACKAGE_TOOLS") == "" {
		t.Skip("scripts/package-test runs it: the packages take over a minute to make")
	}
	if !kit.OwnBinfmt(t, "") {
		t.Skip("a binfmt_misc for these tests alone needs Linux 6.7")
	}
	deb, _ := packages(t)
	m := kit.NewMachine(t, dpkgPrograms...)
	kit.Remove(t, m.Path("/usr/bin/residentctl"))
	for _, dir := range []string{"info", "updates", "triggers"} {
		if err := os.MkdirAll(m.Path("/var/lib/dpkg/"+dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(m.Path("/var/lib/dpkg/status"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/etc/binfmt.d", "/var/log", "/run"} {
		if err := os.MkdirAll(m.Path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const inLib = "/usr/lib/x86_64-linux-gnu/"
	mine, other := lifeLibrary(t, "mine", "liblife.so"), lifeLibrary(t, "other", "liblife.so")
	preceding := lifeLibrary(t, "preceding", "liblife.so")
	activate := debFile{path: "/DEBIAN/triggers", text: "activate-noawait ldconfig\n"}
	debPackage(t, m, "liblife", "1", debFile{path: inLib + "liblife.so", from: mine}, activate)
	debPackage(t, m, "liblife", "2", debFile{path: inLib + "liblife.so", from: other}, activate)
	debPackage(t, m, "preceding", "1", debFile{path: inLib + "glibc-hwcaps/x86-64-v2/liblife.so", from: preceding}, activate)
	debPackage(t, m, "unrelated", "1", debFile{path: inLib + "libunrelated.so", from: lifeLibrary(t, "unrelated", "libunrelated.so")}, activate)
	for version, flags := range map[string][]string{"1": nil, "2": {"-O2"}} {
		program := filepath.Join(kit.Dir(t), "life")
		kit.Compile(t, program, kit.FixtureSource("life"), append(flags, mine)...)
		debPackage(t, m, "life", version, debFile{path: "/usr/bin/life", from: program})
	}
	// As Debian's libc-bin.
	debPackage(t, m, "libc-bin", "1", debFile{path: "/DEBIAN/triggers", text: "interest-noawait ldconfig\n"},
		debFile{path: "/DEBIAN/postinst", text: "#!/bin/sh\n[ \"$1\" != triggered ] || ldconfig\n"})
	m.CopyIn(t, deb, "/packages/residentctl.deb")
	return m
}

// inSpace runs a script in the machine with a binfmt_misc of its own.
func inSpace(t *testing.T, m *kit.Machine, script string) kit.Outcome {
	t.Helper()
	c := m.Command("/bin/bash", "-c", weekPrologue+script)
	all := []syscall.SysProcIDMap{{Size: 1<<32 - 1}}
	c.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS
	c.SysProcAttr.UidMappings, c.SysProcAttr.GidMappings, c.SysProcAttr.GidMappingsEnableSetgroups = all, all, true
	return m.Outcome(t, c)
}

const weekPrologue = `set -eu
mount --make-rslave /
mount -t tmpfs none /proc/sys/fs/binfmt_misc
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
exec 2>&1
store=/var/lib/residentctl
say() { echo "== $*"; }
# Quiet unless it fails: what dpkg says is not the matter.
dpkg_() { dpkg --force-not-root --force-bad-path "$@" >/tmp/dpkg.log 2>&1 || { echo "dpkg $*: status $?"; cat /tmp/dpkg.log; }; }
i() { say "install $*"; for p; do set -- "$@" "/packages/$p.deb"; shift; done; dpkg_ -i "$@"; }
image() { readlink $store/index/* | sed 's,.*images/,,;s,/.*,,'; }
last=
# start: by the path, which binfmt_misc makes resident, and by run where it is installed.
# After "gone" the image may be the same: it is, if the file has its old inode again.
start() {
	local how= now=
	said=$(RESIDENTCTL_EXPLAIN=1 /usr/bin/life 2>/tmp/why) || said="status $?"
	how=$(sed -n 's/^residentctl: .*\(resident start\|started normally\).*/, \1/p' /tmp/why)
	now=$(image 2>/dev/null) || now=
	if [ "$how" = ", resident start" ]; then
		case ${1-} in
		gone) ;;
		*) [ "$now" = "$last" ] && how="$how, same image" || how="$how, another image" ;;
		esac
		last=$now
	fi
	echo "$said$how"
	if [ "$(RESIDENTCTL_OFF=1 /usr/bin/life)" != "$said" ]; then echo a plain start differs; fi
	if [ -e /usr/bin/residentctl ] && [ "$(residentctl run /usr/bin/life 2>/dev/null)" != "$said" ]; then echo run differs; fi
}
list() { residentctl list --format json | sed -n 's/.*"state": *"\([^"]*\)".*/list: \1/p'; }
there() { for path in /usr/bin/residentctl $store /etc/residentctl; do [ ! -e $path ] || echo $path is there; done; }
binfmt() { echo "kernel: $(ls /proc/sys/fs/binfmt_misc | grep -c residentctl || :), boot: $(ls /etc/binfmt.d | grep -c . || :)"; }
`

// TestPackage installs the package with dpkg in a machine of its own, lives with it through
// a week of upgrades, and removes it.
func TestPackage(t *testing.T) {
	wantInSpace(t, newDpkg(t), weekScript, weekWant)
}

// TestPackageUpgraded: images that an older residentctl has left start normally, and the
// package of a newer one makes them again when it is installed.
func TestPackageUpgraded(t *testing.T) {
	m := newDpkg(t)
	const run = "residentctl run --explain /usr/bin/life 2>&1 | sed 's/.*\\(resident start\\|started normally\\).*/\\1/'\n"
	wantInSpace(t, m, "i libc-bin_1 liblife_1 life_1 residentctl; residentctl add --even-if-slower life >/dev/null\n"+run, `
== install libc-bin_1 liblife_1 life_1 residentctl
resident start
library: mine
`)
	(&living{T: t, Machine: m}).age(subject{program: "/usr/bin/life"})
	wantInSpace(t, m, run+"i residentctl; list\n"+run, `
started normally
library: mine
== install residentctl
list: current
resident start
library: mine
`)
}

// TestPackageWarm: the package's hook makes a warm image again when a module that is in it is
// upgraded.
func TestPackageWarm(t *testing.T) {
	m := newDpkg(t)
	const python, dynload = "/usr/bin/python3.11", "/usr/lib/python3.11/lib-dynload/"
	if _, err := os.Stat(python); err != nil {
		t.Skipf("the machine of the test gets a copy of Debian 12's python: %v", err)
	}
	m.Install(t, python, python)
	for _, extension := range []string{"_ctypes", "_json"} {
		files, err := filepath.Glob(dynload + extension + ".*")
		if err != nil || len(files) != 1 {
			t.Fatalf("%s%s: %v, %v", dynload, extension, files, err)
		}
		m.CopyIn(t, files[0], files[0])
	}
	ffi, err := filepath.Glob("/usr/lib/x86_64-linux-gnu/libffi.so.*")
	if err != nil || len(ffi) == 0 {
		t.Fatalf("libffi: %v, %v", ffi, err)
	}
	m.CopyIn(t, ffi[0], "/usr/lib/x86_64-linux-gnu/libffi.so.8")
	for _, pattern := range []string{"*.py", "json/*.py", "encodings/*.py", "collections/*.py", "importlib/*.py", "re/*.py"} {
		files, err := filepath.Glob("/usr/lib/python3.11/" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			m.CopyIn(t, file, file)
		}
	}
	for version, more := range map[string]string{"1": "", "2": "# of another size, because python compares size and seconds with its cache\n"} {
		debPackage(t, m, "module", version, debFile{path: "/usr/lib/python3/dist-packages/upgraded.py", text: "import json\nVERSION = " + version + "\n" + more})
	}
	debPackage(t, m, "tool", "1", debFile{path: "/usr/bin/tool", text: "#!" + python + "\nimport upgraded\nprint('version', upgraded.VERSION)\n"})
	const start = "RESIDENTCTL_EXPLAIN=1 residentctl run tool 2>&1 | sed 's/.*\\(resident start\\|started normally\\).*/\\1/'\n"
	wantInSpace(t, m, "i module_1 tool_1 residentctl; residentctl add --warm --even-if-slower tool >/dev/null\n"+start+
		"say the module is upgraded, before triggers; dpkg_ --no-triggers -i /packages/module_2.deb\n"+start+
		"say triggers; dpkg_ --triggers-only -a; list\n"+start+
		"say the module is removed; dpkg_ -r module; list; i module_1; list\n"+start, `
== install module_1 tool_1 residentctl
resident start
version 1
== the module is upgraded, before triggers
started normally
version 2
== triggers
list: current
resident start
version 2
== the module is removed
list: stale
== install module_1
list: current
resident start
version 1
`)
}

// wantInSpace runs a script as inSpace does, and wants this output.
func wantInSpace(t *testing.T, m *kit.Machine, script, want string) {
	t.Helper()
	got := inSpace(t, m, script)
	t.Log(got.Stdout)
	if diff := cmp.Diff(strings.TrimSpace(want), strings.TrimSpace(got.Stdout)); diff != "" || got.Status != "exit status 0" {
		t.Errorf("%s: want (-), got (+):\n%s", got.Status, diff)
	}
}

const weekScript = `
i libc-bin_1 liblife_1 life_1; start
i residentctl; readlink /usr/bin/resident; cat /var/lib/dpkg/triggers/ldconfig; sed -n 's, residentctl/noawait$,,p' /var/lib/dpkg/triggers/File | sort
residentctl enable --system --even-if-slower life >/dev/null; binfmt; start
i unrelated_1; start; list
say the library that it uses is upgraded, before triggers; dpkg_ --no-triggers -i /packages/liblife_2.deb; start
say triggers; dpkg_ --triggers-only -a; start; list
say another library enters the cache, the trigger before ldconfig; dpkg_ --no-triggers -i /packages/preceding_1.deb; start
dpkg_ --triggers-only residentctl; start; dpkg_ --triggers-only libc-bin; start
say it leaves the cache, the trigger after ldconfig; dpkg_ --no-triggers -r preceding; start
ldconfig; dpkg_ --triggers-only libc-bin; start; dpkg_ --triggers-only residentctl; start
i life_2; start; list
say the program is removed; dpkg_ -r life; list; i life_1; start gone
say refresh is killed; RESIDENTCTL_FAULT=before-publish dpkg_ -i /packages/liblife_1.deb; start
residentctl refresh >/dev/null; start
say the disk is full; mount -t tmpfs -o size=16k none $store/staging; dd if=/dev/zero of=$store/staging/full bs=1k 2>/dev/null || :
dpkg_ -i /packages/liblife_2.deb; grep -o 'residentctl: some programs have no current image' /tmp/dpkg.log; start; umount $store/staging
residentctl refresh >/dev/null; start
i residentctl; start
say remove; dpkg_ -r residentctl; binfmt; start; there
i residentctl; start; residentctl enable --system --even-if-slower life >/dev/null; start
say purge; echo /usr/bin/life >/etc/residentctl/resident.conf; dpkg_ -P residentctl; binfmt; start; there
find / -xdev -path '*residentctl*' -not -path '/packages/*'
`

// A line with neither way is that of a start without binfmt_misc: not registered, or left
// switched off by the refresh that was killed.
const weekWant = `
== install libc-bin_1 liblife_1 life_1
library: mine
== install residentctl
residentctl
libc-bin/noawait
residentctl/noawait
/bin
/lib
/opt
/sbin
/usr/bin
/usr/lib
/usr/libexec
/usr/sbin
kernel: 1, boot: 1
library: mine, resident start, another image
== install unrelated_1
library: mine, resident start, same image
list: current
== the library that it uses is upgraded, before triggers
library: other, started normally
== triggers
library: other, resident start, another image
list: current
== another library enters the cache, the trigger before ldconfig
library: other, resident start, same image
library: preceding, resident start, another image
library: preceding, resident start, same image
== it leaves the cache, the trigger after ldconfig
library: other, started normally
library: other, started normally
library: other, resident start, another image
== install life_2
library: other, resident start, another image
list: current
== the program is removed
list: stale
== install life_1
library: other, resident start
== refresh is killed
library: mine
library: mine, resident start, another image
== the disk is full
residentctl: some programs have no current image
library: other, started normally
library: other, resident start, another image
== install residentctl
library: other, resident start, same image
== remove
kernel: 0, boot: 0
library: other
== install residentctl
library: other
library: other, resident start, another image
== purge
kernel: 0, boot: 0
library: other
`
