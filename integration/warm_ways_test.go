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

// TestWarmByPATH: of a script that env(1) finds the interpreter for a start is a normal one where
// PATH is another: there may be another interpreter.
func TestWarmByPATH(t *testing.T) {
	kit.RequireCRIU(t)
	t.Parallel()
	dir, _ := venv(t)
	w := newWarmed(t, python(t, "#!/usr/bin/env python3"))
	w.add(t, "--train", "few")
	other := []string{"PATH=" + filepath.Join(dir, "bin") + ":/usr/bin:/bin"}
	w.try(t, []warmCase{
		{args: []string{"interpreter"}},
		{args: []string{"identity"}},
		{name: "of a virtual environment", args: []string{"interpreter"}, env: other, normal: otherEnvironment},
	})
}

const otherEnvironment = "the environment differs from that of its image"

// TestWarmOptions: options of the interpreter on the first line, and an environment that
// changes how it starts, are those of the image.
func TestWarmOptions(t *testing.T) {
	for _, test := range []struct {
		line string
		env  []string
	}{
		{"#! /usr/bin/python3 -BIO", nil},
		{"#!/usr/bin/env -S python3 -suB -Werror -Xno_debug_ranges", []string{"LANG=C", "PYTHONIOENCODING=latin-1"}},
	} {
		t.Run(test.line, func(t *testing.T) {
			t.Parallel()
			w := newWarmed(t, python(t, test.line))
			w.env = test.env
			w.add(t, "--train", "few")
			w.try(t, []warmCase{
				{args: []string{"interpreter", "-x", "--"}},
				{args: []string{"identity"}},
				{args: []string{"helped"}},
				{args: []string{"asserted"}},
				{args: []string{"warned"}},
				{args: []string{"streams"}},
				{args: []string{"order"}},
				{args: []string{"echo"}, stdin: "\xe4\n"},
				{args: []string{"unclosed"}},
			})
		})
	}
}

// TestWarmEnvironment: a start in an environment in which the interpreter would have started
// otherwise is a normal one.
func TestWarmEnvironment(t *testing.T) {
	var cases []warmCase
	for _, variable := range []string{"PYTHONPATH=/nowhere", "PYTHONHASHSEED=0", "PYTHONUTF8=1", "PYTHONDONTWRITEBYTECODE=1",
		"PYTHONOPTIMIZE=2", "PYTHONUNBUFFERED=1", "PYTHONWARNINGS=error", "LANG=C", "LC_ALL=POSIX", "LC_NUMERIC=C", "HOME=/nowhere",
		"OMP_NUM_THREADS=1"} {
		// No byte code is written to the machine's directories.
		env := []string{variable, "PYTHONDONTWRITEBYTECODE=1"}
		cases = append(cases, warmCase{name: variable, args: []string{"interpreter"}, env: env, normal: otherEnvironment})
	}
	cases = append(cases,
		warmCase{name: "LD_PRELOAD", args: []string{"helped"}, env: []string{"LD_PRELOAD=/nowhere.so"}, normal: "the environment changes how it is linked"},
		warmCase{name: "none", args: []string{"helped"}, options: []string{"--no-environment"}, normal: kit.Either},
		warmCase{name: "others", args: []string{"interpreter"}, env: []string{"TERM=xterm", "EDITOR=ed", "PWD=/", "SHLVL=3"}},
	)
	warmPython(t).try(t, cases)
}

// venv makes a virtual environment and returns its directory and that of its modules.
func venv(t *testing.T) (dir, packages string) {
	t.Helper()
	dir = filepath.Join(kit.Dir(t), "venv")
	if output, err := exec.Command("/usr/bin/python3", "-m", "venv", "--without-pip", dir).CombinedOutput(); err != nil {
		t.Fatalf("make a virtual environment: %v\n%s", err, output)
	}
	found, err := filepath.Glob(filepath.Join(dir, "lib", "python3*", "site-packages"))
	if err != nil || len(found) != 1 {
		t.Fatalf("site-packages in %s: %q, %v", dir, found, err)
	}
	return dir, found[0]
}

// TestWarmVenv: a console script of a virtual environment, and what makes its image stale.
func TestWarmVenv(t *testing.T) {
	kit.RequireCRIU(t)
	t.Parallel()
	dir, packages := venv(t)
	from := python(t, "#!"+filepath.Join(dir, "bin", "python3"))
	kit.CopyFile(t, from, filepath.Join(dir, "bin", "warm"))
	kit.CopyFile(t, filepath.Join(filepath.Dir(from), "helper.py"), filepath.Join(packages, "helper.py"))
	w := newWarmed(t, filepath.Join(dir, "bin", "warm"))
	w.add(t, "--train", "few helper")
	same := []warmCase{{args: []string{"interpreter"}}, {args: []string{"helped"}}, {args: []string{"pooled", "spawn"}}, {args: []string{"identity"}}}
	w.try(t, same)

	stale := func(name string, normal string) {
		t.Helper()
		w.try(t, []warmCase{{name: name, args: []string{"helped"}, normal: normal}, {name: name + ", path", args: []string{"interpreter"}, normal: normal}})
	}
	// A module of the same name beside the script comes first.
	beside := filepath.Join(dir, "bin", "helper.py")
	write(t, beside, "VERSION = 'beside'\n", 0o644)
	stale("a module that shadows", shadows)
	kit.Remove(t, beside)
	kit.Remove(t, filepath.Join(dir, "bin", "__pycache__"))
	stale("it is gone again", "")

	if output, err := exec.Command(filepath.Join(dir, "bin", "python3"), "-O", "-c", "import helper").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	stale("byte code of another kind is written", "")

	extra := filepath.Join(dir, "extra")
	if err := os.Mkdir(extra, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(packages, "extra.pth"), extra+"\n", 0o644)
	stale("a .pth added", "this has changed "+packages)
	w.does(t, "refresh")
	stale("a .pth added, refreshed", "")

	edit(t, filepath.Join(packages, "helper.py"), "VERSION = 'edited'\n")
	stale("a module edited in place", "this has changed "+filepath.Join(packages, "helper.py"))
	w.does(t, "refresh")
	stale("a module edited in place, refreshed", "")

	edit(t, w.program, strings.Replace(read(t, w.program), "VERSION, ", "VERSION, 'edited', ", 1))
	stale("the script edited in place", "changed")
}

// edit writes a file in place, which keeps its inode.
func edit(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestWarmNamed: an interpreter with a name of its own, by all that it can be given.
func TestWarmNamed(t *testing.T) {
	kit.RequireCRIU(t)
	t.Parallel()
	w := &warmed{Store: kit.NewStore(t, kit.Dir(t)), home: kit.Dir(t), plain: []string{"/usr/bin/python3"}}
	modules := kit.Dir(t)
	write(t, filepath.Join(modules, "early.py"), "import ctypes\nctypes.CDLL(None).getenv(b'EARLY')\n", 0o644)
	w.env = []string{"PYTHONPATH=" + modules}
	w.does(t, "add", "--warm", "--even-if-slower", "--name", "cases", "--import", "json,json.tool,random,early", "/usr/bin/python3")
	w.program = filepath.Join(w.Dir, "named", "python3-cases")
	script := python(t, "#!/usr/bin/python3")
	dir := filepath.Dir(script)
	write(t, filepath.Join(dir, "data.json"), `{"a": [1]}`, 0o644)
	kit.Remove(t, filepath.Join(dir, "__pycache__"))
	if err := os.Mkdir(filepath.Join(dir, "application"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "application", "__main__.py"), "import sys\nprint(sys.argv, __file__, __name__, sys.path[0])\n", 0o644)
	const code = "import sys, json; print(sys.argv, sys.orig_argv, sys.path, __name__, __doc__, json.dumps(1), '__file__' in globals())"
	const itsOptions, itsInput = "it has options of the interpreter", "it reads its program from its standard input"
	in := "cd " + dir
	w.try(t, []warmCase{
		{args: []string{script, "interpreter", "a"}},
		{args: []string{script, "identity"}},
		{name: "relative path", args: []string{"./warm", "interpreter"}, shell: in},
		{name: "name alone", args: []string{"warm", "interpreter"}, shell: in},
		{args: []string{"-c", code, "a", "-b"}},
		{name: "-c that raises", args: []string{"-c", "def f():\n  1/0\nf()"}},
		{name: "-c with a syntax error", args: []string{"-c", "a = = b"}},
		{name: "-c and SystemExit", args: []string{"-c", "raise SystemExit('message')"}},
		{name: "-c, not UTF-8", args: []string{"-c", "print('\xff')"}},
		{name: "-m", args: []string{"-m", "json.tool", "data.json"}, shell: in},
		{name: "-m of what is beside", args: []string{"-m", "warm", "interpreter"}, shell: in},
		{name: "-m of a package", args: []string{"-m", "application", "a"}, shell: in},
		{name: "-m of nothing", args: []string{"-m", "nothing.of.that.name"}},
		{name: "a variable that C code has read", args: []string{"-c", code}, env: []string{"EARLY=1"}, normal: otherEnvironment},
		{name: "no such script", args: []string{"/nowhere/script.py"}, normal: "it cannot open its script"},
		{name: "a directory", args: []string{filepath.Join(dir, "application"), "a"}, normal: "its script is not a regular file"},
		{name: "nothing", stdin: code, normal: itsInput},
		{name: "-", args: []string{"-", "a"}, stdin: code, normal: itsInput},
		{name: "-O", args: []string{"-O", "-c", "print(__debug__)"}, normal: itsOptions},
		{name: "-I", args: []string{"-I", script, "interpreter"}, normal: itsOptions},
		{name: "-X", args: []string{"-X", "utf8", "-c", code}, normal: itsOptions},
		{name: "--version", args: []string{"--version"}, normal: itsOptions},
		{name: "-c without code", args: []string{"-c"}, normal: "an option of the interpreter lacks its argument"},
	})

	t.Run("first line", func(t *testing.T) {
		text := read(t, script)
		run := func(interpreter, what string) kit.Result {
			edit(t, script, strings.Replace(text, "/usr/bin/python3", interpreter, 1))
			c := exec.Command(script, what)
			c.Env, c.Dir = append(w.environment(), "RESIDENTCTL_EXPLAIN=1"), dir
			return kit.Finish(t, c)
		}
		launcher := w.Launcher(w.program)
		for _, what := range []string{"interpreter", "identity"} {
			want, got := run("/usr/bin/python3", what), run(launcher, what)
			if how, why := explained(got.Stderr); how != "resident start" {
				t.Errorf("%s: %s", how, why)
			}
			got.Stderr = warmExplanation.ReplaceAllString(got.Stderr, "")
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: plain (-) and warm (+) differ:\n%s", what, diff)
			}
		}
	})
}

// TestWarmReplacedMeanwhile: while a module is replaced by another version, again and again,
// each start has the one that was there before it or one that came since.
func TestWarmReplacedMeanwhile(t *testing.T) {
	kit.RequireCRIU(t)
	t.Parallel()
	program := python(t, "#!/usr/bin/python3")
	modules := kit.Dir(t)
	module := filepath.Join(modules, "versioned.py")
	version := func(n int) {
		write(t, module+".new", fmt.Sprintf("VERSION = %d\n", n), 0o644)
		if err := os.Rename(module+".new", module); err != nil {
			t.Fatal(err)
		}
	}
	version(0)
	w := newWarmed(t, program)
	w.env = []string{"PYTHONPATH=" + modules, "PYTHONDONTWRITEBYTECODE=1"}
	write(t, program, "#!/usr/bin/python3\nimport versioned\nprint(versioned.VERSION)\n", 0o755)
	w.add(t)
	w.try(t, []warmCase{{name: "before"}})

	const starts, versions = 24, 40
	said := make(chan string, starts)
	for range 3 {
		go func() {
			for range starts / 3 {
				cmd := w.command(t, t.Context(), warmCase{}, true, "/")
				output, err := cmd.Output()
				said <- fmt.Sprintf("%s%v", output, err)
			}
		}()
	}
	all := regexp.MustCompile(`^\d+\n<nil>$`)
	for n := 1; n <= versions; n++ {
		version(n)
	}
	for range starts {
		if s := <-said; !all.MatchString(s) {
			t.Errorf("a start meanwhile: %s", s)
		}
	}
	w.try(t, []warmCase{{name: "after", normal: "this has changed " + modules}})
	if o, _, _ := w.start(t, warmCase{}, true, filepath.Join(kit.Dir(t), "work")); o.Stdout != fmt.Sprintln(versions) {
		t.Errorf("after: %v", o)
	}
}
