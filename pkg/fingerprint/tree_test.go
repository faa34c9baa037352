package fingerprint

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/residentctl/residentctl/internal/linux"
)

// tree is a directory with a program, a dynamic linker and libraries to depend on.
type tree struct {
	t   *testing.T
	top string
}

func newTree(t *testing.T) tree {
	t.Helper()
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tr := tree{t, top}
	for _, f := range []string{"bin/prog", "lib/ld.so", "lib/liba.so", "lib/libb.so", "etc/cache"} {
		tr.file(f, "content of "+f)
	}
	tr.directory("empty")
	return tr
}

func (tr tree) path(name string) string { return filepath.Join(tr.top, name) }

func (tr tree) directory(name string) {
	tr.t.Helper()
	if err := os.MkdirAll(tr.path(name), 0o755); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr tree) file(name, content string) {
	tr.t.Helper()
	tr.directory(filepath.Dir(name))
	if err := os.WriteFile(tr.path(name), []byte(content), 0o755); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr tree) link(target, name string) {
	tr.t.Helper()
	tr.directory(filepath.Dir(name))
	if err := os.Symlink(target, tr.path(name)); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr tree) remove(name string) {
	tr.t.Helper()
	if err := os.RemoveAll(tr.path(name)); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr tree) id(name string) linux.FileID {
	tr.t.Helper()
	id, err := linux.StatID(tr.path(name))
	if err != nil {
		tr.t.Fatal(err)
	}
	return id
}

// look is the probe of a path as it is now.
func (tr tree) look(call, name string) Probe {
	tr.t.Helper()
	path := name
	if !strings.HasPrefix(name, "/") {
		path = tr.path(name)
	}
	_, err := linux.StatID(path)
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		tr.t.Fatal(err)
	}
	return Probe{Call: call, Path: path, Errno: errno}
}

// probes are openat of each of the names as they are now.
func (tr tree) probes(names ...string) []Probe {
	var probes []Probe
	for _, name := range names {
		probes = append(probes, tr.look("openat", name))
	}
	return probes
}

func (tr tree) paths(names ...string) []string {
	var paths []string
	for _, name := range names {
		paths = append(paths, tr.path(name))
	}
	return paths
}

// sort is FromProbes of the tree's program.
func (tr tree) sort(probes []Probe, mapped ...string) (*Dependencies, error) {
	mapped = append(tr.paths("bin/prog", "lib/ld.so"), mapped...)
	return FromProbes(tr.path("bin/prog"), tr.path("lib/ld.so"), probes, mapped)
}
