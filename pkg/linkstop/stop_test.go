package linkstop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/fixture"
	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/internal/seeded"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// What tests are made with.
const hello = fixture.Hello

var (
	build      = fixture.Build
	noChildren = fixture.NoChildren
)

// stop is Stop for a program that must come to its stop point.
func stop(t *testing.T, path string, opts Options) *Template {
	t.Helper()
	tm, err := Stop(t.Context(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tm.Kill() })
	return tm
}

// symbolic lists the fix-ups as kind and distance from the first mapping of
// the file, or from the thread's FS base: what is the same at each start.
func symbolic(tm *Template) []string {
	var list []string
	for _, f := range tm.Fixups {
		m, _ := linux.FindMapping(tm.Maps, f.Addr)
		base, name := m.Start, m.Path
		if d := f.Addr - tm.FSBase; d < 0x2000 {
			base, name = tm.FSBase, "fs"
		}
		list = append(list, fmt.Sprintf("%d/%d %s+%#x", f.Kind, f.Size, name, f.Addr-base))
	}
	return list
}

func count(tm *Template, kind uint32) (n int) {
	for _, f := range tm.Fixups {
		if f.Kind == kind {
			n++
		}
	}
	return n
}

func TestStopPrograms(t *testing.T) {
	programs := map[string]string{
		"hello":        build(t, hello),
		"hello no-pie": build(t, hello, "-no-pie"),
		"perl":         "/usr/bin/perl",
		"bash":         "/bin/bash",
	}
	for name, path := range programs {
		for _, soft := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s soft=%v", name, soft), func(t *testing.T) {
				if _, err := os.Stat(path); err != nil {
					t.Skip(err)
				}
				noChildren(t)
				tm := stop(t, path, Options{SoftBreakpoint: soft})
				checkTemplate(t, tm)
				if err := tm.Detach(); err != nil {
					t.Fatal(err)
				}
				if state := procState(t, tm.PID); state != "T" {
					t.Errorf("state %s after Detach", state)
				}
				if err := tm.Kill(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// checkTemplate checks what must be true of each template on glibc.
func checkTemplate(t *testing.T, tm *Template) {
	t.Helper()
	if tm.Stop.Point != plan.StopLinked {
		t.Fatalf("stopped at %v", tm.Stop.Point)
	}
	// 2 fewer where AT_PLATFORM's copy points into ld.so and where the stack's
	// address is not in struct pthread.
	if n := len(tm.Fixups); n < 9 || n > 17 {
		t.Errorf("%d fix-ups: %v", n, symbolic(tm))
	}
	for kind, want := range map[uint32]int{plan.FixTID: 1, plan.FixCanary: 1, plan.FixGuard: 2, plan.FixStackSize: 1} {
		if n := count(tm, kind); n != want {
			t.Errorf("%d fix-ups of kind %d, want %d", n, kind, want)
		}
	}
	if !slices.IsSortedFunc(tm.Fixups, func(a, b plan.Fixup) int { return int(int64(a.Addr - b.Addr)) }) {
		t.Error("the fix-ups are not in order")
	}
	if tm.Regs.Rip != tm.Stop.Addr || tm.Regs.Rsp != tm.Stack.SP || tm.Regs.Fs_base != tm.FSBase {
		t.Errorf("registers %+v", tm.Regs)
	}
	text := make([]byte, 3)
	if err := linux.ReadMem(tm.PID, tm.Stop.Addr, text); err != nil || string(text) != "\x49\x89\xc4" {
		t.Errorf("at the stop point: % x, %v", text, err)
	}
	if len(tm.Probes) == 0 || tm.RobustHead == 0 || tm.TIDAddr == 0 || len(tm.Anon) == 0 {
		t.Errorf("not recorded: %+v", tm)
	}
	if tm.Stack.Argc != 1 || tm.Stack.Auxv-tm.Stack.Envp != 8 {
		t.Errorf("argc %d, environment of %d bytes", tm.Stack.Argc, tm.Stack.Auxv-tm.Stack.Envp)
	}
}

// TestStopMusl is about the other stop point.
func TestStopMusl(t *testing.T) {
	gcc, err := exec.LookPath("musl-gcc")
	if err != nil {
		t.Skip("musl-gcc is not installed")
	}
	t.Setenv("PATH", linkDir(t, gcc)+":"+os.Getenv("PATH"))
	path := build(t, hello)
	for _, soft := range []bool{false, true} {
		noChildren(t)
		tm := stop(t, path, Options{SoftBreakpoint: soft})
		if tm.Stop.Point != plan.StopEntry || tm.Stop.Addr != tm.Auxv.Value(linux.ATEntry) {
			t.Errorf("stopped at %v, %#x", tm.Stop.Point, tm.Stop.Addr)
		}
		if n := len(tm.Fixups); n < 3 || n > 5 || count(tm, plan.FixTID) != 1 || count(tm, plan.FixGuard) != 0 {
			t.Errorf("fix-ups %v", symbolic(tm))
		}
		_ = tm.Kill()
	}
}

// linkDir is a directory in which "gcc" is the given compiler.
func linkDir(t *testing.T, compiler string) string {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nREALGCC=%s exec %s \"$@\"\n", "/usr/bin/gcc", compiler)
	if err := os.WriteFile(filepath.Join(dir, "gcc"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func procState(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return rest[:1]
}

func TestStopIsTheSameEachTime(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	noChildren(t)
	path := build(t, hello)
	var first []string
	for i := range 50 {
		tm := stop(t, path, Options{})
		got := symbolic(tm)
		slices.Sort(got)
		if i == 0 {
			first = got
		} else if !slices.Equal(got, first) {
			t.Fatalf("run %d: %v\nfirst: %v", i, got, first)
		}
		if err := tm.Kill(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStopCancelled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	noChildren(t)
	path := build(t, hello)
	started := time.Now()
	stop(t, path, Options{})
	took := time.Since(started)
	rnd := seeded.Rand(t)
	for range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.Int64N(int64(2*took))))
		tm, err := Stop(ctx, path, Options{})
		cancel()
		switch {
		case err == nil:
			if err := tm.Kill(); err != nil {
				t.Error(err)
			}
		case !errors.Is(err, context.DeadlineExceeded):
			t.Errorf("unexpected: %v", err)
		}
	}
}

func TestStopRefuses(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	library := build(t, "int f(void) { return 1; }\n", "-shared", "-fPIC")
	missing := filepath.Join(t.TempDir(), "libgone.so")
	if err := os.Rename(build(t, "int f(void) { return 1; }\n", "-shared", "-fPIC", "-Wl,-soname,libgone.so"), missing); err != nil {
		t.Fatal(err)
	}
	const callsF = "int f(void);\nint main(void) { return f(); }\n"
	broken := build(t, callsF, missing)
	if err := os.Remove(missing); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	// An IFUNC resolver runs while the program is linked.
	resolver := func(body string) string {
		return build(t, `static long r(long n, long a, long b, long c) { long x; __asm__ volatile("syscall" : "=a"(x) : "0"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory"); return x; }
static int one(void) { return 1; }
long kept;
static void *resolve(void) { `+body+` return one; }
int f(void) __attribute__((ifunc("resolve")));
int main(void) { return f(); }
`, "-Wl,-z,now")
	}
	tests := []struct {
		name, path, want string
	}{
		{"static", build(t, hello, "-static"), "statically linked"},
		{"setgid", "/usr/bin/chage", "other privileges"},
		{"script", script, "script"},
		{"executable stack", build(t, hello, "-z", "execstack"), "executable stack"},
		{"relative RUNPATH", build(t, callsF, library, "-Wl,-rpath,lib"), "lib"},
		{"library is missing", broken, "libgone.so: cannot open shared object file"},
		{"asks for its pid", resolver("kept = r(39, 0, 0, 0);"), "getpid"},
		{"asks for its user", resolver("kept = r(102, 0, 0, 0);"), "getuid"},
		{"forks", resolver("r(57, 0, 0, 0);"), "fork"},
		{"keeps a stack address", resolver("kept = (long)__builtin_frame_address(0) + 4096;"), "belongs to the process"},
		{"keeps the stack's canary elsewhere", resolver(`kept = 0; __asm__("mov %%fs:0x28,%0" : "=r"(kept)); kept += 256;`), "belongs to the process"},
		{"warns", resolver(`r(1, 2, (long)"old library\n", 12);`), "warns at each start: old library"},
		{"leaves a file open", resolver(`r(2, (long)"/etc/passwd", 0, 0);`), "leaves descriptor 3 open"},
		{"kills itself", resolver("__builtin_trap();"), "SIGILL"},
		{"hangs", resolver("for (;;);"), "deadline"},
		{"cannot be loaded", build(t, "char large[1L << 46];\nint main(void) { return large[7]; }\n", "-mcmodel=large"), "ended before it was linked (killed by SIG"},
		{"does not exist", "/nonexistent", "no such file"},
		{"relative", "bin/true", "not absolute"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			noChildren(t)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if _, err := os.Stat(tc.path); filepath.Dir(tc.path) == "/usr/bin" && err != nil {
				t.Skip(err)
			}
			tm, err := Stop(ctx, tc.path, Options{})
			if err == nil {
				_ = tm.Kill()
				t.Fatal("it was accepted")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %q, want something about %q", err, tc.want)
			}
		})
	}
}

func TestReap(t *testing.T) {
	noChildren(t)
	tm := stop(t, build(t, hello), Options{})
	if err := tm.Detach(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(tm.PID, unix.SIGKILL); err != nil { // as CRIU does
		t.Fatal(err)
	}
	ws, err := tm.Reap()
	if err != nil || ws.Signal() != unix.SIGKILL {
		t.Errorf("got %v, %v", ws, err)
	}
	for range 2 {
		if err := tm.Kill(); err != nil {
			t.Error(err)
		}
	}
	if err := tm.Detach(); err == nil {
		t.Error("detached from nothing")
	}
}

// TestStopFewTables: the libraries are in the stack's 512 GiB, which half of all layouts
// are, and in as few page tables as can be, which of hello's nine of ten are.
func TestStopFewTables(t *testing.T) {
	if bits, err := os.ReadFile("/proc/sys/vm/mmap_rnd_bits"); err != nil || strings.TrimSpace(string(bits)) != "28" {
		t.Skipf("another share of layouts is near here: vm.mmap_rnd_bits %s %v", bits, err)
	}
	noChildren(t)
	program, far, spread := build(t, hello), 0, 0
	for range 6 {
		tm := stop(t, program, Options{FewTables: true})
		from, end := libraries(tm.Maps, tm.Stack.SP)
		if base := tm.Auxv.Value(linux.ATBase); base < from || base >= end {
			t.Errorf("the libraries are at %#x to %#x, the dynamic linker at %#x", from, end, base)
		}
		if end/tableReach != tm.Stack.SP/tableReach {
			far++
		}
		if tables(from, end) > fewestTables(end-from) {
			spread++
		}
		if err := tm.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	if far > 0 || spread > 0 {
		t.Errorf("of 6 layouts %d are far from the stack, %d in more tables than they need", far, spread)
	}
}

// A template that is killed before it is dumped.
func TestDetachKilled(t *testing.T) {
	noChildren(t)
	tm := stop(t, build(t, hello), Options{})
	if err := unix.Kill(tm.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var ended *ptrace.EndedError
	if err := tm.Detach(); !errors.As(err, &ended) || ended.Status.Signal() != unix.SIGKILL || problem.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
}

// A CRIU that was told so leaves what it has dumped stopped, or lets it go on.
func TestReapKillsWhatTheDumpHasLeft(t *testing.T) {
	for _, running := range []bool{false, true} {
		noChildren(t)
		tm := stop(t, build(t, "int main(void) { for (;;); }"), Options{})
		if err := tm.Detach(); err != nil {
			t.Fatal(err)
		}
		if running {
			if err := unix.Kill(tm.PID, unix.SIGCONT); err != nil {
				t.Fatal(err)
			}
		}
		if ws, err := tm.Reap(); err != nil || ws.Signal() != unix.SIGKILL {
			t.Errorf("running %v: got %v, %v", running, ws, err)
		}
	}
}

// TestDetachedRuns lets a detached template go on: nothing of the tracer may
// be left in it.
func TestDetachedRuns(t *testing.T) {
	for _, soft := range []bool{false, true} {
		noChildren(t)
		tm := stop(t, "/bin/true", Options{SoftBreakpoint: soft})
		if err := tm.Detach(); err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(tm.PID, unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(5 * time.Second); procState(t, tm.PID) != "Z" && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		if ws, err := tm.Reap(); err != nil || ws.ExitStatus() != 0 {
			t.Errorf("soft %v: got %#x, %v", soft, ws, err)
		}
	}
}

// TestKilledTracer is about a residentctl that is killed: neither a traced nor
// a detached template may outlive it.
func TestKilledTracer(t *testing.T) {
	if mode := os.Getenv("LINKSTOP_TEST_CHILD"); mode != "" {
		tm, err := Stop(t.Context(), "/bin/true", Options{})
		if err != nil {
			t.Fatal(err)
		}
		if mode == "detached" {
			if err := tm.Detach(); err != nil {
				t.Fatal(err)
			}
		}
		fmt.Printf("pid %d\n", tm.PID)
		select {}
	}
	for _, mode := range []string{"traced", "detached"} {
		t.Run(mode, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestKilledTracer$")
			cmd.Env = append(os.Environ(), "LINKSTOP_TEST_CHILD="+mode)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var pid int
			if _, err := fmt.Fscanf(out, "pid %d\n", &pid); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
				// A zombie waits for init, or for nobody in a container.
				text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
				if err != nil || strings.Contains(string(text), ") Z ") || strings.Contains(string(text), ") X ") {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("process %d is still there: %s", pid, text)
				}
			}
		})
	}
}

func BenchmarkStop(b *testing.B) {
	for _, path := range []string{"/bin/true", "/usr/bin/perl", "/usr/bin/ffmpeg"} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		b.Run(filepath.Base(path), func(b *testing.B) {
			for b.Loop() {
				tm, err := Stop(b.Context(), path, Options{})
				if err != nil {
					b.Fatal(err)
				}
				if err := tm.Kill(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
