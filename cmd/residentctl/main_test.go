package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/residentctl/residentctl/internal/unchanged"
	"github.com/residentctl/residentctl/pkg/criuwrap"
)

func TestMain(m *testing.M) {
	os.Exit(unchanged.Run(m, func() { os.RemoveAll(binaries.dir) }))
}

// binaries are the directory with residentctl for the scripts, which the first makes, and
// why that failed. The test binary itself takes twice as long to start: it validates JSON
// schemas.
var binaries struct {
	once sync.Once
	dir  string
	err  error
}

func buildBinaries() (dir string, err error) {
	b := &binaries
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "residentctl-scripts-"); b.err != nil {
			return
		}
		program := filepath.Join(b.dir, "residentctl")
		build := exec.Command("go", "build", "-o", program, ".")
		if testing.CoverMode() != "" {
			build.Args = slices.Insert(build.Args, 2, "-cover")
		}
		if output, err := build.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("build residentctl for the scripts: %w\n%s", err, output)
			return
		}
		b.err = errors.Join(os.Chmod(b.dir, 0o755), os.Symlink("residentctl", filepath.Join(b.dir, residentName)))
	})
	return b.dir, b.err
}

// TestScripts runs testdata/*.txtar. Their residentctl is linked without the front door, so
// `run` takes the way through Go.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		Setup:               setup,
		Condition:           condition,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"status": status, "schema": schemaCommand},
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
	})
}

// setup gives each script a home of its own, and so a store of its own.
func setup(e *testscript.Env) error {
	dir, err := buildBinaries()
	if err != nil {
		return err
	}
	e.Setenv("PATH", dir+string(os.PathListSeparator)+e.Getenv("PATH"))
	e.Setenv("HOME", e.WorkDir)
	e.Setenv("STORE", e.WorkDir+"/store")
	e.Setenv("CRIU", os.Getenv(criuwrap.PathVariable)) // for scripts that change it
	completions, err := filepath.Abs("../../docs/completions")
	if err != nil {
		return err
	}
	e.Setenv("COMPLETIONS", completions)
	for _, name := range []string{criuwrap.PathVariable, "GOCOVERDIR"} {
		if value, set := os.LookupEnv(name); set {
			e.Setenv(name, value)
		}
	}
	return nil
}

// condition knows what add needs: [criu] and [root]. What uses CRIU is not short.
func condition(name string) (bool, error) {
	switch name {
	case "criu":
		_, err := criuwrap.Find()
		return err == nil && !testing.Short(), nil
	case "root":
		return os.Geteuid() == 0, nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// status is `exec` for a command that must end with a certain status:
// status N COMMAND…
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND…")
	}
	code := 0
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("status %d, want %s", code, args[0])
	}
}
