package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/integration/kit"
)

// TestSelfExe: programs that look for their files relative to their own path, or
// execute themselves again by it, do the same for every user.
func TestSelfExe(t *testing.T) {
	s := kit.SharedStore(t)
	const class = `public class Main { public static void main(String[] a) throws Exception {
		System.out.println(System.getProperty("java.home") + " " + ProcessHandle.current().info().command().get());
		Process p = new ProcessBuilder(ProcessHandle.current().info().command().get(), "-version").inheritIO().start();
		System.exit(p.waitFor() + 5); } }`
	quick := []string{"JAVA_TOOL_OPTIONS=-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
	slice := kit.Today(t, 2)
	for i, test := range []struct {
		program  string
		commands []kit.Command
	}{
		{"java", []kit.Command{
			{Name: "class", Args: []string{"Main.java"}, Env: quick, Inputs: map[string]string{"Main.java": class}},
		}},
		{"javac", []kit.Command{
			{Name: "compile", Args: []string{"Main.java"}, Env: quick, Inputs: map[string]string{"Main.java": class}, Outputs: []string{"Main.class"}},
		}},
		{"node", []kit.Command{
			{Name: "version", Args: []string{"--version"}},
			{Name: "again", Args: []string{"-e", `
const fs = require('fs'), path = require('path'), own = path.dirname(process.execPath);
console.log(process.execPath, process.argv0, fs.readdirSync(own).length, fs.readdirSync(path.join(own, '..')).length);
console.log(require('child_process').execFileSync(process.execPath, ['-p', 'process.execPath + process.version']).toString());
const modules = path.resolve(own, '../lib/node_modules');
if (fs.existsSync(modules)) for (const m of fs.readdirSync(modules)) console.log(m, require(path.join(modules, m, 'package.json')).version);
const c = require('child_process').fork('child.js'); c.on('exit', code => process.exit(code))`},
				Inputs: map[string]string{"child.js": `console.log(process.execPath); process.exit(4)`}},
		}},
		{"perl", []kit.Command{
			{Name: "version", Args: []string{"-v"}},
			{Name: "again", Args: []string{"-e", `print "$^X $0\n"; print qx{$^X -e 'print \$^X, 1 + 1'}; exec $^X, '-e', 'print "again\n"; exit 6'`}},
		}},
		{"gcc", []kit.Command{
			{Name: "version", Args: []string{"--version"}},
			{Name: "where", Args: []string{"-print-search-dirs", "-print-prog-name=cc1"}},
			{Name: "link", Args: []string{"-o", "out", "main.c", "-lm"}, Outputs: []string{"out"},
				Inputs: map[string]string{"main.c": "#include <stdio.h>\n#include <math.h>\nint main(int c, char **v) { return printf(\"%f %s\", sin(c), v[0]); }\n"}},
			{Name: "optimised at link time", Args: []string{"-flto", "-O2", "-c", "main.c"}, Inputs: map[string]string{"main.c": "int main(void) { return 0; }\n"}},
		}},
		{"python3", []kit.Command{
			{Name: "version", Args: []string{"--version"}},
			{Name: "where", Args: []string{"-c", "import sys, sysconfig; print(sys.executable, sys._base_executable, sys.prefix, sys.exec_prefix, sys.path, sysconfig.get_paths())"}},
			{Name: "venv", Args: []string{"-c", `
import subprocess, sys
subprocess.run([sys.executable, '-m', 'venv', '--without-pip', 'v'], check=True)
print(subprocess.run(['v/bin/python', '-c', 'import sys; print(sys.executable, sys.prefix, sys.base_prefix)'], capture_output=True, check=True))`},
				Outputs: []string{"v/pyvenv.cfg"}},
		}},
		{"ruby", []kit.Command{
			{Name: "version", Args: []string{"--version"}},
			{Name: "again", Args: []string{"-e", `require 'rbconfig'; puts RbConfig.ruby, $0, Gem.ruby, $:; exec RbConfig.ruby, '-e', 'puts RbConfig::CONFIG["prefix"]; exit 3'`}},
		}},
		{"git", []kit.Command{
			{Name: "where", Args: []string{"--exec-path"}},
			{Name: "again", Args: []string{"-c", "alias.again=!git --exec-path; git --html-path", "again"}},
		}},
	} {
		if !slice.Has(i) {
			continue
		}
		t.Run(test.program, func(t *testing.T) {
			s.Compare(t, kit.Installed(t, test.program), test.commands)
		})
	}
}

// lookaround is a program in bin/ of a directory of its own, with what belongs to it,
// and with other names.
func lookaround(t *testing.T) (program, alias, other string) {
	t.Helper()
	dir := kit.Dir(t)
	for _, name := range []string{"bin", "share", "names"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program = filepath.Join(dir, "bin", "selfexe-1.0")
	// Without the run path of other fixtures, which binds an image to one directory.
	built := filepath.Join(kit.Temporary, "selfexe")
	kit.Compile(t, built, kit.FixtureSource("selfexe"))
	kit.CopyFile(t, built, program)
	if err := os.WriteFile(filepath.Join(dir, "share", "text"), []byte("found"), 0o644); err != nil {
		t.Fatal(err)
	}
	alias, other = filepath.Join(dir, "bin", "selfexe"), filepath.Join(dir, "names", "another-name")
	for link, to := range map[string]string{
		alias: "selfexe-1.0", other: "../bin/selfexe", filepath.Join(dir, "sbin"): "bin",
	} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	return program, alias, other
}

// TestNamesFindThemselves: by each of its names a program finds itself and what is around
// it where a plain start finds it, resident or not.
func TestNamesFindThemselves(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	program, alias, other := lookaround(t)
	through := filepath.Join(filepath.Dir(filepath.Dir(program)), "sbin", "selfexe-1.0")
	names := []string{program, alias, other, through}
	s.Do(t, append([]string{"add", "--even-if-slower"}, names...)...)
	for _, name := range names {
		s.Compare(t, name, []kit.Command{
			{Name: filepath.Base(name)},
			{Name: filepath.Base(name) + " again", Args: []string{"again"}},
			{Name: filepath.Base(name) + " normally", Env: []string{"LD_BIND_NOW=1"}},
		})
	}
	cleanStore(t, s)

	// It finds what has changed around it too.
	dir := filepath.Dir(program)
	for _, change := range []func() error{
		func() error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o644) },
		func() error { return os.Remove(filepath.Join(dir, "new")) },
		func() error { return os.Rename(filepath.Join(dir, "..", "share"), filepath.Join(dir, "..", "lib")) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		s.Compare(t, program, []kit.Command{{Name: "changed"}})
	}

	// Nothing but the names' launcher files belongs beside them.
	stray := []string{filepath.Join(s.Launchers(program), program+".stray"), filepath.Join(s.Launchers(program), dir, "wrong")}
	if err := os.WriteFile(stray[0], nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "wrong"), stray[1]); err != nil {
		t.Fatal(err)
	}
	s.Do(t, "gc")
	for _, path := range stray {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	s.Compare(t, program, []kit.Command{{Name: "after gc"}})
	cleanStore(t, s)
	s.Do(t, "remove", "--all")
	if _, err := os.Stat(program); err != nil {
		t.Errorf("the original: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(s.Dir, "launchers")); len(left) > 0 || err != nil {
		t.Errorf("left of the launchers: %v, %v", left, err)
	}
}

// clean fails if gc would remove anything.
func cleanStore(t *testing.T, s *kit.Store) {
	t.Helper()
	var plan struct {
		Items []struct {
			Path string `json:"path"`
		} `json:"items"`
	}
	said := s.Do(t, "--format", "json", "gc", "--dry-run")
	if err := json.Unmarshal([]byte(said), &plan); err != nil || strings.Contains(said, s.Dir) {
		t.Errorf("gc would remove: %s (%v)", said, err)
	}
}

// normallyWithoutExe is what a start says that is normal because the program looks at
// itself.
const normallyWithoutExe = "started normally: it looks at itself through /proc/self/exe"

// TestLooksAtItself: a program that looks at its own path, or reads its own file, is
// started normally where /proc/self/exe cannot be set, and so finds itself. Others are
// resident there too.
func TestLooksAtItself(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	looker, _, _ := lookaround(t)
	archive := filepath.Join(kit.Dir(t), "archive")
	kit.CopyFile(t, looker, archive)
	f, err := os.OpenFile(archive, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("contents"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	other := kit.Installed(t, "true")
	s.Do(t, "add", "--even-if-slower", looker, archive, other)
	explained := func(c kit.Command) kit.Command {
		c.Env = []string{"RESIDENTCTL_EXPLAIN=1"}
		return c
	}
	// No child can be made, and so no other way to set it.
	const alone = "ulimit -u 1"
	for program, c := range map[string]kit.Command{looker: {}, archive: {Args: []string{"payload"}}} {
		lonely := c
		lonely.Shell = alone
		for _, w := range kit.SurroundedWays {
			s.RequireResident(t, w, kit.Root, program, c)
			s.RequireResident(t, w, kit.Nobody, program, c)
			for _, u := range kit.Users {
				if diff := cmp.Diff(s.Start(t, kit.Plain, u, program, c), s.Start(t, w, u, program, c)); diff != "" {
					t.Errorf("%s: plain (-) and %s (+) differ:\n%s", u.Name, w.Name, diff)
				}
			}
			if w.OwnExe {
				continue // the kernel has set it
			}
			if diff := cmp.Diff(s.Start(t, kit.Plain, kit.Nobody, program, lonely), s.Start(t, w, kit.Nobody, program, lonely)); diff != "" {
				t.Errorf("without a child: plain (-) and %s (+) differ:\n%s", w.Name, diff)
			}
			if got := s.Start(t, w, kit.Nobody, program, explained(lonely)).Stderr; !strings.Contains(got, normallyWithoutExe) ||
				strings.Contains(got, "resident start") {
				t.Errorf("%s without a child says %q", w.Name, got)
			}
			if got := s.Start(t, w, kit.Nobody, program, explained(c)).Stderr; kit.CannotSetExe == "" && !strings.Contains(got, "resident start") {
				t.Errorf("%s says %q", w.Name, got)
			}
		}
	}
	for _, w := range []kit.Way{kit.ByLauncher, kit.ByRun} {
		if got := s.Start(t, w, kit.Nobody, other, explained(kit.Command{Shell: alone})).Stderr; !strings.Contains(got, "resident start") {
			t.Errorf("%s of a program that does not look at itself, without a child, says %q", w.Name, got)
		}
	}
}

// TestAddedWithoutUserNamespaces: a program that looks at itself and was made resident
// where a setting forbids user namespaces is started normally for ordinary users, until a
// refresh finds that they are allowed.
func TestAddedWithoutUserNamespaces(t *testing.T) {
	if kit.CannotSetExe != "" {
		t.Skip(kit.CannotSetExe)
	}
	s := kit.NewStore(t, kit.Dir(t))
	program, _, _ := lookaround(t)
	zero := filepath.Join(kit.Dir(t), "0")
	if err := os.WriteFile(zero, []byte("0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const forbidden = `mount --bind "$0" /proc/sys/user/max_user_namespaces && exec "$@"`
	add := exec.Command("unshare", append([]string{"--mount", "sh", "-c", forbidden, zero}, s.Command("add", "--even-if-slower", program).Args...)...)
	if said, err := add.CombinedOutput(); err != nil {
		t.Fatalf("add: %v\n%s", err, said)
	}
	says := func(w kit.Way, u kit.User) string {
		return s.Start(t, w, u, program, kit.Command{Env: []string{"RESIDENTCTL_EXPLAIN=1"}}).Stderr
	}
	want := s.Start(t, kit.Plain, kit.Nobody, program, kit.Command{})
	for _, w := range []kit.Way{kit.ByLauncher, kit.ByRun} {
		s.RequireResident(t, w, kit.Root, program, kit.Command{})
		if got := says(w, kit.Nobody); !strings.Contains(got, normallyWithoutExe) {
			t.Errorf("%s says %q", w.Name, got)
		}
		if diff := cmp.Diff(want, s.Start(t, w, kit.Nobody, program, kit.Command{})); diff != "" {
			t.Errorf("plain (-) and %s (+) differ:\n%s", w.Name, diff)
		}
	}
	s.Do(t, "refresh", "--all")
	for _, w := range []kit.Way{kit.ByLauncher, kit.ByRun} {
		s.RequireResident(t, w, kit.Nobody, program, kit.Command{})
	}
}

// TestDamagedSections: a program whose section headers are cut off starts resident where
// /proc/self/exe can be set.
func TestDamagedSections(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	program := filepath.Join(kit.Dir(t), "cut")
	kit.CopyFile(t, kit.Fixture(t, "args"), program)
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(program, info.Size()-100); err != nil {
		t.Fatal(err)
	}
	s.Do(t, "add", "--even-if-slower", program)
	s.RequireResident(t, kit.ByRun, kit.Root, program, kit.Command{})
	if r := s.Verify(t, program, "link"); !r.OK {
		t.Errorf("verify: %v", r.Failures)
	}
	c := kit.Command{Shell: "ulimit -u 1", Env: []string{"RESIDENTCTL_EXPLAIN=1"}}
	if got := s.Start(t, kit.ByLauncher, kit.Nobody, program, c); got.Status != "exit status 0" || !strings.Contains(got.Stderr, normallyWithoutExe) {
		t.Errorf("without a child: %v", got)
	}
}

// TestOwnFile: what runs cannot be written (ETXTBSY), and goes on knowing its path
// when its entry is gone.
func TestOwnFile(t *testing.T) {
	if kit.CannotSetExe != "" {
		t.Skip(kit.CannotSetExe)
	}
	for _, u := range kit.Users {
		for _, w := range []kit.Way{kit.ByLauncher, kit.ByRun} {
			t.Run(w.Name+", "+u.Name, func(t *testing.T) {
				s := kit.NewStore(t, kit.Dir(t))
				program := filepath.Join(kit.Dir(t), "crash")
				kit.CopyFile(t, kit.Fixture(t, "crash"), program)
				s.Do(t, "add", "--even-if-slower", program)
				s.RequireResident(t, w, u, program, kit.Command{Args: []string{"none"}})
				process := startAttached(t, s, w, u, program)
				if f, err := os.OpenFile(program, os.O_WRONLY, 0); !errors.Is(err, syscall.ETXTBSY) {
					f.Close()
					t.Errorf("open for writing: %v", err)
				}
				s.Do(t, "remove", program)
				link := fmt.Sprintf("/proc/%d/exe", process.cmd.Process.Pid)
				if exe, err := os.Readlink(link); err != nil || exe != program {
					t.Errorf("%s is %s, %v", link, exe, err)
				}
			})
		}
	}
}
