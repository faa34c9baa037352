package front_test

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/pkg/plan"
)

// ldflags are the linker's flags in scripts/build.
func ldflags(t *testing.T) string {
	t.Helper()
	script, err := os.ReadFile("../../../scripts/build")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^LDFLAGS="(.*)"$`).FindSubmatch(script)
	if m == nil || !bytes.Contains(m[1], []byte("_residentctl_start")) {
		t.Fatal("scripts/build has no line LDFLAGS=\"… -E _residentctl_start …\"")
	}
	return string(m[1])
}

func build(t *testing.T, pkg, ldflags string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a Go program")
	}
	bin := filepath.Join(t.TempDir(), "residentctl")
	cmd := exec.Command("go", "build", "-ldflags", ldflags, "-o", bin, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// run executes with an environment in which nothing is resident.
func run(t *testing.T, bin string, args ...string) (out string, status int) {
	t.Helper()
	cmd := exec.Command(bin, args...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=/usr/bin:/bin", "A=1"}
	b, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// script is a program of which nobody has an image.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// program is echo(1) as a program of which nobody has an image. Unlike a script it is
// explained without Go.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "echo")
	raw, err := os.ReadFile("/bin/echo")
	if err == nil {
		err = os.WriteFile(path, raw, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDoor(t *testing.T) {
	bin := build(t, "./testdata/gosays", ldflags(t))
	echo := script(t, `echo "$# $* $A"; exit 7`)
	program := program(t)
	reason := fmt.Sprintf("residentctl: %s: started normally: it is not resident\n", program)
	for _, tc := range []struct {
		name   string
		args   []string
		want   string // what the output contains
		status int
	}{
		{"run", []string{"run", echo, "a", "b"}, "2 a b 1\n", 7},
		{"explain", []string{"run", "--explain", program, "a"}, reason + "a\n", 0},
		{"strict", []string{"run", "--strict", program}, "no resident start: it is not resident\n", 125},
		{"explain a script", []string{"run", "--explain", echo}, `go ["run" "--explain" "` + echo + `"] ["HOME=`, 0},
		{"strict, a script", []string{"run", "--strict", echo, "a"}, `go ["run" "--strict" "` + echo + `" "a"] ["HOME=`, 0},
		{"no word", nil, `go [] ["HOME=`, 0},
		{"other word", []string{"list", "-q"}, `go ["list" "-q"] ["HOME=`, 0},
		{"unknown option", []string{"run", "--engine", "criu", echo}, `go ["run" "--engine" "criu" "` + echo, 0},
		{"option before run", []string{"--format", "json", "run", echo}, `go ["--format" "json" "run" "` + echo, 0},
		{"program not found", []string{"run", "--explain", "/nonexistent"}, `go ["run" "--explain" "/nonexistent"] ["HOME=`, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, status := run(t, bin, tc.args...)
			if !strings.Contains(out, tc.want) || status != tc.status {
				t.Errorf("status %d, %q, want %d, %q", status, out, tc.status, tc.want)
			}
		})
	}
}

// Called by the name resident, every word is for Go: "run" may be a program's name.
func TestResidentIsForGo(t *testing.T) {
	bin := build(t, "./testdata/gosays", ldflags(t))
	resident := filepath.Join(t.TempDir(), "resident")
	if err := os.Symlink(bin, resident); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"run", "/bin/true"}, {"--", "run", "/bin/true"}, {"run"}} {
		out, status := run(t, resident, args...)
		if want := fmt.Sprintf("go %q [", args); !strings.HasPrefix(out, want) || status != 0 {
			t.Errorf("%q: status %d, %q, want %q", args, status, out, want)
		}
	}
}

// Where a limit leaves Go's runtime no room exec and run execute the command normally,
// and other commands say so.
func TestNoRoom(t *testing.T) {
	bin := build(t, "./testdata/gosays", ldflags(t))
	program := program(t)
	echo := script(t, `echo "$# $* $A"; exit 7`)
	raw := filepath.Join(t.TempDir(), "raw")
	if err := os.WriteFile(raw, []byte(`echo "raw $*"`+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	says := func(program, needs string) string {
		return fmt.Sprintf("residentctl: no resident starts in %s: residentctl needs %s: raise the limit\n", program, needs)
	}
	const space, data, files = "2 GiB of address space (ulimit -v)", "128 MiB of data (ulimit -d)", "32 more file descriptors (ulimit -n)"
	for _, tc := range []struct {
		name, limit string
		args        []string
		want        string // what the output begins with
		status      int
	}{
		{"address space", "ulimit -v 700000", []string{"exec", "--auto", "--", echo, "--strict", "b"}, says(echo, space) + "2 --strict b 1\n", 7},
		{"more address space", "ulimit -v 1200000", []string{"exec", echo}, says(echo, space), 7},
		{"data", "ulimit -d 50000", []string{"--store", "/x", "exec", "-q", "--after=2", echo, "--"}, says(echo, data) + "1 -- 1\n", 7},
		{"files", "ulimit -n 20", []string{"--format=json", "exec", "--store", "/x", echo}, says(echo, files) + "0  1\n", 7},
		{"soft limit of files", "ulimit -Sn 20", []string{"exec", echo}, `go ["exec"`, 0},
		{"enough", "ulimit -v 2200000 -d 140000 -n 40", []string{"exec", echo}, `go ["exec"`, 0},
		{"by name", "ulimit -d 50000", []string{"exec", "sh", "-c", "exit 5"}, says("sh", data), 5},
		{"a script without a first line", "ulimit -d 50000", []string{"exec", raw, "a"}, says(raw, data) + "raw a\n", 0},
		{"strict", "ulimit -d 50000", []string{"exec", "--strict", echo},
			strings.Replace(says(echo, data), "residentctl: ", "residentctl: error: ", 1), 125},
		{"no such program", "ulimit -d 50000", []string{"exec", "/nonexistent"}, says("/nonexistent", data) + "residentctl: error: /nonexistent: ", 127},
		{"run", "ulimit -v 700000", []string{"run", "--store", "/x", "--explain", "--", echo, "--strict", "b"},
			fmt.Sprintf("residentctl: %s: started normally: residentctl needs %s\n2 --strict b 1\n", echo, space), 7},
		{"run, silent", "ulimit -v 700000", []string{"--store=/x", "run", echo}, "0  1\n", 7},
		{"run, strict", "ulimit -d 50000", []string{"run", "--store", "/x", "--strict", "--", echo},
			fmt.Sprintf("residentctl: error: %s: no resident start: residentctl needs %s\n", echo, data), 125},
		{"run, before Go", "ulimit -v 700000", []string{"run", "--explain", program, "a"},
			fmt.Sprintf("residentctl: %s: started normally: it is not resident\na\n", program), 0},
		{"run, a script", "ulimit -v 700000", []string{"run", "--explain", echo},
			fmt.Sprintf("residentctl: %s: started normally: residentctl needs %s\n0  1\n", echo, space), 7},
		{"list", "ulimit -v 700000", []string{"list", "-q"}, "residentctl: error: residentctl needs " + space + ": raise the limit\n", 4},
		{"gc, data", "ulimit -d 50000", []string{"--store", "exec", "gc"}, "residentctl: error: residentctl needs " + data + ": raise the limit\n", 4},
		{"no word", "ulimit -v 700000", nil, "residentctl: error: residentctl needs " + space + ": raise the limit\n", 4},
		{"run, an option that is not known", "ulimit -v 700000", []string{"run", "--engine", "criu", echo},
			"residentctl: error: residentctl needs " + space + ": raise the limit\n", 125},
		// There is room for this much.
		{"another option", "ulimit -n 20", []string{"exec", "--inside", "/x", echo}, `go ["exec" "--inside"`, 0},
		{"another command", "ulimit -n 20", []string{"--store", "exec", "list"}, `go ["--store"`, 0},
		{"no command", "ulimit -n 20", []string{"exec", "--"}, `go ["exec"`, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, status := run(t, "/bin/bash", append([]string{"-c", tc.limit + `; exec "$0" "$@"`, bin}, tc.args...)...)
			if !strings.HasPrefix(out, tc.want) || status != tc.status {
				t.Errorf("status %d, %q, want %d, %q", status, out, tc.status, tc.want)
			}
		})
	}
}

// Linked in the ordinary way everything goes to Go.
func TestWithoutDoor(t *testing.T) {
	bin := build(t, "./testdata/gosays", "")
	out, status := run(t, bin, "run", "/bin/true")
	if !strings.HasPrefix(out, `go ["run" "/bin/true"] [`) || status != 0 {
		t.Errorf("status %d, %q", status, out)
	}
	if raw, err := os.ReadFile(bin); err != nil || bytes.Contains(raw, []byte("GLIBC_TUNABLES=")) {
		t.Errorf("the launcher is part of it all the same (%v)", err)
	}
}

// What is executed finds the signals as residentctl did, by the front door or, after the
// option that it does not know, by Go.
func TestSignals(t *testing.T) {
	signals := func(command ...string) string {
		t.Helper()
		command = append([]string{"--ignore-signal=USR1,CHLD,64", "--block-signal=WINCH,CHLD,40"}, command...)
		out, status := run(t, "/usr/bin/env", append(command, "/usr/bin/grep", "^Sig[BI]", "/proc/self/status")...)
		if status != 0 {
			t.Fatalf("status %d, %q", status, out)
		}
		return out
	}
	want := signals()
	if n := strings.Count(want, "0000000000000000"); n > 0 || strings.Count(want, "\n") != 2 {
		t.Fatalf("not two sets of signals: %q", want)
	}
	bin := build(t, "../../../cmd/residentctl", ldflags(t))
	for _, words := range [][]string{{"run"}, {"run", "--"}} {
		if got := signals(append([]string{bin, "--store", filepath.Join(t.TempDir(), "none")}, words...)...); got != want {
			t.Errorf("%s: want %q, got %q", words, want, got)
		}
	}
}

// keptFree reports whether plans leave the page at addr to residentctl.
func keptFree(addr uint64) bool {
	addr &^= 4095
	p := plan.Plan{
		Kind: plan.KindLinked, Path: "/p", Real: "/p",
		Files:  []plan.MappedFile{{Path: "/p", Flags: plan.FileProgram | plan.FileExe, Maps: []plan.Map{{Addr: addr, Len: 4096, Prot: 5}}}},
		Caller: plan.Caller{MapsEnd: addr + 4096},
		Entry:  plan.Entry{RIP: addr, Gadget: addr},
		Stop:   plan.Stop{Addr: addr, Point: plan.StopEntry},
	}
	_, err := p.Encode()
	return err != nil
}

// residentctl stands where plans keep room for it, and the kernel enters it
// without a dynamic linker.
func TestResidentctl(t *testing.T) {
	bin := build(t, "../../../cmd/residentctl", ldflags(t))
	if keptFree(plan.LauncherBase / 2) {
		t.Error("plans leave any page free: this test shows nothing")
	}
	f, err := elf.Open(bin)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Type != elf.ET_EXEC {
		t.Errorf("it is %v", f.Type)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("it has a %v", p.Type)
		}
		if p.Type == elf.PT_LOAD && (!keptFree(p.Vaddr) || !keptFree(p.Vaddr+p.Memsz)) {
			t.Errorf("it is mapped at %#x, %d bytes, where an image could be, too", p.Vaddr, p.Memsz)
		}
	}
	echo := script(t, "echo started")
	want := fmt.Sprintf("residentctl: %s: started normally: it is not resident\nstarted\n", echo)
	if out, status := run(t, bin, "run", "--explain", echo); out != want || status != 0 {
		t.Errorf("status %d, %q, want %q", status, out, want)
	}
}
