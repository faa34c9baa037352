package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/internal/seeded"
)

// TestDamagedStore: whatever is missing or broken in a store, a start is a normal
// one, --strict says so with 125, and nobody is shown the program as current.
func TestDamagedStore(t *testing.T) {
	program := kit.Fixture(t, "args")
	tests := []struct {
		name   string
		damage func(t *testing.T, s *kit.Store)
	}{
		{"no plan", func(t *testing.T, s *kit.Store) { kit.Remove(t, s.Plan(t, program)) }},
		{"empty plan", func(t *testing.T, s *kit.Store) { truncate(t, s.Plan(t, program), 0, 1) }},
		{"half a plan", func(t *testing.T, s *kit.Store) { truncate(t, s.Plan(t, program), 1, 2) }},
		{"most of a plan", func(t *testing.T, s *kit.Store) { truncate(t, s.Plan(t, program), 99, 100) }},
		{"a plan that others may write", func(t *testing.T, s *kit.Store) { kit.Chmod(t, s.Plan(t, program), 0o666) }},
		{"another user's plan", func(t *testing.T, s *kit.Store) { kit.Chown(t, s.Plan(t, program), 12345) }},
		{"no index", func(t *testing.T, s *kit.Store) { kit.Remove(t, filepath.Join(s.Dir, "index")) }},
		{"no pages", func(t *testing.T, s *kit.Store) { kit.Remove(t, s.Pages(t, program)) }},
		{"no pages in their file", func(t *testing.T, s *kit.Store) { truncate(t, s.Pages(t, program), 0, 1) }},
		{"half of the pages", func(t *testing.T, s *kit.Store) { truncate(t, s.Pages(t, program), 1, 2) }},
		{"pages that others may write", func(t *testing.T, s *kit.Store) { kit.Chmod(t, s.Pages(t, program), 0o666) }},
		{"another user's pages", func(t *testing.T, s *kit.Store) { kit.Chown(t, s.Pages(t, program), 12345) }},
		{"no image", func(t *testing.T, s *kit.Store) { kit.Remove(t, filepath.Dir(s.Plan(t, program))) }},
		{"no images", func(t *testing.T, s *kit.Store) { kit.Remove(t, filepath.Join(s.Dir, "images")) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := kit.NewStore(t, kit.Dir(t))
			s.Do(t, "add", program)
			s.WantResident(t, program)
			test.damage(t, s)
			for _, u := range kit.Users {
				s.WantNormalStart(t, u, program, kit.Command{})
			}
			list := kit.Finish(t, s.Command("list"))
			if list.Code != 0 || strings.Contains(list.Stdout, " current ") || strings.Contains(list.Stdout, program) && !strings.Contains(list.Stdout, " stale ") {
				t.Errorf("list: %v", list)
			}
			_, bob := kit.NewAccounts(t)
			list = kit.Finish(t, bob.Command(t, "--store", s.Dir, "list"))
			if strings.Contains(list.Stdout, " current ") {
				t.Errorf("list by another user: %v", list)
			}
			inspect := kit.Finish(t, s.Command("inspect", program))
			if strings.Contains(inspect.Stdout, "current") || inspect.Code != 0 && !strings.Contains(inspect.Stderr, "residentctl: hint: ") {
				t.Errorf("inspect: %v", inspect)
			}
		})
	}

	t.Run("one bit of the plan", func(t *testing.T) {
		s := kit.NewStore(t, kit.Dir(t))
		s.Do(t, "add", program)
		plan := s.Plan(t, program)
		good, err := os.ReadFile(plan)
		if err != nil {
			t.Fatal(err)
		}
		// The header closely, then samples of the rest.
		for offset := 0; offset < len(good); {
			t.Run(fmt.Sprint("byte ", offset), func(t *testing.T) {
				overwrite(t, plan, int64(offset), good[offset]^byte(1<<(offset%8)))
				defer overwrite(t, plan, int64(offset), good[offset])
				s.WantNormalStart(t, kit.Nobody, program, kit.Command{})
			})
			if offset < 512 {
				offset += 7
			} else {
				offset += len(good)/40 + 1
			}
		}
		s.WantResident(t, program)
	})

	t.Run("no store", func(t *testing.T) {
		s := kit.NewStore(t, kit.Dir(t))
		want := s.Start(t, kit.Plain, kit.Root, program, kit.Command{})
		if diff := cmp.Diff(want, s.Start(t, kit.ByRun, kit.Root, program, kit.Command{})); diff != "" {
			t.Errorf("plain (-) and run (+) differ:\n%s", diff)
		}
		s.Do(t, "list")
	})
}

// TestChangedFiles: what a plain start would notice, a resident one does too.
func TestChangedFiles(t *testing.T) {
	kit.RequireCRIU(t)
	dir := kit.Dir(t)
	program := filepath.Join(dir, "constructors")
	library := filepath.Join(dir, "libconstructors.so")
	other := filepath.Join(dir, "other", "libconstructors.so")
	for _, name := range []string{"first", "other"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	source := filepath.Join("fixtures", "libconstructors.c")
	// With a soname the program needs it by name, and searches.
	kit.Compile(t, library, source, "-shared", "-fPIC", "-Wl,-soname,libconstructors.so")
	kit.Compile(t, other, source, "-shared", "-fPIC", "-Wl,-soname,libconstructors.so", `-DMARK="other"`)
	kit.Compile(t, program, filepath.Join("fixtures", "constructors.c"), library, "-Wl,-rpath,$ORIGIN/first:$ORIGIN")

	s := kit.NewStore(t, filepath.Join(dir, "data"))
	refresh := func(t *testing.T) {
		t.Helper()
		s.Do(t, "add", program)
		s.WantResident(t, program)
	}
	// Each leaves the files as the next one wants them.
	steps := []struct {
		name string
		c    kit.Command
		do   func(t *testing.T)
		want string // in stdout or stderr
	}{
		{"LD_LIBRARY_PATH", kit.Command{Env: []string{"LD_LIBRARY_PATH=" + filepath.Dir(other)}}, func(*testing.T) {}, "other: function"},
		{"LD_PRELOAD", kit.Command{Env: []string{"LD_PRELOAD=" + other}}, func(*testing.T) {}, "other: constructor"},
		{"library found earlier", kit.Command{}, func(t *testing.T) {
			kit.CopyFile(t, other, filepath.Join(dir, "first", "libconstructors.so"))
		}, "other: function"},
		{"library found as before", kit.Command{}, func(t *testing.T) {
			kit.Remove(t, filepath.Join(dir, "first", "libconstructors.so"))
			refresh(t)
			now := time.Now()
			if err := os.Chtimes(library, now, now); err != nil {
				t.Fatal(err)
			}
		}, "library: function"},
		{"library replaced", kit.Command{}, func(t *testing.T) {
			refresh(t)
			kit.CopyFile(t, other, library+".new")
			if err := os.Rename(library+".new", library); err != nil {
				t.Fatal(err)
			}
		}, "other: function"},
		{"library overwritten", kit.Command{}, func(t *testing.T) {
			refresh(t)
			kit.CopyFile(t, other, library)
		}, "other: function"},
		{"library removed", kit.Command{}, func(t *testing.T) { kit.Remove(t, library) }, "cannot open shared object file"},
		{"program replaced", kit.Command{}, func(t *testing.T) {
			kit.CopyFile(t, kit.Fixture(t, "cxx-main"), program+".new")
			if err := os.Rename(program+".new", program); err != nil {
				t.Fatal(err)
			}
		}, "out ff true"},
	}
	refresh(t)
	launcher := s.Launcher(program)
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) {
			step.do(t)
			want := s.Start(t, kit.Plain, kit.Root, program, step.c)
			if !strings.Contains(want.Stdout+want.Stderr, step.want) {
				t.Fatalf("a plain start does not say %q:\n%s%s", step.want, want.Stdout, want.Stderr)
			}
			kept := kit.Way{Name: "launcher", Argv: func(*kit.Store, string) (string, string, []string) { return launcher, program, nil }}
			for _, w := range []kit.Way{kept, kit.ByRun} {
				if diff := cmp.Diff(want, s.Start(t, w, kit.Nobody, program, step.c)); diff != "" {
					t.Errorf("plain (-) and %s (+) differ:\n%s", w.Name, diff)
				}
			}
			if got := s.Start(t, kit.Strictly, kit.Root, program, step.c); got.Status != "exit status 125" {
				t.Errorf("run --strict: %s, want exit status 125\n%s", got.Status, got.Stderr)
			}
			s.Do(t, "list")
		}) {
			break
		}
	}
}

// TestChangesWhileAdded: a program that is written to after its dump is added once
// more, and one that always is, is refused for that.
func TestChangesWhileAdded(t *testing.T) {
	t.Setenv("TMPDIR", kit.Dir(t))
	s := kit.NewStore(t, kit.Dir(t))
	program := filepath.Join(kit.Dir(t), "args")
	kit.CopyFile(t, kit.Fixture(t, "args"), program)
	kit.Chmod(t, program, 0o755)
	always := []string{"RESIDENTCTL_CRIU=" + afterCRIU(t, `touch "`+program+`"`)}
	cmd, stderr := wrapped(s, nil, always, s.Residentctl, "--store", s.Dir, "add", "--even-if-slower", program)
	stdout, _ := cmd.Output()
	if status := cmd.ProcessState.ExitCode(); status != statusFailed || !strings.Contains(stderr.String(), "changed while it was being recorded") ||
		!strings.Contains(stderr.String(), "try again") {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	mark := filepath.Join(kit.Dir(t), "mark")
	once := []string{"RESIDENTCTL_CRIU=" + afterCRIU(t, `[ -e "`+mark+`" ] || touch "`+mark+`" "`+program+`"`)}
	wantStatus(t, s, statusDone, nil, once, "add", "--even-if-slower", program)
	s.WantResident(t, program)
}

// TestFullDisk: an add that runs out of space says so and leaves a store that works.
func TestFullDisk(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	first, second := kit.Fixture(t, "args"), kit.Fixture(t, "secrets")
	// The store is on a file system of its own, in a mount namespace of its own.
	const script = `
		set -eu
		residentctl=$1 data=$2 first=$3 second=$4 left=$5
		mount --make-rprivate /
		mount -t tmpfs -o size=16m,mode=755 tmpfs "$data"
		"$residentctl" --store "$data/residentctl" add "$first" >&2
		available=$(df --output=avail -k "$data" | tail -n 1)
		head -c $(((available - left) * 1024)) /dev/zero >"$data/filling"
		status=0; "$residentctl" --store "$data/residentctl" add "$second" >&2 || status=$?
		echo add $status
		status=0; "$residentctl" --store "$data/residentctl" list >&2 || status=$?
		echo list $status
		status=0; "$residentctl" --store "$data/residentctl" run --strict "$first" >&2 || status=$?
		echo first $status
		status=0; "$residentctl" --store "$data/residentctl" run "$second" >&2 || status=$?
		echo second $status
		rm "$data/filling"
		status=0; "$residentctl" --store "$data/residentctl" add "$second" >&2 || status=$?
		echo again $status
		status=0; "$residentctl" --store "$data/residentctl" run --strict "$second" >&2 || status=$?
		echo resident $status
	`
	for _, left := range []int{0, 4, 16, 64, 128, 256, 512} {
		t.Run(fmt.Sprint(left, " KiB left"), func(t *testing.T) {
			cmd := exec.Command("/bin/bash", "-c", script, "bash", s.Residentctl, s.DataHome, first, second, fmt.Sprint(left))
			cmd.Env = s.Environment(s.DataHome)
			cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
			var stderr strings.Builder
			cmd.Stderr = &stderr
			stdout, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v\n%s%s", err, stdout, stderr.String())
			}
			added, rest, _ := strings.Cut(string(stdout), "\n")
			if left == 0 && added == "add 0" {
				t.Errorf("add had no space and succeeded\n%s", stderr.String())
			}
			if added != "add 0" && (!strings.Contains(stderr.String(), "residentctl: error: ") || !strings.Contains(stderr.String(), "residentctl: hint: ")) {
				t.Errorf("add failed without a reason and a hint:\n%s", stderr.String())
			}
			if want := "list 0\nfirst 0\nsecond 0\nagain 0\nresident 0\n"; rest != want {
				t.Errorf("after %q:\n%swant:\n%s%s", added, rest, want, stderr.String())
			}
			wantNoProcess(t, second, s.Dir)
		})
	}
}

// TestFullFromTheStart: an add that had not even space for the registry leaves a store
// into which can be looked, and which lacks nothing when there is space again.
func TestFullFromTheStart(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	const script = `
		set -eu
		residentctl=$1 data=$2 program=$3 left=$4
		mount --make-rprivate /
		mount -t tmpfs -o size=1m,mode=755 tmpfs "$data"
		head -c $((1024 * 1024 - left * 1024)) /dev/zero >"$data/filling" || :
		act() { status=0; "$residentctl" --store "$data/residentctl" "$@" >&2 || status=$?; echo "$1 $status"; }
		act add "$program"
		ls -A "$data/residentctl" >&2 || :
		act list
		act inspect "$program"
		rm "$data/filling"
		act gc
		act add "$program"
		act verify "$program"
	`
	for _, left := range []int{0, 4, 12, 24, 32} {
		t.Run(fmt.Sprint(left, " KiB left"), func(t *testing.T) {
			cmd := exec.Command("/bin/bash", "-c", script, "bash", s.Residentctl, s.DataHome, kit.Fixture(t, "args"), fmt.Sprint(left))
			cmd.Env = s.Environment(s.DataHome)
			cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
			r := kit.Finish(t, cmd)
			if want := "add 3\nlist 0\ninspect 1\ngc 0\nadd 0\nverify 0\n"; r.Code != 0 || r.Stdout != want {
				t.Errorf("want %s%v", want, r)
			}
		})
	}
}

// TestKilledAdd: add may be killed at any moment.
func TestKilledAdd(t *testing.T) {
	kills := 15
	if kit.All() {
		kills = 40
	}
	s := kit.NewStore(t, kit.Dir(t))
	program := filepath.Join(kit.Dir(t), "args")
	kit.CopyFile(t, kit.Fixture(t, "args"), program)

	begin := time.Now()
	s.Do(t, "add", program)
	whole := time.Since(begin)
	s.Do(t, "remove", "--all")
	rnd := seeded.Rand(t)
	for range kills {
		after := time.Duration(rnd.Float64() * 1.1 * float64(whole))
		add := s.Command("add", program)
		if err := add.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after)
		add.Process.Kill()
		add.Wait()
		wantNoProcess(t, program, s.Dir)
		s.Do(t, "list")
		want := s.Start(t, kit.Plain, kit.Root, program, kit.Command{})
		if diff := cmp.Diff(want, s.Start(t, kit.ByRun, kit.Root, program, kit.Command{})); diff != "" {
			t.Errorf("plain (-) and run (+) differ:\n%s", diff)
		}
		if t.Failed() {
			t.Fatalf("after add was killed at %v of %v", after, whole)
		}
	}
	s.Do(t, "add", program)
	s.WantResident(t, program)
	s.Do(t, "remove", "--all")
}

// wantNoProcess waits until no process runs the program or has a file below dir
// open: those that were killed with their parent need a moment to be gone.
func wantNoProcess(t *testing.T, program, dir string) {
	t.Helper()
	var left string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if left = processOf(program, dir); left == "" {
			return
		}
	}
	t.Errorf("a process is left: %s", left)
}

// processOf describes a process that runs the program or has a file below dir
// open. One that is gone by now has no links to read.
func processOf(program, dir string) string {
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range exes {
		process := filepath.Dir(exe)
		target, _ := os.Readlink(exe)
		if target == program {
			return process + " runs " + target
		}
		descriptors, _ := filepath.Glob(process + "/fd/*")
		for _, fd := range descriptors {
			if file, _ := os.Readlink(fd); strings.HasPrefix(file, dir+"/") {
				return fmt.Sprintf("%s (%s) has %s open", process, target, file)
			}
		}
	}
	return ""
}

// truncate leaves part/whole of a file.
func truncate(t *testing.T, path string, part, whole int64) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()*part/whole); err != nil {
		t.Fatal(err)
	}
}

// overwrite changes one byte of a file in place.
func overwrite(t *testing.T, path string, offset int64, value byte) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte{value}, offset); err != nil {
		t.Fatal(err)
	}
}
