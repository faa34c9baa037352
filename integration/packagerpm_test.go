package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
)

// packageTools is a root directory with rpm, CMake and Meson that scripts/package-test has
// unpacked, "" if there is none.
var packageTools = os.Getenv("RESIDENTCTL_TEST_PACKAGE_TOOLS")

// rpmPackage makes an rpm in the machine's /packages.
func rpmPackage(t *testing.T, m *kit.Machine, name, version, path, from string) {
	t.Helper()
	config := filepath.Join(kit.Dir(t), "nfpm.yaml")
	text := fmt.Sprintf("name: %s\narch: amd64\nversion: %s\nmaintainer: nobody\ndescription: of a test\nrpm: {buildhost: localhost}\ncontents: [{src: %s, dst: %s}]\n",
		name, version, from, path)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(m.Path("/packages"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("go", "tool", "-modfile=tools/go.mod", "nfpm", "package", "-f", config, "-p", "rpm", "-t", m.Path("/packages/"+name+"-"+version+".rpm"))
	c.Dir = ".."
	if output, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, output)
	}
}

// installTool copies a program of packageTools to the machine, with the libraries of both.
func installTool(t *testing.T, m *kit.Machine, program string) {
	t.Helper()
	from := filepath.Join(packageTools, program)
	c := exec.Command("ldd", from)
	c.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Join(packageTools, "usr/lib/x86_64-linux-gnu"))
	output, err := c.Output()
	if err != nil {
		t.Fatalf("ldd %s: %v", from, err)
	}
	m.CopyIn(t, from, program)
	for _, match := range regexp.MustCompile(`(?m)(/\S+) \(0x`).FindAllStringSubmatch(string(output), -1) {
		library := strings.TrimPrefix(match[1], packageTools)
		if _, err := os.Stat(m.Path(library)); err != nil {
			m.CopyIn(t, match[1], library)
		}
	}
}

// newRPM is a machine with rpm, and packages to install.
func newRPM(t *testing.T) *kit.Machine {
	t.Helper()
	_, rpm := packages(t)
	m := kit.NewMachine(t, dpkgPrograms...)
	kit.Remove(t, m.Path("/usr/bin/residentctl"))
	installTool(t, m, "/usr/bin/rpm")
	if output, err := exec.Command("cp", "-a", filepath.Join(packageTools, "usr/lib/rpm"), m.Path("/usr/lib/")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	const library = "/usr/lib/x86_64-linux-gnu/liblife.so"
	mine := lifeLibrary(t, "mine", "liblife.so")
	program := filepath.Join(kit.Dir(t), "life")
	kit.Compile(t, program, kit.FixtureSource("life"), mine)
	rpmPackage(t, m, "life", "1", "/usr/bin/life", program)
	rpmPackage(t, m, "liblife", "1", library, mine)
	rpmPackage(t, m, "liblife", "2", library, lifeLibrary(t, "other", "liblife.so"))
	rpmPackage(t, m, "unrelated", "1", "/usr/lib/x86_64-linux-gnu/libunrelated.so", lifeLibrary(t, "unrelated", "libunrelated.so"))
	m.CopyIn(t, rpm, "/packages/residentctl.rpm")
	if err := os.MkdirAll(m.Path("/etc/binfmt.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestRPM is as TestPackage, with rpm and its file triggers.
func TestRPM(t *testing.T) {
	if packageTools == "" || !kit.OwnBinfmt(t, "") {
		t.Skip("rpm is missing (scripts/package-test downloads it), or Linux 6.7")
	}
	wantInSpace(t, newRPM(t), rpmScript, rpmWant)
}

const rpmScript = `
# No signature, and what Debian's rpm always says.
passed='^warning: .*NOKEY|^rpm: (RPM should not be used directly|However assuming you know)'
rpm_() { say "rpm $*"; rpm "$@" >/tmp/rpm.log 2>&1 || echo "status $?"; grep -Ev "$passed" /tmp/rpm.log || :; }
cd /packages
rpm_ -i liblife-1.rpm life-1.rpm; ldconfig; start
rpm_ -i residentctl.rpm
residentctl enable --system --even-if-slower life >/dev/null; binfmt; start
rpm_ -i unrelated-1.rpm; start
rpm_ -U liblife-2.rpm; start; list
rpm_ -e unrelated; start
rpm_ -e life; rpm_ -i life-1.rpm; start gone
RESIDENTCTL_FAULT=before-publish rpm_ -U --oldpackage liblife-1.rpm; start
residentctl refresh >/dev/null; start
rpm_ -U --replacepkgs residentctl.rpm; start
rpm_ -e residentctl; binfmt; start; there
find / -xdev -path '*residentctl*' -not -path '/packages/*'
`

const rpmWant = `
== rpm -i liblife-1.rpm life-1.rpm
library: mine
== rpm -i residentctl.rpm
kernel: 1, boot: 1
library: mine, resident start, another image
== rpm -i unrelated-1.rpm
library: mine, resident start, same image
== rpm -U liblife-2.rpm
library: other, resident start, another image
list: current
== rpm -e unrelated
library: other, resident start, same image
== rpm -e life
== rpm -i life-1.rpm
library: other, resident start
== rpm -U --oldpackage liblife-1.rpm
residentctl: some programs have no current image and start normally: run ` + "`residentctl refresh`" + ` to see why
library: mine
library: mine, resident start, another image
== rpm -U --replacepkgs residentctl.rpm
library: mine, resident start, same image
== rpm -e residentctl
kernel: 0, boot: 0
library: mine
`
