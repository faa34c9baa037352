package launcher

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/plan"
)

// A launcher file whose plan cannot be used is an exec of its program.
func TestUnusablePlans(t *testing.T) {
	for _, tc := range []struct {
		name   string
		root   bool // it needs to be root
		change func(t *testing.T, index string, raw []byte)
		want   string
	}{
		{name: "none", want: "it is not resident",
			change: func(t *testing.T, index string, _ []byte) { os.Remove(index) }},
		{name: "link to nowhere", want: "its image is missing",
			change: func(t *testing.T, index string, _ []byte) { os.Remove(index); os.Symlink("nonexistent/plan", index) }},
		{name: "link out of the store", want: "its plan cannot be opened",
			change: func(t *testing.T, index string, _ []byte) { os.Remove(index); os.Symlink("/etc/passwd", index) }},
		{name: "link to itself", want: "its plan cannot be opened",
			change: func(t *testing.T, index string, _ []byte) { os.Remove(index); os.Symlink(filepath.Base(index), index) }},
		{name: "directory", want: "its plan is not safe",
			change: func(t *testing.T, index string, _ []byte) { os.Remove(index); os.Mkdir(index, 0o755) }},
		{name: "empty", want: "its plan is damaged",
			change: func(t *testing.T, index string, _ []byte) { writeFile(t, index, nil, 0o644) }},
		{name: "no more than the magic", want: "its plan is damaged",
			change: func(t *testing.T, index string, raw []byte) { writeFile(t, index, raw[:8], 0o644) }},
		{name: "last word missing", want: "its plan is damaged",
			change: func(t *testing.T, index string, raw []byte) { writeFile(t, index, raw[:len(raw)-8], 0o644) }},
		{name: "last byte missing", want: "its plan is damaged",
			change: func(t *testing.T, index string, raw []byte) { writeFile(t, index, raw[:len(raw)-1], 0o644) }},
		{name: "a bit flipped", want: "its plan is damaged",
			change: func(t *testing.T, index string, raw []byte) { raw[len(raw)/2] ^= 1; writeFile(t, index, raw, 0o644) }},
		{name: "other magic", want: "its plan is damaged",
			change: func(t *testing.T, index string, raw []byte) { raw[0] ^= 1; writeFile(t, index, raw, 0o644) }},
		{name: "other version", want: "another version",
			change: func(t *testing.T, index string, raw []byte) {
				binary.LittleEndian.PutUint32(raw[8:], plan.Version+1)
				writeFile(t, index, raw, 0o644)
			}},
		{name: "other kind", want: "another version",
			change: func(t *testing.T, index string, raw []byte) {
				binary.LittleEndian.PutUint32(raw[12:], plan.KindWarm+1)
				writeFile(t, index, raw, 0o644)
			}},
		{name: "larger than a launcher maps", want: "its plan is damaged",
			change: func(t *testing.T, index string, _ []byte) { os.Truncate(index, 16<<20) }},
		{name: "writable for others", want: "its plan is not safe",
			change: func(t *testing.T, index string, raw []byte) { writeFile(t, index, raw, 0o646) }},
		{name: "writable for the group", want: "its plan is not safe",
			change: func(t *testing.T, index string, raw []byte) { writeFile(t, index, raw, 0o664) }},
		{name: "another user's", root: true, want: "its plan is not safe",
			change: func(t *testing.T, index string, _ []byte) { os.Chown(index, 12345, 0) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.root && os.Geteuid() != 0 {
				t.Skip("only root can give files away")
			}
			dir := openDirectory(t)
			bin := witness(t, dir)
			index := filepath.Join(dir, "index")
			write(t, index, witnessPlan(t, dir, bin))
			raw, err := os.ReadFile(index)
			if err != nil {
				t.Fatal(err)
			}
			tc.change(t, index, raw)
			file := launcherFile(t, filepath.Join(dir, "witness-launcher"), bin, index)
			startsNormally(t, file, bin, nil, tc.want)
		})
	}
}

// What a dynamic linker would have made of the environment is not in an image.
func TestEnvironmentThatForbids(t *testing.T) {
	dir := openDirectory(t)
	bin := witness(t, dir)
	index := filepath.Join(dir, "index")
	write(t, index, witnessPlan(t, dir, bin))
	file := launcherFile(t, filepath.Join(dir, "witness-launcher"), bin, index)
	for _, v := range []string{"LD_PRELOAD=/lib/x.so", "LD_LIBRARY_PATH=", "LD_BIND_NOW=1", "LD_DEBUG=all",
		"GLIBC_TUNABLES=glibc.malloc.check=1", "MALLOC_ARENA_MAX=1", "MALLOC_CHECK_=3", "RESIDENTCTL_OFF=1"} {
		t.Run(v, func(t *testing.T) { startsNormally(t, file, bin, []string{v}, v) })
	}
	for _, v := range []string{"RESIDENTCTL_OFF=0", "RESIDENTCTL_OFF=", "LD=1", "LDFLAGS=-s", "MALLOC=1", "GLIBC_TUNABLE=1", "=", "", "R"} {
		t.Run("harmless "+v, func(t *testing.T) {
			got := run(t, &exec.Cmd{Path: file, Env: []string{v}})
			if got.said().one("resident") != "1" {
				t.Errorf("no resident start: %q %q", got.stdout, got.stderr)
			}
		})
	}
}

func TestProgramThatCannotBeExecuted(t *testing.T) {
	dir := openDirectory(t)
	plain, script := filepath.Join(dir, "plain"), filepath.Join(dir, "script")
	writeFile(t, plain, []byte("text"), 0o644)
	writeFile(t, script, []byte("#!/nonexistent\n"), 0o755)
	for _, tc := range []struct {
		name, program string
		status        int
		want          string
	}{
		{"missing", filepath.Join(dir, "missing"), 127, "not found"},
		{"without its interpreter", script, 127, "the interpreter that it names does not exist"},
		{"not executable", plain, 126, "permission denied"},
		{"directory", dir, 126, "permission denied"},
		{"below a file", plain + "/x", 126, "errno 20"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := launcherFile(t, filepath.Join(dir, "launcher"), tc.program, filepath.Join(dir, "no-plan"))
			got := run(t, &exec.Cmd{Path: file, Env: []string{}})
			want := fmt.Sprintf("residentctl: error: %s: cannot be executed: %s\n", tc.program, tc.want)
			if got.status != tc.status || got.stderr != want || got.stdout != "" {
				t.Errorf("status %d, %q, want %d, %q", got.status, got.stderr, tc.status, want)
			}
		})
	}
}

// What the front door makes of residentctl's command line when nothing is
// resident. The witness shows that arguments, environment and stack are whole.
func TestFrontDoorStartsNormally(t *testing.T) {
	dir := openDirectory(t)
	bin := witness(t, dir)
	door := frontDoor(t, dir, filepath.Join(dir, "no-such-store"))
	notExecutable := filepath.Join(dir, "first", "witness")
	writeFile(t, notExecutable, []byte("text"), 0o644)
	if err := os.MkdirAll(filepath.Join(dir, "second", "witness"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := func(elements ...string) []string { return []string{"PATH=" + strings.Join(elements, ":")} }
	for _, tc := range []struct {
		name    string
		args    []string
		env     []string
		argv    []string // of the program, if it is started
		program string
		stderr  string
	}{
		{name: "two words off", args: []string{"run", bin}, argv: []string{bin}, program: bin},
		{name: "three words off", args: []string{"run", "--explain", bin, "a"}, argv: []string{bin, "a"}, program: bin,
			stderr: "residentctl: " + bin + ": started normally: it is not resident\n"},
		{name: "four words off", args: []string{"run", "--explain", "--explain", bin, "--strict", ""}, argv: []string{bin, "--strict", ""},
			program: bin, stderr: "residentctl: " + bin + ": started normally: it is not resident\n"},
		{name: "reason in the environment", args: []string{"run", "--explain", bin}, env: []string{"LD_PRELOAD=x"}, argv: []string{bin}, program: bin,
			stderr: "residentctl: " + bin + ": started normally: the environment changes how it is linked LD_PRELOAD=x\n"},
		{name: "from PATH", args: []string{"run", "witness", "x"}, env: path("/nonexistent", dir), argv: []string{"witness", "x"}, program: bin},
		{name: "first match not executable, second a directory", args: []string{"run", "witness"},
			env: path(filepath.Join(dir, "first"), filepath.Join(dir, "second"), dir), argv: []string{"witness"}, program: bin},
		{name: "empty element first", args: []string{"run", "witness"}, env: path("", "/nonexistent"), argv: []string{"witness"}, program: "witness"},
		{name: "empty element in the middle", args: []string{"run", "witness"}, env: path("/a", "", "/b"), argv: []string{"witness"}, program: "witness"},
		{name: "empty element last", args: []string{"run", "witness"}, env: path("/a", ""), argv: []string{"witness"}, program: "witness"},
		{name: "empty PATH", args: []string{"run", "witness"}, env: path(), argv: []string{"witness"}, program: "witness"},
		{name: "element ending in a slash", args: []string{"run", "witness"}, env: path(dir + "/"), argv: []string{"witness"}, program: dir + "//witness"},
		{name: "element longer than a path", args: []string{"run", "witness"},
			env: path(strings.Repeat("/x", 5000), dir+strings.Repeat("/", 4096)+"no", dir), argv: []string{"witness"}, program: bin},
		{name: "relative name with a slash", args: []string{"run", "./witness"}, env: path("/a"), argv: []string{"./witness"}, program: "./witness"},
		{name: "name with a slash and no PATH", args: []string{"run", "./witness"}, argv: []string{"./witness"}, program: "./witness"},

		{name: "strict", args: []string{"run", "--strict", bin}, stderr: "residentctl: error: " + bin + ": no resident start: it is not resident\n"},
		{name: "strict and a reason in the environment", args: []string{"run", "--strict", bin}, env: []string{"MALLOC_X=1"},
			stderr: "residentctl: error: " + bin + ": no resident start: the environment changes how it is linked MALLOC_X=1\n"},
		{name: "no word"},
		{name: "one word", args: []string{"run"}},
		{name: "other word", args: []string{"list", bin}},
		{name: "option before the word", args: []string{"--strict", "run", bin}},
		{name: "a store without a name", args: []string{"--store", "", "run", bin}},
		{name: "unknown option", args: []string{"run", "--engine", "exec", bin}},
		{name: "option and no program", args: []string{"run", "--explain"}},
		{name: "empty name", args: []string{"run", ""}, env: path(dir)},
		{name: "a directory's name", args: []string{"run", dir}},
		{name: "in none of the directories", args: []string{"run", "missing"}, env: path(dir)},
		{name: "no PATH", args: []string{"run", "witness"}},
		{name: "name longer than a path", args: []string{"run", strings.Repeat("/x", 9000)}},
		{name: "name and element too long together", args: []string{"run", strings.Repeat("x", 9000)}, env: path(strings.Repeat("/y", 3000))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			env := append([]string{"A=1"}, tc.env...)
			got := run(t, &exec.Cmd{Path: door, Args: append([]string{"residentctl"}, tc.args...), Env: env, Dir: dir})
			if got.stderr != tc.stderr {
				t.Errorf("it says %q, want %q", got.stderr, tc.stderr)
			}
			if tc.program == "" {
				if got.status != 125 || got.stdout != "" {
					t.Errorf("status %d, %q, want 125", got.status, got.stdout)
				}
				return
			}
			said := got.said()
			if said.one("resident") != "0" || said.one("execfn") != tc.program || said.one("stack-alignment") != "0" ||
				strings.Join(said["argv"], "|") != strings.Join(tc.argv, "|") || strings.Join(said["env"], "|") != strings.Join(env, "|") {
				t.Errorf("%s with %q and %q, not %s with %q and %q", said.one("execfn"), said["argv"], said["env"], tc.program, tc.argv, env)
			}
		})
	}
}

// The reason is the first store's own, and it names that store's plan.
func TestReasonNamesItsStore(t *testing.T) {
	dir := openDirectory(t)
	bin := witness(t, dir)
	id := witnessPlan(t, dir, bin).Program().ID
	index := filepath.Join(dir, "a", fmt.Sprintf("index/%d-%d", id.Dev, id.Ino))
	writeFile(t, index, []byte("no plan"), 0o644)
	door := frontDoor(t, dir, filepath.Join(dir, "a"), filepath.Join(dir, "b"))
	got := run(t, &exec.Cmd{Path: door, Args: []string{"residentctl", "run", "--explain", bin}, Env: []string{}})
	if !strings.Contains(got.stderr, "damaged") || !strings.HasSuffix(got.stderr, index+"\n") {
		t.Errorf("it says %q, want it to name %s", got.stderr, index)
	}
}

// An inode's number is given to another file once its own is gone, so what the
// index holds may be another program's image.
func TestImageOfAnotherProgram(t *testing.T) {
	dir := openDirectory(t)
	bin := witness(t, dir)
	p := witnessPlan(t, dir, bin)
	other := filepath.Join(dir, "other")
	writeFile(t, other, []byte("#!/bin/sh\necho other\n"), 0o755)
	index := filepath.Join(dir, "store/index/1-1")
	write(t, index, p)

	file := launcherFile(t, filepath.Join(dir, "launcher"), other, index)
	if got := run(t, &exec.Cmd{Path: file, Env: []string{"PATH=/bin"}}); got.stdout != "other\n" {
		t.Errorf("the launcher file of another program starts the witness: %.20q", got.stdout)
	}

	var st syscall.Stat_t
	if err := syscall.Stat(other, &st); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, fmt.Sprintf("store/index/%d-%d", st.Dev, st.Ino)), p)
	door := frontDoor(t, dir, filepath.Join(dir, "store"))
	got := run(t, &exec.Cmd{Path: door, Args: []string{"residentctl", "run", "--explain", other}, Env: []string{"PATH=/bin"}})
	if got.stdout != "other\n" || !strings.Contains(got.stderr, "another program's image") {
		t.Errorf("the front door says %q %q", got.stdout, got.stderr)
	}
}

// TestCapableCallerTrustsOnlyRoot: who has capabilities without being root, as a service
// may, is started from root's images only. The own ones could be anyone's who may write
// the user's files.
func TestCapableCallerTrustsOnlyRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give capabilities away")
	}
	const user = 12345
	for _, tc := range []struct {
		name  string
		owner int
		caps  []uintptr
		want  string // why not
	}{
		{"own image", user, nil, ""},
		{"own image, capabilities", user, []uintptr{unix.CAP_NET_RAW}, "its plan is not safe"},
		{"root's image, capabilities", 0, []uintptr{unix.CAP_NET_RAW}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := openDirectory(t)
			bin := witness(t, dir)
			p := witnessPlan(t, dir, bin)
			give := func(path string) {
				t.Helper()
				if err := os.Chown(path, tc.owner, tc.owner); err != nil {
					t.Fatal(err)
				}
			}
			give(pagesOf(p))
			var err error
			if p.Pages().ID, err = linux.StatID(pagesOf(p)); err != nil {
				t.Fatal(err)
			}
			index := filepath.Join(dir, "index")
			write(t, index, p)
			give(index)
			file := launcherFile(t, filepath.Join(dir, "witness-launcher"), bin, index)
			got := run(t, &exec.Cmd{Path: file, Args: []string{"a"}, Env: []string{"RESIDENTCTL_EXPLAIN=1"},
				SysProcAttr: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}, AmbientCaps: tc.caps}})
			resident := got.said().one("resident") == "1"
			if resident != (tc.want == "") || !strings.Contains(got.stderr, tc.want) {
				t.Errorf("want %q: %s%s", tc.want, got.stdout, got.stderr)
			}
		})
	}
}
