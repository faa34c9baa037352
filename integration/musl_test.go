package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestMuslFixtures starts programs that are linked with musl plainly and resident:
// the fixtures that use nothing of glibc's own, and those written for musl.
func TestMuslFixtures(t *testing.T) {
	requireMusl(t)
	once := []command{{name: "plain"}}
	tests := []struct {
		fixture  string
		args     []string // for musl-gcc
		commands []command
	}{
		{"c-main", nil, once},
		{"musl-args", nil, []command{
			{name: "none"},
			{name: "some", args: []string{"a", "", "--", "-x", "ä b", "*"}},
			{name: "many", args: strings.Fields(strings.Repeat("argument ", 20_000))},
			{name: "large environment", env: []string{"LARGE=" + strings.Repeat("y", 100_000), "EMPTY=", "A=B=C"}},
			{name: "linker's variables", env: []string{"LD_LIBRARY_PATH=/nowhere"}},
		}},
		{"musl-malloc", nil, []command{
			{name: "plain"},
			{name: "no randomisation", shell: `exec setarch --addr-no-randomize "$@"`},
			{name: "small data segment", shell: "ulimit -d 200000"},
		}},
		{"musl-dlopen", nil, once},
		{"threads", nil, []command{
			{name: "plain"},
			{name: "tiny stacks", shell: "ulimit -s 200"},
			{name: "no limit", shell: "ulimit -s unlimited", normal: noRoom},
		}},
		{"nss", nil, once},
		{"locale", nil, []command{
			{name: "C.UTF-8"},
			{name: "C", env: []string{"LC_ALL=C"}},
			{name: "MUSL_LOCPATH", env: []string{"MUSL_LOCPATH=/nowhere", "LC_ALL=xx"}},
		}},
		{"fork-exec", nil, once},
		{"signals", nil, []command{
			{name: "plain"},
			{name: "ignored", shell: "trap '' USR2 PIPE"},
		}},
		{"musl-constructors", nil, once},
		{"musl-tls", nil, once},
		{"stdio", nil, []command{
			{name: "nothing to read"},
			{name: "a pipe", stdin: strings.Repeat("a line\n", 30_000)},
			{name: "closed", shell: "exec 0<&-"},
		}},
		{"procself", nil, []command{
			{name: "plain"},
			{name: "arguments", args: []string{"one", "", "two words"}},
		}},
		{"inherit", nil, []command{
			{name: "plain"},
			{name: "umask, limits, folder", shell: "umask 027; ulimit -n 77 -c 0 -t 50 -v 4000000; cd /usr"},
			{name: "descriptors", shell: "exec 5</dev/null 7>&1 20<>file; exec 2>&-", normal: either},
		}},
		// Not position-independent: the heap lies low, behind the program.
		{"musl-malloc", []string{"-no-pie"}, once},
		{"musl-constructors", []string{"-no-pie"}, once},
	}
	s := sharedStore(t)
	for _, test := range tests {
		t.Run(test.fixture+strings.Join(test.args, ""), func(t *testing.T) {
			s.compare(t, muslFixture(t, test.fixture, test.args...), test.commands)
		})
	}
}

// TestMuslSecrets: each start has its own canary. The allocator's secret is the
// image's: it stands in what was allocated while the program was linked.
func TestMuslSecrets(t *testing.T) {
	requireMusl(t)
	const starts = 50
	s := sharedStore(t)
	program := muslFixture(t, "musl-secrets")
	line := regexp.MustCompile(`(?m)^(canary|allocator|random) ([0-9a-f]{16})$`)
	secrets := func() map[string][]string {
		seen := map[string][]string{}
		for i := range starts {
			got := s.start(t, residentWays[i%len(residentWays)], root, program, command{})
			if got.Status != "exit status 0" {
				t.Fatalf("start %d: %s\n%s%s", i, got.Status, got.Stdout, got.Stderr)
			}
			for _, match := range line.FindAllStringSubmatch(got.Stdout, -1) {
				seen[match[1]] = append(seen[match[1]], match[2])
			}
		}
		for name := range seen {
			slices.Sort(seen[name])
			seen[name] = slices.Compact(seen[name])
		}
		return seen
	}

	s.do(t, "add", "--even-if-slower", program)
	for _, w := range residentWays {
		s.requireResident(t, w, root, program, command{})
	}
	first := secrets()
	if len(first["canary"]) != starts || len(first["random"]) != starts {
		t.Errorf("%d different canaries and %d different random words in %d starts", len(first["canary"]), len(first["random"]), starts)
	}
	if len(first["allocator"]) != 1 {
		t.Fatalf("the allocator has %d secrets in %d starts of one image", len(first["allocator"]), starts)
	}
	s.do(t, "remove", program)
	s.do(t, "add", "--even-if-slower", program)
	if second := secrets(); cmp.Equal(first["allocator"], second["allocator"]) {
		t.Errorf("two images have the same secret: %s", first["allocator"][0])
	}
}

// TestMuslLibraries: what musl's dynamic linker would find otherwise now is noticed.
func TestMuslLibraries(t *testing.T) {
	requireMusl(t)
	dir := folder(t)
	program, library := filepath.Join(dir, "musl-constructors"), filepath.Join(dir, "last", "libmusl-constructors.so")
	other := filepath.Join(dir, "other.so")
	for _, name := range []string{"first", "last"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	source := filepath.Join("fixtures", "libmusl-constructors.c")
	muslCompile(t, library, source, "-shared", "-fPIC", "-Wl,-soname,libmusl-constructors.so")
	muslCompile(t, other, source, "-shared", "-fPIC", "-Wl,-soname,libmusl-constructors.so", `-DMARK="other"`)
	muslCompile(t, program, filepath.Join("fixtures", "musl-constructors.c"), library, "-Wl,-rpath,$ORIGIN/first:$ORIGIN/last")

	s := newStore(t, filepath.Join(dir, "data"))
	s.do(t, "add", "--even-if-slower", program)
	s.wantResident(t, program)

	preloaded := command{env: []string{"LD_PRELOAD=" + other}}
	s.wantSameNormally(t, program, preloaded, "other: constructor")
	copyFile(t, other, filepath.Join(dir, "first", "libmusl-constructors.so"))
	s.wantSameNormally(t, program, command{}, "other: function")
	remove(t, filepath.Join(dir, "first", "libmusl-constructors.so"))
	s.wantResident(t, program)
	remove(t, library)
	s.wantSameNormally(t, program, command{}, "Error loading shared library")
}

// wantSameNormally fails unless the program is started normally, with the outcome
// of a plain start, which says what it must.
func (s *store) wantSameNormally(t *testing.T, program string, c command, says string) {
	t.Helper()
	if got := s.start(t, plain, root, program, c); !strings.Contains(got.Stdout+got.Stderr, says) {
		t.Errorf("a plain start does not say %q:\n%s%s", says, got.Stdout, got.Stderr)
	}
	s.wantNormalStart(t, root, program, c)
}

// TestUnknownLinker: a C library of which nobody knows where it has linked a
// program is refused, with the reason, and the program still starts.
func TestUnknownLinker(t *testing.T) {
	dir := folder(t)
	linker, program := filepath.Join(dir, "ld-strange.so"), filepath.Join(dir, "program")
	s := newStore(t, filepath.Join(dir, "data"))
	compile(t, linker, filepath.Join("fixtures", "musl-linker.c"), "-shared", "-fPIC", "-nostdlib", "-Wl,-e,_start")
	compile(t, program, filepath.Join("fixtures", "c-main.c"), "-Wl,--dynamic-linker="+linker)

	add := s.command("add", program)
	output, err := add.CombinedOutput()
	if add.ProcessState.ExitCode() != 1 {
		t.Errorf("add: %v, want exit status 1", err)
	}
	if want := "its dynamic linker is neither glibc's nor musl's"; !strings.Contains(string(output), want) {
		t.Errorf("add does not say %q:\n%s", want, output)
	}
	for _, w := range []way{plain, byRun} {
		if got := s.start(t, w, nobody, program, command{}); got.Stdout != "strange\n" || got.Status != "exit status 7" {
			t.Errorf("%s: %s\n%s%s", w.name, got.Status, got.Stdout, got.Stderr)
		}
	}
}

// requireMusl skips a test that cannot run here, with what is missing.
func requireMusl(t *testing.T) {
	t.Helper()
	requireCRIU(t)
	if _, err := exec.LookPath("musl-gcc"); err == nil {
		return
	}
	const missing = "needs musl-gcc (Debian's musl-tools, scripts/setup --programs installs it)"
	if slices.Contains(strings.Split(os.Getenv("RESIDENTCTL_TEST_REQUIRE"), ","), "musl") {
		t.Fatal(missing + ", and RESIDENTCTL_TEST_REQUIRE says that it is there")
	}
	t.Skip(missing)
}

// muslFixture is fixture, compiled with musl-gcc; args set it apart from the one
// without.
func muslFixture(t *testing.T, name string, args ...string) string {
	t.Helper()
	folder := filepath.Join(temporary, "musl"+strings.Join(args, ""))
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	// Not $ORIGIN: musl asks /proc/self/exe for it at dlopen, and for users who
	// cannot set that it is the launcher file.
	args = append([]string{"-rdynamic", "-pthread", "-Wl,-rpath," + folder}, args...)
	library := filepath.Join(folder, "lib"+name+".so")
	if source := fixtureSource("lib" + name); source != "" {
		muslCompile(t, library, source, "-shared", "-fPIC")
		// The one for dlopen is loaded at run time.
		if name != "musl-dlopen" {
			args = append(args, library)
		}
	}
	program := filepath.Join(folder, name)
	muslCompile(t, program, fixtureSource(name), args...)
	return program
}

// muslCompile is compile with musl-gcc.
func muslCompile(t *testing.T, output, source string, args ...string) {
	t.Helper()
	if builtFiles[output] {
		return
	}
	args = append([]string{"-O1", "-g", "-Wall", "-Wextra", "-o", output, source}, args...)
	if message, err := exec.Command("musl-gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("musl-gcc %s: %v\n%s", strings.Join(args, " "), err, message)
	}
	builtFiles[output] = true
}
