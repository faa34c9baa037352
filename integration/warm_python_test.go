package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/pkg/plan"
)

var addresses = []kit.Noise{{Pattern: regexp.MustCompile(`0x[0-9a-f]{6,}`), Replacement: "ADDRESS"}}

// TestWarmInterpreter: what a script sees of its interpreter and of its process is what it
// sees in a plain start.
func TestWarmInterpreter(t *testing.T) {
	warmPython(t).try(t, []warmCase{
		{args: []string{"interpreter", "a", "", "b c", "\xff"}},
		{args: []string{"identity", "a", ""}},
		{args: []string{"source"}},
		{args: []string{"helped"}},
		{args: []string{"time-zone"}},
		{name: "another time zone", args: []string{"time-zone"}, env: []string{"TZ=Asia/Tokyo"}},
		{args: []string{"secure"}},
		{name: "2 MB of arguments", args: []string{"interpreter"},
			options: []string{"--limit", kit.LimitStack, "8388608", "--arguments", "15", "131071", "--arguments", "5000", "9"}},
		{name: "their kernel's view", args: []string{"identity"},
			options: []string{"--limit", kit.LimitStack, "8388608", "--arguments", "15", "131071", "--arguments", "5000", "9"}},
		{name: "20,000 variables", args: []string{"identity"}, options: []string{"--variables", "20000", "50"}},
		{name: "odd variables", args: []string{"interpreter"}, options: []string{"--variable", "", "--variable", "=", "--variable", "A",
			"--variable", "A=1", "--variable", "A=2", "--variable", "B=\xff"}},
		{name: "umask and group", args: []string{"identity"}, options: []string{"--umask", "027", "--groups", "1", "2", "3"}},
		{name: "a directory that is gone", args: []string{"helped"}, options: []string{"--deleted-directory"}},
	})
}

// TestWarmModules: a preloaded module is one that the script imports, not one that is there.
func TestWarmModules(t *testing.T) {
	w := warmPython(t)
	w.try(t, []warmCase{
		{args: []string{"handed-out"}},
		{args: []string{"importers"}},
		{args: []string{"reloaded"}},
		{args: []string{"shadowed"}},
	})
	shadow := filepath.Join(filepath.Dir(w.program), "json.py")
	write(t, shadow, "def dumps(x): return 'shadowed'\n", 0o644)
	defer os.RemoveAll(filepath.Join(filepath.Dir(w.program), "__pycache__"))
	defer os.Remove(shadow)
	w.try(t, []warmCase{
		{name: "shadowed, beside the script", args: []string{"shadowed"}, normal: shadows},
		{name: "others with a shadow there", args: []string{"helped"}, normal: shadows},
	})
}

// shadows is why a start is a normal one beside whose script another module has come.
const shadows = "its directory has a module that its image has from elsewhere"

// TestWarmRandom: no two starts share what is drawn at random.
func TestWarmRandom(t *testing.T) {
	w := warmPython(t)
	dir := filepath.Join(kit.Dir(t), "work")
	seen := map[string]string{}
	for range 3 {
		o, how, why := w.start(t, warmCase{args: []string{"drawn"}}, true, dir)
		if o.Status != "exit status 0" || how != "resident start" || strings.Count(o.Stdout, "\n") < 15 {
			t.Fatalf("%s: %s\n%v", how, why, o)
		}
		for line := range strings.Lines(o.Stdout) {
			what, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			if other := seen[value]; other != "" {
				t.Errorf("%s is %s, as %s was in another start", what, value, other)
			}
			seen[value] = what
		}
	}
}

// TestWarmDrawnAtImport: what a module draws at random when it is imported is in no image, since
// all starts would have it in common.
func TestWarmDrawnAtImport(t *testing.T) {
	kit.RequireCRIU(t)
	t.Parallel()
	slice := kit.Today(t, 2)
	for n, line := range []string{
		"import random; DRAWN = random.Random().random()", "import random; DRAWN = random.random()",
		"import os; DRAWN = os.urandom(8)", "DRAWN = open('/dev/urandom', 'rb', 0).read(8)",
	} {
		if !slice.Has(n) {
			continue
		}
		t.Run(line, func(t *testing.T) {
			w := newWarmed(t, filepath.Join(kit.Dir(t), "tool"))
			modules := kit.Dir(t)
			write(t, filepath.Join(modules, "drawn.py"), line+"\n", 0o644)
			write(t, w.program, "#!/usr/bin/python3\nimport json, argparse, drawn\nprint(drawn.DRAWN)\n", 0o755)
			w.env = []string{"PYTHONPATH=" + modules}
			w.add(t)
			dir := filepath.Join(kit.Dir(t), "work")
			one, how, why := w.start(t, warmCase{}, true, dir)
			two, _, _ := w.start(t, warmCase{}, true, dir)
			if how != "resident start" || one.Stdout == "" || one.Stdout == two.Stdout {
				t.Errorf("%s: %s; %q and %q", how, why, one.Stdout, two.Stdout)
			}
		})
	}
}

// TestWarmTemplatePID: a start that is given the process id of the template is a normal one.
func TestWarmTemplatePID(t *testing.T) {
	w := warmPython(t)
	raw, err := os.ReadFile(w.Plan(t, w.program))
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	start := func(pid uint64) (kit.Outcome, string) {
		c := warmCase{args: []string{"pid"}, options: []string{"--pid-namespace"}}
		dir := filepath.Join(kit.Dir(t), "work")
		w.emptied(t, dir)
		cmd := w.command(t, t.Context(), c, true, dir)
		// In the new namespace bash sets the id and starts the program as its child.
		i := len(cmd.Args) - len(c.args) - 2
		script := fmt.Sprintf(`echo %d >/proc/sys/kernel/ns_last_pid; ( exec -a "$1" "$0" "${@:2}" ); exit $?`, pid-1)
		cmd.Args = append(append([]string{}, cmd.Args[:i]...), append([]string{"/bin/bash", "bash", "-c", script}, cmd.Args[i:]...)...)
		r := kit.Finish(t, cmd)
		how, why := explained(r.Stderr)
		return kit.Outcome{Stdout: r.Stdout, Status: fmt.Sprint(r.Code)}, how + ": " + why
	}
	pid := p.Warm.PID
	for _, test := range []struct {
		pid uint64
		how string
	}{{pid, "started normally: it has the process id of its image's template"}, {pid + 1, "resident start: "}} {
		o, how := start(test.pid)
		want := kit.Outcome{Stdout: fmt.Sprintln(test.pid), Status: "0"}
		if diff := cmp.Diff(want, o); diff != "" || !strings.HasPrefix(how, test.how) {
			t.Errorf("%s, want %s\n%s", how, test.how, diff)
		}
	}
}

// TestWarmSignals: what the caller ignores or blocks, and what the interpreter does with the
// rest.
func TestWarmSignals(t *testing.T) {
	const sigPIPE, sigHUP, sigQUIT, sigALRM = "13", "1", "3", "14"
	ignored := []string{"--ignore", kit.SigINT, "--ignore", sigHUP, "--ignore", sigQUIT}
	warmPython(t).try(t, []warmCase{
		{args: []string{"signals"}},
		{name: "signals, three ignored", args: []string{"signals"}, options: ignored},
		{name: "signals, SIGPIPE ignored", args: []string{"signals"}, options: []string{"--ignore", sigPIPE}},
		{name: "signals, a real-time one ignored", args: []string{"signals"}, options: []string{"--ignore", kit.SigRTMIN, "--ignore", "64"}},
		{name: "signals, blocked", args: []string{"signals"}, options: []string{"--block", kit.SigINT, "--block", sigHUP, "--block", sigPIPE}},
		{name: "signals, pending", args: []string{"signals"}, options: []string{"--pending", kit.SigINT}},
		{name: "signals, handled by the caller", args: []string{"signals"}, options: []string{"--handle", sigALRM, "--alternative-stack"}},
		{args: []string{"interrupted"}},
		{name: "interrupted, ignored", args: []string{"interrupted"}, options: ignored},
		{name: "interrupted, blocked", args: []string{"interrupted"}, options: []string{"--block", kit.SigINT}},
		{args: []string{"dies-interrupted"}},
		{name: "dies interrupted, ignored", args: []string{"dies-interrupted"}, options: ignored},
		{args: []string{"broken-pipe"}},
		{name: "broken pipe, ignored", args: []string{"broken-pipe"}, options: []string{"--ignore", sigPIPE}},
		{args: []string{"hung-up"}},
		{name: "hung up, ignored", args: []string{"hung-up"}, options: ignored},
		{args: []string{"alarm"}},
		{args: []string{"killed"}},
	})
}

// TestWarmDescriptors: the caller's descriptors are there, whatever their numbers, and
// nothing else is.
func TestWarmDescriptors(t *testing.T) {
	var many, files []string
	for n := 3; n <= 200; n++ {
		many = append(many, "--open", fmt.Sprint(n))
		files = append(files, fmt.Sprintf("exec %d<input; read -r -N %d -u %d _", n, n%7+1, n))
	}
	warmPython(t).try(t, []warmCase{
		{args: []string{"descriptors"}},
		{name: "3 to 200", args: []string{"descriptors"}, options: many},
		{name: "3 to 200, with places in a file", args: []string{"descriptors"}, shell: "seq 1000 >input; " + strings.Join(files, "\n")},
		{name: "some that an exec closes", args: []string{"descriptors"},
			options: []string{"--open", "3", "--open-cloexec", "4", "--open-cloexec", "150", "--open", "199"}},
	})
}

// TestWarmStreams: the standard streams are made as at the interpreter's start, for pipes and
// where they are closed.
func TestWarmStreams(t *testing.T) {
	w := warmPython(t)
	for closed := range 8 {
		var options []string
		for fd := range 3 {
			if closed>>fd&1 != 0 {
				options = append(options, "--close", fmt.Sprint(fd))
			}
		}
		t.Run(fmt.Sprintf("closed %v", options), func(t *testing.T) {
			c := warmCase{args: []string{"streams", "report"}, options: options, stdin: "text", outputs: []string{"report"}}
			c.normal = kit.Either // standard error may be closed, where it would say so
			w.tryOne(t, c)
			c.outputs = []string{"report.warm"}
			if o, _, _ := w.start(t, c, true, filepath.Join(kit.Dir(t), "work")); o.Outputs["report.warm"] != "True" {
				t.Errorf("it was no warm start: %v", o)
			}
		})
	}
	w.try(t, []warmCase{
		{args: []string{"order"}},
		{args: []string{"echo"}, stdin: "one\ntwo\r\nthr\xc3\xa9e"},
		{name: "echo of what is no UTF-8", args: []string{"echo"}, stdin: "\xff\n"},
		{args: []string{"c-stdio"}},
		{args: []string{"full"}},
		{name: "a file", args: []string{"streams", "report"}, shell: "exec >output <<<text", outputs: []string{"output", "report"}},
		{name: "order in a file", args: []string{"order"}, shell: "exec >output", outputs: []string{"output"}},
		{name: "a directory as standard input", args: []string{"order"}, shell: "exec </", noise: addresses, normal: "its standard input is a directory"},
	})
}

// TestWarmTerminal: the same on a terminal, and questions.
func TestWarmTerminal(t *testing.T) {
	w := warmPython(t)
	talk := func(warm bool, args ...string) string {
		t.Helper()
		dir := filepath.Join(kit.Dir(t), "work")
		w.emptied(t, dir)
		cmd := w.command(t, t.Context(), warmCase{args: args}, warm, dir)
		cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
		term := kit.OpenTerminal(t, (*exec.Cmd).Start, cmd)
		if warm {
			term.Expect("resident start: .*\n")
		}
		if args[0] == "ask" {
			term.Expect(`name\? `)
			term.Resize(30, 100)
			term.Send("you\n")
			term.Expect("hello")
			term.Send("once\n")
		}
		status := term.Wait()
		for term.More() {
		}
		return warmExplanation.ReplaceAllString(strings.ReplaceAll(term.Seen.String(), "\r\n", "\n"), "") + status
	}
	for _, args := range [][]string{{"streams"}, {"order"}, {"ask"}, {"raises"}} {
		t.Run(args[0], func(t *testing.T) {
			if diff := cmp.Diff(talk(false, args...), talk(true, args...)); diff != "" {
				t.Errorf("plain (-) and warm (+) differ:\n%s", diff)
			}
		})
	}
	t.Run("interrupted", func(t *testing.T) {
		for _, warm := range []bool{false, true} {
			cmd := w.command(t, t.Context(), warmCase{args: []string{"ask"}}, warm, kit.Dir(t))
			cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
			term := kit.OpenTerminal(t, (*exec.Cmd).Start, cmd)
			term.Expect(`name\? `)
			waitsForInput(t, cmd.Process.Pid)
			term.Send("\x03")
			term.Expect("KeyboardInterrupt")
			if status := term.Wait(); status != "signal: interrupt" {
				t.Errorf("warm %v: %s", warm, status)
			}
		}
	})
}

// waitsForInput waits until the process reads its standard input: python does not notice a
// signal between the question and that.
func waitsForInput(t *testing.T, pid int) {
	t.Helper()
	for range 1000 {
		// proc(5): the number of the system call, read(2)'s is 0, and its arguments.
		if strings.HasPrefix(read(t, fmt.Sprintf("/proc/%d/syscall", pid)), "0 0x0 ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it does not read its standard input")
}

// TestWarmStack: limits of the stack, and how deep it can become.
func TestWarmStack(t *testing.T) {
	w := warmPython(t)
	library := filepath.Join(kit.Dir(t), "deep.so")
	kit.Compile(t, library, kit.FixtureSource("warm-deep"), "-shared", "-fPIC")
	limited := func(bytes string) []string { return []string{"--limit", kit.LimitStack, bytes} }
	const another = "the stack limit is another one"
	w.try(t, []warmCase{
		{args: []string{"stack"}},
		{args: []string{"recursion"}},
		{name: "callback, 5 MB deep", args: []string{"deep", library, "5000"}},
		{name: "callback, too deep", args: []string{"deep", library, "9000"}},
		{name: "limit of 256 KiB", args: []string{"interpreter"}, options: limited("262144"), normal: another},
		{name: "limit of 64 MiB", args: []string{"deep", library, "50000"}, options: limited("67108864"), normal: another},
		{name: "unlimited", args: []string{"deep", library, "50000"}, options: limited("unlimited"), normal: kit.NoRoom},
	})
}

// TestWarmExit: what is done at the end is done, in the same order.
func TestWarmExit(t *testing.T) {
	w := warmPython(t)
	library := filepath.Join(kit.Dir(t), "exit.so")
	kit.Compile(t, library, kit.FixtureSource("warm-extension"), "-shared", "-fPIC")
	elsewhere := kit.Dir(t)
	buildExtension(t, elsewhere)
	cases := []warmCase{
		{args: []string{"unclosed"}, outputs: []string{"archive.zip", "packed.gz", "text"}},
		{name: "database", args: []string{"unclosed"}, outputs: []string{"database-journal"}},
		{args: []string{"exit-handlers", library}},
		{name: "extension that the image holds", args: []string{"extension", "."}},
		{name: "extension that it does not hold", args: []string{"extension", elsewhere}},
	}
	for _, name := range []string{"finalized", "held-by-module", "at-exit", "at-exit-late", "daemon", "threaded", "exit-in-thread",
		"raise-in-thread", "hard-exit", "raises", "syntax-error", "hooked"} {
		cases = append(cases, warmCase{args: []string{name}, noise: addresses})
	}
	for _, how := range []string{"none", "zero", "seven", "large", "negative", "text", "true", "tuple", "object", "huge"} {
		cases = append(cases, warmCase{args: []string{"exits", how}, noise: addresses})
	}
	w.try(t, cases)
}

// TestWarmProcesses: children and threads.
func TestWarmProcesses(t *testing.T) {
	warmPython(t).try(t, []warmCase{
		{args: []string{"forked"}},
		{args: []string{"pooled", "fork"}},
		{args: []string{"pooled", "spawn"}},
		{args: []string{"pooled", "forkserver"}},
		{args: []string{"subprocesses"}},
		{args: []string{"replaced"}},
		{name: "replaced, SIGINT ignored", args: []string{"replaced"}, options: []string{"--ignore", kit.SigINT}},
		{args: []string{"many-threads"}},
		{args: []string{"asynchronous"}},
	})
}
