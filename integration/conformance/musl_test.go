package conformance

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/integration/kit"
)

// TestMuslFixtures starts programs that are linked with musl plainly and resident:
// the fixtures that use nothing of glibc's own, and those written for musl.
func TestMuslFixtures(t *testing.T) {
	kit.RequireMusl(t)
	once := []kit.Command{{Name: "plain"}}
	tests := []struct {
		fixture  string
		args     []string // for musl-gcc
		commands []kit.Command
	}{
		{"c-main", nil, once},
		{"musl-args", nil, []kit.Command{
			{Name: "none"},
			{Name: "some", Args: []string{"a", "", "--", "-x", "ä b", "*"}},
			{Name: "many", Args: strings.Fields(strings.Repeat("argument ", 20_000))},
			{Name: "large environment", Env: []string{"LARGE=" + strings.Repeat("y", 100_000), "EMPTY=", "A=B=C"}},
			{Name: "linker's variables", Env: []string{"LD_LIBRARY_PATH=/nowhere"}},
		}},
		{"musl-malloc", nil, []kit.Command{
			{Name: "plain"},
			{Name: "no randomisation", Shell: `exec setarch --addr-no-randomize "$@"`},
			{Name: "small data segment", Shell: "ulimit -d 200000"},
		}},
		{"musl-dlopen", nil, once},
		{"threads", nil, []kit.Command{
			{Name: "plain"},
			{Name: "tiny stacks", Shell: "ulimit -s 200"},
			{Name: "no limit", Shell: "ulimit -s unlimited", Normal: kit.NoRoom},
		}},
		{"nss", nil, once},
		{"locale", nil, []kit.Command{
			{Name: "C.UTF-8"},
			{Name: "C", Env: []string{"LC_ALL=C"}},
			{Name: "MUSL_LOCPATH", Env: []string{"MUSL_LOCPATH=/nowhere", "LC_ALL=xx"}},
		}},
		{"fork-exec", nil, once},
		{"signals", nil, []kit.Command{
			{Name: "plain"},
			{Name: "ignored", Shell: "trap '' USR2 PIPE"},
		}},
		{"musl-constructors", nil, once},
		{"musl-tls", nil, once},
		{"stdio", nil, []kit.Command{
			{Name: "nothing to read"},
			{Name: "a pipe", Stdin: strings.Repeat("a line\n", 30_000)},
			{Name: "closed", Shell: "exec 0<&-"},
		}},
		{"procself", nil, []kit.Command{
			{Name: "plain"},
			{Name: "arguments", Args: []string{"one", "", "two words"}},
		}},
		{"inherit", nil, []kit.Command{
			{Name: "plain"},
			{Name: "umask, limits, directory", Shell: "umask 027; ulimit -n 77 -c 0 -t 50 -v 4000000; cd /usr"},
			{Name: "descriptors", Shell: "exec 5</dev/null 7>&1 20<>file; exec 2>&-", Normal: kit.Either},
		}},
		// Not position-independent: the heap lies low, after the program.
		{"musl-malloc", []string{"-no-pie"}, once},
		{"musl-constructors", []string{"-no-pie"}, once},
	}
	s := kit.SharedStore(t)
	slice := kit.Today(t, 3)
	for i, test := range tests {
		if !slice.Has(i) {
			continue
		}
		t.Run(test.fixture+strings.Join(test.args, ""), func(t *testing.T) {
			s.Compare(t, kit.MuslFixture(t, test.fixture, test.args...), test.commands)
		})
	}
}

// TestMuslSecrets: each start has its own canary. The allocator's secret is the
// image's: it is in what was allocated while the program was linked.
func TestMuslSecrets(t *testing.T) {
	kit.RequireMusl(t)
	const starts = 50
	s := kit.SharedStore(t)
	program := kit.MuslFixture(t, "musl-secrets")
	line := regexp.MustCompile(`(?m)^(canary|allocator|random) ([0-9a-f]{16})$`)
	secrets := func() map[string][]string {
		seen := map[string][]string{}
		for i := range starts {
			got := s.Start(t, kit.ResidentWays[i%len(kit.ResidentWays)], kit.Root, program, kit.Command{})
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

	s.Do(t, "add", "--even-if-slower", program)
	for _, w := range kit.ResidentWays {
		s.RequireResident(t, w, kit.Root, program, kit.Command{})
	}
	first := secrets()
	if len(first["canary"]) != starts || len(first["random"]) != starts {
		t.Errorf("%d different canaries and %d different random words in %d starts", len(first["canary"]), len(first["random"]), starts)
	}
	if len(first["allocator"]) != 1 {
		t.Fatalf("the allocator has %d secrets in %d starts of one image", len(first["allocator"]), starts)
	}
	s.Do(t, "remove", program)
	s.Do(t, "add", "--even-if-slower", program)
	if second := secrets(); cmp.Equal(first["allocator"], second["allocator"]) {
		t.Errorf("two images have the same secret: %s", first["allocator"][0])
	}
}

// TestMuslLibraries: what musl's dynamic linker would find otherwise now is noticed.
func TestMuslLibraries(t *testing.T) {
	kit.RequireMusl(t)
	dir := kit.Dir(t)
	program, library := filepath.Join(dir, "musl-constructors"), filepath.Join(dir, "last", "libmusl-constructors.so")
	other := filepath.Join(dir, "other.so")
	for _, name := range []string{"first", "last"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	source := filepath.Join("fixtures", "libmusl-constructors.c")
	kit.MuslCompile(t, library, source, "-shared", "-fPIC", "-Wl,-soname,libmusl-constructors.so")
	kit.MuslCompile(t, other, source, "-shared", "-fPIC", "-Wl,-soname,libmusl-constructors.so", `-DMARK="other"`)
	kit.MuslCompile(t, program, filepath.Join("fixtures", "musl-constructors.c"), library, "-Wl,-rpath,$ORIGIN/first:$ORIGIN/last")

	s := kit.NewStore(t, filepath.Join(dir, "data"))
	s.Do(t, "add", "--even-if-slower", program)
	s.WantResident(t, program)

	preloaded := kit.Command{Env: []string{"LD_PRELOAD=" + other}}
	wantSameNormally(t, s, program, preloaded, "other: constructor")
	kit.CopyFile(t, other, filepath.Join(dir, "first", "libmusl-constructors.so"))
	wantSameNormally(t, s, program, kit.Command{}, "other: function")
	kit.Remove(t, filepath.Join(dir, "first", "libmusl-constructors.so"))
	s.WantResident(t, program)
	kit.Remove(t, library)
	wantSameNormally(t, s, program, kit.Command{}, "Error loading shared library")
}

// wantSameNormally fails unless the program is started normally, with the outcome
// of a plain start, which says what it must.
func wantSameNormally(t *testing.T, s *kit.Store, program string, c kit.Command, says string) {
	t.Helper()
	if got := s.Start(t, kit.Plain, kit.Root, program, c); !strings.Contains(got.Stdout+got.Stderr, says) {
		t.Errorf("a plain start does not say %q:\n%s%s", says, got.Stdout, got.Stderr)
	}
	s.WantNormalStart(t, kit.Root, program, c)
}

// TestUnknownLinker: a C library of which nobody knows where it has linked a
// program is refused, with the reason, and the program still starts.
func TestUnknownLinker(t *testing.T) {
	dir := kit.Dir(t)
	linker, program := filepath.Join(dir, "ld-strange.so"), filepath.Join(dir, "program")
	s := kit.NewStore(t, filepath.Join(dir, "data"))
	kit.Compile(t, linker, filepath.Join("fixtures", "musl-linker.c"), "-shared", "-fPIC", "-nostdlib", "-Wl,-e,_start")
	kit.Compile(t, program, filepath.Join("fixtures", "c-main.c"), "-Wl,--dynamic-linker="+linker)

	add := s.Command("add", program)
	output, err := add.CombinedOutput()
	if add.ProcessState.ExitCode() != 1 {
		t.Errorf("add: %v, want exit status 1", err)
	}
	if want := "its dynamic linker is neither glibc's nor musl's"; !strings.Contains(string(output), want) {
		t.Errorf("add does not say %q:\n%s", want, output)
	}
	for _, w := range []kit.Way{kit.Plain, kit.ByRun} {
		if got := s.Start(t, w, kit.Nobody, program, kit.Command{}); got.Stdout != "strange\n" || got.Status != "exit status 7" {
			t.Errorf("%s: %s\n%s%s", w.Name, got.Status, got.Stdout, got.Stderr)
		}
	}
}
