package integration

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
)

// TestSelfExe: programs that look for their files relative to their own path, or
// execute themselves again by it, do the same for everybody.
func TestSelfExe(t *testing.T) {
	s := sharedStore(t)
	const class = `public class Main { public static void main(String[] a) throws Exception {
		System.out.println(System.getProperty("java.home") + " " + ProcessHandle.current().info().command().get());
		Process p = new ProcessBuilder(ProcessHandle.current().info().command().get(), "-version").inheritIO().start();
		System.exit(p.waitFor() + 5); } }`
	quick := []string{"JAVA_TOOL_OPTIONS=-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
	for _, test := range []struct {
		program  string
		commands []command
	}{
		{"java", []command{
			{name: "class", args: []string{"Main.java"}, env: quick, inputs: map[string]string{"Main.java": class}},
		}},
		{"javac", []command{
			{name: "compile", args: []string{"Main.java"}, env: quick, inputs: map[string]string{"Main.java": class}, outputs: []string{"Main.class"}},
		}},
		{"node", []command{
			{name: "version", args: []string{"--version"}},
			{name: "again", args: []string{"-e", `
const fs = require('fs'), path = require('path'), own = path.dirname(process.execPath);
console.log(process.execPath, process.argv0, fs.readdirSync(own).length, fs.readdirSync(path.join(own, '..')).length);
console.log(require('child_process').execFileSync(process.execPath, ['-p', 'process.execPath + process.version']).toString());
const modules = path.resolve(own, '../lib/node_modules');
if (fs.existsSync(modules)) for (const m of fs.readdirSync(modules)) console.log(m, require(path.join(modules, m, 'package.json')).version);
const c = require('child_process').fork('child.js'); c.on('exit', code => process.exit(code))`},
				inputs: map[string]string{"child.js": `console.log(process.execPath); process.exit(4)`}},
		}},
		{"perl", []command{
			{name: "version", args: []string{"-v"}},
			{name: "again", args: []string{"-e", `print "$^X $0\n"; print qx{$^X -e 'print \$^X, 1 + 1'}; exec $^X, '-e', 'print "again\n"; exit 6'`}},
		}},
		{"gcc", []command{
			{name: "version", args: []string{"--version"}},
			{name: "where", args: []string{"-print-search-dirs", "-print-prog-name=cc1"}},
			{name: "link", args: []string{"-o", "out", "main.c", "-lm"}, outputs: []string{"out"},
				inputs: map[string]string{"main.c": "#include <stdio.h>\n#include <math.h>\nint main(int c, char **v) { return printf(\"%f %s\", sin(c), v[0]); }\n"}},
			{name: "optimised at link time", args: []string{"-flto", "-O2", "-c", "main.c"}, inputs: map[string]string{"main.c": "int main(void) { return 0; }\n"}},
		}},
		{"python3", []command{
			{name: "version", args: []string{"--version"}},
			{name: "where", args: []string{"-c", "import sys, sysconfig; print(sys.executable, sys._base_executable, sys.prefix, sys.exec_prefix, sys.path, sysconfig.get_paths())"}},
			{name: "venv", args: []string{"-c", `
import subprocess, sys
subprocess.run([sys.executable, '-m', 'venv', '--without-pip', 'v'], check=True)
print(subprocess.run(['v/bin/python', '-c', 'import sys; print(sys.executable, sys.prefix, sys.base_prefix)'], capture_output=True, check=True))`},
				outputs: []string{"v/pyvenv.cfg"}},
		}},
		{"ruby", []command{
			{name: "version", args: []string{"--version"}},
			{name: "again", args: []string{"-e", `require 'rbconfig'; puts RbConfig.ruby, $0, Gem.ruby, $:; exec RbConfig.ruby, '-e', 'puts RbConfig::CONFIG["prefix"]; exit 3'`}},
		}},
		{"git", []command{
			{name: "where", args: []string{"--exec-path"}},
			{name: "again", args: []string{"-c", "alias.again=!git --exec-path; git --html-path", "again"}},
		}},
	} {
		t.Run(test.program, func(t *testing.T) {
			s.compare(t, installed(t, test.program), test.commands)
		})
	}
}

// lookaround is a program in bin/ of a folder of its own, with what belongs to it,
// and with other names.
func lookaround(t *testing.T) (program, alias, other string) {
	t.Helper()
	dir := folder(t)
	for _, name := range []string{"bin", "share", "names"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program = filepath.Join(dir, "bin", "selfexe-1.0")
	// Without the run path of other fixtures, which binds an image to one folder.
	built := filepath.Join(temporary, "selfexe")
	compile(t, built, fixtureSource("selfexe"))
	copyFile(t, built, program)
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
	s := newStore(t, folder(t))
	program, alias, other := lookaround(t)
	through := filepath.Join(filepath.Dir(filepath.Dir(program)), "sbin", "selfexe-1.0")
	names := []string{program, alias, other, through}
	s.do(t, append([]string{"add", "--even-if-slower"}, names...)...)
	for _, name := range names {
		s.compare(t, name, []command{
			{name: filepath.Base(name)},
			{name: filepath.Base(name) + " again", args: []string{"again"}},
			{name: filepath.Base(name) + " normally", env: []string{"LD_BIND_NOW=1"}},
		})
	}
	s.clean(t)

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
		s.compare(t, program, []command{{name: "changed"}})
	}

	// Nothing but the names' launcher files belongs beside them.
	stray := []string{filepath.Join(s.launchers(program), program+".stray"), filepath.Join(s.launchers(program), dir, "wrong")}
	if err := os.WriteFile(stray[0], nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "wrong"), stray[1]); err != nil {
		t.Fatal(err)
	}
	s.do(t, "gc")
	for _, path := range stray {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	s.compare(t, program, []command{{name: "after gc"}})
	s.clean(t)
	s.do(t, "remove", "--all")
	if _, err := os.Stat(program); err != nil {
		t.Errorf("the original: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(s.dir, "launchers")); len(left) > 0 || err != nil {
		t.Errorf("left of the launchers: %v, %v", left, err)
	}
}

// clean fails if gc would remove anything.
func (s *store) clean(t *testing.T) {
	t.Helper()
	var plan struct {
		Items []struct {
			Path string `json:"path"`
		} `json:"items"`
	}
	said := s.do(t, "--format", "json", "gc", "--dry-run")
	if err := json.Unmarshal([]byte(said), &plan); err != nil || strings.Contains(said, s.dir) {
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
	s := newStore(t, folder(t))
	looker, _, _ := lookaround(t)
	archive := filepath.Join(folder(t), "archive")
	copyFile(t, looker, archive)
	f, err := os.OpenFile(archive, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("contents"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	other := installed(t, "true")
	s.do(t, "add", "--even-if-slower", looker, archive, other)
	explained := func(c command) command {
		c.env = []string{"RESIDENTCTL_EXPLAIN=1"}
		return c
	}
	// No child can be made, and so no other way to set it.
	const alone = "ulimit -u 1"
	for program, c := range map[string]command{looker: {}, archive: {args: []string{"payload"}}} {
		lonely := c
		lonely.shell = alone
		for _, w := range surroundedWays {
			s.requireResident(t, w, root, program, c)
			s.requireResident(t, w, nobody, program, c)
			for _, u := range users {
				if diff := cmp.Diff(s.start(t, plain, u, program, c), s.start(t, w, u, program, c)); diff != "" {
					t.Errorf("%s: plain (-) and %s (+) differ:\n%s", u.name, w.name, diff)
				}
			}
			if w.ownExe {
				continue // the kernel has set it
			}
			if diff := cmp.Diff(s.start(t, plain, nobody, program, lonely), s.start(t, w, nobody, program, lonely)); diff != "" {
				t.Errorf("without a child: plain (-) and %s (+) differ:\n%s", w.name, diff)
			}
			if got := s.start(t, w, nobody, program, explained(lonely)).Stderr; !strings.Contains(got, normallyWithoutExe) ||
				strings.Contains(got, "resident start") {
				t.Errorf("%s without a child says %q", w.name, got)
			}
			if got := s.start(t, w, nobody, program, explained(c)).Stderr; cannotSetExe == "" && !strings.Contains(got, "resident start") {
				t.Errorf("%s says %q", w.name, got)
			}
		}
	}
	for _, w := range []way{byLauncher, byRun} {
		if got := s.start(t, w, nobody, other, explained(command{shell: alone})).Stderr; !strings.Contains(got, "resident start") {
			t.Errorf("%s of a program that does not look at itself, without a child, says %q", w.name, got)
		}
	}
}

// TestAddedWithoutUserNamespaces: a program that looks at itself and was made resident
// where a setting forbids user namespaces is started normally for ordinary users, until a
// refresh finds that they are allowed.
func TestAddedWithoutUserNamespaces(t *testing.T) {
	if cannotSetExe != "" {
		t.Skip(cannotSetExe)
	}
	s := newStore(t, folder(t))
	program, _, _ := lookaround(t)
	zero := filepath.Join(folder(t), "0")
	if err := os.WriteFile(zero, []byte("0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const forbidden = `mount --bind "$0" /proc/sys/user/max_user_namespaces && exec "$@"`
	add := exec.Command("unshare", append([]string{"--mount", "sh", "-c", forbidden, zero}, s.command("add", "--even-if-slower", program).Args...)...)
	if said, err := add.CombinedOutput(); err != nil {
		t.Fatalf("add: %v\n%s", err, said)
	}
	says := func(w way, u user) string {
		return s.start(t, w, u, program, command{env: []string{"RESIDENTCTL_EXPLAIN=1"}}).Stderr
	}
	want := s.start(t, plain, nobody, program, command{})
	for _, w := range []way{byLauncher, byRun} {
		s.requireResident(t, w, root, program, command{})
		if got := says(w, nobody); !strings.Contains(got, normallyWithoutExe) {
			t.Errorf("%s says %q", w.name, got)
		}
		if diff := cmp.Diff(want, s.start(t, w, nobody, program, command{})); diff != "" {
			t.Errorf("plain (-) and %s (+) differ:\n%s", w.name, diff)
		}
	}
	s.do(t, "refresh", "--all")
	for _, w := range []way{byLauncher, byRun} {
		s.requireResident(t, w, nobody, program, command{})
	}
}

// TestDamagedSections: a program whose section headers are cut off starts resident where
// /proc/self/exe can be set.
func TestDamagedSections(t *testing.T) {
	s := newStore(t, folder(t))
	program := filepath.Join(folder(t), "cut")
	copyFile(t, fixture(t, "args"), program)
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(program, info.Size()-100); err != nil {
		t.Fatal(err)
	}
	s.do(t, "add", "--even-if-slower", program)
	s.requireResident(t, byRun, root, program, command{})
	if r := s.verify(t, program, "link"); !r.OK {
		t.Errorf("verify: %v", r.Failures)
	}
	c := command{shell: "ulimit -u 1", env: []string{"RESIDENTCTL_EXPLAIN=1"}}
	if got := s.start(t, byLauncher, nobody, program, c); got.Status != "exit status 0" || !strings.Contains(got.Stderr, normallyWithoutExe) {
		t.Errorf("without a child: %v", got)
	}
}

// TestOwnFile: what runs cannot be written (ETXTBSY), and goes on knowing its path
// when its entry is gone.
func TestOwnFile(t *testing.T) {
	if cannotSetExe != "" {
		t.Skip(cannotSetExe)
	}
	for _, u := range users {
		for _, w := range []way{byLauncher, byRun} {
			t.Run(w.name+", "+u.name, func(t *testing.T) {
				s := newStore(t, folder(t))
				program := filepath.Join(folder(t), "crash")
				copyFile(t, fixture(t, "crash"), program)
				s.do(t, "add", "--even-if-slower", program)
				s.requireResident(t, w, u, program, command{args: []string{"none"}})
				process := startAttached(t, s, w, u, program)
				if f, err := os.OpenFile(program, os.O_WRONLY, 0); !errors.Is(err, syscall.ETXTBSY) {
					f.Close()
					t.Errorf("open for writing: %v", err)
				}
				s.do(t, "remove", program)
				link := fmt.Sprintf("/proc/%d/exe", process.cmd.Process.Pid)
				if exe, err := os.Readlink(link); err != nil || exe != program {
					t.Errorf("%s is %s, %v", link, exe, err)
				}
			})
		}
	}
}
