package conformance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/internal/linux"
)

func buildTLSModels(t *testing.T) string {
	const source = "libtls-models.c"
	parts := []kit.Part{
		{Output: "libtls-module-0.so", Source: source, Args: []string{"-DNAME(x)=module_##x"}},
		{Output: "libtls-static.so", Source: source, Args: []string{"-DNAME(x)=static_##x", `-DMODEL="initial-exec"`}},
		{Output: "libgeneral.so", Source: source, Args: []string{"-DNAME(x)=general_##x"}},
		{Output: "liblocal.so", Source: source, Args: []string{"-DNAME(x)=local_##x", `-DMODEL="local-dynamic"`}},
		{Output: "libinitial.so", Source: source, Args: []string{"-DNAME(x)=initial_##x", `-DMODEL="initial-exec"`}},
		{Output: "libdescriptor.so", Source: source, Args: []string{"-DNAME(x)=descriptor_##x", "-mtls-dialect=gnu2"}},
		{Output: "tls-models", Source: "tls-models.c", Args: []string{"-lgeneral", "-llocal", "-linitial", "-ldescriptor"}},
	}
	program := kit.Build(t, "tls-models", parts...)
	module := filepath.Join(filepath.Dir(program), "libtls-module-")
	for i := 1; i < 70; i++ {
		kit.CopyFile(t, module+"0.so", fmt.Sprint(module, i, ".so"))
	}
	return program
}

func buildDL(t *testing.T) string {
	library := func(name string) kit.Part {
		return kit.Part{Output: "libdl-" + name + ".so", Source: "libdl-one.c", Args: []string{"-DNAME=" + name}}
	}
	return kit.Build(t, "dl", library("one"), library("two"), library("deep"), library("needed"),
		kit.Part{Output: "libdl-lazy.so", Source: "libdl-lazy.c", Args: []string{"-Wl,-z,lazy"}},
		kit.Part{Output: "libdl-lazy2.so", Source: "libdl-lazy.c", Args: []string{"-Wl,-z,lazy", "-DSECOND"}},
		kit.Part{Output: "dl", Source: "dl.c", Args: []string{"-Wl,--no-as-needed", "-ldl-needed"}})
}

func buildOrder(t *testing.T) string {
	library := func(name string, args ...string) kit.Part {
		return kit.Part{Output: "liborder-" + name + ".so", Source: "liborder.c",
			Args: append(args, "-DNAME="+name, "-Wl,-init,"+name+"_init", "-Wl,-fini,"+name+"_fini")}
	}
	return kit.Build(t, "order", library("inner"), library("outer", "-DNEEDS=inner", "-lorder-inner"), library("late"),
		kit.Part{Output: "order", Source: "order.c", Args: []string{"-lorder-outer", "-Wl,-init,program_init", "-Wl,-fini,program_fini"}})
}

// TestCLibrary looks at what the C library, the dynamic linker and the C++
// runtime do for a program.
func TestCLibrary(t *testing.T) {
	kit.SkipShort(t)
	of := func(name string, args ...string) func(*testing.T) string {
		return func(t *testing.T) string {
			return kit.Build(t, name, kit.Part{Output: name, Source: fixtureName(name), Args: args})
		}
	}
	withLibrary := func(name, library string, args ...string) func(*testing.T) string {
		return func(t *testing.T) string {
			return kit.Build(t, name, kit.Part{Output: "lib" + library + ".so", Source: fixtureName("lib" + library), Args: nil},
				kit.Part{Output: name, Source: fixtureName(name), Args: args})
		}
	}
	arguments := func(all ...string) []kit.Command {
		commands := []kit.Command{{Name: "no argument"}}
		for _, arg := range all {
			commands = append(commands, kit.Command{Name: arg, Args: []string{arg}})
		}
		return commands
	}
	once := []kit.Command{{Name: "plain"}}
	tests := []struct {
		name     string
		build    func(*testing.T) string
		commands []kit.Command
	}{
		{"malloc", of("malloc"), []kit.Command{
			{Name: "plain"},
			{Name: "no randomisation", Shell: `exec setarch --addr-no-randomize "$@"`, Differs: kit.CoveredLinker, Special: kit.NotToBeRandom},
			{Name: "stack without a limit", Shell: "ulimit -s unlimited", Differs: kit.CoveredLinker, Normal: kit.NoRoom},
			{Name: "little address space", Shell: "ulimit -v 300000"},
			{Name: "little data", Shell: "ulimit -d 60000"},
		}},
		{"tls-models", buildTLSModels, once},
		{"cancel", of("cancel"), once},
		{"locks", of("locks"), once},
		{"thread-kernel", of("thread-kernel"), once},
		{"spawn", of("spawn"), once},
		{"dl", buildDL, once},
		{"throw", withLibrary("throw", "throw-plugin"), arguments("closed", "uncaught", "noexcept", "thread", "rethrow",
			"destructor", "handler", "pure")},
		{"throw, not position-independent", func(t *testing.T) string {
			return kit.Build(t, "throw-fixed", kit.Part{Output: "libthrow-plugin.so", Source: "libthrow-plugin.cc", Args: nil},
				kit.Part{Output: "throw", Source: "throw.cc", Args: []string{"-no-pie", "-fno-pie"}})
		}, arguments("closed", "uncaught")},
		{"throw, static C++ runtime", func(t *testing.T) string {
			return kit.Build(t, "throw-static", kit.Part{Output: "libthrow-plugin.so", Source: "libthrow-plugin.cc", Args: nil},
				kit.Part{Output: "throw", Source: "throw.cc", Args: []string{"-static-libgcc", "-static-libstdc++"}})
		}, arguments("uncaught")},
		{"ifunc", withLibrary("ifunc", "ifunc", "-lifunc"), once},
		{"ifunc, not position-independent", func(t *testing.T) string {
			return kit.Build(t, "ifunc-fixed", kit.Part{Output: "libifunc.so", Source: "libifunc.c", Args: nil},
				kit.Part{Output: "ifunc", Source: "ifunc.c", Args: []string{"-no-pie", "-fno-pie", "-Wl,-z,lazy", "-lifunc"}})
		}, once},
		{"lazy", func(t *testing.T) string { return kit.BuildLazy(t, false) }, append(arguments("never"), kit.Command{Name: "fast", Env: []string{"FAST=1"}})},
		{"lazy, a function is nowhere", func(t *testing.T) string { return kit.BuildLazy(t, true) }, arguments("never")},
		{"clocks", of("clocks"), []kit.Command{
			{Name: "plain"},
			// For an ordinary user it ends before the program starts.
			{Name: "time namespace", Shell: `exec unshare --time --monotonic 1000 --boottime 5000 "$@"`, Normal: kit.Either},
			// Who is no user of a namespace can make none in it, to set /proc/self/exe.
			{Name: "user and time namespace", Shell: `exec unshare --user --time --monotonic 3000 "$@"`, Normal: "it looks at itself",
				Special: map[string]string{kit.ByExec.Name: "", kit.BySystem.Name: ""}},
		}},
		{"locales", of("locales"), []kit.Command{
			{Name: "C.UTF-8"},
			{Name: "C", Env: []string{"LC_ALL=C"}},
			{Name: "mixed", Env: []string{"LC_CTYPE=C.UTF-8", "LC_NUMERIC=POSIX", "LANG=C"}},
			{Name: "another one", Env: []string{"LOCPATH=" + germanLocale(t), "LC_ALL=de_XX.UTF-8"}},
			{Name: "another one for money", Env: []string{"LOCPATH=" + germanLocale(t), "LC_MONETARY=de_XX.UTF-8", "LANGUAGE=de"}},
			{Name: "modules elsewhere", Env: []string{"GCONV_PATH=/nowhere"}},
		}},
		{"names", of("names"), once},
		{"order", buildOrder, arguments("exit", "_exit", "quick", "abort", "thread", "close")},
		{"thread-exit", of("thread-exit"), arguments("exit")},
		{"contexts", of("contexts"), []kit.Command{{Name: "plain"}, {Name: "stack without a limit", Shell: "ulimit -s unlimited", Normal: kit.NoRoom}}},
		{"faults", of("faults", "-O2", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"), append(
			arguments("smash", "memcpy", "sprintf", "percent-n", "longjmp", "double free", "corrupted", "invalid pointer",
				"assert", "canary", "signal", "null", "division", "text", "execute"),
			kit.Command{Name: "read", Args: []string{"read"}, Stdin: "text"})},
	}
	s := kit.SharedStore(t)
	slice := kit.Today(t, 3)
	for i, test := range tests {
		if !slice.Has(i) {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			s.Compare(t, test.build(t), test.commands)
		})
	}
}

// fixtureName is the source of a fixture as build wants it.
func fixtureName(name string) string { return filepath.Base(kit.FixtureSource(name)) }

// germanLocale is a directory for LOCPATH with a locale that no system has by this
// name; without the sources for it, one that is empty.
func germanLocale(t *testing.T) string {
	t.Helper()
	directory := filepath.Join(kit.Temporary, "locales")
	if err := os.MkdirAll(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	if !kit.BuiltFiles[directory] {
		// Its own directory is absolute, so that no system archive is written.
		define := exec.Command("localedef", "--no-archive", "-i", "de_DE", "-f", "UTF-8", filepath.Join(directory, "de_XX.UTF-8"))
		if output, err := define.CombinedOutput(); err != nil {
			t.Logf("no German locale is compared: %v\n%s", err, output)
		}
		kit.BuiltFiles[directory] = true
	}
	return directory
}

// TestLinkage starts one program and its library, linked in every way.
func TestLinkage(t *testing.T) {
	versions := filepath.Join(kit.Temporary, "versions")
	if err := os.WriteFile(versions, []byte("LINKAGE_1 { global: *; };\nLINKAGE_2 { } LINKAGE_1;\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name             string
		program, library []string
	}{
		{"default", nil, nil},
		{"lazy", []string{"-Wl,-z,lazy"}, []string{"-Wl,-z,lazy"}},
		{"lazy without RELRO", []string{"-Wl,-z,lazy,-z,norelro"}, []string{"-Wl,-z,lazy,-z,norelro"}},
		{"bound at once", []string{"-Wl,-z,now"}, []string{"-Wl,-z,now"}},
		{"bound at once without RELRO", []string{"-Wl,-z,now,-z,norelro"}, []string{"-Wl,-z,now,-z,norelro"}},
		{"no PLT", []string{"-fno-plt"}, []string{"-fno-plt"}},
		{"fixed", []string{"-no-pie", "-fno-pie"}, nil},
		{"fixed, lazy, without RELRO", []string{"-no-pie", "-fno-pie", "-Wl,-z,lazy,-z,norelro"}, nil},
		{"fixed, bound at once", []string{"-no-pie", "-fno-pie", "-Wl,-z,now"}, nil},
		{"fixed, elsewhere", []string{"-no-pie", "-fno-pie", "-Wl,-Ttext-segment=0x60000000"}, nil},
		{"fixed, low", []string{"-no-pie", "-fno-pie", "-Wl,-Ttext-segment=0x10000"}, nil},
		{"without copies", []string{"-mno-direct-extern-access"}, []string{"-mno-direct-extern-access"}},
		{"symbol versions", nil, []string{"-DVERSIONED", "-Wl,--version-script=" + versions}},
		{"bound to itself", nil, []string{"-Wl,-Bsymbolic-functions"}},
		{"old hash tables", []string{"-Wl,--hash-style=sysv"}, []string{"-Wl,--hash-style=sysv"}},
		{"both hash tables", []string{"-Wl,--hash-style=both"}, []string{"-Wl,--hash-style=both"}},
		{"relative relocations packed", []string{"-Wl,-z,pack-relative-relocs"}, []string{"-Wl,-z,pack-relative-relocs"}},
		{"one segment of text", []string{"-Wl,-z,noseparate-code"}, []string{"-Wl,-z,noseparate-code"}},
		{"large pages", []string{"-Wl,-z,max-page-size=0x200000"}, []string{"-Wl,-z,max-page-size=0x200000"}},
		{"initialised first, never unloaded", nil, []string{"-Wl,-z,initfirst,-z,nodelete"}},
		{"interposing", nil, []string{"-Wl,-z,interpose"}},
		{"RPATH", []string{"-Wl,--disable-new-dtags"}, []string{"-Wl,--disable-new-dtags"}},
		{"control-flow marks", []string{"-fcf-protection=full"}, []string{"-fcf-protection=full"}},
		{"gold", []string{"-fuse-ld=gold"}, []string{"-fuse-ld=gold"}},
		{"no debug section, no symbols", []string{"-s"}, []string{"-s"}},
		{"link-time optimisation", []string{"-O2", "-flto"}, nil},
	}
	s := kit.SharedStore(t)
	slice := kit.Today(t, 3)
	for i, test := range tests {
		if !slice.Has(i) {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			program := kit.Build(t, "linkage-"+strings.ReplaceAll(test.name, " ", "-"),
				kit.Part{Output: "liblinkage.so", Source: "liblinkage.c", Args: test.library},
				kit.Part{Output: "linkage", Source: "linkage.c", Args: append([]string{"-Wl,--no-as-needed", "-llinkage", "-lm"}, test.program...)})
			s.Compare(t, program, []kit.Command{{Name: "plain"}})
		})
	}
	t.Run("without start code", func(t *testing.T) {
		program := kit.Build(t, "linkage-bare", kit.Part{Output: "bare", Source: "bare.c", Args: []string{"-nostartfiles"}})
		s.Compare(t, program, []kit.Command{{Name: "plain"}})
	})
}

// TestNotLinked: what no dynamic linker starts, and what is in the launcher's
// way, is refused with a reason and starts as before.
func TestNotLinked(t *testing.T) {
	tests := []struct {
		name, source string
		args         []string
	}{
		{"static", "c-main.c", []string{"-static"}},
		{"static, position-independent", "c-main.c", []string{"-static-pie"}},
		{"executable stack", "c-main.c", []string{"-Wl,-z,execstack"}},
		{"in residentctl's place", "c-main.c", []string{"-no-pie", "-fno-pie", "-Wl,-Ttext-segment=0x70100000"}},
		{"in the launcher's place", "bare.c", []string{"-nostartfiles", "-no-pie", "-fno-pie", "-mcmodel=large", "-Wl,-Ttext-segment=0x200000000000"}},
	}
	s := kit.SharedStore(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			directory := filepath.Join(kit.Temporary, "not-linked-"+strings.ReplaceAll(test.name, " ", "-"))
			if err := os.MkdirAll(directory, 0o755); err != nil {
				t.Fatal(err)
			}
			program := filepath.Join(directory, "c-main")
			kit.Compile(t, program, filepath.Join("fixtures", test.source), test.args...)
			output, err := s.Command("add", program).CombinedOutput()
			if err == nil || !strings.Contains(string(output), "residentctl: error: ") {
				t.Errorf("add: %v\n%s", err, output)
			}
			for _, u := range kit.Users {
				want := s.Start(t, kit.Plain, u, program, kit.Command{})
				if diff := cmp.Diff(want, s.Start(t, kit.ByRun, u, program, kit.Command{})); diff != "" {
					t.Errorf("plain (-) and run (+) differ as %s:\n%s", u.Name, diff)
				}
			}
		})
	}
}

// TestInstrumented starts programs whose compiler added a runtime of its own.
func TestInstrumented(t *testing.T) {
	// Afterwards: the status and how large what it has left is. The histogram in
	// it counts timer ticks.
	const left = `(exec -a "$0" "$@"); echo "status $?"; exec stat -c '%n %s' *.out`
	once := []kit.Command{{Name: "plain"}}
	profile := []kit.Command{{Name: "plain"}, {Name: "its file", Shell: left}}
	coverage := []kit.Command{{Name: "plain", Env: []string{"GCOV_PREFIX=.", "GCOV_PREFIX_STRIP=99"}, Outputs: []string{"instrumented-profiled.gcda"}}}
	tests := []struct {
		name, source string
		args         []string
		commands     []kit.Command // in which nothing is reported
		faults       []string      // the arguments with which something is
	}{
		{"address sanitizer", "sanitized.c", []string{"-fsanitize=address"}, once, []string{"heap", "freed", "global", "stack", "leak"}},
		{"static address sanitizer", "sanitized.c", []string{"-fsanitize=address", "-static-libasan"}, once, []string{"heap"}},
		{"leak sanitizer", "sanitized.c", []string{"-fsanitize=leak"}, once, []string{"leak"}},
		{"undefined behaviour", "sanitized.c", []string{"-fsanitize=undefined"}, once, []string{"undefined"}},
		{"thread sanitizer", "sanitized.c", []string{"-fsanitize=thread"}, once, []string{"race"}},
		{"address and undefined behaviour in C++", "throw.cc", []string{"-fsanitize=address,undefined"}, nil, []string{"", "uncaught"}},
		{"profiled", "profiled.c", []string{"-pg"}, profile, nil},
		{"profiled, fixed", "profiled.c", []string{"-pg", "-no-pie", "-fno-pie"}, profile, nil},
		{"coverage", "profiled.c", []string{"--coverage", "-fprofile-update=atomic"}, coverage, nil},
		{"split stacks", "stdio.c", []string{"-fsplit-stack", "-fuse-ld=gold"}, once, nil},
	}
	s := kit.SharedStore(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			parts := []kit.Part{{Output: "instrumented", Source: test.source, Args: test.args}}
			if test.source == "throw.cc" {
				parts = append([]kit.Part{{Output: "libthrow-plugin.so", Source: "libthrow-plugin.cc", Args: test.args}}, parts...)
			}
			program := kit.Build(t, "instrumented-"+strings.ReplaceAll(test.name, " ", "-"), parts...)
			if len(test.commands) > 0 {
				s.Compare(t, program, test.commands)
			} else {
				s.Do(t, "add", "--even-if-slower", program)
			}
			slice := kit.Today(t, 3)
			for i, fault := range test.faults {
				compareReports(t, s, program, fault, i, slice)
			}
		})
	}
}

// report is what a sanitizer's report has that is no two times the same: the
// process's number, addresses, a picture of the memory around one of them.
var report = []kit.Noise{
	{Pattern: regexp.MustCompile(`==\d+==`), Replacement: "==PID=="},
	{Pattern: regexp.MustCompile(`\b(pid|tid)=\d+`), Replacement: "$1=N"},
	{Pattern: regexp.MustCompile(`0x[0-9a-f]+`), Replacement: "ADDRESS"},
	{Pattern: regexp.MustCompile(`(?m)^(=>|  )ADDRESS:.*\n`), Replacement: ""},
}

// compareReports compares the reports of a fault, of that number, with the names of
// functions and the lines in them.
func compareReports(t *testing.T, s *kit.Store, program, fault string, number int, slice kit.Slice) {
	t.Helper()
	for i, u := range kit.Users {
		t.Run(fault+", "+u.Name, func(t *testing.T) {
			c := kit.Command{Args: []string{fault}, Noise: report}
			want := s.Start(t, kit.Plain, u, program, c)
			for way, w := range kit.ReadyWays(t, s, program) {
				if !slice.Has(number, i, way) {
					continue
				}
				if diff := cmp.Diff(want, s.Start(t, w, u, program, c)); diff != "" {
					t.Errorf("plain (-) and %s (+) differ:\n%s", w.Name, diff)
				}
			}
		})
	}
}

// TestOrigin loads a library by $ORIGIN in a program without RPATH, for which the
// dynamic linker reads /proc/self/exe at that moment.
func TestOrigin(t *testing.T) {
	s := kit.SharedStore(t)
	directory := filepath.Join(kit.Temporary, "built", "origin")
	if err := os.MkdirAll(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	kit.Compile(t, filepath.Join(directory, "libdlopen.so"), "fixtures/libdlopen.c", "-shared", "-fPIC")
	program := filepath.Join(directory, "origin")
	kit.Compile(t, program, "fixtures/origin.c")
	s.Do(t, "add", "--even-if-slower", program)
	for _, u := range kit.Users {
		t.Run(u.Name, func(t *testing.T) {
			want := s.Start(t, kit.Plain, u, program, kit.Command{})
			for _, w := range kit.ReadyWays(t, s, program) {
				diff := cmp.Diff(want, s.Start(t, w, u, program, kit.Command{}))
				if diff != "" {
					t.Errorf("plain (-) and %s (+) differ:\n%s", w.Name, diff)
				}
			}
		})
	}
}

// TestManyLibraries starts a program that needs 300 libraries, in more than a
// thousand mappings.
func TestManyLibraries(t *testing.T) {
	const count = 300
	s := kit.SharedStore(t)
	directory := filepath.Join(kit.Temporary, "built", "many")
	if err := os.MkdirAll(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	object := filepath.Join(directory, "libtiny.o")
	kit.Compile(t, object, "fixtures/libtiny.c", "-c", "-fPIC")
	var (
		header strings.Builder
		needed []string
	)
	for i := range count {
		name := fmt.Sprintf("tiny_%d", i)
		fmt.Fprintf(&header, "TINY(%d)\n", i)
		needed = append(needed, "-l"+name)
		link := exec.Command("ld", "-shared", "-o", filepath.Join(directory, "lib"+name+".so"), "--defsym="+name+"=tiny",
			"-z", "relro", "-z", "separate-code", object)
		if output, err := link.CombinedOutput(); err != nil {
			t.Fatalf("ld: %v\n%s", err, output)
		}
	}
	if err := os.WriteFile(filepath.Join(directory, "tiny.h"), []byte(header.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	program := kit.Build(t, "many", kit.Part{Output: "many", Source: "many.c", Args: append([]string{"-I" + directory, "-Wl,--no-as-needed"}, needed...)})
	s.Compare(t, program, []kit.Command{{Name: "plain"}})
}

// TestClocksInTheVDSO: what the clocks say comes without a system call.
func TestClocksInTheVDSO(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not on this machine")
	}
	s := kit.SharedStore(t)
	program := kit.Build(t, "clocks", kit.Part{Output: "clocks", Source: "clocks.c", Args: nil})
	s.Do(t, "add", "--even-if-slower", program)
	for _, u := range kit.Users {
		for _, w := range []kit.Way{kit.Plain, kit.ByLauncher, kit.Strictly, kit.ByExec} {
			t.Run(w.Name+", "+u.Name, func(t *testing.T) {
				traced := w
				traced.Argv = func(s *kit.Store, program string) (string, string, []string) {
					path, _, args := w.Argv(s, program)
					return strace, "strace", append([]string{"-f", "-o", "trace", path}, args...)
				}
				got := s.Start(t, traced, u, program, kit.Command{})
				if got.Status != "exit status 0" {
					t.Fatalf("%s\n%s%s", got.Status, got.Stdout, got.Stderr)
				}
				trace, err := os.ReadFile(filepath.Join(kit.Temporary, "work", "trace"))
				if err != nil {
					t.Fatal(err)
				}
				const mark = `write(1, "mark\n", 5)`
				if parts := strings.Split(string(trace), mark); len(parts) != 3 {
					t.Errorf("%d marks in\n%s", len(parts)-1, trace)
				} else if calls := strings.Count(parts[1], "\n") - 1; calls != 0 {
					t.Errorf("%d system calls between the marks:\n%s", calls, parts[1])
				}
			})
		}
	}
}

// TestStrictOvercommit: with vm.overcommit_memory=2 every private writable page
// is accounted for when it is mapped. The limit is set so high that nobody else
// on this machine notices.
func TestStrictOvercommit(t *testing.T) {
	const mode, ratio = "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/overcommit_ratio"
	s := kit.SharedStore(t)
	set := func(path, value string) {
		t.Helper()
		before, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, []byte(value), 0o644)
		}
		if err != nil {
			t.Skipf("it cannot be set here: %v", err)
		}
		t.Cleanup(func() {
			if err := os.WriteFile(path, before, 0o644); err != nil {
				t.Error(err)
			}
		})
	}
	program := kit.Build(t, "malloc", kit.Part{Output: "malloc", Source: "malloc.c", Args: nil})
	s.Do(t, "add", "--even-if-slower", program)
	set(ratio, "100000000")
	set(mode, "2")
	s.Compare(t, program, []kit.Command{{Name: "plain"}})
}

// TestTightLimits: whatever limit on memory lets a program start plainly lets it
// start from its launcher file and under exec too, and then do the same. (With `run` the limits
// must first let residentctl itself be executed.)
func TestTightLimits(t *testing.T) {
	s := kit.SharedStore(t)
	for _, program := range []string{kit.Fixture(t, "c-main"), kit.Build(t, "malloc", kit.Part{Output: "malloc", Source: "malloc.c", Args: nil})} {
		t.Run(filepath.Base(program), func(t *testing.T) {
			s.Do(t, "add", "--even-if-slower", program)
			slice := kit.Today(t, 3)
			for _, limit := range []string{"v", "d"} {
				worked := 0
				// KiB; from less than the C library's text to more than it takes.
				for size := 100; size <= 4000; size += 75 {
					if !slice.Has(size / 75) {
						continue
					}
					c := kit.Command{Shell: fmt.Sprintf("ulimit -c 0; ulimit -%s %d", limit, size)}
					want := s.Start(t, kit.Plain, kit.Nobody, program, c)
					// Not even linked: the dynamic linker's complaint or its end.
					if want.Status == "exit status 127" || strings.HasPrefix(want.Status, "signal: ") {
						continue
					}
					worked++
					for _, w := range kit.Exactly {
						// A normal start under exec takes some pages more (kit.CoveredLinker), which is
						// less than a step here.
						if w.Name == kit.ByExec.Name && worked == 1 {
							continue
						}
						c.Differs = kit.CoveredLinker
						if diff := w.Diff(kit.Nobody, c, want, s.Start(t, w, kit.Nobody, program, c)); diff != "" {
							t.Errorf("plain (-) and %s (+) differ with ulimit -%s %d:\n%s", w.Name, limit, size, diff)
						}
					}
				}
				if worked == 0 {
					t.Errorf("no plain start worked with any limit -%s", limit)
				}
			}
		})
	}
}

// TestOnTerminal: on a terminal the standard streams are buffered by lines, and
// what goes to stdout and stderr comes in the order of writing.
func TestOnTerminal(t *testing.T) {
	s := kit.SharedStore(t)
	for _, test := range []struct {
		program string
		args    []string
	}{
		{kit.Fixture(t, "stdio"), nil},
		{kit.Build(t, "faults", kit.Part{Output: "faults", Source: "faults.c", Args: []string{"-O2", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"}}), []string{"smash"}},
		{buildOrder(t), []string{"exit"}},
	} {
		t.Run(filepath.Base(test.program), func(t *testing.T) {
			s.Do(t, "add", "--even-if-slower", test.program)
			for _, u := range kit.Users {
				want, status := startOnTerminal(t, s, kit.Plain, u, test.program, test.args)
				if strings.Count(want, "\n") < 2 {
					t.Fatalf("a plain start says only:\n%s", want)
				}
				for _, w := range append(kit.ReadyWays(t, s, test.program), kit.Strictly) {
					got, gotStatus := startOnTerminal(t, s, w, u, test.program, test.args)
					if diff := cmp.Diff([]string{want, status}, []string{got, gotStatus}); diff != "" {
						t.Errorf("plain (-) and %s (+) differ as %s:\n%s", w.Name, u.Name, diff)
					}
				}
			}
		})
	}
}

// startOnTerminal starts the program with a new terminal as its controlling one,
// types a line and the end of the file, and returns what was shown.
func startOnTerminal(t *testing.T, s *kit.Store, w kit.Way, u kit.User, program string, args []string) (shown, status string) {
	t.Helper()
	master, slave, err := linux.OpenTerminal()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()

	// The echo comes when the kernel finds time for it, between any two lines.
	terminal, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	terminal.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, terminal); err != nil {
		t.Fatal(err)
	}
	if _, err := master.WriteString("a line\n\x04"); err != nil {
		t.Fatal(err)
	}
	path, argv0, words := w.Command(s, u, program, args...)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, words...)
	cmd.Args[0] = argv0
	cmd.Dir = kit.Temporary
	cmd.Env = s.Environment(kit.Temporary)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: u.ID, Gid: u.ID}, Setsid: true, Setctty: true,
	}
	if err := w.Start(s, u, cmd); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	var output bytes.Buffer
	// EIO when the last one has closed the other side.
	_, _ = output.ReadFrom(master)
	_ = cmd.Wait()
	return output.String(), cmd.ProcessState.String()
}
