package integration

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/unchanged"
)

// A warmed is a program that has a warm image, and what its starts have in common.
type warmed struct {
	*kit.Store
	program string
	plain   []string // what a plain start executes, if not the program
	home    string
	env     []string // of add and of all starts, besides
	user    kit.User
}

// A warmCase is a start of such a program, made plainly and from the image.
type warmCase struct {
	name    string
	args    []string
	options []string // of fixtures/situation.c
	shell   string   // what a shell does before
	stdin   string   // through a pipe; empty: /dev/null
	env     []string // added to the environment
	outputs []string // files that are compared
	// terminals are the standard streams, bit 0 for 0, that are a terminal.
	terminals uint32
	noise     []kit.Noise
	normal    string // why the start from the image has to be a normal one
}

// saysNothing is warmCase.normal where the start has to be a normal one that is not explained:
// with privileges that its caller has not.
const saysNothing = "nothing said"

// newWarmed returns a program without an image yet, and a store of its own.
func newWarmed(t testing.TB, program string) *warmed {
	t.Helper()
	return &warmed{Store: kit.NewStore(t, kit.Dir(t)), program: program, home: kit.Dir(t)}
}

func (w *warmed) add(t testing.TB, options ...string) {
	t.Helper()
	w.does(t, slices.Concat([]string{"add", "--warm", "--even-if-slower"}, options, []string{w.program})...)
}

// does runs residentctl with the environment that the starts have: it matters.
func (w *warmed) does(t testing.TB, args ...string) string {
	t.Helper()
	c := w.Command(args...)
	c.Env = w.environment()
	r := kit.Finish(t, c)
	if r.Code != 0 {
		t.Fatalf("residentctl %q: %v", args, r)
	}
	return r.Stdout
}

func (w *warmed) environment() []string { return append(w.Environment(w.home), w.env...) }

// python makes a script of the fixture's text, with that first line and the module helper
// beside it, in a directory of its own.
func python(t testing.TB, firstLine string) string {
	t.Helper()
	text, err := os.ReadFile("fixtures/warm.py")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n")
	program := filepath.Join(kit.Dir(t), "warm")
	write(t, program, firstLine+"\n"+rest, 0o755)
	write(t, filepath.Join(filepath.Dir(program), "helper.py"), "VERSION = 1\n", 0o644)
	return program
}

func write(t testing.TB, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// command is a start in the directory dir, plainly or through the launcher file.
func (w *warmed) command(t testing.TB, ctx context.Context, c warmCase, warm bool, dir string) *exec.Cmd {
	t.Helper()
	path, words := w.program, []string{w.program}
	if w.plain != nil {
		path, words = w.plain[0], w.plain
	}
	if warm {
		path = w.Launcher(w.program)
	}
	args := slices.Concat(words, c.args)
	if len(c.options) > 0 {
		args = slices.Concat([]string{"situation"}, c.options, []string{"--", path}, args)
		path = kit.Fixture(t, "situation")
	}
	if c.shell != "" {
		args = slices.Concat([]string{"bash", "-c", c.shell + "\n" + `exec -a "$1" "$0" "${@:2}"`, path}, args)
		path = "/bin/bash"
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Args, cmd.Dir = args, dir
	cmd.Env = slices.Concat(w.environment(), []string{"RESIDENTCTL_EXPLAIN=1"}, c.env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: w.user.ID, Gid: w.user.ID}}
	cmd.WaitDelay = 5 * time.Second
	if c.stdin != "" {
		cmd.Stdin = strings.NewReader(c.stdin)
	}
	return cmd
}

// emptied makes the directory again.
func (w *warmed) emptied(t testing.TB, dir string) {
	t.Helper()
	kit.Remove(t, dir)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	kit.Chown(t, dir, int(w.user.ID))
}

// start starts the program and returns what it leaves, and how it was started.
func (w *warmed) start(t testing.TB, c warmCase, warm bool, dir string) (o kit.Outcome, how, why string) {
	t.Helper()
	w.emptied(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := w.command(t, ctx, c, warm, dir)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	shown := func() string { return "" }
	if c.terminals != 0 {
		shown = onTerminal(t, cmd, c.terminals)
	}
	err := cmd.Run()
	unchanged.Check(t)
	terminal := shown()
	if cmd.ProcessState == nil || ctx.Err() != nil {
		t.Fatalf("start %q: %v (%v)\n%s%s", cmd.Args, err, ctx.Err(), stdout.String(), stderr.String())
	}
	how, why = explained(stderr.String() + terminal)
	stdout.WriteString(warmExplanation.ReplaceAllString(terminal, ""))
	said := warmExplanation.ReplaceAllString(stderr.String(), "")
	quiet := kit.Command{Noise: c.noise}
	o = kit.Outcome{Stdout: quiet.Quiet(stdout.String()), Stderr: quiet.Quiet(said), Status: cmd.ProcessState.String(),
		Outputs: map[string]string{}}
	for _, name := range c.outputs {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			content = []byte(err.Error())
		}
		o.Outputs[name] = string(content)
	}
	return o, how, why
}

// onTerminal makes these of a command's standard streams a terminal of 30 lines and 131 columns.
// What it returns is to be called when the command has ended, and returns what came.
func onTerminal(t testing.TB, cmd *exec.Cmd, streams uint32) (shown func() string) {
	t.Helper()
	master, terminal, err := linux.OpenTerminal()
	if err == nil {
		err = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 30, Col: 131})
	}
	if err != nil {
		t.Fatal(err)
	}
	linux.GiveTerminal(cmd, terminal, streams)
	cmd.SysProcAttr.Setsid = true
	text := make(chan string)
	go func() {
		all, _ := io.ReadAll(master) // ends when no process has it open any more (pty(7))
		master.Close()
		text <- strings.ReplaceAll(string(all), "\r\n", "\n")
	}()
	return func() string {
		terminal.Close()
		return <-text
	}
}

// explained is what is said last of how the program was started: the launcher says that it
// is resident, and the program itself may still find that it has to be started normally.
func explained(stderr string) (how, why string) {
	all := warmExplanation.FindAllString(stderr, -1)
	if len(all) == 0 {
		return kit.Explanation("")
	}
	return kit.Explanation(all[len(all)-1])
}

var warmExplanation = regexp.MustCompile(`(?m)^residentctl: \S+: (resident start|started normally): .*\n`)

// try makes each start plainly and from the image, and compares.
func (w *warmed) try(t *testing.T, cases []warmCase) {
	t.Helper()
	for _, c := range cases {
		name := c.name
		if name == "" {
			name = strings.Join(c.args, " ")
		}
		t.Run(name, func(t *testing.T) { w.tryOne(t, c) })
	}
}

func (w *warmed) tryOne(t *testing.T, c warmCase) {
	t.Helper()
	dir := filepath.Join(kit.Dir(t), "work")
	want, _, _ := w.start(t, c, false, dir)
	if want.Status == "exit status 125" {
		t.Fatalf("the plain start fails:\n%s%s", want.Stdout, want.Stderr)
	}
	got, how, why := w.start(t, c, true, dir)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("plain (-) and warm (+) differ:\n%s", diff)
	}
	switch {
	case c.normal == kit.Either || c.normal == how && how == saysNothing:
	case c.normal == "" && how != "resident start":
		t.Errorf("it was no warm start: %s: %s", how, why)
	case c.normal != "" && (how != "started normally" || !strings.Contains(why, c.normal)):
		t.Errorf("%s: %s; want a normal start: %s", how, why, c.normal)
	}
}

// warmPrograms are those that several tests start, by their first line.
var warmPrograms = map[string]*warmed{}

// warmPython returns the script of fixtures/warm.py with its image, which this test process
// makes once.
func warmPython(t *testing.T) *warmed {
	t.Helper()
	kit.RequireCRIU(t)
	const line = "#!/usr/bin/python3"
	if warmPrograms[line] == nil {
		w := &warmed{Store: kit.NewStore(t, filepath.Join(kit.Temporary, "warm")), home: filepath.Join(kit.Temporary, "warm", "home")}
		dir := filepath.Join(kit.Temporary, "warm", "bin")
		for _, d := range []string{w.home, dir} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		from := python(t, line)
		w.program = filepath.Join(dir, "warm")
		for _, name := range []string{"warm", "helper.py"} {
			kit.CopyFile(t, filepath.Join(filepath.Dir(from), name), filepath.Join(dir, name))
		}
		buildExtension(t, dir)
		w.add(t, "--train", "imports warmcxx")
		warmPrograms[line] = w
	}
	return warmPrograms[line]
}

// buildExtension makes the extension module in a directory, and returns its path.
func buildExtension(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "warmcxx.so")
	kit.Compile(t, path, kit.FixtureSource("warm-extension"), "-shared", "-fPIC", `-DMODULE="warmcxx"`)
	return path
}
