package launcher

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/plan"
)

// A warm image's own stack: witness.c, STACK_END. Its last page was dumped.
const (
	warmStack    = 0x7d0000000000
	warmStackLen = 0x10000
	warmRSP      = warmStack + warmStackLen - 256
	warmCopied   = 0xc0b1ed
	warmShared   = 0x20006000
)

// A warmTool is a script that the witness interprets, in a store with a launcher file that
// starts it from a warm image.
type warmTool struct {
	dir, bin, script string
	plan             *plan.Plan
}

// newWarmTool writes the script and makes the plan.
func newWarmTool(t *testing.T) *warmTool {
	t.Helper()
	dir := openDirectory(t)
	w := &warmTool{dir: dir, bin: witness(t, dir), script: filepath.Join(dir, "tool")}
	writeFile(t, w.script, []byte("#!"+w.bin+" -E\n"), 0o755)
	p := witnessPlan(t, dir, w.bin)
	symbols := symbolsOf(t, w.bin)
	pages := filepath.Join(dir, "pages-1.img")
	page := make([]byte, 4096)
	binary.LittleEndian.PutUint64(page, warmCopied)
	if err := writeAt(pages, page, 4096); err != nil {
		t.Fatal(err)
	}
	p.Kind, p.Flags, p.Path, p.Real = plan.KindWarm, plan.FlagKeepBrk|plan.FlagProgramArg, w.script, w.script
	p.Files[0].Flags = plan.FileExe
	p.Files[0].Maps = append(p.Files[0].Maps, plan.Map{Addr: warmShared, Len: 4096, Prot: unix.PROT_READ, Flags: unix.MAP_SHARED | unix.MAP_FIXED_NOREPLACE})
	p.Files[1].ID = statID(t, pages)
	p.Files = slices.Insert(p.Files, 0, plan.MappedFile{Path: w.script, Flags: plan.FileProgram, ID: statID(t, w.script)})
	p.Anon = append(p.Anon, plan.Map{Addr: warmStack, Len: warmStackLen, Prot: unix.PROT_READ | unix.PROT_WRITE,
		Flags: unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_FIXED_NOREPLACE | unix.MAP_GROWSDOWN | unix.MAP_STACK | unix.MAP_NORESERVE})
	p.Fixups = []plan.Fixup{{Addr: warmStack + warmStackLen - 4096 + 256*8, Kind: plan.FixSP, Size: 8}}
	for _, kind := range []uint32{plan.FixSP, plan.FixArgv, plan.FixEnvp, plan.FixAuxv, plan.FixTID, plan.FixIgnored, plan.FixFlags} {
		p.Fixups = append(p.Fixups, plan.Fixup{Addr: witnessWords + 8*uint64(kind), Kind: kind, Size: 8})
	}
	p.Args = []string{w.bin, "-E"}
	p.Copies = []plan.Map{{Addr: warmStack + warmStackLen - 4096, Len: 4096, Off: 4096}}
	p.Signals = []plan.SignalAction{
		{Signal: uint32(unix.SIGINT), Handler: symbols["handler"], Flags: 0x04000000, Restorer: symbols["sig_return"]},
		{Signal: uint32(unix.SIGUSR1), Handler: symbols["handler"], Flags: 0x04000000, Restorer: symbols["sig_return"]},
		{Signal: uint32(unix.SIGPIPE), Handler: 1},
	}
	p.Populate = []plan.Map{{Addr: witnessFresh, Len: 4096, Prot: unix.PROT_WRITE}}
	p.MM.Brk = p.MM.BrkBase
	p.Entry.RIP, p.Entry.RSP = symbols["warm"], warmRSP
	p.Stop = plan.Stop{Addr: symbols["warm"], Point: plan.StopWarm}
	p.Warm = plan.Warm{StackLimit: stackLimit(t), PID: 1, LayoutCounts: [8]uint8{1}}
	w.plan = p
	return w
}

// write writes the plan and the launcher file, whose path it gives.
func (w *warmTool) write(t *testing.T) string {
	t.Helper()
	index := filepath.Join(w.dir, "index")
	write(t, index, w.plan)
	raw, err := File(0, storeIn(w.dir), "index", w.script, w.plan.StackRoom())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(w.dir, "launchers/tool")
	writeFile(t, file, raw, 0o755)
	return file
}

func symbolsOf(t *testing.T, bin string) map[string]uint64 {
	t.Helper()
	f, err := elf.Open(bin)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]uint64{}
	for _, s := range all {
		values[s.Name] = s.Value
	}
	return values
}

func writeAt(path string, b []byte, off int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(b, off)
	return err
}

func statID(t *testing.T, path string) plan.FileID {
	t.Helper()
	id, err := linux.StatID(path)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func stackLimit(t *testing.T) uint64 {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(unix.RLIMIT_STACK, &limit); err != nil {
		t.Fatal(err)
	}
	return limit.Cur
}

// asWarm is asExec, and what only a warm start has.
func asWarm(t *testing.T, resident, plain ending, w *warmTool) {
	t.Helper()
	asExec(t, resident, plain)
	got, want := resident.said(), plain.said()
	for word, want := range map[string]string{
		"rax": "0", "rsp": fmt.Sprintf("%x", warmRSP), "copied": fmt.Sprintf("%x", warmCopied), "corrected": "1",
		"populated": "1", "stack-grows": "", "handled": "a", "execfn": w.script, "exe": w.bin,
	} {
		if got := got.one(word); got != want {
			t.Errorf("%s is %q, want %q", word, got, want)
		}
	}
	if got["stack-grows"] == nil || want["stack-grows"] != nil {
		t.Error("only the warm start has a stack of its own")
	}
	if maps := strings.Join(got["maps"], "\n"); !strings.Contains(maps, fmt.Sprintf("%x-%x r--s", warmShared, warmShared+4096)) {
		t.Errorf("nothing is shared:\n%s", maps)
	}
}

// TestWarmStart: the process is the one that the kernel makes of a script, whatever the
// arguments are.
func TestWarmStart(t *testing.T) {
	w := newWarmTool(t)
	file := w.write(t)
	many := slices.Repeat([]string{"x"}, 100_000)
	for _, tc := range []struct {
		name string
		argv []string
		env  []string
	}{
		{"no argument", []string{"tool"}, []string{"A=1", "B="}},
		{"one", []string{"tool", "a"}, []string{"A=1", "B="}},
		{"two", []string{"tool", "a", ""}, []string{"A=1"}},
		{"three", []string{"tool", "", "b", "c"}, []string{"A=1", "B=2"}},
		{"no environment", []string{"tool", "a"}, []string{}},
		{"neither", []string{"tool"}, []string{}},
		{"empty argv[0]", []string{""}, []string{"A=1"}},
		{"empty argv[0] with an argument", []string{"", "a"}, []string{"A=1"}},
		{"long argv[0]", []string{strings.Repeat("t", 100_000), "a"}, []string{"A=1"}},
		{"much", append([]string{"tool"}, slices.Repeat([]string{strings.Repeat("x", 1000)}, 200)...), slices.Repeat([]string{"E=" + strings.Repeat("y", 1000)}, 200)},
		{"2 MB of arguments", append([]string{"tool"}, slices.Repeat([]string{strings.Repeat("x", 1000)}, 2000)...), []string{"A=1"}},
		{"many arguments", append([]string{"tool"}, many...), []string{"A=1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plain := run(t, &exec.Cmd{Path: w.script, Args: tc.argv, Env: tc.env})
			warm := run(t, &exec.Cmd{Path: file, Args: tc.argv, Env: tc.env})
			asWarm(t, warm, plain, w)
			if warm.stderr != "" {
				t.Errorf("it says %q", warm.stderr)
			}
		})
	}
}

// TestWarmStartKeepsArgs: the strings that the plan has may be long, one, or none.
func TestWarmStartKeepsArgs(t *testing.T) {
	for _, tc := range []struct {
		name  string
		args  []string
		flags uint32
		want  []string // of the arguments a and b; %s is the script
	}{
		{"an interpreter and its argument", []string{"/i", "-E"}, plan.FlagProgramArg, []string{"/i", "-E", "%s", "a", "b"}},
		{"an interpreter", []string{"/i"}, plan.FlagProgramArg, []string{"/i", "%s", "a", "b"}},
		{"without the program", []string{"/usr/bin/i"}, 0, []string{"/usr/bin/i", "a", "b"}},
		{"long", []string{"/" + strings.Repeat("i", 4094), strings.Repeat("o", 4095)}, plan.FlagProgramArg,
			[]string{"/" + strings.Repeat("i", 4094), strings.Repeat("o", 4095), "%s", "a", "b"}},
		{"many", slices.Repeat([]string{"o"}, 16), plan.FlagProgramArg, append(slices.Repeat([]string{"o"}, 16), "%s", "a", "b")},
		{"none", nil, 0, []string{"called", "a", "b"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWarmTool(t)
			w.plan.Args, w.plan.Flags = tc.args, plan.FlagKeepBrk|tc.flags
			file := w.write(t)
			got := run(t, &exec.Cmd{Path: file, Args: []string{"called", "a", "b"}, Env: []string{"A=1"}}).said()
			for i, arg := range tc.want {
				if arg == "%s" {
					tc.want[i] = w.script
				}
			}
			if diff := cmp.Diff(tc.want, got["argv"]); diff != "" {
				t.Errorf("argv:\n%s", diff)
			}
			if want := strings.Join(tc.want, "|") + "|"; got.one("cmdline") != want {
				t.Errorf("/proc/self/cmdline is %.100q, want %.100q", got.one("cmdline"), want)
			}
			if got["wrong-word"] != nil || got["random-misplaced"] != nil || got.one("stack-alignment") != "0" || got.one("env") != "A=1" {
				t.Errorf("the stack: %v", got)
			}
		})
	}
}

// TestWarmStartOfUnprivileged: where /proc/self/exe cannot be set, the start leaves by a page
// of its own.
func TestWarmStartOfUnprivileged(t *testing.T) {
	needRoot(t)
	for _, flags := range []uint32{0, plan.FlagSetExe} {
		w := newWarmTool(t)
		w.plan.Flags |= flags
		file := w.write(t)
		nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		got := run(t, &exec.Cmd{Path: file, Args: []string{"tool", "a"}, Env: []string{}, SysProcAttr: nobody})
		plain := run(t, &exec.Cmd{Path: w.script, Args: []string{"tool", "a"}, Env: []string{}, SysProcAttr: nobody})
		asExec(t, got, plain)
		if got := got.said(); got.one("rax") != "0" || got.one("rsp") != fmt.Sprintf("%x", warmRSP) {
			t.Errorf("flags %#x: %v", flags, got)
		}
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
}

// TestWarmStartKeepsIgnoredSignals: what the caller ignores or blocks stays so, and the
// program is told what is ignored. All other actions are the image's.
func TestWarmStartKeepsIgnoredSignals(t *testing.T) {
	requireTool(t, "env")
	w := newWarmTool(t)
	file := w.write(t)
	for _, tc := range []struct {
		name, option           string
		ignored                uint64
		actionIgnored, handled string
	}{
		{"none", "-u", 0, "d", "2,a"},
		{"SIGINT", "--ignore-signal=INT", 1 << 1, "2,d", "a"},
		{"SIGHUP and SIGPIPE", "--ignore-signal=HUP,PIPE", 1<<0 | 1<<12, "1,d", "2,a"},
		{"one that is blocked", "--block-signal=USR2", 0, "d", "2,a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			args := []string{"env", tc.option, file, "a"}
			if tc.option == "-u" {
				args = slices.Insert(args, 2, "NOTHING")
			}
			got := run(t, &exec.Cmd{Path: toolPath(t, "env"), Args: args}).said()
			if got.hex(t, "ignored") != tc.ignored || got.one("signal-ignored") != tc.actionIgnored || got.one("signal-handled") != tc.handled {
				t.Errorf("ignored %s, actions: ignored %s, handled %s", got.one("ignored"), got.one("signal-ignored"), got.one("signal-handled"))
			}
			blocked := uint64(0)
			if tc.option == "--block-signal=USR2" {
				blocked = 1 << 11
			}
			if got.hex(t, "mask") != blocked {
				t.Errorf("blocked: %s", got.one("mask"))
			}
		})
	}
}

func toolPath(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestWarmStartTellsFlags: the program learns whether the start is to be explained, and
// whether a normal one is an error.
func TestWarmStartTellsFlags(t *testing.T) {
	w := newWarmTool(t)
	file := w.write(t)
	for env, want := range map[string]string{"A=1": "0", "RESIDENTCTL_EXPLAIN=1": "1", "RESIDENTCTL_EXPLAIN=0": "0"} {
		if got := run(t, &exec.Cmd{Path: file, Env: []string{env}}).said().one("flags"); got != want {
			t.Errorf("%s: %s, want %s", env, got, want)
		}
	}
	w = newWarmTool(t)
	for options, want := range map[string]string{"--explain": "1", "--strict": "2", "--strict --explain": "3"} {
		got := runByDoor(t, w, strings.Fields(options))
		if got.said().one("flags") != want {
			t.Errorf("%s: %q, want %s\n%s", options, got.said().one("flags"), want, got.stderr)
		}
	}
}

// runByDoor starts the tool by the front door, in a store that has everything at its place.
func runByDoor(t *testing.T, w *warmTool, options []string) ending {
	t.Helper()
	id := w.plan.Program().ID
	inode := id.Inode().String()
	write(t, filepath.Join(w.dir, "index", inode), w.plan)
	raw, err := File(0, storeIn(w.dir), "index/"+inode, w.script, w.plan.StackRoom())
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(w.dir, "launchers", inode, w.script), raw, 0o755)
	door := frontDoor(t, w.dir, w.dir)
	args := slices.Concat([]string{"residentctl", "run"}, options, []string{w.script, "a", "b"})
	return run(t, &exec.Cmd{Path: door, Args: args, Env: []string{"A=1"}})
}

// TestWarmStartByFrontDoor: `run` executes the launcher file, also where it could become
// the program itself.
func TestWarmStartByFrontDoor(t *testing.T) {
	w := newWarmTool(t)
	got := runByDoor(t, w, []string{"--strict"})
	plain := run(t, &exec.Cmd{Path: w.script, Args: []string{w.script, "a", "b"}, Env: []string{"A=1"}})
	asWarm(t, got, plain, w)
}

// TestWarmDoubts: what makes a warm start doubtful is answered by an exec of the script,
// before anything is touched or after.
func TestWarmDoubts(t *testing.T) {
	exact := func(text string) func(*warmTool) {
		return func(w *warmTool) { w.plan.Env = []plan.EnvCheck{{Text: text, Kind: plan.EnvExact}} }
	}
	prefix := func(text string, exact ...string) func(*warmTool) {
		return func(w *warmTool) {
			for _, e := range exact {
				w.plan.Env = append(w.plan.Env, plan.EnvCheck{Text: e, Kind: plan.EnvExact})
			}
			w.plan.Env = append(w.plan.Env, plan.EnvCheck{Text: text, Kind: plan.EnvPrefix})
		}
	}
	const other = "the environment differs from that of its image: "
	for _, tc := range []struct {
		name   string
		change func(w *warmTool)
		env    []string
		want   string // "" if the start is warm
	}{
		{"variable of another value", exact("HOME=/root"), []string{"HOME=/root2"}, other + "HOME=/root2\n"},
		{"variable of the beginning of the value", exact("HOME=/root"), []string{"HOME=/roo"}, other + "HOME=/roo\n"},
		{"variable missing", exact("HOME=/root"), []string{"HOMES=/root", "HOM=/root"}, other + "HOME=/root\n"},
		{"variable that is no assignment", exact("HOME=/root"), []string{"HOME"}, other + "HOME=/root\n"},
		{"variable right", exact("HOME=/root"), []string{"HOME=/root"}, ""},
		{"variable right and empty", exact("HOME="), []string{"HOME="}, ""},
		{"variable of a prefix", prefix("PYTHON"), []string{"PYTHONPATH=x"}, other + "PYTHONPATH=x\n"},
		{"name that is the prefix", prefix("PYTHON"), []string{"PYTHON=x"}, other + "PYTHON=x\n"},
		{"none of the prefix", prefix("PYTHON"), []string{"PYTHO=x", "XPYTHON=1"}, ""},
		{"named one of the prefix", prefix("LC_", "LC_ALL=C"), []string{"LC_ALL=C"}, ""},
		{"another one of the prefix", prefix("LC_", "LC_ALL=C"), []string{"LC_ALL=C", "LC_ALLX=C"}, other + "LC_ALLX=C\n"},

		{"stack limit", func(w *warmTool) { w.plan.Warm.StackLimit-- }, nil, "the stack limit is another one"},
		{"CPUs", func(w *warmTool) { affinity(w.plan); w.plan.Warm.CPUs[0] ^= 1 }, nil, "it may run on other CPUs than its image"},
		{"length of CPUs", func(w *warmTool) { affinity(w.plan); w.plan.Warm.CPUsLen /= 2 }, nil, "it may run on other CPUs than its image"},
		{"the same CPUs", func(w *warmTool) { affinity(w.plan) }, nil, ""},
		{"directory that is exact", func(w *warmTool) {
			w.plan.Directories[0].Exact = true
			w.plan.Directories[0].ID.Mtime++
		}, nil, "this has changed "},
		{"script changed", func(w *warmTool) { w.plan.Program().ID.Ctime++ }, nil, "this has changed"},
		{"interpreter changed", func(w *warmTool) { w.plan.Exe().ID.Ctime++ }, nil, "this has changed"},
		{"dumped pages that are not there", func(w *warmTool) { w.plan.Copies[0].Off = 1 << 20 }, nil, "its image cannot be read"},
		{"memory map that the kernel refuses", func(w *warmTool) { w.plan.MM.EndCode = 0 }, nil, "PR_SET_MM_MAP"},
		{"protection that cannot be", func(w *warmTool) { w.plan.Protects[0].Prot = 1 << 20 }, nil, "cannot be protected"},
		{"linked image's kind", func(w *warmTool) { w.plan.Caller.HWCap ^= 1 }, nil, "describes the machine differently"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWarmTool(t)
			tc.change(w)
			file := w.write(t)
			if tc.want != "" {
				startsNormally(t, file, w.script, tc.env, tc.want)
				return
			}
			got := run(t, &exec.Cmd{Path: file, Env: append([]string{"RESIDENTCTL_EXPLAIN=1"}, tc.env...)})
			if got.said().one("rsp") != fmt.Sprintf("%x", warmRSP) {
				t.Errorf("no warm start: %s", got.stderr)
			}
		})
	}
}

// affinity makes the plan's CPUs those of this process.
func affinity(p *plan.Plan) {
	n, _, _ := unix.RawSyscall(unix.SYS_SCHED_GETAFFINITY, 0, uintptr(len(p.Warm.CPUs)), uintptr(unsafe.Pointer(&p.Warm.CPUs[0])))
	p.Warm.CPUsLen = uint32(n)
}

// TestWarmStartWithItsTemplatesPID: the process id may be in the image, so a process that
// has it starts normally.
func TestWarmStartWithItsTemplatesPID(t *testing.T) {
	w := newWarmTool(t)
	file := w.write(t)
	for _, same := range []bool{false, true} {
		want := "resident start"
		got := runPrepared(t, file, func(pid int) {
			w.plan.Warm.PID = uint64(pid) + 1
			if same {
				w.plan.Warm.PID--
				want = "started normally: it has the process id of its image's template"
			}
			write(t, filepath.Join(w.dir, "index"), w.plan)
		})
		if !strings.Contains(got.stderr, want) {
			t.Errorf("it says %q, want %q", got.stderr, want)
		}
	}
}

// runPrepared executes a file with the arguments a and b in a process whose id is known
// before.
func runPrepared(t *testing.T, file string, prepare func(pid int)) ending {
	t.Helper()
	cmd := &exec.Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", `read -r line && exec "$0" a b`, file},
		Env: []string{"RESIDENTCTL_EXPLAIN=1"}}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	prepare(cmd.Process.Pid)
	fmt.Fprintln(stdin)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	return ending{0, stdout.String(), stderr.String()}
}

// TestWarmStartWithVariableTwice: the first of two values counts, as for getenv(3).
func TestWarmStartWithVariableTwice(t *testing.T) {
	w := newWarmTool(t)
	w.plan.Env = []plan.EnvCheck{{Text: "HOME=/root", Kind: plan.EnvExact}, {Text: "HOME", Kind: plan.EnvPrefix}}
	file := w.write(t)
	for _, tc := range []struct{ first, second, want string }{
		{"HOME=/root", "HOME=/", "resident start"},
		{"HOME=/", "HOME=/root", "started normally: the environment differs from that of its image: HOME=/\n"},
	} {
		// exec.Cmd would leave out the first.
		r, said, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p, err := os.StartProcess(file, []string{"tool"}, &os.ProcAttr{
			Env: []string{"RESIDENTCTL_EXPLAIN=1", tc.first, tc.second}, Files: []*os.File{nil, nil, said}})
		said.Close()
		if err != nil {
			t.Fatal(err)
		}
		stderr, _ := io.ReadAll(r)
		r.Close()
		if _, err := p.Wait(); err != nil || !strings.Contains(string(stderr), tc.want) {
			t.Errorf("%s, %s: %v, %q, want %q", tc.first, tc.second, err, stderr, tc.want)
		}
	}
}

// TestWarmStartThatFails: after a failure at the last moment the script is executed as if
// nothing had been done: with its own arguments, and with nothing ignored but what the
// caller ignores.
func TestWarmStartThatFails(t *testing.T) {
	needRoot(t)
	requireTool(t, "prlimit")
	w := newWarmTool(t)
	w.plan.Flags |= plan.FlagNeedsExe | plan.FlagSetExe
	file := w.write(t)
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	// No process more: the child that would set /proc/self/exe cannot be made.
	got := run(t, &exec.Cmd{Path: toolPath(t, "prlimit"), Args: []string{"prlimit", "--nproc=0:0", file, "a", "b"},
		Env: []string{"RESIDENTCTL_EXPLAIN=1"}, SysProcAttr: nobody})
	if !strings.Contains(got.stderr, "started normally: it looks at itself through /proc/self/exe") {
		t.Fatalf("it says %q", got.stderr)
	}
	if said := got.said(); said.one("argv") != strings.Join([]string{w.bin, "-E", w.script, "a", "b"}, ",") || said["signal-ignored"] != nil {
		t.Errorf("arguments %q, ignored %q", said["argv"], said["signal-ignored"])
	}
}

// TestWarmStartNeedsItsLauncherFile: one that leaves too little room for the arguments is of
// another plan.
func TestWarmStartNeedsItsLauncherFile(t *testing.T) {
	w := newWarmTool(t)
	write(t, filepath.Join(w.dir, "index"), w.plan)
	file := launcherFile(t, filepath.Join(w.dir, "launchers/tool"), w.script, filepath.Join(w.dir, "index"))
	startsNormally(t, file, w.script, nil, "its launcher file leaves no room for its arguments")
}

// TestWarmStartWithStackLimit: the room for the arguments is there whatever the limit is.
func TestWarmStartWithStackLimit(t *testing.T) {
	requireTool(t, "prlimit")
	for limit, value := range map[string]uint64{"262144": 256 << 10, "unlimited": unix.RLIM_INFINITY} {
		t.Run(limit, func(t *testing.T) {
			w := newWarmTool(t)
			w.plan.Warm.StackLimit = value
			file := w.write(t)
			args := slices.Repeat([]string{strings.Repeat("x", 1000)}, 20)
			start := func(path string) ending {
				return run(t, &exec.Cmd{Path: toolPath(t, "prlimit"), Args: append([]string{"prlimit", "--stack=" + limit + ":", path}, args...),
					Env: []string{"RESIDENTCTL_EXPLAIN=1"}})
			}
			got := start(file)
			if limit == "unlimited" {
				if !strings.Contains(got.stderr, "the stack limit leaves no room beside the image") {
					t.Errorf("it says %q", got.stderr)
				}
				return
			}
			plain := start(w.script)
			if diff := cmp.Diff(plain.said()["argv"], got.said()["argv"]); diff != "" || got.said().one("rsp") != fmt.Sprintf("%x", warmRSP) {
				t.Errorf("%s\n%s", got.stderr, diff)
			}
		})
	}
}

// TestWarmStartByLinker: inside of a dynamic linker nothing can be put below the stack, and
// the start is normal.
func TestWarmStartByLinker(t *testing.T) {
	requireTool(t, "gcc")
	w := newWarmTool(t)
	const linker = "/lib64/ld-linux-x86-64.so.2"
	raw, err := os.ReadFile(linker)
	if err != nil {
		t.Skip("there is no glibc")
	}
	covered, err := Cover(raw, CoverOptions{Original: linker, Stores: []Store{storeIn(w.dir)}})
	if err != nil {
		t.Fatal(err)
	}
	copied, program := filepath.Join(w.dir, "ld.so"), filepath.Join(w.dir, "program")
	writeFile(t, copied, covered, 0o755)
	source := filepath.Join(w.dir, "program.c")
	writeFile(t, source, []byte("int main(void) { return 7; }\n"), 0o644)
	if out, err := exec.Command("gcc", "-o", program, "-Wl,--dynamic-linker="+copied, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	id := statID(t, program)
	w.plan.Files[0].ID = id
	write(t, filepath.Join(w.dir, "index", id.Inode().String()), w.plan)
	got := run(t, &exec.Cmd{Path: program, Env: []string{"RESIDENTCTL_EXPLAIN=1"}})
	if want := "started normally: a warm image starts by its launcher file only"; got.status != 7 || !strings.Contains(got.stderr, want) {
		t.Errorf("status %d, it says %q, want %q", got.status, got.stderr, want)
	}
}
