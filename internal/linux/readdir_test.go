package linux

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ReadDir returns what os.ReadDir does, also of a directory that takes several calls.
func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	for n := range 100 {
		name := filepath.Join(dir, fmt.Sprintf("%d%s", n, strings.Repeat("x", n*2)))
		err := os.WriteFile(name, nil, 0o600)
		if n%3 == 0 {
			err = errors.Join(os.Mkdir(name+"d", 0o700), os.Symlink(".", name+"l"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{dir, t.TempDir(), "/etc"} {
		want, err := os.ReadDir(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadDir(path)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%s: %d names, %v; want %d", path, len(got), err, len(want))
		}
		dirs := map[string]bool{}
		for _, e := range got {
			dirs[e.Name] = e.IsDir
		}
		for _, e := range want {
			if is, ok := dirs[e.Name()]; !ok || is != e.IsDir() {
				t.Errorf("%s/%s: %v, %v", path, e.Name(), ok, is)
			}
		}
	}
	if _, err := ReadDir(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadDir(link); err == nil {
		t.Errorf("a link is followed: %d names", len(got))
	}
}
