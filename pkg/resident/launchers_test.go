package resident

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/pkg/registry"
)

// writtenLaunchers makes a program with a link to it, in directories of the test's own,
// and its launcher files in a store.
func writtenLaunchers(t *testing.T) (m *Manager, rec registry.Record, top string) {
	t.Helper()
	m, dir := emptyStore(t), t.TempDir()
	program, alias := filepath.Join(mkdir(t, filepath.Join(dir, "usr/bin")), "program-1.0"), filepath.Join(dir, "bin", "program")
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"bin": "usr/bin", "usr/bin/program": "program-1.0"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	rec = enter(t, m, program)
	rec.Paths = []string{alias}
	if err := m.writeLaunchers(rec); err != nil {
		t.Fatal(err)
	}
	return m, rec, m.store.LaunchersDir(rec.Binary.Inode())
}

// contents are the paths of all files and links below a directory, from there.
func contents(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, path[len(dir):])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestLauncherFileOfEachName: there is one under each name, and nothing else; a name's own
// links are followed no further.
func TestLauncherFileOfEachName(t *testing.T) {
	m, rec, top := writtenLaunchers(t)
	want := slices.Sorted(slices.Values(rec.Names()))
	if diff := cmp.Diff(want, contents(t, top)); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	for _, name := range rec.Names() {
		if info, err := os.Lstat(filepath.Join(top, name)); err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if faults, exact := m.launcherFaults(rec); !exact || len(faults) > 0 {
		t.Errorf("exact: %v; %q", exact, faults)
	}
	if err := os.WriteFile(filepath.Join(top, rec.Program), []byte("other"), 0o755); err != nil {
		t.Fatal(err)
	}
	if faults, _ := m.launcherFaults(rec); len(faults) != 1 {
		t.Errorf("changed: %q", faults)
	}
}

// TestMirrorIsTakenAway: what older versions made around a launcher file, links to the
// originals beside it and links among the names, goes when the launcher files are written
// again, and the originals stay.
func TestMirrorIsTakenAway(t *testing.T) {
	m, rec, top := writtenLaunchers(t)
	dir := filepath.Dir(filepath.Dir(rec.Paths[0])) // of bin and usr
	original := filepath.Join(dir, "usr", "share")
	if err := os.WriteFile(original, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.RemoveAll(filepath.Join(top, dir, "bin")),
		os.Symlink("usr/bin", filepath.Join(top, dir, "bin")),
		os.Symlink("program-1.0", filepath.Join(top, dir, "usr/bin/program")),
		os.Symlink(original, filepath.Join(top, original)),
		os.Symlink("/etc", filepath.Join(top, "etc")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	mirror := filepath.Join(top, dir, "usr/lib") // one of a directory, where a launcher file's is to be
	if err := os.Symlink(dir, mirror); err != nil {
		t.Fatal(err)
	}
	third := filepath.Join(mkdir(t, filepath.Join(dir, "usr/lib")), "program")
	if err := os.Link(rec.Program, third); err != nil {
		t.Fatal(err)
	}
	rec.Paths = append(rec.Paths, third)
	if err := m.writeLaunchers(rec); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(rec.Names())), contents(t, top)); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	want := []string{"/bin", "/usr/bin/program", "/usr/bin/program-1.0", "/usr/lib/program", "/usr/share"}
	if diff := cmp.Diff(want, contents(t, dir)); diff != "" {
		t.Errorf("of the originals: want (-), got (+):\n%s", diff)
	}
	if text, err := os.ReadFile(original); string(text) != "text" || err != nil {
		t.Errorf("an original holds %q, %v", text, err)
	}
}
