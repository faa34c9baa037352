// Package kit is what the packages of integration tests have in common: a store, the
// ways to start a program, the situations to start it in, and the fixtures. Only tests
// import it.
package kit

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

// Temporary is the directory of this test process. Others may read it, since the
// tests start programs as another user too.
var Temporary string

// Run runs a package's tests and returns the exit status. They run in the directory
// integration, whichever package they are of: there are the fixtures.
func Run(m *testing.M) int {
	// Under nohup(1), or in the background of a shell without job control, they are ignored, and
	// what is started here would inherit that. A signal that is caught is the default again
	// after an exec.
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
	cleanup := func() { os.RemoveAll(Temporary) }
	if err := prepare(); err != nil {
		cleanup()
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return unchanged.Run(m, cleanup)
}

func prepare() (err error) {
	if _, statErr := os.Stat("fixtures"); statErr != nil {
		if err := os.Chdir(".."); err != nil {
			return err
		}
	}
	if Temporary, err = os.MkdirTemp("", "residentctl-integration-"); err != nil {
		return err
	}
	return os.Chmod(Temporary, 0o755)
}

// RequireCRIU skips a test that cannot run here, with what is missing.
func RequireCRIU(t testing.TB) {
	t.Helper()
	SkipShort(t)
	unchanged.Check(t)
	missing := ""
	switch {
	case os.Geteuid() != 0:
		missing = "root"
	case criu() == "":
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

// SkipShort skips what needs CRIU, residentctl or a compiler: all that is not short.
func SkipShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long")
	}
}

// criu is the path of CRIU, or "".
func criu() string {
	if path, err := exec.LookPath("criu"); err == nil {
		return path
	}
	// Where scripts/setup puts it, and where an ordinary PATH may not lead.
	for _, path := range []string{"/usr/local/sbin/criu", "/usr/sbin/criu"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// Residentctl returns the path of the command under test, in a directory that every
// user may enter.
func Residentctl(t testing.TB) string {
	t.Helper()
	SkipShort(t)
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
	path := filepath.Join(Temporary, "residentctl")
	return path, os.WriteFile(path, program, 0o755)
})
