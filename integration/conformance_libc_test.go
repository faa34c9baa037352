package integration

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
)

// A part is one file of a fixture that is more than a program and a library of
// the same name: a library, or at the end the program.
type part struct {
	output, source string
	args           []string // after those that all parts have
}

// build makes the parts of a fixture in a folder of its own and returns the last
// one's path. They find each other there by DT_NEEDED and $ORIGIN.
func build(t *testing.T, name string, parts ...part) string {
	t.Helper()
	folder := filepath.Join(temporary, "built", name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	output := ""
	for _, p := range parts {
		args := []string{"-pthread", "-rdynamic", "-Wl,-rpath,$ORIGIN", "-L" + folder}
		if strings.HasSuffix(p.output, ".so") {
			args = append(args, "-shared", "-fPIC")
		}
		output = filepath.Join(folder, p.output)
		compile(t, output, filepath.Join("fixtures", p.source), append(args, p.args...)...)
	}
	return output
}

func buildTLSModels(t *testing.T) string {
	const source = "libtls-models.c"
	parts := []part{
		{"libtls-module-0.so", source, []string{"-DNAME(x)=module_##x"}},
		{"libtls-static.so", source, []string{"-DNAME(x)=static_##x", `-DMODEL="initial-exec"`}},
		{"libgeneral.so", source, []string{"-DNAME(x)=general_##x"}},
		{"liblocal.so", source, []string{"-DNAME(x)=local_##x", `-DMODEL="local-dynamic"`}},
		{"libinitial.so", source, []string{"-DNAME(x)=initial_##x", `-DMODEL="initial-exec"`}},
		{"libdescriptor.so", source, []string{"-DNAME(x)=descriptor_##x", "-mtls-dialect=gnu2"}},
		{"tls-models", "tls-models.c", []string{"-lgeneral", "-llocal", "-linitial", "-ldescriptor"}},
	}
	program := build(t, "tls-models", parts...)
	module := filepath.Join(filepath.Dir(program), "libtls-module-")
	for i := 1; i < 70; i++ {
		copyFile(t, module+"0.so", fmt.Sprint(module, i, ".so"))
	}
	return program
}

func buildDL(t *testing.T) string {
	library := func(name string) part {
		return part{"libdl-" + name + ".so", "libdl-one.c", []string{"-DNAME=" + name}}
	}
	return build(t, "dl", library("one"), library("two"), library("deep"), library("needed"),
		part{"libdl-lazy.so", "libdl-lazy.c", []string{"-Wl,-z,lazy"}},
		part{"libdl-lazy2.so", "libdl-lazy.c", []string{"-Wl,-z,lazy", "-DSECOND"}},
		part{"dl", "dl.c", []string{"-Wl,--no-as-needed", "-ldl-needed"}})
}

// buildLazy is a program that is bound lazily; nowhere says that a function which it
// may call is nowhere.
func buildLazy(t *testing.T, nowhere bool) string {
	name, library := "lazy", []string{"-Wl,-z,lazy"}
	if nowhere {
		name, library = "lazy-nowhere", append(library, "-DNOWHERE")
	}
	return build(t, name, part{"liblazy-plugin.so", "liblazy-plugin.c", nil}, part{"liblazy-other.so", "liblazy-other.c", nil},
		part{"liblazy.so", "liblazy.c", append(library, "-llazy-other")},
		part{"lazy", "lazy.c", []string{"-Wl,-z,lazy", "-Wl,--allow-shlib-undefined", "-llazy"}})
}

func buildOrder(t *testing.T) string {
	library := func(name string, args ...string) part {
		return part{"liborder-" + name + ".so", "liborder.c",
			append(args, "-DNAME="+name, "-Wl,-init,"+name+"_init", "-Wl,-fini,"+name+"_fini")}
	}
	return build(t, "order", library("inner"), library("outer", "-DNEEDS=inner", "-lorder-inner"), library("late"),
		part{"order", "order.c", []string{"-lorder-outer", "-Wl,-init,program_init", "-Wl,-fini,program_fini"}})
}

// TestCLibrary looks at what the C library, the dynamic linker and the C++
// runtime do for a program.
func TestCLibrary(t *testing.T) {
	skipShort(t)
	of := func(name string, args ...string) func(*testing.T) string {
		return func(t *testing.T) string {
			return build(t, name, part{name, fixtureName(name), args})
		}
	}
	withLibrary := func(name, library string, args ...string) func(*testing.T) string {
		return func(t *testing.T) string {
			return build(t, name, part{"lib" + library + ".so", fixtureName("lib" + library), nil},
				part{name, fixtureName(name), args})
		}
	}
	arguments := func(all ...string) []command {
		commands := []command{{name: "no argument"}}
		for _, arg := range all {
			commands = append(commands, command{name: arg, args: []string{arg}})
		}
		return commands
	}
	once := []command{{name: "plain"}}
	tests := []struct {
		name     string
		build    func(*testing.T) string
		commands []command
	}{
		{"malloc", of("malloc"), []command{
			{name: "plain"},
			{name: "no randomisation", shell: `exec setarch --addr-no-randomize "$@"`, differs: coveredLinker, special: notToBeRandom},
			{name: "stack without a limit", shell: "ulimit -s unlimited", differs: coveredLinker, normal: noRoom},
			{name: "little address space", shell: "ulimit -v 300000"},
			{name: "little data", shell: "ulimit -d 60000"},
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
			return build(t, "throw-fixed", part{"libthrow-plugin.so", "libthrow-plugin.cc", nil},
				part{"throw", "throw.cc", []string{"-no-pie", "-fno-pie"}})
		}, arguments("closed", "uncaught")},
		{"throw, static C++ runtime", func(t *testing.T) string {
			return build(t, "throw-static", part{"libthrow-plugin.so", "libthrow-plugin.cc", nil},
				part{"throw", "throw.cc", []string{"-static-libgcc", "-static-libstdc++"}})
		}, arguments("uncaught")},
		{"ifunc", withLibrary("ifunc", "ifunc", "-lifunc"), once},
		{"ifunc, not position-independent", func(t *testing.T) string {
			return build(t, "ifunc-fixed", part{"libifunc.so", "libifunc.c", nil},
				part{"ifunc", "ifunc.c", []string{"-no-pie", "-fno-pie", "-Wl,-z,lazy", "-lifunc"}})
		}, once},
		{"lazy", func(t *testing.T) string { return buildLazy(t, false) }, append(arguments("never"), command{name: "fast", env: []string{"FAST=1"}})},
		{"lazy, a function is nowhere", func(t *testing.T) string { return buildLazy(t, true) }, arguments("never")},
		{"clocks", of("clocks"), []command{
			{name: "plain"},
			// For an ordinary user it ends before the program starts.
			{name: "time namespace", shell: `exec unshare --time --monotonic 1000 --boottime 5000 "$@"`, normal: either},
			// Who is no user of a namespace can make none in it, to set /proc/self/exe.
			{name: "user and time namespace", shell: `exec unshare --user --time --monotonic 3000 "$@"`, normal: "it looks at itself",
				special: map[string]string{byExec.name: "", bySystem.name: ""}},
		}},
		{"locales", of("locales"), []command{
			{name: "C.UTF-8"},
			{name: "C", env: []string{"LC_ALL=C"}},
			{name: "mixed", env: []string{"LC_CTYPE=C.UTF-8", "LC_NUMERIC=POSIX", "LANG=C"}},
			{name: "another one", env: []string{"LOCPATH=" + germanLocale(t), "LC_ALL=de_XX.UTF-8"}},
			{name: "another one for money", env: []string{"LOCPATH=" + germanLocale(t), "LC_MONETARY=de_XX.UTF-8", "LANGUAGE=de"}},
			{name: "modules elsewhere", env: []string{"GCONV_PATH=/nowhere"}},
		}},
		{"names", of("names"), once},
		{"order", buildOrder, arguments("exit", "_exit", "quick", "abort", "thread", "close")},
		{"thread-exit", of("thread-exit"), arguments("exit")},
		{"contexts", of("contexts"), []command{{name: "plain"}, {name: "stack without a limit", shell: "ulimit -s unlimited", normal: noRoom}}},
		{"faults", of("faults", "-O2", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"), append(
			arguments("smash", "memcpy", "sprintf", "percent-n", "longjmp", "double free", "corrupted", "invalid pointer",
				"assert", "canary", "signal", "null", "division", "text", "execute"),
			command{name: "read", args: []string{"read"}, stdin: "text"})},
	}
	s := sharedStore(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s.compare(t, test.build(t), test.commands)
		})
	}
}

// fixtureName is the source of a fixture as build wants it.
func fixtureName(name string) string { return filepath.Base(fixtureSource(name)) }

// germanLocale is a folder for LOCPATH with a locale that no system has by this
// name; without the sources for it, one that is empty.
func germanLocale(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(temporary, "locales")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if !builtFiles[folder] {
		// Its own folder is absolute, so that no system archive is written.
		define := exec.Command("localedef", "--no-archive", "-i", "de_DE", "-f", "UTF-8", filepath.Join(folder, "de_XX.UTF-8"))
		if output, err := define.CombinedOutput(); err != nil {
			t.Logf("no German locale is compared: %v\n%s", err, output)
		}
		builtFiles[folder] = true
	}
	return folder
}

// TestLinkage starts one program and its library, linked in every way.
func TestLinkage(t *testing.T) {
	versions := filepath.Join(temporary, "versions")
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
	s := sharedStore(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			program := build(t, "linkage-"+strings.ReplaceAll(test.name, " ", "-"),
				part{"liblinkage.so", "liblinkage.c", test.library},
				part{"linkage", "linkage.c", append([]string{"-Wl,--no-as-needed", "-llinkage", "-lm"}, test.program...)})
			s.compare(t, program, []command{{name: "plain"}})
		})
	}
	t.Run("without start code", func(t *testing.T) {
		program := build(t, "linkage-bare", part{"bare", "bare.c", []string{"-nostartfiles"}})
		s.compare(t, program, []command{{name: "plain"}})
	})
}

// TestNotLinked: what no dynamic linker starts, and what stands in the launcher's
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
	s := sharedStore(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			folder := filepath.Join(temporary, "not-linked-"+strings.ReplaceAll(test.name, " ", "-"))
			if err := os.MkdirAll(folder, 0o755); err != nil {
				t.Fatal(err)
			}
			program := filepath.Join(folder, "c-main")
			compile(t, program, filepath.Join("fixtures", test.source), test.args...)
			output, err := s.command("add", program).CombinedOutput()
			if err == nil || !strings.Contains(string(output), "residentctl: error: ") {
				t.Errorf("add: %v\n%s", err, output)
			}
			for _, u := range users {
				want := s.start(t, plain, u, program, command{})
				if diff := cmp.Diff(want, s.start(t, byRun, u, program, command{})); diff != "" {
					t.Errorf("plain (-) and run (+) differ as %s:\n%s", u.name, diff)
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
	once := []command{{name: "plain"}}
	profile := []command{{name: "plain"}, {name: "its file", shell: left}}
	coverage := []command{{name: "plain", env: []string{"GCOV_PREFIX=.", "GCOV_PREFIX_STRIP=99"}, outputs: []string{"instrumented-profiled.gcda"}}}
	tests := []struct {
		name, source string
		args         []string
		commands     []command // in which nothing is reported
		faults       []string  // the arguments with which something is
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
	s := sharedStore(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			parts := []part{{"instrumented", test.source, test.args}}
			if test.source == "throw.cc" {
				parts = append([]part{{"libthrow-plugin.so", "libthrow-plugin.cc", test.args}}, parts...)
			}
			program := build(t, "instrumented-"+strings.ReplaceAll(test.name, " ", "-"), parts...)
			if len(test.commands) > 0 {
				s.compare(t, program, test.commands)
			} else {
				s.do(t, "add", "--even-if-slower", program)
			}
			for _, fault := range test.faults {
				s.compareReports(t, program, fault)
			}
		})
	}
}

// report is what a sanitizer's report has that is no two times the same: the
// process's number, addresses, a picture of the memory around one of them.
var report = []noise{
	{regexp.MustCompile(`==\d+==`), "==PID=="},
	{regexp.MustCompile(`\b(pid|tid)=\d+`), "$1=N"},
	{regexp.MustCompile(`0x[0-9a-f]+`), "ADDRESS"},
	{regexp.MustCompile(`(?m)^(=>|  )ADDRESS:.*\n`), ""},
}

// compareReports compares the reports of a fault, with the names of functions and
// the lines in them.
func (s *store) compareReports(t *testing.T, program, fault string) {
	t.Helper()
	for _, u := range users {
		t.Run(fault+", "+u.name, func(t *testing.T) {
			c := command{args: []string{fault}, noise: report}
			want := s.start(t, plain, u, program, c)
			for _, w := range readyWays(t, s, program) {
				if diff := cmp.Diff(want, s.start(t, w, u, program, c)); diff != "" {
					t.Errorf("plain (-) and %s (+) differ:\n%s", w.name, diff)
				}
			}
		})
	}
}

// TestOrigin loads a library by $ORIGIN in a program without RPATH, for which the
// dynamic linker reads /proc/self/exe at that moment.
func TestOrigin(t *testing.T) {
	s := sharedStore(t)
	folder := filepath.Join(temporary, "built", "origin")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	compile(t, filepath.Join(folder, "libdlopen.so"), "fixtures/libdlopen.c", "-shared", "-fPIC")
	program := filepath.Join(folder, "origin")
	compile(t, program, "fixtures/origin.c")
	s.do(t, "add", "--even-if-slower", program)
	for _, u := range users {
		t.Run(u.name, func(t *testing.T) {
			want := s.start(t, plain, u, program, command{})
			for _, w := range readyWays(t, s, program) {
				diff := cmp.Diff(want, s.start(t, w, u, program, command{}))
				if diff != "" {
					t.Errorf("plain (-) and %s (+) differ:\n%s", w.name, diff)
				}
			}
		})
	}
}

// TestManyLibraries starts a program that needs 300 libraries, in more than a
// thousand mappings.
func TestManyLibraries(t *testing.T) {
	const count = 300
	s := sharedStore(t)
	folder := filepath.Join(temporary, "built", "many")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	object := filepath.Join(folder, "libtiny.o")
	compile(t, object, "fixtures/libtiny.c", "-c", "-fPIC")
	var (
		header strings.Builder
		needed []string
	)
	for i := range count {
		name := fmt.Sprintf("tiny_%d", i)
		fmt.Fprintf(&header, "TINY(%d)\n", i)
		needed = append(needed, "-l"+name)
		link := exec.Command("ld", "-shared", "-o", filepath.Join(folder, "lib"+name+".so"), "--defsym="+name+"=tiny",
			"-z", "relro", "-z", "separate-code", object)
		if output, err := link.CombinedOutput(); err != nil {
			t.Fatalf("ld: %v\n%s", err, output)
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "tiny.h"), []byte(header.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	program := build(t, "many", part{"many", "many.c", append([]string{"-I" + folder, "-Wl,--no-as-needed"}, needed...)})
	s.compare(t, program, []command{{name: "plain"}})
}

// TestClocksInTheVDSO: what the clocks say comes without a system call.
func TestClocksInTheVDSO(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not on this machine")
	}
	s := sharedStore(t)
	program := build(t, "clocks", part{"clocks", "clocks.c", nil})
	s.do(t, "add", "--even-if-slower", program)
	for _, u := range users {
		for _, w := range []way{plain, byLauncher, strictly, byExec} {
			t.Run(w.name+", "+u.name, func(t *testing.T) {
				traced := w
				traced.argv = func(s *store, program string) (string, string, []string) {
					path, _, args := w.argv(s, program)
					return strace, "strace", append([]string{"-f", "-o", "trace", path}, args...)
				}
				got := s.start(t, traced, u, program, command{})
				if got.Status != "exit status 0" {
					t.Fatalf("%s\n%s%s", got.Status, got.Stdout, got.Stderr)
				}
				trace, err := os.ReadFile(filepath.Join(temporary, "work", "trace"))
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
	s := sharedStore(t)
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
	program := build(t, "malloc", part{"malloc", "malloc.c", nil})
	s.do(t, "add", "--even-if-slower", program)
	set(ratio, "100000000")
	set(mode, "2")
	s.compare(t, program, []command{{name: "plain"}})
}

// TestTightLimits: whatever limit on memory lets a program start plainly lets it
// start from its launcher file and under exec too, and then do the same. (With `run` the limits
// must first let residentctl itself be executed.)
func TestTightLimits(t *testing.T) {
	s := sharedStore(t)
	for _, program := range []string{fixture(t, "c-main"), build(t, "malloc", part{"malloc", "malloc.c", nil})} {
		t.Run(filepath.Base(program), func(t *testing.T) {
			s.do(t, "add", "--even-if-slower", program)
			for _, limit := range []string{"v", "d"} {
				worked := 0
				// KiB; from less than the C library's text to more than it takes.
				for size := 100; size <= 4000; size += 75 {
					c := command{shell: fmt.Sprintf("ulimit -c 0; ulimit -%s %d", limit, size)}
					want := s.start(t, plain, nobody, program, c)
					// Not even linked: the dynamic linker's complaint or its end.
					if want.Status == "exit status 127" || strings.HasPrefix(want.Status, "signal: ") {
						continue
					}
					worked++
					for _, w := range exactly {
						// A normal start under exec takes some pages more (coveredLinker), which is
						// less than a step here.
						if w.name == byExec.name && worked == 1 {
							continue
						}
						c.differs = coveredLinker
						if diff := w.diff(nobody, c, want, s.start(t, w, nobody, program, c)); diff != "" {
							t.Errorf("plain (-) and %s (+) differ with ulimit -%s %d:\n%s", w.name, limit, size, diff)
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
	s := sharedStore(t)
	for _, test := range []struct {
		program string
		args    []string
	}{
		{fixture(t, "stdio"), nil},
		{build(t, "faults", part{"faults", "faults.c", []string{"-O2", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"}}), []string{"smash"}},
		{buildOrder(t), []string{"exit"}},
	} {
		t.Run(filepath.Base(test.program), func(t *testing.T) {
			s.do(t, "add", "--even-if-slower", test.program)
			for _, u := range users {
				want, status := s.startOnTerminal(t, plain, u, test.program, test.args)
				if strings.Count(want, "\n") < 2 {
					t.Fatalf("a plain start says only:\n%s", want)
				}
				for _, w := range append(readyWays(t, s, test.program), strictly) {
					got, gotStatus := s.startOnTerminal(t, w, u, test.program, test.args)
					if diff := cmp.Diff([]string{want, status}, []string{got, gotStatus}); diff != "" {
						t.Errorf("plain (-) and %s (+) differ as %s:\n%s", w.name, u.name, diff)
					}
				}
			}
		})
	}
}

// startOnTerminal starts the program with a new terminal as its controlling one,
// types a line and the end of the file, and returns what was shown.
func (s *store) startOnTerminal(t *testing.T, w way, u user, program string, args []string) (shown, status string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("there are no terminals here: %v", err)
	}
	defer master.Close()
	// pty(7), pts(4): the other side is locked until it is asked for.
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
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
	path, argv0, words := w.command(s, u, program, args...)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, words...)
	cmd.Args[0] = argv0
	cmd.Dir = temporary
	cmd.Env = s.environment(temporary)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: u.id, Gid: u.id}, Setsid: true, Setctty: true,
	}
	if err := w.start(s, u, cmd); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	var output bytes.Buffer
	// EIO when the last one has closed the other side.
	_, _ = output.ReadFrom(master)
	_ = cmd.Wait()
	return output.String(), cmd.ProcessState.String()
}
