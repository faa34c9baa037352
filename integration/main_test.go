// Package integration tests residentctl whole: real programs and the C programs
// in fixtures, started plainly and resident, must do the same.
//
// The tests need root and CRIU; without them they are skipped, or fail where
// RESIDENTCTL_TEST_REQUIRE=criu says that both are there. They build
// bin/residentctl; RESIDENTCTL_TEST_BINARY names another one to test. They end in one
// line when the machine's libraries change meanwhile (internal/unchanged).
package integration

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/residentctl/residentctl/internal/unchanged"
)

// temporary is the folder of this test process. Others may read it, since the
// tests start programs as another user too.
var temporary string

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	// Under nohup(1) it is ignored, and what is started here would inherit that. A
	// signal that is caught is the default again after an exec.
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	var err error
	if temporary, err = os.MkdirTemp("", "residentctl-integration-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cleanup := func() { os.RemoveAll(temporary) }
	if err := os.Chmod(temporary, 0o755); err != nil {
		cleanup()
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return unchanged.Run(m, cleanup)
}

// requireCRIU skips a test that cannot run here, with what is missing.
func requireCRIU(t *testing.T) {
	t.Helper()
	skipShort(t)
	unchanged.Check(t)
	missing := ""
	switch {
	case os.Geteuid() != 0:
		missing = "root"
	case !haveCRIU():
		missing = "criu (scripts/setup installs it)"
	}
	if missing == "" {
		return
	}
	for _, required := range strings.Split(os.Getenv("RESIDENTCTL_TEST_REQUIRE"), ",") {
		if required == "criu" {
			t.Fatalf("needs %s, and RESIDENTCTL_TEST_REQUIRE says that it is there", missing)
		}
	}
	t.Skipf("needs %s", missing)
}

// skipShort skips what needs CRIU, residentctl or a compiler: all that is not short.
func skipShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long")
	}
}

func haveCRIU() bool {
	if _, err := exec.LookPath("criu"); err == nil {
		return true
	}
	// Where scripts/setup puts it, and where an ordinary PATH may not lead.
	for _, path := range []string{"/usr/local/sbin/criu", "/usr/sbin/criu"} {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}

// residentctl is the path of the command under test, in a folder that every
// user may enter.
func residentctl(t *testing.T) string {
	t.Helper()
	skipShort(t)
	path, err := builtResidentctl()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var builtResidentctl = sync.OnceValues(func() (string, error) {
	built := os.Getenv("RESIDENTCTL_TEST_BINARY")
	if built == "" {
		build := exec.Command("scripts/build")
		build.Dir = ".."
		if output, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("scripts/build: %w\n%s", err, output)
		}
		built = "../bin/residentctl"
	}
	program, err := os.ReadFile(built)
	if err != nil {
		return "", fmt.Errorf("read the command under test: %w", err)
	}
	path := filepath.Join(temporary, "residentctl")
	return path, os.WriteFile(path, program, 0o755)
})

// builtFiles remembers what compile has made.
var builtFiles = map[string]bool{}

// fixture is the path of fixtures/NAME.c or .cc, compiled, with fixtures/libNAME
// beside it if there is one.
func fixture(t *testing.T, name string) string {
	t.Helper()
	folder := filepath.Join(temporary, "fixtures")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{"-rdynamic", "-pthread", "-Wl,-rpath,$ORIGIN"}
	library := filepath.Join(folder, "lib"+name+".so")
	if source := fixtureSource("lib" + name); source != "" {
		compile(t, library, source, "-shared", "-fPIC")
		// The one for dlopen is loaded at run time.
		if name != "dlopen" {
			args = append(args, library)
		}
	}
	program := filepath.Join(folder, name)
	compile(t, program, fixtureSource(name), args...)
	return program
}

func fixtureSource(name string) string {
	for _, extension := range []string{".c", ".cc"} {
		source := filepath.Join("fixtures", name+extension)
		if _, err := os.Stat(source); err == nil {
			return source
		}
	}
	return ""
}

// compile makes output from source once per test process.
func compile(t *testing.T, output, source string, args ...string) {
	t.Helper()
	skipShort(t)
	unchanged.Check(t)
	if builtFiles[output] {
		return
	}
	compiler := "gcc"
	if strings.HasSuffix(source, ".cc") {
		compiler = "g++"
	}
	args = append([]string{"-O1", "-g", "-Wall", "-Wextra", "-o", output, source}, args...)
	if message, err := exec.Command(compiler, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", compiler, strings.Join(args, " "), err, message)
	}
	builtFiles[output] = true
}
