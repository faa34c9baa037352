package intercept

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestPathLine(t *testing.T) {
	plain, odd := []string{"/a/shims", "/b/shims"}, []string{`/it's a "$HOME" \ ! folder/shims`}
	for _, tc := range []struct {
		shell string
		dirs  []string
		want  string
	}{
		{"sh", plain, `export PATH='/a/shims:/b/shims':"$PATH"`},
		{"fish", plain, `set -gx PATH '/a/shims' '/b/shims' $PATH`},
		{"csh", plain, `setenv PATH '/a/shims:/b/shims':"$PATH"`},
		{"sh", odd, `export PATH='/it'\''s a "$HOME" \ ! folder/shims':"$PATH"`},
		{"fish", odd, `set -gx PATH '/it\'s a "$HOME" \\ ! folder/shims' $PATH`},
		{"csh", odd, `setenv PATH '/it'\''s a "$HOME" \ \! folder/shims':"$PATH"`},
		{"sh", []string{"/a:b"}, ""},
		{"sh", []string{"/a\nb"}, ""},
		{"cmd.exe", plain, ""},
	} {
		got, err := PathLine(tc.shell, tc.dirs)
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s, %q: %s, %v", tc.shell, tc.dirs, got, err)
		}
	}
}

// The shells that are there make of the line what was meant.
func TestShellsReadTheLine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), `it's a "$HOME" ! folder`)
	if err := os.Mkdir(dir, 0o755); err != nil { // fish leaves out what is not there
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "dash", "bash", "zsh", "busybox", "fish", "csh", "tcsh"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			line, err := PathLine(Shell(path), []string{dir})
			if err != nil {
				t.Fatal(err)
			}
			args := []string{"-c", line + "\nprintenv PATH"}
			if name == "busybox" {
				args = append([]string{"sh"}, args...)
			}
			cmd := exec.Command(path, args...)
			cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + dir}
			out, err := cmd.Output()
			if want := dir + ":/usr/bin:/bin\n"; err != nil || string(out) != want {
				t.Errorf("%s\ngives %q, %v", line, out, err)
			}
		})
	}
}

func TestShell(t *testing.T) {
	for path, want := range map[string]string{
		"/usr/bin/fish": "fish", "/bin/tcsh": "csh", "/bin/csh": "csh", "/bin/bash": "sh", "/usr/bin/zsh": "sh", "": "sh",
	} {
		if got := Shell(path); got != want {
			t.Errorf("%q: %s", path, got)
		}
	}
}

func TestPathPosition(t *testing.T) {
	dir := t.TempDir()
	shims, link := filepath.Join(dir, "shims"), filepath.Join(dir, "link")
	if err := os.Mkdir(shims, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(shims, link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		shims: 1, "/usr/bin:" + shims + "/:/bin": 2, "/usr/bin::" + link: 3, "/usr/bin:/bin": 0, "": 0,
	} {
		t.Setenv("PATH", path)
		if got := PathPosition(shims); got != want {
			t.Errorf("in %s: %d, want %d", strings.ReplaceAll(path, dir, "…"), got, want)
		}
	}
}
