package warm_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/pkg/warm"
)

// pythons are the interpreters that are tested: the system's and pyenv's, one of each
// version.
func pythons(t *testing.T) []string {
	t.Helper()
	var found []string
	if _, err := os.Stat("/usr/bin/python3"); err == nil {
		found = append(found, "/usr/bin/python3")
	}
	home, _ := os.UserHomeDir()
	for _, version := range []string{"3.9", "3.11", "3.12", "3.13"} {
		paths, _ := filepath.Glob(filepath.Join(home, ".pyenv/versions", version+".*/bin/python3"))
		if len(paths) > 0 {
			found = append(found, paths[0])
		}
	}
	if len(found) == 0 {
		t.Skip("there is no python3")
	}
	return found
}

// preloaded are modules of the standard library that most cases import.
var preloaded = []string{
	"json", "re", "argparse", "asyncio", "xml", "xml.etree.ElementTree", "xml.dom.minidom", "email.message", "logging",
	"logging.config", "concurrent.futures", "decimal", "sqlite3", "zipfile", "gzip", "tempfile", "subprocess", "threading",
	"multiprocessing", "multiprocessing.pool", "random", "secrets", "uuid", "ssl", "signal", "warnings", "traceback", "inspect",
	"weakref", "atexit", "importlib.util", "importlib.resources", "pkgutil", "pickle", "ctypes", "socket", "resource", "runpy",
	"nosuchmodule", "decimal.nosuchpart",
}

// environment is what the fork server and all programs are started with.
func environment(more ...string) []string {
	return append([]string{"PATH=/usr/bin:/bin", "HOME=/nonexistent", "LANG=C.UTF-8", "A=1", "PYTHONDONTWRITEBYTECODE=1"}, more...)
}

// A server is the shim with a fork server in the point's place (shim.py, serve).
type server struct {
	mu     sync.Mutex
	stdin  io.WriteCloser
	report string
}

func startServer(t *testing.T, python string, options []string, cfg warm.PythonConfig) *server {
	t.Helper()
	dir := t.TempDir()
	cfg.Mode, cfg.Point, cfg.Report = warm.PythonTemplate, "forkserver", filepath.Join(dir, "report")
	text, err := warm.PythonShim(cfg)
	if err != nil {
		t.Fatal(err)
	}
	shim := filepath.Join(dir, "shim.py")
	if err := os.WriteFile(shim, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, append(options, shim)...)
	cmd.Env, cmd.Stderr, cmd.Dir = environment(), os.Stderr, dir
	s := &server{report: cfg.Report}
	if s.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.stdin.Close(); cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the fork server of %s: %q: %v", python, line, err)
	}
	return s
}

// A start is how a program is started.
type start struct {
	argv    []string
	env     []string
	dir     string
	files   [3]*os.File // nil: closed
	ignored uint64      // bit n-1: signal n
	flags   int
}

// run starts a program in a fork of the server.
func (s *server) run(st start) (syscall.WaitStatus, error) {
	answer, there, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer answer.Close()
	defer there.Close()
	fields := []string{strconv.Itoa(os.Getpid())}
	for _, f := range st.files {
		if f == nil {
			fields = append(fields, "-1")
		} else {
			fields = append(fields, strconv.Itoa(int(f.Fd())))
		}
	}
	fields = append(fields, strconv.Itoa(int(there.Fd())), "18", strconv.FormatUint(st.ignored, 10),
		strconv.Itoa(st.flags), st.dir, strconv.Itoa(len(st.argv)))
	fields = append(append(fields, st.argv...), st.env...)
	data := strings.Join(fields, "\x00") + "\x00"
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := fmt.Fprintf(s.stdin, "%08d%s", len(data), data); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(answer).ReadString('\n')
	if err != nil {
		return 0, err
	}
	status, err := strconv.Atoi(strings.TrimSpace(line))
	return syscall.WaitStatus(status), err
}

// plain starts a program. A shell makes signals ignored.
func plain(st start) (syscall.WaitStatus, error) {
	argv, script := st.argv, ""
	for n := 1; n <= 64; n++ {
		if st.ignored>>(n-1)&1 == 1 {
			script += fmt.Sprintf("trap '' %d; ", n)
		}
	}
	if script != "" {
		argv = append([]string{"/bin/sh", "-c", script + `exec "$@"`, "sh"}, argv...)
	}
	p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{Dir: st.dir, Env: st.env, Files: st.files[:]})
	if err != nil {
		return 0, err
	}
	state, err := p.Wait()
	if err != nil {
		return 0, err
	}
	return state.Sys().(syscall.WaitStatus), nil
}

// A pythonCase is a program, and how it is started.
type pythonCase struct {
	name    string
	args    []string          // after the interpreter
	files   map[string]string // in its directory; "+x" behind a name: a copy of that file of testdata
	env     []string
	stdin   string
	closed  []int
	ignored uint64
	normal  string // why it is started normally
}

func script(name string, args ...string) pythonCase {
	return pythonCase{name: strings.Join(append([]string{name}, args...), " "), args: append([]string{name + ".py"}, args...)}
}

func (c pythonCase) with(change func(*pythonCase)) pythonCase {
	change(&c)
	return c
}

// pythonCases are all of them.
func pythonCases() []pythonCase {
	cases := []pythonCase{
		script("main", "x", "y z", "\xff"),
		script("modules"),
		script("streams").with(func(c *pythonCase) { c.stdin = "one\ntwo\nthree\nfour" }),
		script("environment"),
		script("environment").with(func(c *pythonCase) {
			c.name, c.env = "other environment", []string{"TZ=Asia/Tokyo", "A=2", "A=3", "B=x=y", "\xfe=\xff", "novalue"}
		}),
		script("signals"), script("latin"), script("undecodable"), script("syntax"), script("null"), script("bom"),
		script("nonewline"), script("empty"), script("future"),
		script("signals").with(func(c *pythonCase) { c.name, c.ignored = "SIGINT ignored", 1<<1|1<<0 }),
		script("signals").with(func(c *pythonCase) { c.name, c.ignored = "SIGPIPE ignored", 1<<12|1<<19 }),
		{name: "-c", args: []string{"-c", "import sys, json; print(sys.argv, sys.path, list(globals())); 1/0", "x"}},
		{name: "-c interrupt", args: []string{"-c", "raise KeyboardInterrupt"}},
		{name: "-c syntax", args: []string{"-c", "a b"}},
		{name: "-c surrogate", args: []string{"-c", "print('\xff')"}},
		{name: "-m", args: []string{"-m", "exits", "chained"}},
		{name: "-m interrupt", args: []string{"-m", "exits", "interrupt"}},
		{name: "-m main", args: []string{"-m", "main", "x"}},
		{name: "-m json.tool", args: []string{"-m", "json.tool"}, stdin: `{"a": [1]}`},
		{name: "-m missing", args: []string{"-m", "nosuch"}},
		{name: "relative", args: []string{"./exits.py", "exception"}},
		{name: "link", args: []string{"sub/link.py"}, files: map[string]string{"sub/link.py@": "../main.py"}},
		{name: "script of another directory", args: []string{"sub/a.py"}, files: map[string]string{"sub/a.py": "import b, sys\nprint(sys.path[0])", "sub/b.py": ""}},
		{name: "options", args: []string{"-X", "utf8", "exits.py", "normal"}, normal: "it has options of the interpreter"},
		{name: "-O", args: []string{"-O", "future.py"}, normal: "it has options of the interpreter"},
		{name: "standard input", args: []string{"-", "x"}, stdin: "import sys\nprint(sys.argv)", normal: "it reads its program from its standard input"},
		{name: "no arguments", stdin: "print(1)", normal: "it reads its program from its standard input"},
		{name: "-c alone", args: []string{"-c"}, normal: "an option of the interpreter lacks its argument"},
		{name: "no file", args: []string{"nosuch.py"}, normal: "it cannot open its script: No such file or directory"},
		{name: "directory", args: []string{"sub"}, files: map[string]string{"sub/__main__.py": "print(1)"}, normal: "its script is not a regular file"},
		{name: "archive", args: []string{"a.zip"}, files: map[string]string{"a.zip": emptyZip}, normal: "its script is an archive"},
		{name: "byte code", args: []string{"a.pyc"}, files: map[string]string{"a.pyc": "x"}, normal: "its script is byte code"},
	}
	for _, how := range words(`normal none seven negative big text float bool nostderr exception chained cause interrupt
		interrupted subclass handled term abort _exit hook hookfails hookexits nohook noname recursion syntax nomodule
		badmodule badsyntax closedout full fullfails pipe pipeexit thread threadfails daemon pool forked exec execself`) {
		cases = append(cases, script("exits", how))
	}
	for _, what := range words(`zip gzip sqlite file finalize generator del module atexit atexitorder handler heldby onsys
		builtins wrapped detached tempfile traceback local asyncio socket subprocess extension meta stdio`) {
		cases = append(cases, script("final", what))
	}
	for _, what := range words(`before path pathremoved later none replaced finder foreign hook lazy pickle reload warnings star
		resources threads`) {
		cases = append(cases, script("imports", what))
	}
	for _, what := range words("fork spawn executable child executor") {
		cases = append(cases, script("processes", what))
	}
	for n := range 3 {
		cases = append(cases, script("streams").with(func(c *pythonCase) {
			c.name, c.closed, c.stdin = fmt.Sprint("descriptor ", n, " closed"), []int{n}, "one\ntwo\n"
		}))
	}
	return append(cases,
		script("imports", "shadow").with(func(c *pythonCase) {
			c.files = map[string]string{"json.py": "what = 'mine'", "base64.py": "print('my base64')\nfrom binascii import *\ndef b64encode(x): pass\n"}
			c.normal = "its directory has a module that its image has from elsewhere: (base64|json)"
		}),
		script("imports", "shadowpart").with(func(c *pythonCase) {
			c.files = map[string]string{"gettext.py": "mine = 1\ngettext = ngettext = _ = str\n", "re/README": "no module"}
			c.normal = "its directory has a module that its image has from elsewhere: gettext"
		}))
}

func words(s string) []string { return strings.Fields(s) }

// emptyZip is an archive of nothing: its end of central directory.
var emptyZip = "PK\x05\x06" + strings.Repeat("\x00", 18)

// A result is what is seen of a run.
type result struct {
	Status         string
	Stdout, Stderr string
	Files          map[string]string
}

// TestPythonProgramsSeeAPlainStart compares cases, plain and in a fork at the point: each
// python has another part of them each day.
func TestPythonProgramsSeeAPlainStart(t *testing.T) {
	today := kit.Today(t, 12)
	for number, python := range pythons(t) {
		t.Run(filepath.Base(filepath.Dir(filepath.Dir(python))), func(t *testing.T) {
			s := startServer(t, python, nil, warm.PythonConfig{Kind: "interpreter", Prefix: 1, Program: python, Imports: preloaded})
			for i, c := range pythonCases() {
				if !today.Has(number, i) {
					continue
				}
				t.Run(c.name, func(t *testing.T) { c.compare(t, python, s) })
			}
		})
	}
}

func (c pythonCase) compare(t *testing.T, python string, s *server) {
	dir := t.TempDir()
	st := start{argv: append([]string{python}, c.args...), env: environment(c.env...), dir: dir, ignored: c.ignored}
	want := c.run(t, st, plain)
	st.flags = 3
	if c.normal != "" {
		st.flags = 1
	}
	got := c.run(t, st, s.run)
	if c.normal != "" {
		line := regexp.MustCompile(`^residentctl: python3: started normally: ` + c.normal + `\n`).FindString(got.Stderr)
		if line == "" {
			t.Errorf("it says %q, not %q", got.Stderr, c.normal)
		}
		got.Stderr = strings.TrimPrefix(got.Stderr, line)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("plain (-), warm (+):\n%s", diff)
	}
}

// run makes the directory of a case, starts it and looks at what it has left.
func (c pythonCase) run(t *testing.T, st start, run func(start) (syscall.WaitStatus, error)) result {
	t.Helper()
	c.fill(t, st.dir)
	outside := t.TempDir()
	for n, name := range []string{"stdin", "stdout", "stderr"} {
		path := filepath.Join(outside, name)
		content := ""
		if n == 0 {
			content = c.stdin
		}
		write(t, path, content)
		if slices.Contains(c.closed, n) {
			continue
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		st.files[n] = f
	}
	status, err := run(st)
	if err != nil {
		t.Fatal(err)
	}
	r := result{Status: fmt.Sprint(status.ExitStatus(), " ", status.Signal()), Files: map[string]string{}}
	r.Stdout, r.Stderr = read(t, filepath.Join(outside, "stdout")), read(t, filepath.Join(outside, "stderr"))
	filepath.WalkDir(st.dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.HasSuffix(path, ".py") {
			r.Files[strings.TrimPrefix(path, st.dir)] = read(t, path)
		}
		return nil
	})
	return r
}

// fill puts testdata and the case's own files into its directory.
func (c pythonCase) fill(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS("python/testdata")); err != nil {
		t.Fatal(err)
	}
	for name, content := range c.files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if link, ok := strings.CutSuffix(path, "@"); ok {
			if err := os.Symlink(content, link); err != nil {
				t.Fatal(err)
			}
			continue
		}
		write(t, path, content)
	}
}

// differing is what no two runs have in common: addresses, process ids, random names.
var differing = []*regexp.Regexp{
	regexp.MustCompile(`0x[0-9a-f]{6,}`),
	regexp.MustCompile(`Thread-[0-9]+|pid=?[ :]?[0-9]+|Process-[0-9]+`),
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range differing {
		content = d.ReplaceAll(content, []byte("*"))
	}
	return string(content)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestStartsShareNothingRandom: no word of renewed.py's output is in two starts.
func TestStartsShareNothingRandom(t *testing.T) {
	for _, python := range pythons(t) {
		args := []string{"renewed.py"}
		imports := append(slices.Clone(preloaded), "multiprocessing.process")
		if exec.Command(python, "-c", "import numpy").Run() == nil {
			imports, args = append(imports, "numpy"), append(args, "numpy")
		}
		s := startServer(t, python, nil, warm.PythonConfig{Kind: "interpreter", Prefix: 1, Program: python, Imports: imports})
		seen := map[string]bool{}
		for range 2 {
			c := pythonCase{}
			st := start{argv: append([]string{python}, args...), env: environment(), dir: t.TempDir(), flags: 3}
			r := c.run(t, st, s.run)
			if r.Status != "0 signal -1" || r.Stderr != "" {
				t.Fatalf("%s: %s: %s", python, r.Status, r.Stderr)
			}
			for word := range strings.FieldsSeq(r.Stdout) {
				if seen[word] {
					t.Errorf("%s: two starts have %s", python, word)
				}
				seen[word] = true
			}
		}
	}
}

// TestPythonScript starts a script as the kernel does, with options of its interpreter.
func TestPythonScript(t *testing.T) {
	python := pythons(t)[0]
	dir := t.TempDir()
	path := filepath.Join(dir, "tool")
	write(t, path, "#!"+python+" -E\nimport sys, json\nprint(sys.argv, sys.orig_argv, sys.path, __file__, sys.flags)\n")
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, python, []string{"-E"}, warm.PythonConfig{Kind: "script", Prefix: 2, Script: path, Program: path, Imports: preloaded})
	c := pythonCase{}
	st := start{argv: []string{path, "x"}, env: environment(), dir: t.TempDir()}
	want := c.run(t, st, plain)
	st.argv, st.flags = []string{python, "-E", path, "x"}, 3
	if diff := cmp.Diff(want, c.run(t, st, s.run)); diff != "" {
		t.Errorf("plain (-), warm (+):\n%s", diff)
	}
}

// TestPythonReport: the report names what was imported, what failed, and what was read.
func TestPythonReport(t *testing.T) {
	python := pythons(t)[0]
	dir := t.TempDir()
	write(t, filepath.Join(dir, "reads.py"), "import os, json\nos.getenv('A')\nos.environ['NEW'] = '1'\n'B' in os.environ\n")
	write(t, filepath.Join(dir, "lists.py"), "import os, atexit\ndict(os.environ)\natexit.register(print)\n")
	write(t, filepath.Join(dir, "handler.py"), "import signal\nsignal.signal(1, print)\n")
	write(t, filepath.Join(dir, "keeps.py"), "import os\nclass Settings:\n    pass\nkept = Settings()\nkept.where = [os.getcwd()]\n")
	write(t, filepath.Join(dir, "blocked.py"), "")
	write(t, filepath.Join(dir, "needs.py"), "try:\n    import blocked\nexcept Exception:\n    blocked = None\n")
	write(t, filepath.Join(dir, "bare.py"), "try:\n    import blocked\nexcept:\n    blocked = None\n")
	write(t, filepath.Join(dir, "paths.pth"), dir+"\n")
	here := t.TempDir()
	write(t, filepath.Join(dir, "sitecustomize.py"), "import sys\nsys.path.append("+strconv.Quote(dir)+")\n")
	t.Setenv("PYTHONPATH", dir)
	text, err := warm.PythonShim(warm.PythonConfig{Mode: warm.PythonTemplate, Imports: words("reads lists handler keeps needs bare nosuch"),
		Exclude: words("blocked"), Audit: []warm.Kept{{"cwd", here, 1}}, Report: filepath.Join(dir, "report"), Kind: "interpreter", Program: python})
	if err != nil {
		t.Fatal(err)
	}
	shim := filepath.Join(dir, "own", "shim.py")
	if err := os.Mkdir(filepath.Dir(shim), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, shim, string(text))
	cmd := exec.Command(python, shim)
	cmd.Env, cmd.Dir = append(environment(), "PYTHONPATH="+dir), here
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 3 || !bytes.Contains(out, []byte("the point was passed in a plain run")) {
		t.Errorf("a plain run ends with %v: %s", err, out)
	}
	lines := strings.Split(read(t, filepath.Join(dir, "report")), "\n")
	for _, want := range []string{"module reads", "module json.decoder", "effect reads\tenviron", "effect lists\tatexit", "env A=1",
		"env B", "failed nosuch\tModuleNotFoundError: No module named 'nosuch'", "failed handler\tit sets signal handlers",
		"found environ\tcopies its environment\tlists", "found cwd\tkeeps '" + here + "'\tkeeps", "failed needs\tExcluded: it is left out", "failed bare\tit imports blocked",
		"path " + dir, "frames hidden"} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q in %q", want, lines)
		}
	}
	if slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "path "+filepath.Dir(shim)) }) {
		t.Error("the shim's directory is in sys.path")
	}
}

// TestPythonTraining: a program runs as ever, and what it has imported is reported,
// however it ends.
func TestPythonTraining(t *testing.T) {
	today := kit.Today(t, 3)
	for number, python := range pythons(t) {
		for i, how := range words("normal seven exception _exit exec interrupt") {
			if !today.Has(number, i) {
				continue
			}
			dir := t.TempDir()
			report := filepath.Join(dir, "report")
			text, err := warm.PythonShim(warm.PythonConfig{Mode: warm.PythonTrain, Kind: "interpreter", Prefix: 1, Argv: []string{python, "exits.py", how}, Report: report})
			if err != nil {
				t.Fatal(err)
			}
			shim := filepath.Join(dir, "shim.py")
			write(t, shim, "import sys\n"+string(text))
			c := pythonCase{}
			st := start{argv: []string{python, "exits.py", how}, env: environment(), dir: t.TempDir()}
			want := c.run(t, st, plain)
			st.argv = []string{python, shim}
			if diff := cmp.Diff(want, c.run(t, st, plain)); diff != "" {
				t.Errorf("%s %s: plain (-), training (+):\n%s", python, how, diff)
			}
			if _, err := os.Stat(report); err != nil {
				t.Errorf("%s %s: %v", python, how, err)
			}
		}
	}
}
