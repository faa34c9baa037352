package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/pkg/plan"
)

// TestShims starts programs by name from a shell that has the shims first in its
// PATH, and compares with one that has not: argv[0], comm, the path that the
// program finds itself by, output and status.
func TestShims(t *testing.T) {
	s := kit.SharedStore(t)
	for _, test := range []struct{ program, script string }{
		{"perl", `perl -MPOSIX -e 'open F, "/proc/self/comm"; print "$0 ", POSIX::floor(2.5), " ", <F>; exit 7'`},
		{"bash", `bash -c 'echo $0 $((1 + 1)); cat /proc/$$/comm; kill -TERM $$'`},
		{"bash", `printf '#!/usr/bin/env bash\necho $0 "$@"\n' >script; chmod +x script; ./script a 'b c'`},
		{"python3", `python3 -c 'import json, sys; print(json.dumps(sys.argv), sys.prefix)'`},
		{"python3", `python3 -m venv --without-pip v && v/bin/python -c 'import sys; print(sys.executable, sys.prefix, sys.base_prefix)'`},
	} {
		program := kit.Installed(t, test.program)
		enable := s.Command("enable", "--even-if-slower", program)
		enable.Env = append(os.Environ(), "PATH=/usr/bin:/bin:/usr/sbin:/usr/local/sbin")
		if out, err := enable.CombinedOutput(); err != nil {
			t.Fatalf("enable: %v\n%s", err, out)
		}
		for _, u := range kit.Users {
			t.Run(test.program+", "+u.Name, func(t *testing.T) {
				shell := kit.Command{Args: []string{"-c", test.script}, Env: []string{"PATH=/usr/bin:/bin"}}
				want := s.Start(t, kit.Plain, u, "/bin/sh", shell)
				shell.Env = []string{"PATH=" + s.Shims() + ":/usr/bin:/bin"}
				if diff := cmp.Diff(want, s.Start(t, kit.Plain, u, "/bin/sh", shell)); diff != "" {
					t.Errorf("plain (-) and through a shim (+) differ:\n%s", diff)
				}
				shell = kit.Command{Args: []string{"-c", test.program + " </dev/null"}, Env: append(shell.Env, "RESIDENTCTL_EXPLAIN=1")}
				if how, why := kit.Explanation(s.Start(t, kit.Plain, u, "/bin/sh", shell).Stderr); how != "resident start" {
					t.Errorf("%s: %s", how, why)
				}
			})
		}
	}
}

// TestShimRefused: a program that finds itself in PATH, and its files from there, gets no
// shim, and is resident all the same.
func TestShimRefused(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	gcc := kit.Installed(t, "gcc")
	enable := s.Command("enable", "--even-if-slower", gcc)
	enable.Env = append(os.Environ(), "PATH=/usr/bin:/bin")
	said, err := enable.CombinedOutput()
	if err == nil || !strings.Contains(string(said), " looks for its files where it finds itself in PATH") {
		t.Errorf("enable: %v\n%s", err, said)
	}
	if _, err := os.Lstat(filepath.Join(s.Shims(), "gcc")); err == nil {
		t.Error("there is a shim")
	}
	s.RequireResident(t, kit.ByRun, kit.Root, gcc, kit.Command{Args: []string{"--version"}})
}

// A world for one shim: directories of PATH with programs that say their name.
type shimWorld struct {
	*kit.Store
	first, second string // directories of PATH after the shims
	source        string
	env           []string // added
}

const speaking = `#include <stdio.h>
int main(int n, char **v) { printf("%s %s", WORD, v[0]); while (*++v) printf(" %s", *v); puts(""); return n; }
`

func newShimWorld(t *testing.T) *shimWorld {
	t.Helper()
	dir := kit.Dir(t)
	w := &shimWorld{Store: kit.NewStore(t, filepath.Join(dir, "data")), first: filepath.Join(dir, "first"), second: filepath.Join(dir, "second")}
	w.source = filepath.Join(dir, "speaking.c")
	if err := os.WriteFile(w.source, []byte(speaking), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{w.first, w.second} {
		if err := os.Mkdir(f, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// build puts a program in its place as an upgrade does, by rename.
func (w *shimWorld) build(t *testing.T, path, word string) {
	t.Helper()
	kit.Compile(t, path+".new", w.source, fmt.Sprintf("-DWORD=%q", word))
	delete(kit.BuiltFiles, path+".new")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (w *shimWorld) path() string {
	return "PATH=" + strings.Join([]string{w.Shims(), w.first, w.second, "/usr/bin", "/bin"}, ":")
}

// enable is residentctl enable with that PATH.
func (w *shimWorld) enable(t *testing.T, program string) {
	t.Helper()
	c := w.Command("enable", "--even-if-slower", program)
	c.Env = append(os.Environ(), w.path())
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("enable: %v\n%s", err, out)
	}
}

// calls calls "speak" from shells and by execvp(3), as root and as nobody, with
// PATH and with the shims taken out of it; both have to say the same, and how the
// start was made.
func (w *shimWorld) calls(t *testing.T, want, how string) {
	t.Helper()
	for _, u := range kit.Users {
		for _, call := range [][]string{
			{"/bin/sh", "-c", "speak a 'b c'; exit $?"},
			{"/bin/bash", "-c", "speak a 'b c'; exit $?"},
			{"/usr/bin/env", "speak", "a", "b c"},
		} {
			start := func(path string) kit.Outcome {
				return w.Start(t, kit.Plain, u, call[0], kit.Command{Args: call[1:], Env: append([]string{path}, w.env...)})
			}
			through := start(w.path())
			without := start(strings.Replace(w.path(), w.Shims()+":", "", 1))
			through.Stderr, without.Stderr = "", "" // each shell has its own words for "not found"
			if diff := cmp.Diff(without, through); diff != "" || strings.TrimSuffix(through.Stdout, "\n") != want {
				t.Errorf("%s, %s: want %q: without (-) and through the shims (+):\n%s", u.Name, call[0], want, diff)
			}
		}
		if how == "" {
			continue
		}
		r := w.Start(t, kit.Plain, u, "/usr/bin/env", kit.Command{Args: []string{"speak"}, Env: append([]string{w.path(), "RESIDENTCTL_EXPLAIN=1"}, w.env...)})
		if is, why := kit.Explanation(r.Stderr); is != how {
			t.Errorf("%s: %s (%s), want %s", u.Name, is, why, how)
		}
	}
}

// state is what status says of the shim, "" if there is none.
func (w *shimWorld) state(t *testing.T) string {
	t.Helper()
	c := w.Command("--format", "json", "status")
	c.Env = append(os.Environ(), w.path())
	out, err := c.Output()
	var all []struct {
		Shims []struct{ State string }
	}
	if jsonErr := json.Unmarshal(out, &all); err != nil || jsonErr != nil || len(all) != 1 {
		t.Fatalf("status: %v, %v\n%s", err, jsonErr, out)
	}
	if len(all[0].Shims) == 0 {
		return ""
	}
	return all[0].Shims[0].State
}

func (w *shimWorld) wantState(t *testing.T, want string) {
	t.Helper()
	if got := w.state(t); got != want {
		t.Errorf("status says %q, want %q", got, want)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// TestShimsFollowTheSystem: a program is upgraded, moved, shadowed and removed, and
// a shim does what the shell would have done without it.
func TestShimsFollowTheSystem(t *testing.T) {
	const resident, normal = "resident start", "started normally"
	w := newShimWorld(t)
	speak := filepath.Join(w.first, "speak")
	w.build(t, speak, "one")
	w.enable(t, "speak")
	w.calls(t, "one speak a b c", resident)
	w.wantState(t, "resident")

	// Upgraded, by rename as by a package manager.
	w.build(t, speak, "two")
	w.calls(t, "two speak a b c", normal)
	w.wantState(t, "normal")
	w.Do(t, "add", "--even-if-slower", speak)
	w.calls(t, "two speak a b c", resident)
	w.build(t, speak, "three")
	w.Do(t, "refresh")
	w.calls(t, "three speak a b c", resident)
	w.wantState(t, "resident")
	wantClean(t, w.Store)

	// Another one comes to stand before it, and goes away again.
	before := filepath.Join(filepath.Dir(w.first), "first.old")
	rename(t, w.first, before)
	if err := os.Mkdir(w.first, 0o755); err != nil {
		t.Fatal(err)
	}
	rename(t, filepath.Join(before, "speak"), filepath.Join(w.second, "speak")) // moved
	w.calls(t, "three speak a b c", normal)
	w.wantState(t, "other")
	w.enable(t, "speak") // where it is now
	w.calls(t, "three speak a b c", resident)
	w.build(t, speak, "in front")
	w.calls(t, "in front speak a b c", normal)
	w.wantState(t, "other")
	if err := os.Chmod(speak, 0o644); err != nil {
		t.Fatal(err)
	}
	w.calls(t, "three speak a b c", resident) // a file that cannot be executed is passed over
	kit.Remove(t, speak)
	w.calls(t, "three speak a b c", resident)

	// A script comes to stand there, without a first line.
	if err := os.WriteFile(speak, []byte("echo script $0 \"$@\"\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.calls(t, "script "+speak+" a b c", normal)
	kit.Remove(t, speak)

	// Two stores' shims, and their directories more than once: never round in circles.
	other := kit.NewStore(t, filepath.Join(filepath.Dir(w.first), "other"))
	c := other.Command("enable", "--even-if-slower", filepath.Join(w.second, "speak"))
	c.Env = append(os.Environ(), w.path())
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	circle := strings.Join([]string{w.Shims(), other.Shims() + "/", w.Shims(), w.first, other.Shims(), w.Shims()}, ":")
	for _, env := range [][]string{nil, {"LD_BIND_NOW=1"}} {
		for _, gone := range []bool{false, true} {
			path := "PATH=" + circle + ":" + w.second
			if gone {
				path = "PATH=" + circle
			}
			for _, u := range kit.Users {
				r := w.Start(t, kit.Plain, u, "/usr/bin/env", kit.Command{Args: []string{"speak"}, Env: append([]string{path}, env...)})
				if r.Stdout != "three speak\n" {
					t.Errorf("%s, %v, %s: %+v", u.Name, env, path, r)
				}
			}
		}
	}

	// Removed: nothing of that name is left, with one that cannot be a program too.
	kit.Remove(t, filepath.Join(w.second, "speak"))
	r := w.Start(t, kit.Plain, kit.Nobody, "/usr/bin/env", kit.Command{Args: []string{"speak"}, Env: []string{"PATH=" + circle + ":" + w.second}})
	if r.Status != "exit status 127" || !strings.Contains(r.Stderr, "not found") {
		t.Errorf("%+v", r)
	}
	w.calls(t, "", "started normally")
	w.Do(t, "gc")
	w.wantState(t, "waiting")
	wantClean(t, w.Store)
	w.calls(t, "", "")

	// And there again, as another file.
	w.build(t, filepath.Join(w.second, "speak"), "four")
	w.Do(t, "refresh")
	w.wantState(t, "resident")
	w.calls(t, "four speak a b c", resident)
	wantClean(t, w.Store)
}

// TestShimsOfABrokenStore: a store that is gone or shut is passed over.
func TestShimsOfABrokenStore(t *testing.T) {
	w := newShimWorld(t)
	speak := filepath.Join(w.first, "speak")
	w.build(t, speak, "one")
	w.enable(t, "speak")
	for name, breaks := range map[string]func() error{
		"index gone":     func() error { return os.RemoveAll(filepath.Join(w.Dir, "index")) },
		"images gone":    func() error { return os.RemoveAll(filepath.Join(w.Dir, "images")) },
		"launchers gone": func() error { return os.RemoveAll(filepath.Join(w.Dir, "launchers")) },
		"shut":           func() error { return os.Chmod(w.Dir, 0o700) },
		"gone":           func() error { return os.RemoveAll(w.Dir) },
	} {
		t.Run(name, func(t *testing.T) {
			saved := w.Dir + ".saved"
			if out, err := exec.Command("cp", "-a", w.Dir, saved).CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
			if err := breaks(); err != nil {
				t.Fatal(err)
			}
			w.calls(t, "one speak a b c", "")
			kit.Remove(t, w.Dir)
			rename(t, saved, w.Dir)
		})
	}

	// A shim that leads nowhere is gc's.
	w.Do(t, "remove", "speak")
	w.wantState(t, "")
	kit.Symlink(t, "../launchers/1-2/usr/bin/speak", filepath.Join(w.Shims(), "speak"))
	w.calls(t, "one speak a b c", "")
	w.wantState(t, "dangling")
	w.Do(t, "gc")
	w.wantState(t, "")
	wantClean(t, w.Store)
}

// TestShimsInLongDirectories: the launcher puts a short path together in other memory
// than a long one, and looks into every directory all the same.
func TestShimsInLongDirectories(t *testing.T) {
	w := newShimWorld(t)
	w.build(t, filepath.Join(w.second, "speak"), "resident")
	w.enable(t, "speak")
	other := filepath.Join(kit.Dir(t), "other")
	w.build(t, other, "other")
	base := kit.Dir(t)
	for _, length := range []int{253, 254, 255, 256, 257, 258, 1000, 4090} {
		dir := base
		for rest := length - len("/speak") - len(dir); rest > 0; rest = length - len("/speak") - len(dir) {
			if rest > 201 {
				rest = 200 // and at least a slash and a character are left
			}
			dir += "/" + strings.Repeat("x", rest-1)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		w.first = dir
		w.calls(t, "resident speak a b c", "resident start")
		kit.CopyFile(t, other, filepath.Join(dir, "speak"))
		w.calls(t, "other speak a b c", "started normally")
		kit.Remove(t, filepath.Join(dir, "speak"))
	}
}

// What must be linked again is found in the same way.
func TestShimsAndLinkEnvironment(t *testing.T) {
	w := newShimWorld(t)
	w.build(t, filepath.Join(w.first, "speak"), "one")
	w.build(t, filepath.Join(w.second, "speak"), "two")
	w.enable(t, "speak")
	w.env = []string{"LD_BIND_NOW=1"}
	w.calls(t, "one speak a b c", "started normally")
	kit.Remove(t, filepath.Join(w.first, "speak"))
	w.calls(t, "two speak a b c", "started normally")
}

// What a wrapper does first: it says that it is one, and gives up before it would go
// round for ever.
const wrapper = `#!/bin/bash
depth=${depth}x; export depth; [ ${#depth} -lt 20 ] || exit 98
echo -n "wrapped "
# The next of my name in PATH that is not I.
next() { IFS=:; for d in $PATH; do [ -x "$d/speak" ] && [ ! "$d/speak" -ef "$0" ] && echo "$d/speak" && return; done; }
`

// TestShimsAndWrappers: a program of the same name that stands before the enabled one
// looks for the next in PATH itself. The shim must not lead back to it.
func TestShimsAndWrappers(t *testing.T) {
	w := newShimWorld(t)
	speak := filepath.Join(w.second, "speak")
	w.build(t, speak, "one")
	w.enable(t, "speak")
	elf := filepath.Join(kit.Dir(t), "elf")
	const source = `#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	char *path = strdup(getenv("PATH")), *directory, next[4096], self[4096] = "", real[4096], depth[24];
	int n = getenv("depth") ? atoi(getenv("depth")) : 0, status = 0;

	if (n++ > 20)
		return 98;
	sprintf(depth, "%d", n);
	setenv("depth", depth, 1);
	printf("wrapped ");
	fflush(stdout);
	readlink("/proc/self/exe", self, sizeof(self) - 1);
	while ((directory = strsep(&path, ":"))) {
		snprintf(next, sizeof(next), "%s/speak", directory);
		if (access(next, X_OK) || !realpath(next, real) || !strcmp(real, self))
			continue;
		if (fork() == 0)
			return execv(next, argv);
		wait(&status);
		return WEXITSTATUS(status);
	}
	return argc;
}
`
	if err := os.WriteFile(elf+".c", []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	kit.Compile(t, elf, elf+".c")
	binary, err := os.ReadFile(elf)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ content, want string }{
		"exec":      {wrapper + `exec -a speak "$(next)" "$@"`, "wrapped one speak a b c"},
		"fork":      {wrapper + `(exec -a speak "$(next)" "$@"); exit $?`, "wrapped one speak a b c"},
		"fork in C": {string(binary), "wrapped one speak a b c"},
		// As pyenv: its own directory is passed over, and a directory more comes first in PATH.
		"manager": {wrapper + `found=$(PATH=${PATH//"${0%/*}":/} command -v speak)
			PATH=/usr/local/nowhere:$PATH exec -a speak "$found" "$@"`, "wrapped one speak a b c"},
		// What it calls by its own name is itself.
		"nested":       {wrapper + `[ "$1" = end ] || { echo; exec speak end; }; echo $1`, "wrapped \nwrapped end"},
		"nested, fork": {wrapper + `[ "$1" = end ] || { echo; speak end; exit $?; }; echo $1`, "wrapped \nwrapped end"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(w.first, "speak"), []byte(test.content), 0o755); err != nil {
				t.Fatal(err)
			}
			for _, env := range [][]string{nil, {"LD_BIND_NOW=1"}} {
				w.env = env
				w.calls(t, test.want, "started normally") // the first that says how
			}
			w.env = nil
			if !strings.Contains(test.want, "one") {
				return
			}
			// It is the wrapper that is executed, and its program starts from its image.
			for _, u := range kit.Users {
				r := w.Start(t, kit.Plain, u, "/usr/bin/env", kit.Command{Args: []string{"speak"}, Env: []string{w.path(), "RESIDENTCTL_EXPLAIN=1"}})
				if !strings.Contains(r.Stderr, speak+": resident start") {
					t.Errorf("%s: %+v", u.Name, r)
				}
			}
			// Of another store's shims between them, and by their names with a slash more.
			other := kit.NewStore(t, filepath.Join(kit.Dir(t), "other"))
			c := other.Command("enable", "--even-if-slower", speak)
			c.Env = append(os.Environ(), "PATH="+w.second+":/usr/bin:/bin")
			if out, err := c.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, path := range [][]string{
				{w.Shims(), other.Shims(), w.first, w.second},
				{other.Shims() + "/", w.Shims(), w.Shims() + "//", w.first, w.Shims(), w.second, other.Shims()},
				{w.Shims(), w.first, other.Shims(), w.second, w.first},
				{w.Shims(), w.first, w.second, ""},
			} {
				for _, script := range []string{"speak a 'b c'", `exec "$0" --filter-errno 169 -- /usr/bin/env env speak a 'b c'`} {
					r := w.Start(t, kit.Plain, kit.Root, "/bin/sh", kit.Command{Args: []string{"-c", script, kit.Fixture(t, "situation")},
						Env: []string{"PATH=" + strings.Join(path, ":") + ":/usr/bin:/bin"}})
					if r.Stdout != test.want+"\n" {
						t.Errorf("%s: %s: %+v", path, script, r)
					}
				}
			}
		})
	}
}

// TestShimsAndWrappersByPath: a wrapper that is called by its path finds the shim as the
// next of its name. If its directory comes after the shims, the shim executes it once
// more; in front of them, or in no directory of PATH, it runs as without shims.
func TestShimsAndWrappersByPath(t *testing.T) {
	w := newShimWorld(t)
	w.build(t, filepath.Join(w.second, "speak"), "one")
	w.enable(t, "speak")
	elsewhere := kit.Dir(t)
	for _, dir := range []string{w.first, elsewhere} {
		if err := os.WriteFile(filepath.Join(dir, "speak"), []byte(wrapper+`exec -a speak "$(next)" "$@"`), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		dir, want string
		path      []string
	}{
		{w.first, "wrapped one", []string{w.first, w.second}},
		{w.first, "wrapped wrapped one", []string{w.Shims(), w.first, w.second}},
		{w.first, "wrapped one", []string{w.first, w.Shims(), w.second}},
		{elsewhere, "wrapped one", []string{w.Shims(), w.second}},
	} {
		for _, u := range kit.Users {
			r := w.Start(t, kit.Plain, u, filepath.Join(tc.dir, "speak"), kit.Command{Args: []string{"a", "b c"},
				Env: []string{"PATH=" + strings.Join(tc.path, ":") + ":/usr/bin:/bin"}})
			if r.Stdout != tc.want+" speak a b c\n" {
				t.Errorf("%s, %s: %+v, want %s", u.Name, tc.path, r, tc.want)
			}
		}
	}
}

// TestShimsPath: another program gets the directories of PATH in another order and is not
// otherwise touched; the program itself gets all as it is.
func TestShimsPath(t *testing.T) {
	w := newShimWorld(t)
	speak := filepath.Join(w.second, "speak")
	w.build(t, speak, "one")
	w.enable(t, "speak")
	if err := os.WriteFile(filepath.Join(w.first, "speak"), []byte("#!/bin/sh\nexec /usr/bin/env"), 0o755); err != nil {
		t.Fatal(err)
	}
	behind := strings.Join([]string{w.first, w.Shims(), w.second, "/usr/bin", "/bin"}, ":")
	for path, want := range map[string]string{
		strings.TrimPrefix(w.path(), "PATH="):                           behind,
		"/nowhere::" + strings.TrimPrefix(w.path(), "PATH=") + ":":      "/nowhere::" + behind + ":",
		w.Shims() + "/:" + w.Shims() + ":" + w.first:                    w.first + ":" + w.Shims() + "/:" + w.Shims(),
		w.Shims() + ":" + w.second + ".no:" + w.first + ":" + w.Shims(): w.second + ".no:" + w.first + ":" + w.Shims() + ":" + w.Shims(),
	} {
		env := func(path string) string {
			r := w.Start(t, kit.Plain, kit.Nobody, "/usr/bin/env", kit.Command{Args: []string{"A=1", "speak"}, Env: []string{"B=2", "PATH=" + path, "C=3"}})
			return r.Stdout
		}
		got := env(path)
		plain := env(w.first + ":" + path)
		if got == "" || strings.Replace(plain, "PATH="+w.first+":"+path, "PATH="+want, 1) != got {
			t.Errorf("with PATH=%s:\n%swant\n%s", path, got, want)
		}
	}
}

// TestShimsAndEnvironments: a virtual environment's python is a link to the enabled one,
// and is not the same: by the link it knows where it belongs.
func TestShimsAndEnvironments(t *testing.T) {
	w := newShimWorld(t)
	w.enable(t, kit.Installed(t, "python3"))
	venv := filepath.Join(kit.Dir(t), "venv")
	if out, err := exec.Command("/usr/bin/python3", "-m", "venv", "--without-pip", venv).CombinedOutput(); err != nil {
		t.Skipf("there are no virtual environments here: %v\n%s", err, out)
	}
	for _, u := range kit.Users {
		for _, path := range []string{venv + "/bin:" + w.Shims(), w.Shims() + ":" + venv + "/bin"} {
			r := w.Start(t, kit.Plain, u, "/bin/sh", kit.Command{Args: []string{"-c", "python3 -c 'import sys; print(sys.prefix, sys.executable)'"}, Env: []string{"PATH=" + path + ":/usr/bin:/bin"}})
			if want := venv + " " + venv + "/bin/python3\n"; r.Stdout != want {
				t.Errorf("%s, %s: %+v, want %s", u.Name, path, r, want)
			}
		}
	}
}

// TestShimsMakeEnvironments: a python that was called by its shim finds itself there, so
// a virtual environment that it makes links to the shim, and ends with it.
func TestShimsMakeEnvironments(t *testing.T) {
	w := newShimWorld(t)
	python := kit.Installed(t, "python3")
	w.enable(t, python)
	shim := filepath.Join(w.Shims(), "python3")
	byShim, byPath := filepath.Join(kit.Dir(t), "venv"), filepath.Join(kit.Dir(t), "venv")
	said := func(want, script string, args ...string) {
		t.Helper()
		r := w.Start(t, kit.Plain, kit.Root, "/bin/sh", kit.Command{Args: append([]string{"-c", script, "sh"}, args...),
			Env: []string{"PATH=" + w.Shims() + ":/usr/bin:/bin"}})
		if r.Stdout != want+"\n" {
			t.Errorf("%s: %+v, want %s", script, r, want)
		}
	}
	const show, where = ` -c 'import sys; print(sys.executable)'`, ` -c 'import sys; print(sys.prefix)'`
	said(shim, "python3"+show)
	said(python, python+show)
	if r := w.Start(t, kit.Plain, kit.Root, "/bin/sh", kit.Command{Args: []string{"-c", python + ` -m venv --without-pip "$1" && python3 -m venv --without-pip "$2"`, "sh", byPath, byShim},
		Env: []string{"PATH=" + w.Shims() + ":/usr/bin:/bin"}}); r.Status != "exit status 0" {
		t.Skipf("there are no virtual environments here: %+v", r)
	}
	said(shim, `readlink "$1/bin/python3"`, byShim)
	said(python, `readlink "$1/bin/python3"`, byPath)
	said(byShim, `"$1/bin/python3"`+where, byShim)
	said(byPath, `"$1/bin/python3"`+where, byPath)

	w.Do(t, "disable", "python3")
	said("no", `"$1/bin/python3"`+where+" || echo no", byShim)
	said(byPath, `"$1/bin/python3"`+where, byPath)
	// As the help of enable has it.
	said(byShim, `ln -sf `+python+` "$1/bin/python3" && "$1/bin/python3"`+where, byShim)
}

// launcherOfAnotherVersion makes a launcher file one for plans of another version, which it returns.
// The version is compared in the plan's header: cmpl $VERSION, 8(REGISTER).
func launcherOfAnotherVersion(t *testing.T, raw []byte) byte {
	t.Helper()
	const other = plan.Version + 1
	compared := -1
	for at := 3; at+1 < len(raw); at++ {
		if raw[at] == 8 && raw[at+1] == plan.Version && (raw[at-2] == 0x83 || raw[at-3] == 0x83 && raw[at-1] == 0x24) {
			compared = at + 1
		}
	}
	mark := fmt.Appendf(nil, "RESCONF%d", plan.Version)
	if compared < 0 || !bytes.Contains(raw, mark) {
		t.Fatal("the launcher compares the version of a plan in a way that this test does not know")
	}
	raw[compared] = other
	copy(raw[bytes.Index(raw, mark):], fmt.Appendf(nil, "RESCONF%d", other))
	return other
}

// TestShimsOfAnotherVersion: what another version of residentctl has made still starts by
// its launcher file, and not by the front door. status and list say so, gc leaves it
// alone, and refresh makes it again.
func TestShimsOfAnotherVersion(t *testing.T) {
	const resident, normal = "resident start", "started normally"
	w := newShimWorld(t)
	speak := filepath.Join(w.first, "speak")
	w.build(t, speak, "one")
	w.enable(t, "speak")
	launchers, err := filepath.Glob(filepath.Join(w.Dir, "launchers", "*", speak))
	if err != nil || len(launchers) != 1 {
		t.Fatal(launchers, err)
	}
	plans, err := filepath.Glob(filepath.Join(w.Dir, "images", "*", "plan"))
	if err != nil || len(plans) != 1 {
		t.Fatal(plans, err)
	}
	other := plan.Version
	changeFile(t, launchers[0], func(raw []byte) { other = int(launcherOfAnotherVersion(t, raw)) })
	w.calls(t, "one speak a b c", normal)
	w.wantState(t, "normal")
	changeFile(t, plans[0], func(raw []byte) { raw[8] = byte(other) })
	w.calls(t, "one speak a b c", resident)
	w.wantState(t, "resident")
	if got := w.Do(t, "list"); !strings.Contains(got, "  another version of residentctl made it") {
		t.Errorf("list: %s", got)
	}
	if got := w.Do(t, "gc"); !strings.Contains(got, "(kept)") || !strings.Contains(got, "0 items removed") {
		t.Errorf("gc: %s", got)
	}
	w.calls(t, "one speak a b c", resident)
	w.build(t, speak, "two")
	w.calls(t, "two speak a b c", normal)
	w.wantState(t, "normal")
	w.Do(t, "refresh")
	w.calls(t, "two speak a b c", resident)
	w.wantState(t, "resident")
	wantClean(t, w.Store)
}

// changeFile puts a changed copy in place of a file, with its mode.
func changeFile(t *testing.T, path string, change func([]byte)) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	change(raw)
	if err := os.WriteFile(path+".new", raw, info.Mode().Perm()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(path+".new", info.Mode().Perm()), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}
