package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/internal/seeded"
	"github.com/residentctl/residentctl/pkg/resident"
	stores "github.com/residentctl/residentctl/pkg/store"
)

// A change is a command that changes a store. Before makes the store that it
// works on, and names the program.
type change struct {
	name   string
	before func(t *testing.T, s *kit.Store, program string)
	args   func(program string) []string
	wished bool // the program has a shim before, and must have one afterwards
}

// renewing are the changes that renew an image. What is left when they are killed is for
// refresh to complete, and not for gc to remove.
var renewing = []string{"refresh what has new times", "add a name", "exec"}

func args(words ...string) func(string) []string {
	return func(string) []string { return words }
}

var changes = []change{
	{"add", func(*testing.T, *kit.Store, string) {},
		func(program string) []string { return []string{"add", "--even-if-slower", program} }, false},
	{"add again", func(t *testing.T, s *kit.Store, program string) {
		s.Do(t, "add", "--even-if-slower", program)
		alter(t, program)
	}, func(program string) []string { return []string{"add", "--even-if-slower", program} }, false},
	{"refresh what has new times", func(t *testing.T, s *kit.Store, program string) {
		s.Do(t, "enable", "--even-if-slower", program)
		s.Do(t, "add", "--layouts", "2", program)
		touch(t, program)
	}, args("refresh"), true},
	{"add what was replaced", func(t *testing.T, s *kit.Store, program string) {
		s.Do(t, "enable", "--even-if-slower", program)
		kit.CopyFile(t, program, program+".new")
		if err := os.Rename(program+".new", program); err != nil {
			t.Fatal(err)
		}
	}, func(program string) []string { return []string{"add", "--even-if-slower", program} }, true},
	{"add a name", func(t *testing.T, s *kit.Store, program string) {
		s.Do(t, "add", "--even-if-slower", program)
		if err := os.Symlink(program, program+".link"); err != nil {
			t.Fatal(err)
		}
	}, func(program string) []string { return []string{"add", "--even-if-slower", program + ".link"} }, false},
	{"remove", func(t *testing.T, s *kit.Store, program string) { s.Do(t, "enable", "--even-if-slower", program) },
		args("remove", "--all"), false},
	{"apply", func(t *testing.T, s *kit.Store, program string) {
		configure(t, program, program+" even-if-slower enable", program+".absent")
	}, func(program string) []string { return []string{"apply", program + ".conf"} }, false},
	{"apply of fewer names", func(t *testing.T, s *kit.Store, program string) {
		if err := os.Symlink(program, program+".link"); err != nil {
			t.Fatal(err)
		}
		configure(t, program, program+".link even-if-slower", program+" even-if-slower")
		s.Do(t, "apply", program+".conf")
		configure(t, program, program+" even-if-slower")
	}, func(program string) []string { return []string{"apply", program + ".conf"} }, false},
	{"refresh of what was away", func(t *testing.T, s *kit.Store, program string) {
		s.Do(t, "enable", "--even-if-slower", program)
		rename(t, program, program+".away")
		s.Do(t, "gc")
		rename(t, program+".away", program)
	}, args("refresh"), true},
	{"exec", func(t *testing.T, s *kit.Store, program string) {
		s.Do(t, "add", "--even-if-slower", program)
	}, func(string) []string { return []string{"exec", "/bin/true"} }, false},
	{"gc", func(t *testing.T, s *kit.Store, program string) {
		s.Do(t, "enable", "--even-if-slower", program)
		alter(t, program)
		for _, garbage := range []string{"images/0123456789abcdef", "launchers/1-2", "staging/work-1"} {
			if err := os.Mkdir(filepath.Join(s.Dir, garbage), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("../images/0123456789abcdef/plan", filepath.Join(s.Dir, "index", "1-2")); err != nil {
			t.Fatal(err)
		}
	}, args("gc"), true},
}

// configure writes the file beside a program that names what is to be resident.
func configure(t *testing.T, program string, lines ...string) {
	t.Helper()
	if err := os.WriteFile(program+".conf", []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// alter makes a program another one, which does the same.
func alter(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString("\x00")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// touch gives a file new times, and nothing else.
func touch(t *testing.T, path string) {
	t.Helper()
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		t.Fatal(err)
	}
}

// crashStore is an empty store, and a program of its own.
func crashStore(t *testing.T) (s *kit.Store, program string) {
	t.Helper()
	dir := kit.Dir(t)
	t.Setenv("TMPDIR", kit.Dir(t)) // gc and check look there too
	s = kit.NewStore(t, dir)
	program = filepath.Join(dir, "args")
	kit.CopyFile(t, kit.Fixture(t, "args"), program)
	return s, program
}

// TestKilled: whatever changes a store may be killed at any step. The program
// starts, no process is left, and after gc there is nothing to complain about. Each day half
// of the steps are one change's turn.
func TestKilled(t *testing.T) {
	kit.RequireCRIU(t)
	at := map[string][]change{} // the changes that come to a point
	for _, c := range changes { // not in tests of their own: -run may leave those out
		for _, point := range c.points(t) {
			at[point] = append(at[point], c)
		}
	}
	for _, point := range slices.Concat(stores.FaultPoints, resident.FaultPoints) {
		if slices.Contains(systemPoints, point) || slices.Contains(purgePoints, point) || slices.Contains(warmPoints, point) {
			continue
		}
		t.Run(point, func(t *testing.T) {
			if at[point] == nil {
				t.Fatal("no change comes to it")
			}
			slice := kit.Today(t, 4*len(at[point]))
			for i, c := range at[point] {
				if slice.Has(i) {
					t.Run(c.name, func(t *testing.T) { c.killedAt(t, point) })
				}
			}
		})
	}
}

func (c change) killedAt(t *testing.T, point string) {
	s, program := crashStore(t)
	c.before(t, s, program)
	cmd := s.Command(c.args(program)...)
	cmd.Env = append(os.Environ(), stores.FaultEnv+"="+point)
	if !killed(t, cmd) {
		t.Fatal("it was not killed")
	}
	c.wantSound(t, s, program)
	if c.wished {
		wantShim(t, s, program)
	}
}

// points are the fault points that the change comes to, each once.
func (c change) points(t *testing.T) []string {
	t.Helper()
	s, program := crashStore(t)
	c.before(t, s, program)
	return faultPoints(t, s, c.args(program)...)
}

// faultPoints are the fault points that a command comes to, each once.
func faultPoints(t *testing.T, s *kit.Store, args ...string) []string {
	t.Helper()
	cmd := s.Command(args...)
	cmd.Env = append(os.Environ(), stores.FaultEnv+"="+stores.FaultList)
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, output)
	}
	var points []string
	for line := range strings.Lines(string(output)) {
		if point, ok := strings.CutPrefix(strings.TrimSpace(line), stores.FaultEnv+"="); ok && !slices.Contains(points, point) {
			points = append(points, point)
		}
	}
	return points
}

// killed runs a command and reports whether it was killed; else it must succeed.
func killed(t *testing.T, cmd *exec.Cmd) bool {
	t.Helper()
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Run()
	if err == nil {
		return false
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%s: %v\n%s", cmd, err, &output)
	}
	return true
}

// wantSound is wantSound after a change. What it was renewing is for refresh to complete.
func (c change) wantSound(t *testing.T, s *kit.Store, program string) {
	t.Helper()
	if slices.Contains(renewing, c.name) {
		wantStarts(t, s, program)
		s.Do(t, "gc")
		s.Do(t, "refresh")
	}
	wantSound(t, s, program)
}

// wantSound fails unless a store in which a process was killed does no harm, and
// gc makes it clean.
func wantSound(t *testing.T, s *kit.Store, program string) {
	t.Helper()
	wantNoProcess(t, program, s.Dir)
	wantStarts(t, s, program)
	s.Do(t, "list")
	s.Do(t, "gc")
	wantClean(t, s)
	s.Do(t, "add", "--even-if-slower", program)
	s.WantResident(t, program)
	wantStarts(t, s, program)
	if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) > 0 {
		t.Errorf("left in TMPDIR: %v", left)
	}
}

// wantStarts compares the program started directly with run, and with the
// launcher file if there is one.
func wantStarts(t *testing.T, s *kit.Store, program string) {
	t.Helper()
	ways := []kit.Way{kit.ByRun}
	launchers, err := filepath.Glob(filepath.Join(s.Dir, "launchers", "*", program))
	if err != nil {
		t.Fatal(err)
	}
	for _, launcher := range launchers {
		ways = append(ways, kit.Way{Name: "launcher", Argv: func(*kit.Store, string) (string, string, []string) { return launcher, program, nil }})
	}
	for _, u := range kit.Users {
		want := s.Start(t, kit.Plain, u, program, kit.Command{})
		for _, w := range ways {
			if diff := cmp.Diff(want, s.Start(t, w, u, program, kit.Command{})); diff != "" {
				t.Errorf("plain (-) and %s (+) differ as %s:\n%s", w.Name, u.Name, diff)
			}
		}
	}
}

// wantShim fails unless a program that was enabled is, and starts from its image so.
func wantShim(t *testing.T, s *kit.Store, program string) {
	t.Helper()
	cmd := s.Command("status", "--check")
	if output, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(output), program+"  shim  ") {
		t.Errorf("status: %v\n%s", err, output)
	}
}

// wantClean fails unless check finds no fault, nor any stale entry. A wish without an
// image is neither.
func wantClean(t *testing.T, s *kit.Store) {
	t.Helper()
	output, err := s.Command("--format", "json", "check", "--no-trial").Output()
	wantNothingWrong(t, output)
	if err != nil {
		t.Errorf("check: %v", err)
	}
}

// wantNothingWrong fails if check, which has printed this, has found anything wrong.
func wantNothingWrong(t *testing.T, output []byte) {
	t.Helper()
	var findings []resident.Finding
	if err := json.Unmarshal(output, &findings); err != nil {
		t.Fatalf("check: %v\n%s", err, output)
	}
	for _, f := range findings {
		if strings.HasPrefix(f.Detail, "no image: ") {
			continue
		}
		if f.Status == resident.StatusFault || f.Area == resident.AreaEntry && f.Status != resident.StatusOK || f.What == os.Getenv("TMPDIR") {
			t.Errorf("check: %+v", f)
		}
	}
}

// TestKilledAnywhere kills at random moments instead of named ones, each day other changes.
func TestKilledAnywhere(t *testing.T) {
	const kills = 36
	rnd, slice := seeded.Rand(t), kit.Today(t, 4)
	times := map[string]time.Duration{}
	for i := range kills {
		if !slice.Has(i % len(changes)) {
			continue
		}
		c := changes[i%len(changes)]
		s, program := crashStore(t)
		c.before(t, s, program)
		if times[c.name] == 0 { // once to the end, to know how long it takes
			begin := time.Now()
			s.Do(t, c.args(program)...)
			times[c.name] = time.Since(begin)
			continue
		}
		after := time.Duration(rnd.Float64() * 1.1 * float64(times[c.name]))
		t.Run(fmt.Sprintf("%s after %v", c.name, after), func(t *testing.T) {
			cmd := s.Command(c.args(program)...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(after)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			c.wantSound(t, s, program)
		})
	}
}

// lastingEnv names the environment variable that says for how long commands go on side by
// side, as time.ParseDuration reads it.
const lastingEnv = "RESIDENTCTL_TEST_LASTING"

// TestSideBySide: adds, removes, refreshes, gcs and starts at the same time, of programs
// that change meanwhile, some of them killed, leave nothing behind and lose nothing.
func TestSideBySide(t *testing.T) {
	const (
		programs = 3
		workers  = 8
	)
	lasting := 8 * time.Second
	if value, set := os.LookupEnv(lastingEnv); set {
		var err error
		if lasting, err = time.ParseDuration(value); err != nil {
			t.Fatal(err)
		}
	}
	dir := kit.Dir(t)
	t.Setenv("TMPDIR", kit.Dir(t))
	s := kit.NewStore(t, dir)
	var paths []string
	for i := range programs {
		path := filepath.Join(dir, fmt.Sprint("program", i))
		kit.CopyFile(t, kit.Fixture(t, "args"), path)
		paths = append(paths, path)
	}
	done := map[string]int{}
	var mu sync.Mutex
	var group sync.WaitGroup
	end := time.Now().Add(lasting)
	all := seeded.Rand(t)
	for range workers {
		rnd := rand.New(rand.NewPCG(all.Uint64(), 0))
		group.Add(1)
		go func() {
			defer group.Done()
			for time.Now().Before(end) {
				path := paths[rnd.IntN(programs)]
				what := []string{"add", "add", "add", "remove", "gc", "gc", "run", "run", "list", "touch", "alter", "refresh"}[rnd.IntN(12)]
				var after time.Duration // 0: it is not killed
				if rnd.IntN(4) == 0 {
					after = 1 + time.Duration(rnd.Int64N(int64(400*time.Millisecond)))
				}
				if err := doOne(s, what, path, after); err != nil {
					t.Errorf("%s %s: %v", what, path, err)
					return
				}
				mu.Lock()
				done[what]++
				mu.Unlock()
			}
		}()
	}
	group.Wait()
	t.Logf("%v", done)
	for _, path := range paths {
		wantStarts(t, s, path)
		wantNoProcess(t, path, s.Dir)
	}
	s.Do(t, "gc")
	wantClean(t, s)
	for _, path := range paths {
		s.Do(t, "add", "--even-if-slower", path)
		s.WantResident(t, path)
	}
	if images, _ := os.ReadDir(filepath.Join(s.Dir, "images")); len(images) != programs {
		t.Errorf("%d images of %d programs", len(images), programs)
	}
	wantClean(t, s)
}

// replaceByCopy puts a copy of a program in its place, as a package manager does.
func replaceByCopy(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Chmod(0o755), f.Close(), os.Rename(f.Name(), path))
}

// doOne does one of the things that may go on side by side, and says what was wrong about
// it. What changes the store is killed after a while, unless that is 0.
func doOne(s *kit.Store, what, path string, after time.Duration) error {
	now := time.Now()
	var cmd *exec.Cmd
	var allowed []string // why it may fail
	altered := []string{"changed", "a file that was deleted"}
	switch what {
	case "touch":
		return os.Chtimes(path, now, now)
	case "alter":
		return replaceByCopy(path)
	case "run":
		cmd = exec.Command(s.Residentctl, "--store", s.Dir, "run", path)
		cmd.Env = s.Environment(s.DataHome)
	case "add":
		cmd, allowed = s.Command("add", "--even-if-slower", path), altered
	case "refresh":
		cmd, allowed = s.Command("refresh"), altered
	case "remove":
		cmd, allowed = s.Command("remove", path), []string{"no such entry"}
	default:
		cmd = s.Command(what)
	}
	if after > 0 && what != "run" {
		return killAfter(cmd, after)
	}
	output, err := cmd.CombinedOutput()
	if err != nil && !slices.ContainsFunc(allowed, func(why string) bool { return strings.Contains(string(output), why) }) {
		return fmt.Errorf("%w\n%s", err, output)
	}
	if what == "run" && !strings.Contains(string(output), "argc 1") {
		return fmt.Errorf("it did not run:\n%s", output)
	}
	return nil
}

// killAfter kills a command with SIGKILL if it has not ended by then, however it ends.
func killAfter(cmd *exec.Cmd, after time.Duration) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Wait()
	return nil
}

// TestPurgeKilled: a purge that is killed at any step does no harm, and another one
// removes what is left.
func TestPurgeKilled(t *testing.T) {
	kit.RequireCRIU(t)
	purge := change{
		name:   "purge",
		before: func(t *testing.T, s *kit.Store, program string) { s.Do(t, "enable", "--even-if-slower", program) },
		args:   args("purge", "--yes"),
	}
	points := purge.points(t)
	for _, point := range purgePoints {
		if !slices.Contains(points, point) {
			t.Errorf("purge did not come to %s", point)
		}
	}
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			s, program := crashStore(t)
			purge.before(t, s, program)
			cmd := s.Command("purge", "--yes")
			cmd.Env = append(os.Environ(), stores.FaultEnv+"="+point)
			if !killed(t, cmd) {
				t.Fatal("it was not killed")
			}
			wantNoProcess(t, program, s.Dir)
			wantStarts(t, s, program)
			s.Do(t, "purge", "--yes")
			if _, err := os.Lstat(s.Dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the store is left: %v", err)
			}
			s.Do(t, "add", "--even-if-slower", program)
			s.WantResident(t, program)
		})
	}
}

// purgePoints are those that only purge comes to.
var purgePoints = append([]string{"after-purge-records", "after-purge-links"}, stores.PurgePoints...)
