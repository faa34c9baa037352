package unchanged

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// A test process is this binary again: helperEnv names the suite that it runs, and
// helperDir holds the file that it depends on.
const (
	helperEnv = "UNCHANGED_TEST_SUITE"
	helperDir = "UNCHANGED_TEST_DIR"
)

type suite func(file string) int

func (s suite) Run() int { return s(filepath.Join(os.Getenv(helperDir), "library")) }

func TestMain(m *testing.M) {
	what := os.Getenv(helperEnv)
	if what == "" {
		os.Exit(m.Run())
	}
	dir := os.Getenv(helperDir)
	cleanup := func() { must(os.WriteFile(filepath.Join(dir, "cleaned"), nil, 0o644)) }
	grace := time.Minute
	if what == "hangs" {
		grace = 0
	}
	os.Exit(run(suites[what], cleanup, []string{filepath.Join(dir, "library")}, grace))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func replace(file string) {
	must(os.WriteFile(file+"~", []byte("another"), 0o644))
	must(os.Rename(file+"~", file))
}

// pages is what many tests print that fail.
func pages() {
	for i := range 30 {
		fmt.Printf("--- FAIL: Test%d\n    plain (-) and resident (+) differ\n", i)
		fmt.Fprintln(os.Stderr, "and why")
	}
}

var suites = map[string]suite{
	"passes": func(string) int { fmt.Println("ok"); return 0 },
	"fails":  func(string) int { fmt.Println("--- FAIL: Test"); return 3 },
	"fails of a change": func(file string) int {
		replace(file)
		<-stopped
		pages()
		return 3
	},
	"passes in spite of a change": func(file string) int {
		replace(file)
		<-stopped
		return 0
	},
	"other files change": func(file string) int {
		replace(file + "-of-another")
		must(os.Mkdir(file+".d", 0o755))
		return 0
	},
	"hangs": func(file string) int {
		replace(file)
		select {}
	},
	// Nothing happens in the directory that is watched.
	"changes elsewhere": func(file string) int {
		must(os.WriteFile(filepath.Join(filepath.Dir(file), "elsewhere", "library"), []byte("longer than before"), 0o644))
		fmt.Println("--- FAIL: Test")
		return 3
	},
	"checks": func(file string) int {
		Check(ending{})
		replace(file)
		<-stopped
		ended := make(chan bool)
		go func() {
			defer close(ended)
			Check(ending{})
			select {} // it does not get here
		}()
		<-ended
		return 0
	},
}

// ending is a test that can be ended.
type ending struct{ testing.TB }

func (ending) Helper()  {}
func (ending) FailNow() { runtime.Goexit() }

func TestRun(t *testing.T) {
	const stops = `tests stopped: the machine changed under the tests: LIBRARY was replaced at [0-9:]{8}: start them again\n`
	for _, tc := range []struct {
		suite  string
		code   int
		output string // a pattern of all of it
	}{
		{"passes", 0, `ok\n`},
		{"fails", 3, `--- FAIL: Test\n`},
		{"fails of a change", 1, stops},
		{"passes in spite of a change", 1, stops},
		{"other files change", 0, ``},
		{"hangs", 1, stops},
		{"changes elsewhere", 1, `--- FAIL: Test\n` + strings.ReplaceAll(stops, "replaced", "written to")},
		{"checks", 1, stops},
	} {
		t.Run(tc.suite, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "library")
			elsewhere := filepath.Join(dir, "elsewhere")
			must(os.Mkdir(elsewhere, 0o755))
			must(os.WriteFile(file, []byte("library"), 0o644))
			must(os.Link(file, filepath.Join(elsewhere, "library")))
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), helperEnv+"="+tc.suite, helperDir+"="+dir)
			output, err := cmd.CombinedOutput()
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || cmd.ProcessState.ExitCode() != tc.code {
				t.Errorf("%v, want status %d", err, tc.code)
			}
			want := "^" + strings.ReplaceAll(tc.output, "LIBRARY", regexp.QuoteMeta(file)) + "$"
			if !regexp.MustCompile(want).Match(output) {
				t.Errorf("output:\n%swant %s", output, want)
			}
			if _, err := os.Stat(filepath.Join(dir, "cleaned")); err != nil {
				t.Errorf("not cleaned up: %v", err)
			}
		})
	}
}

func TestRunning(t *testing.T) {
	t.Run("in a subtest", func(t *testing.T) {
		if got := running(); got != "TestRunning" {
			t.Errorf("running: %q", got)
		}
	})
}

func TestChange(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(dir string) error // DIR holds the files a, b and link, which leads to a
		want   string
	}{
		{"nothing", func(string) error { return nil }, ""},
		{"another file", func(dir string) error { return os.WriteFile(dir+"/other", nil, 0o644) }, ""},
		{"read", func(dir string) error { _, err := os.ReadFile(dir + "/a"); return err }, ""},
		{"replaced", func(dir string) error { replace(dir + "/b"); return nil }, "DIR/b was replaced"},
		{"replaced by one that is equal", func(dir string) error {
			was, err := os.Stat(dir + "/b")
			must(err)
			must(os.WriteFile(dir+"/b~", []byte("b"), 0o644))
			must(os.Chtimes(dir+"/b~", was.ModTime(), was.ModTime()))
			return os.Rename(dir+"/b~", dir+"/b")
		}, "DIR/b was replaced"},
		{"longer", func(dir string) error { return os.WriteFile(dir+"/b", []byte("longer"), 0o644) }, "DIR/b was written to"},
		{"of another time", func(dir string) error { return os.Chtimes(dir+"/b", time.Now(), time.Unix(1, 0)) }, "DIR/b was written to"},
		{"of another mode", func(dir string) error { return os.Chmod(dir+"/b", 0o600) }, "DIR/b has other attributes"},
		{"with another link", func(dir string) error { return os.Link(dir+"/b", dir+"/other") }, "DIR/b has other attributes"},
		{"gone", func(dir string) error { return os.Remove(dir + "/b") }, "DIR/b was removed"},
		{"there", func(dir string) error { return os.WriteFile(dir+"/none", nil, 0o644) }, "DIR/none was made"},
		{"where a link leads to", func(dir string) error { return os.WriteFile(dir+"/a", []byte("longer"), 0o644) },
			"DIR/a was written to, and 1 more"},
		{"a link", func(dir string) error {
			must(os.Remove(dir + "/link"))
			return os.Symlink("b", dir+"/link")
		}, "DIR/link was replaced"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			must(os.WriteFile(dir+"/a", []byte("a"), 0o644))
			must(os.WriteFile(dir+"/b", []byte("b"), 0o644))
			must(os.Symlink("a", dir+"/link"))
			past := time.Unix(1e9, 0)
			must(os.Chtimes(dir+"/b", past, past))
			files := []string{dir + "/none", dir + "/link", dir + "/b", dir + "/a"}
			before := take(files)
			must(tc.change(dir))
			if got, want := before.change(take(files)), strings.ReplaceAll(tc.want, "DIR", dir); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

// TestFiles: the C library is in every image here.
func TestFiles(t *testing.T) {
	files := Files()
	for _, path := range []string{linkerCache, "/etc/ld.so.preload", "/usr/bin/perl"} {
		if !slices.Contains(files, path) {
			t.Errorf("%s is not watched", path)
		}
	}
	if !slices.ContainsFunc(files, func(path string) bool { return filepath.Base(path) == "libc.so.6" }) {
		t.Errorf("no C library among %d files", len(files))
	}
}
