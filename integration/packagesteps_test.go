package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
)

// TestPackageUnits: systemd understands the units of the package.
func TestPackageUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not on this machine")
	}
	units, err := filepath.Glob("../packaging/systemd/*")
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
		path := filepath.Join(dir, filepath.Base(unit))
		changed := strings.ReplaceAll(string(text), "/usr/bin/residentctl", kit.Residentctl(t))
		if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	out, err := exec.Command(analyze, args...).CombinedOutput()
	// It also tells of faults in the machine's own units.
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "residentctl") {
			t.Errorf("%v: %s", err, line)
		}
	}
}

// TestInstallSteps: a build's install step makes a program current again, and succeeds
// whatever residentctl does.
func TestInstallSteps(t *testing.T) {
	kit.RequireCRIU(t)
	environment := os.Environ()
	if packageTools != "" {
		environment = append(environment, "PATH="+filepath.Join(packageTools, "usr/bin")+":"+os.Getenv("PATH"),
			"LD_LIBRARY_PATH="+filepath.Join(packageTools, "usr/lib/x86_64-linux-gnu"),
			"PYTHONPATH="+filepath.Join(packageTools, "usr/lib/python3/dist-packages"))
	}
	for _, tc := range []struct{ tool, configure, install string }{
		{"make", ":", `make -s install PREFIX="$PREFIX"`},
		{"cmake", `cmake -S . -B build -DCMAKE_INSTALL_PREFIX="$PREFIX"`, "cmake --build build && cmake --install build"},
		{"meson", `meson setup --prefix="$PREFIX" build`, "meson install -C build"},
	} {
		t.Run(tc.tool, func(t *testing.T) {
			if _, err := exec.LookPath(tc.tool); err != nil && (packageTools == "" || tc.tool == "make") {
				t.Skipf("%s is missing (scripts/package-test downloads CMake and Meson)", tc.tool)
			}
			dir := kit.Dir(t)
			s := kit.NewStore(t, dir)
			if out, err := exec.Command("cp", "-r", "../docs/examples/.", dir).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			// What the step finds in PATH: residentctl with the store of the test.
			wrapper := filepath.Join(dir, "path", "residentctl")
			if err := os.Mkdir(filepath.Dir(wrapper), 0o755); err != nil {
				t.Fatal(err)
			}
			wrap := func(then string) {
				t.Helper()
				text := "#!/bin/sh\nunset LD_LIBRARY_PATH\n" + s.Residentctl + " --store " + s.Dir + ` "$@"` + "\n" + then + "\n"
				if err := os.WriteFile(wrapper, []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			shell := func(script string) string {
				t.Helper()
				c := exec.Command("/bin/sh", "-ec", `PATH="$PWD/path:$PATH"; PREFIX="$PWD/prefix";`+script)
				c.Dir, c.Env = dir, environment
				out, err := c.CombinedOutput()
				if err != nil {
					t.Fatalf("%s: %v\n%s", script, err, out)
				}
				return string(out)
			}
			start := func() string {
				return shell("unset LD_LIBRARY_PATH; residentctl run --explain prefix/bin/hello 2>&1")
			}
			wrap("")
			shell(tc.configure + " && " + tc.install + "; unset LD_LIBRARY_PATH; residentctl add --even-if-slower prefix/bin/hello")
			wrap("exit 3")
			shell("sleep 0.01; sed -i s/hello/again/ hello.c; " + tc.install)
			wrap("")
			if got := start(); !strings.Contains(got, "resident start") || !strings.HasSuffix(got, "again\n") {
				t.Errorf("after the second installation: %s", got)
			}
		})
	}
}
