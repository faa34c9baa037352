package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/integration/kit"
)

// TestWarmPrivileged: under a filter of system calls, with privileges that it was given, or on
// other CPUs a start is a normal one.
func TestWarmPrivileged(t *testing.T) {
	identity := []string{"identity"}
	warmPython(t).try(t, []warmCase{
		{name: "seccomp", args: identity, options: []string{"--filter-errno", "169"}, normal: "filtered (seccomp)"},
		{name: "AT_SECURE", args: identity, options: []string{"--real-user", "65534"}, normal: saysNothing},
		{name: "no new privileges", args: identity, options: []string{"--no-new-privileges"}},
		{name: "another user's", args: identity, options: []string{"--user", fmt.Sprint(kit.Nobody.ID)}, normal: kit.Either},
		{name: "a user namespace", args: identity, options: []string{"--user-namespace"}, normal: kit.Either},
		{name: "a time namespace", args: []string{"helped"}, options: []string{"--time-namespace", "1000"}, normal: kit.Either},
		{name: "without randomisation", args: []string{"helped"}, options: []string{"--personality", kit.NoRandomisation}, normal: kit.Either},
		{name: "little address space", args: []string{"helped"}, options: []string{"--limit", kit.LimitAS, "300000000"}, normal: kit.Either},
	})
}

// TestWarmOfAnotherUser: a user makes a warm image of his own, which no other user can start
// from or read.
func TestWarmOfAnotherUser(t *testing.T) {
	alice, bob := kit.NewAccounts(t)
	t.Parallel()
	alice.Env = []string{"RESIDENTCTL_CRIU=" + kit.CapableCRIU(t)}
	program := python(t, "#!/usr/bin/python3")
	alice.Does(t, "add", "--warm", "--even-if-slower", "--train", "few", program)
	// Others may look into his home and his store: what keeps them out is the image's mode.
	for _, dir := range []string{alice.Home, filepath.Join(alice.Home, ".local"), filepath.Join(alice.Home, ".local", "share"), alice.Store()} {
		kit.Chmod(t, dir, 0o755)
	}
	for _, test := range []struct {
		kit.Account
		want string
	}{{alice, "resident start: "}, {bob, "started normally: "}, {kit.Account{Name: "root"}, "started normally: "}} {
		test.Env = append(test.Env, "HOME="+alice.Home) // the last one counts
		r := kit.Finish(t, test.Command(t, "run", "--explain", "--store", alice.Store(), program, "pid"))
		if how, why := explained(r.Stderr); r.Code != 0 || !strings.HasPrefix(how+": "+why, test.want) {
			t.Errorf("as %s: %v\nwant %s", test.Name, r, test.want)
		}
	}
	dir := filepath.Join(alice.Store(), "images")
	if found := kit.Finish(t, bob.Exec(t, "/usr/bin/find", dir, "-type", "f", "-readable", "-size", "+4k")); strings.TrimSpace(found.Stdout) != "" {
		t.Errorf("bob can read %s", found.Stdout)
	}
}

// TestWarmOfRoot: root's warm image is root's only: another user's start is a normal one.
func TestWarmOfRoot(t *testing.T) {
	w := *warmPython(t)
	w.user = kit.Nobody
	w.try(t, []warmCase{{args: []string{"identity"}, normal: kit.Either}})
	o, how, why := w.start(t, warmCase{args: []string{"pid"}}, true, filepath.Join(kit.Dir(t), "work"))
	if how != "started normally" {
		t.Errorf("%s: %s\n%v", how, why, o)
	}
	var read []string
	err := filepath.WalkDir(w.Dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasPrefix(path, filepath.Join(w.Dir, "images")) {
			if info, err := d.Info(); err == nil && info.Mode().Perm()&0o077 != 0 {
				read = append(read, path+" "+info.Mode().String())
			}
		}
		return err
	})
	if err != nil || len(read) > 0 {
		t.Errorf("others may read %q (%v)", read, err)
	}
}

// waitingPython starts the case that waits, plainly or from its image.
func waitingPython(t *testing.T, w *warmed, warm bool, dir string) *exec.Cmd {
	t.Helper()
	w.emptied(t, dir)
	cmd := w.command(t, t.Context(), warmCase{args: []string{"waiting"}}, warm, dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// TestWarmDebuggers: gdb finds in a warm process, and in a core of one, what it finds in a
// plain one's.
func TestWarmDebuggers(t *testing.T) {
	gdb := kit.Installed(t, "gdb")
	w := warmPython(t)
	dir := filepath.Join(kit.Dir(t), "work")
	examine := func(args ...string) string {
		t.Helper()
		output, err := exec.Command(gdb, append([]string{"--batch", "-nx", "-iex", "set debuginfod enabled off", "-iex", "set auto-load off"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("gdb: %v\n%s", err, output)
		}
		return string(output)
	}
	calls := []string{"-ex", "print (int)PyGILState_Ensure()", "-ex",
		`print (int)PyRun_SimpleString("import sys; sys.stderr = sys.stdout; crash_data[0] = 2")`, "-ex", "call (void)PyGILState_Release(1)", "-ex", "detach"}
	look := []string{"-ex", "info sharedlibrary", "-ex", "bt", "-ex", "info threads"}
	frame := regexp.MustCompile(`(?m)^#\d+ .*\b(main|_start|Py_RunMain|select|clock_nanosleep)\b`)
	for _, warm := range []bool{false, true} {
		t.Run(fmt.Sprintf("attached, warm %v", warm), func(t *testing.T) {
			cmd := waitingPython(t, w, warm, dir)
			said := examine(append(append([]string{"-p", fmt.Sprint(cmd.Process.Pid)}, look...), calls...)...)
			if !strings.Contains(said, "libc.so.6") || !frame.MatchString(said) || !strings.Contains(said, "$2 = 0") {
				t.Errorf("gdb says:\n%s", said)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("after gdb: %v", err)
			}
		})
		t.Run(fmt.Sprintf("gcore, warm %v", warm), func(t *testing.T) {
			cmd := waitingPython(t, w, warm, dir)
			core := filepath.Join(dir, "core")
			if output, err := exec.Command("gcore", "-o", core, fmt.Sprint(cmd.Process.Pid)).CombinedOutput(); err != nil {
				t.Fatalf("gcore: %v\n%s", err, output)
			}
			core += fmt.Sprintf(".%d", cmd.Process.Pid)
			if said := examine(append([]string{"/usr/bin/python3", core}, look...)...); !strings.Contains(said, "libc.so.6") || !frame.MatchString(said) {
				t.Errorf("gdb says of the core:\n%s", said)
			}
		})
	}
	t.Run("core", func(t *testing.T) {
		if pattern := strings.TrimSpace(read(t, "/proc/sys/kernel/core_pattern")); pattern != "core" {
			t.Skipf("cores do not go to the working directory here, but to %q", pattern)
		}
		var said [2]string
		for i, warm := range []bool{false, true} {
			o, _, _ := w.start(t, warmCase{args: []string{"aborted"}, shell: "ulimit -c unlimited"}, warm, dir)
			if !strings.HasPrefix(o.Status, "signal: aborted") {
				t.Errorf("warm %v: %v", warm, o)
			}
			cores, _ := filepath.Glob(filepath.Join(dir, "core*"))
			if len(cores) != 1 {
				t.Fatalf("cores: %q", cores)
			}
			said[i] = examine("/usr/bin/python3", cores[0], "-ex", "frame function abort", "-ex", "print $_siginfo.si_signo", "-ex", "info symbol $pc", "-ex", "info sharedlibrary")
			libraries := regexp.MustCompile(`(?m)^0x\S+ +0x\S+ +\S+( \(\*\))? +(\S+)$`).FindAllStringSubmatch(said[i], -1)
			said[i] = said[i][strings.Index(said[i], "\n#0"):strings.Index(said[i], "From  ")]
			said[i] = regexp.MustCompile(`0x[0-9a-f]+|LWP \d+`).ReplaceAllString(said[i], "")
			if len(libraries) < 4 {
				t.Errorf("warm %v: libraries %q", warm, libraries)
			}
		}
		if diff := cmp.Diff(said[0], said[1]); diff != "" {
			t.Errorf("gdb of a core, plain (-) and warm (+):\n%s", diff)
		}
	})
}
