package elfinfo

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLookPath(t *testing.T) {
	top := t.TempDir()
	file := func(name string, mode os.FileMode) string {
		path := filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first, second, here := file("a/p", 0o755), file("b/p", 0o755), file("cwd/p", 0o755)
	file("b/plain", 0o644)
	file("b/directory/x", 0o644)
	file("c/directory", 0o755)
	if err := os.Symlink(second, filepath.Join(top, "c/link")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Join(top, "cwd"))

	a, b, c := filepath.Join(top, "a"), filepath.Join(top, "b"), filepath.Join(top, "c")
	for _, tc := range []struct {
		name, path, program, want string
		kind                      Kind
	}{
		{"first directory wins", a + ":" + b, "p", first, 0},
		{"next directory", c + ":" + b, "p", second, 0},
		{"empty element is here", ":" + a, "p", here, 0},
		{"empty element last", c + ":", "p", here, 0},
		{"relative element", "../a", "p", top + "/cwd/../a/p", 0},
		{"link is not resolved", c, "link", c + "/link", 0},
		{"directories are passed over", b + ":" + c, "directory", c + "/directory", 0},
		{"slash: not searched", a, "./p", here, 0},
		{"slash: made absolute", a, "../b//p", top + "/cwd/../b/p", 0},
		{"slash: need not exist", a, "/none/p", "/none/p", 0},
		{"slash at the end", a, "p/", top + "/cwd/p/", 0},
		{"found nowhere", a + ":" + b, "none", "", NotFound},
		{"not executable", b, "plain", "", NotExecutable},
		{"no name", b, "", "", NotFound},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("PATH", tc.path)
			got, err := LookPath(tc.program)
			if tc.kind == 0 {
				if err != nil || got != tc.want {
					t.Errorf("LookPath(%q) = %q, %v; want %q", tc.program, got, err, tc.want)
				}
				return
			}
			var r *Refusal
			if !errors.As(err, &r) || r.Kind != tc.kind {
				t.Errorf("LookPath(%q) = %q, %v; want %v", tc.program, got, err, tc.kind)
			}
		})
	}
}

func TestLookPathHints(t *testing.T) {
	t.Setenv("PATH", "/nowhere")
	_, err := LookPath("ffmpg")
	var r *Refusal
	if !errors.As(err, &r) || r.Error() != "ffmpg is in no directory of PATH" || !strings.Contains(r.Hint, `"/nowhere"`) {
		t.Errorf("%v, %+v", err, r)
	}
}

func TestLookPathFromNowhere(t *testing.T) {
	here := t.TempDir() + "/gone"
	if err := os.Mkdir(here, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(here)
	if err := os.Remove(here); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PWD", "")
	var r *Refusal
	if _, err := LookPath("./p"); !errors.As(err, &r) || r.Kind != NotFound || !strings.Contains(r.Reason, "current directory") || r.Hint == "" {
		t.Errorf("%v", err)
	}
}

func TestLookPathWithoutPATH(t *testing.T) {
	t.Setenv("PATH", "") // restores it afterwards
	os.Unsetenv("PATH")
	if got, err := LookPath("sh"); err != nil || got != "/bin/sh" {
		t.Errorf("LookPath(sh) = %q, %v", got, err)
	}
}
