package integration

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/integration/kit"
	stores "github.com/residentctl/residentctl/pkg/store"
)

// warmPoint compiles fixtures/warm-startup.c with macros to a program in dir.
func warmPoint(t testing.TB, dir, name string, macros ...string) string {
	t.Helper()
	kit.RequireCRIU(t)
	program := filepath.Join(dir, name)
	args := []string{"-I../include", "-pthread"}
	for _, m := range macros {
		args = append(args, "-D"+m)
	}
	kit.Compile(t, program, "fixtures/warm-startup.c", args...)
	return program
}

// show runs a command with SHOW set, which has the fixture say how it was started.
func show(t testing.TB, c *exec.Cmd) kit.Result {
	t.Helper()
	if c.Env == nil {
		c.Env = os.Environ()
	}
	c.Env = append(c.Env, "SHOW=1")
	return kit.Finish(t, c)
}

// TestWarmPointVerbs: a program that calls the point itself goes through all verbs.
func TestWarmPointVerbs(t *testing.T) {
	dir := kit.Dir(t)
	s := kit.NewStore(t, filepath.Join(dir, "data"))
	program := warmPoint(t, dir, "point")
	warm := func(words ...string) {
		t.Helper()
		if r := show(t, s.Command(append([]string{"run", "--strict", program}, words...)...)); r.Code != 0 || !strings.HasPrefix(r.Stdout, "warm ") ||
			!strings.HasSuffix(r.Stdout, strings.Join(append([]string{""}, words...), " ")+"\n") {
			t.Fatalf("%q: %v", words, r)
		}
	}

	// A program that is resident already gets a warm image, and keeps it.
	s.Do(t, "add", "--even-if-slower", program)
	if r := show(t, s.Command("run", "--strict", program)); !strings.HasPrefix(r.Stdout, "cold ") {
		t.Fatalf("linked: %v", r)
	}
	s.Do(t, "add", "--warm", program)
	warm("a", "b c")
	if out := s.Do(t, "add", program); !strings.Contains(out, "already resident") {
		t.Errorf("add again: %s", out)
	}
	if out := s.Do(t, "refresh", "--all"); !strings.Contains(out, "made again") {
		t.Errorf("refresh: %s", out)
	}
	warm("again")
	for engine := range knownDifferences {
		if r := s.Verify(t, program, engine); !r.OK || r.Pages < 16 { // the table's
			t.Errorf("verify by %s: %+v", engine, r)
		}
	}

	// Below exec it is a normal start, but by its shim; binfmt_misc cannot start it.
	s.Do(t, "enable", program)
	shim := filepath.Join(s.Shims(), "point")
	for path, want := range map[string]string{program: "cold ", shim: "warm "} {
		if r := show(t, s.Command("exec", "-q", "--", "/bin/sh", "-c", path+" x")); r.Code != 0 || !strings.HasPrefix(r.Stdout, want) {
			t.Errorf("exec of %s: want %q: %v", path, want, r)
		}
	}
	if r := kit.Finish(t, s.Command("enable", "--system", program)); r.Code != 1 || !strings.Contains(r.Stderr, "starts by its launcher file only") {
		t.Errorf("enable --system: %v", r)
	}

	// New times: the image is stale, exec does not renew it, and refresh makes another one.
	id := s.Do(t, "list", "-q")
	touch(t, program)
	s.Do(t, "exec", "-q", "--auto", "--after", "1", "--", program)
	if out := s.Do(t, "list"); !strings.Contains(out, "  stale  ") {
		t.Errorf("after exec: %s", out)
	}
	if out := s.Do(t, "refresh"); !strings.Contains(out, "made again") || s.Do(t, "list", "-q") == id {
		t.Errorf("refresh: %s", out)
	}
	warm()
	s.Do(t, "remove", program)
	wantClean(t, s)
	if left, err := os.ReadDir(filepath.Join(s.Dir, "images")); err != nil || len(left) > 0 {
		t.Errorf("images: %v, %v", left, err)
	}
}

// TestWarmIsOwners: nobody but its owner can read a warm image, and another user's start of
// the program is a normal one.
func TestWarmIsOwners(t *testing.T) {
	alice, _ := kit.NewAccounts(t)
	dir := kit.Dir(t)
	s := kit.NewStore(t, filepath.Join(dir, "data"))
	program := warmPoint(t, dir, "point")
	s.Do(t, "add", "--warm", program)
	image := filepath.Dir(s.Plan(t, program))
	err := filepath.WalkDir(image, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has the mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if r := show(t, alice.Exec(t, s.Launcher(program), "x")); r.Code != 0 || !strings.HasPrefix(r.Stdout, "cold ") {
		t.Errorf("by the launcher file: %v", r)
	}
	if r := show(t, alice.Command(t, "--store", s.Dir, "run", program, "x")); r.Code != 0 || !strings.HasPrefix(r.Stdout, "cold ") {
		t.Errorf("by run: %v", r)
	}
	if got := alice.Lists(t, "--store", s.Dir, "list"); len(got) > 0 {
		t.Errorf("list: %v", got)
	}
}

// TestWarmRefused: what a program does before its point and an image cannot repeat refuses it,
// with a way out where there is one.
func TestWarmRefused(t *testing.T) {
	dir := kit.Dir(t)
	s := kit.NewStore(t, filepath.Join(dir, "data"))
	for _, tc := range []struct{ macro, want, hint string }{
		{"EXECUTES", "executes /usr/bin/", "--accept exec"},
		{`WRITES="/tmp/residentctl-warm-point"`, "writes /tmp/residentctl-warm-point", "--accept write"},
		{"CONNECTS", "uses a socket", "--accept network"},
		{"KEEPS", "it keeps /etc/passwd open", "leave it as it is"},
		{"THREAD", "it has 2 threads at its point", "call the point before threads are started"},
		{"UMASK", "it changes its umask when it starts", "leave it as it is"},
		{"ENDS=0", "ended before it came to its point (exit status 0)", "call residentctl_point()"},
		{"ENDS=3", "ended before it came to its point (exit status 3)", "call residentctl_point()"},
	} {
		name, _, _ := strings.Cut(tc.macro, "=")
		t.Run(tc.macro, func(t *testing.T) {
			program := warmPoint(t, dir, "point-"+strings.ReplaceAll(strings.ToLower(tc.macro), "/", ""), tc.macro)
			r := kit.Finish(t, s.Command("add", "--warm", program))
			if r.Code != 1 || !strings.Contains(r.Stderr, tc.want) || !strings.Contains(r.Stderr, "hint: ") || !strings.Contains(r.Stderr, tc.hint) {
				t.Errorf("want %q and the hint %q: %v", tc.want, tc.hint, r)
			}
			what, accepted := strings.CutPrefix(tc.hint, "--accept ")
			if !accepted {
				return
			}
			s.Do(t, "add", "--warm", "--accept", what, program)
			if out := s.Do(t, "inspect", program); !strings.Contains(out, "accepted:") || !strings.Contains(out, tc.want) {
				t.Errorf("inspect: %s", out)
			}
			if r := show(t, s.Command("run", "--strict", program)); !strings.HasPrefix(r.Stdout, "warm ") {
				t.Errorf("%s: %v", name, r)
			}
		})
	}
	_ = os.Remove("/tmp/residentctl-warm-point")
	wantClean(t, s)
}

// TestWarmDiskFull: where there is no room for a warm image the add says so, and leaves
// nothing.
func TestWarmDiskFull(t *testing.T) {
	dir := kit.Dir(t)
	s := kit.NewStore(t, filepath.Join(dir, "data"))
	program := warmPoint(t, dir, "point")
	s.Do(t, "list")
	s.Do(t, "add", "--even-if-slower", "/bin/true")
	staging := filepath.Join(s.Dir, "staging")
	script := `mount -t tmpfs -o size=64k,mode=755 none "$1"; shift; exec "$@"`
	c := exec.Command("/bin/sh", append([]string{"-c", script, "sh", staging}, s.Command("add", "--warm", program).Args...)...)
	c.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if r := kit.Finish(t, c); r.Code == 0 || !strings.Contains(strings.ToLower(r.Stderr), "no space left on device") || !strings.Contains(r.Stderr, "hint: ") {
		t.Errorf("%v", r)
	}
	wantClean(t, s)
}

// warmPoints are those that only named interpreters come to: when they are added, and when
// they are removed.
var (
	warmPoints     = append(slices.Clone(namedAddPoints), "after-remove-named")
	namedAddPoints = []string{"before-named", "after-named"}
)

// warmChanges are those that make, replace and remove a warm image.
var warmChanges = []change{
	{"add", func(*testing.T, *kit.Store, string) {},
		func(program string) []string { return []string{"add", "--warm", program} }, false},
	{"refresh", func(t *testing.T, s *kit.Store, program string) {
		s.Do(t, "add", "--warm", program)
		s.Do(t, "enable", program)
		alter(t, program)
	}, args("refresh"), true},
	{"remove", func(t *testing.T, s *kit.Store, program string) {
		s.Do(t, "add", "--warm", program)
		s.Do(t, "enable", program)
	}, func(program string) []string { return []string{"remove", program} }, false},
}

// warmCrashStore is crashStore with a program that calls the point.
func warmCrashStore(t *testing.T) (s *kit.Store, program string) {
	t.Helper()
	s, program = crashStore(t)
	kit.CopyFile(t, warmPoint(t, kit.Dir(t), "point"), program)
	return s, program
}

// TestWarmKilled: whatever changes a warm image may be killed at any step. The program starts,
// and gc removes what is left. Each day one of the changes has its turn.
func TestWarmKilled(t *testing.T) {
	kit.RequireCRIU(t)
	slice := kit.Today(t, len(warmChanges))
	for i, c := range warmChanges {
		if !slice.Has(i) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			for _, point := range c.warmPointsOf(t) {
				t.Run(point, func(t *testing.T) {
					s, program := warmCrashStore(t)
					c.before(t, s, program)
					cmd := s.Command(c.args(program)...)
					cmd.Env = append(os.Environ(), stores.FaultEnv+"="+point)
					if !killed(t, cmd) {
						t.Fatal("it was not killed")
					}
					wantWarmSound(t, s, program)
				})
			}
		})
	}
}

// warmPointsOf are the fault points that a change comes to, and at least those of its kind.
func (c change) warmPointsOf(t *testing.T) []string {
	t.Helper()
	s, program := warmCrashStore(t)
	c.before(t, s, program)
	points := faultPoints(t, s, c.args(program)...)
	want := map[string]string{"add": "after-compile", "refresh": "after-record", "remove": "after-delete"}[c.name]
	if !slices.Contains(points, want) {
		t.Errorf("%s did not come to %s: %v", c.name, want, points)
	}
	return points
}

// wantWarmSound is wantSound of a program that is to have a warm image.
func wantWarmSound(t *testing.T, s *kit.Store, program string) {
	t.Helper()
	wantNoProcess(t, program, s.Dir)
	wantStarts(t, s, program)
	s.Do(t, "list")
	s.Do(t, "gc")
	wantClean(t, s)
	s.Do(t, "add", "--warm", program)
	if r := show(t, s.Command("run", "--strict", program, "x")); !strings.HasPrefix(r.Stdout, "warm ") {
		t.Errorf("after another add: %v", r)
	}
	if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) > 0 {
		t.Errorf("left in TMPDIR: %v", left)
	}
}

// TestWarmNamedKilled: the wrapper of an interpreter's name is garbage until there is an entry.
func TestWarmNamedKilled(t *testing.T) {
	const python = "/usr/bin/python3"
	if _, err := os.Stat(python); err != nil {
		t.Skip("no python")
	}
	t.Setenv("TMPDIR", kit.Dir(t))
	s := kit.NewStore(t, kit.Dir(t))
	add := []string{"add", "--warm", "--even-if-slower", "--name", "x", python, "--import", "json"}
	for _, point := range append(slices.Clone(namedAddPoints), "after-dump") {
		cmd := s.Command(add...)
		cmd.Env = append(os.Environ(), stores.FaultEnv+"="+point)
		if !killed(t, cmd) {
			t.Fatalf("%s: it was not killed", point)
		}
		wrapper := filepath.Join(s.Dir, "named", "python3-x")
		if _, err := os.Lstat(wrapper); (err == nil) != (point != "before-named") {
			t.Errorf("%s: %v", point, err)
		}
		s.Do(t, "gc")
		if _, err := os.Lstat(wrapper); err == nil {
			t.Errorf("%s: gc leaves %s", point, wrapper)
		}
		wantClean(t, s)
	}

	// While an add is at work gc leaves its wrapper.
	cmd := s.Command(add...)
	cmd.Env = append(os.Environ(), stores.FaultEnv+"="+stores.FaultStop+"after-dump")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitStopped(t, cmd.Process.Pid)
	s.Do(t, "gc")
	if err := cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("add beside gc: %v", err)
	}

	cmd = s.Command("remove", filepath.Join(s.Dir, "named", "python3-x"))
	cmd.Env = append(os.Environ(), stores.FaultEnv+"=after-remove-named")
	if !killed(t, cmd) {
		t.Fatal("remove was not killed")
	}
	s.Do(t, "gc")
	wantClean(t, s)
}
