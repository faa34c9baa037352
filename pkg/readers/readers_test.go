package readers

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/fingerprint"
)

func TestRestrict(t *testing.T) {
	type file struct {
		mode, gid uint32
		directory bool
	}
	for _, tc := range []struct {
		name  string
		files []file
		mode  fs.FileMode
		gid   int
	}{
		{"all", []file{{0o755, 0, true}, {0o755, 7, false}}, 0o055, 0},
		{"owner", []file{{0o755, 0, true}, {0o700, 0, false}}, 0, 0},
		{"a group", []file{{0o755, 0, true}, {0o750, 7, false}}, 0o050, 7},
		{"execute only", []file{{0o711, 0, false}}, 0o011, 0},
		{"a group reads", []file{{0o751, 7, false}}, 0o051, 7},
		{"directory that cannot be listed", []file{{0o711, 0, true}, {0o755, 0, false}}, 0o055, 0},
		{"directory that cannot be passed", []file{{0o744, 0, true}, {0o755, 0, false}}, 0, 0},
		{"a group's directory", []file{{0o750, 7, true}, {0o755, 0, false}}, 0o050, 7},
		{"two groups' directories", []file{{0o750, 7, true}, {0o750, 8, true}, {0o755, 0, false}}, 0, 0},
		{"of the same group", []file{{0o750, 7, true}, {0o750, 7, false}}, 0o050, 7},
		{"of another group", []file{{0o750, 7, true}, {0o750, 8, false}}, 0, 0},
		{"all but a group", []file{{0o705, 7, false}}, 0o005, 7},
		{"all but two groups", []file{{0o705, 7, true}, {0o705, 8, false}}, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := Set{Mode: Everyone}
			for _, f := range tc.files {
				st := &syscall.Stat_t{Mode: f.mode, Gid: f.gid}
				if f.directory {
					r.restrict(st, maySeek, bothMay)
					continue
				}
				r.restrict(st, MayRead, MayRead)
				r.restrict(st, maySeek, maySeek)
			}
			if r.Mode != tc.mode || r.Mode>>3&7 != r.Mode&7 && r.GID != tc.gid {
				t.Errorf("mode %03o, group %d; want %03o, %d", r.Mode, r.GID, tc.mode, tc.gid)
			}
		})
	}
}

func TestWay(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"a/b", "c/d"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"a/b/relative": "../../c/d/file",
		"absolute":     filepath.Join(dir, "a/b"),
		"loop":         "loop",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "c/d/file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		path        string
		directories []string // below dir, each at its first place
	}{
		{"c/d/file", []string{"", "c", "c/d"}},
		{"c/./../c//d/file", []string{"", "c", "c/d"}},
		{"a/b/relative", []string{"", "a", "a/b", "c", "c/d"}},
		{"absolute/relative", []string{"", "a", "a/b", "c", "c/d"}},
	} {
		directories, file, err := way(filepath.Join(dir, "x")[:len(dir)+1] + tc.path)
		if err != nil || file != filepath.Join(dir, "c/d/file") {
			t.Errorf("%s leads to %s, %v", tc.path, file, err)
		}
		var below []string
		for _, f := range directories {
			if rel, err := filepath.Rel(dir, f); err == nil && filepath.IsLocal(rel) {
				if rel == "." {
					rel = ""
				}
				if !slices.Contains(below, rel) {
					below = append(below, rel)
				}
			}
		}
		if !slices.Equal(below, tc.directories) {
			t.Errorf("%s: through %q, want %q", tc.path, below, tc.directories)
		}
	}
	for _, path := range []string{"loop", "nowhere/file"} {
		if _, _, err := way(filepath.Join(dir, path)); err == nil {
			t.Errorf("%s leads somewhere", path)
		}
	}
}

// TestAccess: who may use the original may use its like. Only who can reach the
// program can read its launcher file, and no other user a directory.
func TestAccess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "top")
	file, link := filepath.Join(dir, "in", "file"), filepath.Join(filepath.Dir(dir), "link")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(file), link); err != nil {
		t.Fatal(err)
	}
	// All that leads to dir can be passed, wherever the tests are run.
	passable := t.TempDir()
	for _, dir := range []string{passable, filepath.Dir(passable)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r := Set{Mode: Everyone}
	if err := r.reach(passable, maySeek, map[string]bool{}); err != nil || r.Mode != Everyone {
		t.Skip("the temporary directory is not for all users")
	}
	for _, tc := range []struct {
		top, in, file fs.FileMode
		path          string
		want          fs.FileMode
	}{
		{0o755, 0o755, 0o755, file, 0o055},
		{0o755, 0o755, 0o711, file, 0o011},
		{0o755, 0o755, 0o700, file, 0},
		{0o755, 0o755, 0o755, dir, 0o011},
		{0o700, 0o755, 0o755, dir, 0},
		{0o700, 0o755, 0o755, filepath.Dir(file), 0o011},
		{0o700, 0o755, 0o755, link, 0o011},
		{0o755, 0o755, 0o755, link, 0o011},
		{0o755, 0o711, 0o755, filepath.Dir(file), 0o011},
		{0o700, 0o755, 0o755, file, 0o011},
		{0o755, 0o755, 0o755, filepath.Join(link, "file"), 0o055},
		{0o700, 0o755, 0o755, filepath.Join(link, "file"), 0o011},
	} {
		for path, mode := range map[string]fs.FileMode{dir: tc.top, filepath.Dir(file): tc.in, file: tc.file} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		a, err := Access(tc.path)
		if err != nil || a.Mode != tc.want {
			t.Errorf("%o/%o/%o: %s: mode %03o, want %03o, %v", tc.top, tc.in, tc.file, tc.path, a.Mode, tc.want, err)
		}
	}
}

// TestReadersOfWhatIsGone: who could read a file that is gone, or what the kernel
// shows each user differently, is not known.
func TestReadersOfWhatIsGone(t *testing.T) {
	program := fingerprint.File{Path: "/usr/bin/env"}
	there := []fingerprint.Checked{{Path: "/etc/passwd", ID: linux.FileID{Ino: 1}}, {Path: "/no/such/file"}}
	for _, tc := range []struct {
		name string
		deps fingerprint.Dependencies
		mode fs.FileMode
	}{
		{"what is there, and what never was", fingerprint.Dependencies{Linker: program, Checks: there}, Everyone},
		{"gone", fingerprint.Dependencies{Linker: program, Checks: []fingerprint.Checked{{Path: "/no/such/file", ID: linux.FileID{Ino: 1}}}}, 0},
		{"the kernel's", fingerprint.Dependencies{Linker: program, OwnerOnly: true}, 0},
	} {
		if r, err := Of(program.Path, &tc.deps); err != nil || r.Mode != tc.mode {
			t.Errorf("%s: mode %03o, %v; want %03o", tc.name, r.Mode, err, tc.mode)
		}
	}
}
