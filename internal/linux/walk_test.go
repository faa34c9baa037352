package linux

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestWalkFollowsAsTheKernelDoes: every entry that leads to a file is visited, links
// and what they lead through included.
func TestWalkFollowsAsTheKernelDoes(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.MkdirAll(filepath.Join(base, "real", "deep"), 0o755),
		os.WriteFile(filepath.Join(base, "real", "deep", "file"), nil, 0o644),
		os.Symlink("real/deep/..", filepath.Join(base, "relative")),
		os.Symlink(filepath.Join(base, "relative"), filepath.Join(base, "absolute")),
		os.Symlink("circle", filepath.Join(base, "circle")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		path string
		want string // entries below base
		err  error
	}{
		{"real/deep/file", "real real/deep real/deep/file", nil},
		{"./real//deep/../deep/", "real real/deep real/deep", nil},
		{"absolute/deep", "absolute relative real real/deep real/deep", nil},
		{"circle", "circle", unix.ELOOP},
		{"real/none/x", "real real/none", unix.ENOENT},
		{"real/deep/file/x", "real real/deep real/deep/file", unix.ENOTDIR},
	} {
		var visited []string
		at, fd, err := Walk("", base+"/"+test.path, func(s Step) error {
			var in unix.Stat_t
			if err := unix.Fstat(s.FD, &in); err != nil || in.Ino != s.In.Ino {
				t.Errorf("%s: not the directory of the descriptor (%v)", s.Dir, err)
			}
			var entry unix.Stat_t
			if s.Stat != nil && (unix.Fstat(s.Open, &entry) != nil || entry.Ino != s.Stat.Ino) {
				t.Errorf("%s in %s: not the entry of the descriptor", s.Name, s.Dir)
			}
			if at, err := filepath.Rel(base, filepath.Join(s.Dir, s.Name)); err == nil && filepath.IsLocal(at) && at != "." {
				if len(visited) == 0 || visited[len(visited)-1] != at || test.err == nil {
					visited = append(visited, at)
				}
			}
			return nil
		})
		if got := strings.Join(visited, " "); got != test.want && !errors.Is(err, unix.ELOOP) || !errors.Is(err, test.err) {
			t.Errorf("%s: visited %s, %v", test.path, cmp.Diff(test.want, got), err)
		}
		if err != nil {
			continue
		}
		var got, want unix.Stat_t
		if err := errors.Join(unix.Fstat(fd, &got), unix.Stat(base+"/"+test.path, &want)); err != nil || got.Ino != want.Ino {
			t.Errorf("%s: the descriptor is of another file (%v)", test.path, err)
		}
		if real, err := filepath.EvalSymlinks(base + "/" + test.path); err != nil || at != real {
			t.Errorf("%s: it arrives at %s, not %s (%v)", test.path, at, real, err)
		}
		unix.Close(fd)
	}
	refused := errors.New("refused")
	if _, _, err := Walk("", base, func(Step) error { return refused }); !errors.Is(err, refused) {
		t.Error(err)
	}
}

// TestWalkStartsAtADirectory: a relative path leads on from it, and nothing is visited of
// what leads to it.
func TestWalkStartsAtADirectory(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.MkdirAll(filepath.Join(base, "in", "deep"), 0o755),
		os.Symlink("../beside", filepath.Join(base, "in", "link")),
		os.WriteFile(filepath.Join(base, "beside"), nil, 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]struct{ visited, at string }{
		"deep": {"in/deep", "in/deep"},
		"link": {"in/link beside", "beside"},
		"..":   {"", "."},
		"":     {"", "in"},
	} {
		var visited []string
		at, fd, err := Walk(filepath.Join(base, "in"), path, func(s Step) error {
			rel, err := filepath.Rel(base, filepath.Join(s.Dir, s.Name))
			visited = append(visited, rel)
			return err
		})
		if got := strings.Join(visited, " "); err != nil || got != want.visited || at != filepath.Join(base, want.at) {
			t.Errorf("%q: visited %q, arrived at %s (%v)", path, got, at, err)
			continue
		}
		unix.Close(fd)
	}
	for _, from := range []string{"", "in"} {
		if _, _, err := Walk(from, "deep", func(Step) error { return nil }); !errors.Is(err, unix.EINVAL) {
			t.Errorf("from %q: %v", from, err)
		}
	}
}
