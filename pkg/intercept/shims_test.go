package intercept

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestPathLine(t *testing.T) {
	plain, odd := []string{"/a", "/b"}, []string{`/it's "$HOME" \ ! [x]`}
	const inBash = `; [ -z "${BASH_VERSION-}" ] || shopt -s checkhash`
	for _, tc := range []struct {
		shell string
		dirs  []string
		want  string
	}{
		{"sh", plain, `case ":${PATH-}:" in *:'/b':*) ;; *) export PATH='/b'"${PATH:+:$PATH}" ;; esac; ` +
			`case ":${PATH-}:" in *:'/a':*) ;; *) export PATH='/a'"${PATH:+:$PATH}" ;; esac` + inBash},
		{"fish", plain, `contains -- '/b' $PATH; or set -gx PATH '/b' $PATH; contains -- '/a' $PATH; or set -gx PATH '/a' $PATH`},
		{"csh", plain, `if (! (":${PATH}:" =~ *:'/b':*)) setenv PATH '/b':"$PATH"; if (! (":${PATH}:" =~ *:'/a':*)) setenv PATH '/a':"$PATH"`},
		{"sh", odd, `case ":${PATH-}:" in *:'/it'\''s "$HOME" \ ! [x]':*) ;; *) export PATH='/it'\''s "$HOME" \ ! [x]'"${PATH:+:$PATH}" ;; esac` + inBash},
		{"fish", odd, `contains -- '/it\'s "$HOME" \\ ! [x]' $PATH; or set -gx PATH '/it\'s "$HOME" \\ ! [x]' $PATH`},
		{"csh", odd, `if (! (":${PATH}:" =~ *:'/it'\''s "$HOME" \ \! '?'x]':*)) setenv PATH '/it'\''s "$HOME" \ \! [x]':"$PATH"`},
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

// The shells that are there make of the line what was meant, however often they read it.
func TestShellsReadTheLine(t *testing.T) {
	base := t.TempDir()
	own, system := filepath.Join(base, `it's a "$HOME" ! [f]*older%s\`), filepath.Join(base, "system")
	for _, dir := range []string{own, system} {
		if err := os.Mkdir(dir, 0o755); err != nil { // fish leaves out what is not there
			t.Fatal(err)
		}
	}
	for _, name := range []string{"sh", "dash", "bash", "zsh", "mksh", "busybox", "fish", "csh", "bsd-csh", "tcsh"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		for _, tc := range []struct{ before, after string }{
			{"/usr/bin:/bin", own + ":" + system + ":/usr/bin:/bin"},
			// After a directory of wrappers they stay there; the directory of another name is none.
			{"/w:" + own + ":/usr/bin:" + system + "/x", system + ":/w:" + own + ":/usr/bin:" + system + "/x"},
			{"/w:" + system + ":/usr/bin:" + own, "/w:" + system + ":/usr/bin:" + own},
			{system + ":/usr/bin:" + own + "s", own + ":" + system + ":/usr/bin:" + own + "s"},
		} {
			t.Run(name+" "+strings.ReplaceAll(tc.before, base, ""), func(t *testing.T) {
				reads, _ := Shell(path)
				line, err := PathLine(reads, []string{own, system})
				if err != nil {
					t.Fatal(err)
				}
				args := []string{"-c", line + "\n" + line + "\n/usr/bin/printenv PATH"}
				if name == "busybox" {
					args = append([]string{"sh"}, args...)
				}
				cmd := exec.Command(path, args...)
				cmd.Env = []string{"PATH=" + tc.before, "HOME=" + base}
				out, err := cmd.CombinedOutput()
				if err != nil || string(out) != tc.after+"\n" {
					t.Errorf("%s\ngives %q, %v", line, out, err)
				}
			})
		}
	}
}

// An empty PATH gets no empty directory, which would be the current one, and a shell that
// takes unset variables for errors has none.
func TestLineWithoutPath(t *testing.T) {
	line, err := PathLine("sh", []string{"/a"})
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range []string{"PATH=", "set -u; unset PATH"} {
		out, err := exec.Command("/bin/sh", "-c", script+"\n"+line+"\n/usr/bin/printenv PATH").CombinedOutput()
		if err != nil || string(out) != "/a\n" {
			t.Errorf("%s: %q, %v", script, out, err)
		}
	}
}

func TestShell(t *testing.T) {
	for path, want := range map[string]string{
		"/usr/bin/fish": "fish", "/bin/tcsh": "csh", "/bin/csh": "csh", "/bin/bsd-csh": "csh", "/bin/bash": "sh", "/usr/bin/zsh": "sh",
		"bash": "sh", "zsh": "sh", "ksh": "sh", "dash": "sh", "tcsh": "csh", "fish": "fish",
	} {
		if got, known := Shell(path); got != want || !known {
			t.Errorf("%q: %s, known: %v", path, got, known)
		}
	}
	for _, path := range []string{"", "/usr/bin/powershell", "/bash/x"} {
		if got, known := Shell(path); got != "sh" || known {
			t.Errorf("%q: %s, known: %v", path, got, known)
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
