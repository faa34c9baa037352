package kit

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/residentctl/residentctl/internal/unchanged"
)

// BuiltFiles remembers what Compile and MuslCompile have made.
var BuiltFiles = map[string]bool{}

// compiling is held while Compile runs: some tests are parallel.
var compiling sync.Mutex

// Fixture returns the path of fixtures/NAME.c or .cc, compiled, with fixtures/libNAME
// beside it if there is one.
func Fixture(t testing.TB, name string) string {
	t.Helper()
	directory := filepath.Join(Temporary, "fixtures")
	if err := os.MkdirAll(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{"-rdynamic", "-pthread", "-Wl,-rpath,$ORIGIN"}
	library := filepath.Join(directory, "lib"+name+".so")
	if source := FixtureSource("lib" + name); source != "" {
		Compile(t, library, source, "-shared", "-fPIC")
		// The one for dlopen is loaded at run time.
		if name != "dlopen" {
			args = append(args, library)
		}
	}
	program := filepath.Join(directory, name)
	Compile(t, program, FixtureSource(name), args...)
	return program
}

// FixtureSource returns the path of fixtures/NAME.c or .cc, or "".
func FixtureSource(name string) string {
	for _, extension := range []string{".c", ".cc"} {
		source := filepath.Join("fixtures", name+extension)
		if _, err := os.Stat(source); err == nil {
			return source
		}
	}
	return ""
}

// Compile makes output from source once per test process.
func Compile(t testing.TB, output, source string, args ...string) {
	t.Helper()
	SkipShort(t)
	unchanged.Check(t)
	compiling.Lock()
	defer compiling.Unlock()
	if BuiltFiles[output] {
		return
	}
	compiler := "gcc"
	if strings.HasSuffix(source, ".cc") {
		compiler = "g++"
	}
	args = append([]string{"-O1", "-g", "-Wall", "-Wextra", "-o", output, source}, args...)
	if message, err := exec.Command(compiler, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", compiler, strings.Join(args, " "), err, message)
	}
	BuiltFiles[output] = true
}

// A Part is one file of a fixture that is more than a program and a library of
// the same name: a library, or at the end the program.
type Part struct {
	Output, Source string
	Args           []string // after those that all parts have
}

// built is what Build has made, by the source and the compiler's arguments.
var built = map[string]string{}

// Build makes the parts of a fixture in a directory of its own and returns the last
// one's path. They find each other there by DT_NEEDED and $ORIGIN. A part that another
// fixture has too is copied: C++ takes seconds to compile. No test changes one in its place.
func Build(t testing.TB, name string, parts ...Part) string {
	t.Helper()
	directory := filepath.Join(Temporary, "built", name)
	if err := os.MkdirAll(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	output := ""
	for _, p := range parts {
		args := []string{"-pthread", "-rdynamic", "-Wl,-rpath,$ORIGIN"}
		if strings.HasSuffix(p.Output, ".so") {
			args = append(args, "-shared", "-fPIC")
		}
		args = append(args, p.Args...)
		if slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "-l") }) {
			args = append([]string{"-L" + directory}, args...)
		}
		output = filepath.Join(directory, p.Output)
		key := strings.Join(append(args, p.Source), " ")
		if same := built[key]; same != "" && !BuiltFiles[output] {
			CopyFile(t, same, output)
			BuiltFiles[output] = true
			continue
		}
		Compile(t, output, filepath.Join("fixtures", p.Source), args...)
		built[key] = output
	}
	return output
}

// BuildLazy returns a program that is bound lazily; nowhere says that a function which it
// may call is nowhere.
func BuildLazy(t testing.TB, nowhere bool) string {
	name, library := "lazy", []string{"-Wl,-z,lazy"}
	if nowhere {
		name, library = "lazy-nowhere", append(library, "-DNOWHERE")
	}
	return Build(t, name, Part{"liblazy-plugin.so", "liblazy-plugin.c", nil}, Part{"liblazy-other.so", "liblazy-other.c", nil},
		Part{"liblazy.so", "liblazy.c", append(library, "-llazy-other")},
		Part{"lazy", "lazy.c", []string{"-Wl,-z,lazy", "-Wl,--allow-shlib-undefined", "-llazy"}})
}

// RequireMusl skips a test that cannot run here, with what is missing.
func RequireMusl(t testing.TB) {
	t.Helper()
	RequireCRIU(t)
	if _, err := exec.LookPath("musl-gcc"); err == nil {
		return
	}
	const missing = "needs musl-gcc (Debian's musl-tools, scripts/setup --programs installs it)"
	if slices.Contains(strings.Split(os.Getenv("RESIDENTCTL_TEST_REQUIRE"), ","), "musl") {
		t.Fatal(missing + ", and RESIDENTCTL_TEST_REQUIRE says that it is there")
	}
	t.Skip(missing)
}

// MuslFixture is Fixture, compiled with musl-gcc; args set it apart from the one
// without.
func MuslFixture(t testing.TB, name string, args ...string) string {
	t.Helper()
	directory := filepath.Join(Temporary, "musl"+strings.Join(args, ""))
	if err := os.MkdirAll(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	// Not $ORIGIN: musl asks /proc/self/exe for it at dlopen, and for users who
	// cannot set that it is the launcher file.
	args = append([]string{"-rdynamic", "-pthread", "-Wl,-rpath," + directory}, args...)
	library := filepath.Join(directory, "lib"+name+".so")
	if source := FixtureSource("lib" + name); source != "" {
		MuslCompile(t, library, source, "-shared", "-fPIC")
		// The one for dlopen is loaded at run time.
		if name != "musl-dlopen" {
			args = append(args, library)
		}
	}
	program := filepath.Join(directory, name)
	MuslCompile(t, program, FixtureSource(name), args...)
	return program
}

// MuslCompile is Compile with musl-gcc.
func MuslCompile(t testing.TB, output, source string, args ...string) {
	t.Helper()
	if BuiltFiles[output] {
		return
	}
	args = append([]string{"-O1", "-g", "-Wall", "-Wextra", "-o", output, source}, args...)
	if message, err := exec.Command("musl-gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("musl-gcc %s: %v\n%s", strings.Join(args, " "), err, message)
	}
	BuiltFiles[output] = true
}
