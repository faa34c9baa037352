package linkstop

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// resolving is a program that has body executed while it is linked, by an
// IFUNC's resolver. r makes a system call.
func resolving(t *testing.T, body string) string {
	t.Helper()
	return build(t, `static long r(long n, long a, long b, long c, long d, long e) {
	long x; register long r10 __asm__("r10") = d; register long r8 __asm__("r8") = e; register long r9 __asm__("r9") = 0;
	__asm__ volatile("syscall" : "=a"(x) : "0"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	return x; }
static int one(void) { return 1; }
long kept; static long zeros[8]; __attribute__((aligned(4096))) char page[8192];
static void *resolve(void) { `+body+` return one; }
int f(void) __attribute__((ifunc("resolve")));
int main(void) { return f(); }
`, "-Wl,-z,now")
}

// What a dynamic linker, or code that runs before it is done, might do and an
// image could not repeat.
func TestStopRefusesCalls(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	temporary := t.TempDir() + "/file"
	if err := os.WriteFile(temporary, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, body, want string }{
		{"clones", "r(56, 0, 0, 0, 0, 0);", "calls clone,"},
		{"executes", `r(59, (long)"/bin/true", (long)zeros, (long)zeros, 0, 0);`, "calls execve,"},
		{"handles a signal", "r(13, 1, (long)zeros, 0, 8, 0);", "calls rt_sigaction,"},
		{"an unnamed call", "r(131, 0, 0, 0, 0, 0);", "calls system call number 131,"},
		{"maps shared memory", "kept = r(9, 0, 4096, 1, 0x21, -1);", "maps shared memory"},
		{"sets the GS base", "r(158, 0x1001, 0, 0, 0, 0);", "GS base"},
		{"looks for a relative path", `r(2, (long)"lib", 0, 0, 0, 0);`, `the relative path "lib"`},
		{"looks at its own process", `r(2, (long)"/proc/self/maps", 0, 0, 0, 0);`, "/proc/self/maps, which is different"},
		{"opens a file for writing", `r(2, (long)"` + temporary + `", 2, 0, 0, 0);`, "for writing"},
		{"opens by openat2 for writing", `zeros[0] = 1; r(437, -100, (long)"` + temporary + `", (long)zeros, 24, 0);`, "for writing"},
		{"reads another limit", "r(302, 0, 7, 0, (long)zeros, 0);", "resource limit number 7"},
		{"sets a limit", "r(302, 0, 3, (long)zeros, 0, 0);", "sets a resource limit"},
		{"writes to a file", `r(1, 1, (long)"hello", 5, 0, 0);`, "writes to a file"},
		{"blocks a signal", "zeros[0] = 1 << 9; r(14, 0, (long)zeros, 0, 8, 0);", "which signals are blocked"},
		{"looks at standard output", "kept = r(5, 1, (long)page, 0, 0, 0);", "fstat of the descriptor 1"},
		{"looks at standard output by newfstatat", `kept = r(262, 1, (long)"", (long)page, 0x1000, 0);`, "newfstatat of the descriptor 1"},
		{"reads standard input", "kept = r(0, 0, (long)page, 1, 0, 0);", "read of the descriptor 0"},
		{"asks for the flags of standard error", "kept = r(72, 2, 3, 0, 0, 0);", "fcntl of the descriptor 2"},
		{"takes a lease", `kept = r(72, r(2, (long)"` + temporary + `", 0, 0, 0, 0), 1024, 0, 0, 0);`, "fcntl with the command 1024"},
		{"gives a page of the machine up", "kept = r(28, (long)page & -4096, 4096, 100, 0, 0);", "madvise with the advice 100"},
		{"closes standard input", "r(3, 0, 0, 0, 0, 0);", "close of the descriptor 0"},
		{"writable and executable", "r(10, (long)page & -4096, 4096, 7, 0, 0);", "both writable and executable"},
		// The twin has another canary, so what is mapped by it is in one of the two only.
		{"maps by the canary", `unsigned long c; __asm__("mov %%fs:0x28,%0" : "=r"(c));
			for (int i = 8; i < 64; i += 8) r(9, 0, ((c >> i & 63) + 1) << 12, 1, 0x22, -1);`, "its layout depends on the process: "},
		{"maps a file that goes", `long fd = r(2, (long)"` + temporary + `", 0, 0, 0, 0);
			kept = r(9, 0, 4096, 1, 2, fd); r(3, fd, 0, 0, 0, 0); r(87, (long)"` + temporary + `", 0, 0, 0, 0);`, "system call number 87"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			noChildren(t)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			tm, err := Stop(ctx, resolving(t, tc.body), Options{})
			if err == nil {
				_ = tm.Kill()
				t.Fatal("it was accepted")
			}
			if problem.KindOf(err) != problem.Refused || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %q, want something about %q", err, tc.want)
			}
		})
	}
}

// What a process does that its twin, or a start without a debugger, does not.
func TestStopRefusesDifferences(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	twinOnly := func(body string) string { // it has one argument more
		return "extern long *__libc_stack_end; if (*__libc_stack_end > 1) { " + body + " }"
	}
	for _, tc := range []struct{ name, body, want string }{
		{"ends in the twin", twinOnly("r(231, 3, 0, 0, 0, 0);"), "in the second one: it ended (exit status 3)"},
		{"crashes in the twin", twinOnly("__builtin_trap();"), "in the second one: it ended (killed by SIGILL)"},
		{"executes in the twin", twinOnly(`r(59, (long)"/bin/true", (long)zeros, (long)zeros, 0, 0);`), "in the second one: its dynamic linker calls execve,"},
		{"forks in the twin", twinOnly("r(57, 0, 0, 0, 0, 0);"), "in the second one: its dynamic linker calls fork,"},
		{"leaves a file open in the twin", twinOnly(`r(2, (long)"/etc/passwd", 0, 0, 0, 0);`), "in the second one: its dynamic linker leaves descriptor 3 open"},
		{"stops itself in the twin", twinOnly(`__asm__("int3");`), "in the second one: a SIGTRAP of its own"},
		{"stops itself", `__asm__("int3");`, "a SIGTRAP of its own stops it at 0x"},
	} {
		for _, soft := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s soft=%v", tc.name, soft), func(t *testing.T) {
				noChildren(t)
				tm, err := Stop(t.Context(), resolving(t, tc.body), Options{SoftBreakpoint: soft})
				if err == nil {
					_ = tm.Kill()
					t.Fatal("it was accepted")
				}
				if problem.KindOf(err) != problem.Refused || !strings.Contains(err.Error(), tc.want) || problem.HintOf(err) == "" {
					t.Errorf("got %q, want something about %q and a hint", err, tc.want)
				}
			})
		}
	}
}

func TestStopTakesTooLong(t *testing.T) {
	noChildren(t)
	tm, err := Stop(t.Context(), resolving(t, "for (;;);"), Options{Timeout: 500 * time.Millisecond})
	if err == nil {
		_ = tm.Kill()
		t.Fatal("it was accepted")
	}
	if problem.KindOf(err) != problem.Refused || problem.Of(err).Error() != "it is not linked after 500ms" || problem.HintOf(err) == "" {
		t.Errorf("got %q", err)
	}
}

// Calls whose numbers mean something else than a 64-bit program's.
func TestRecorderRefuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		info ptrace.SyscallInfo
		want string
	}{
		// mprotect(2) by its number here, unlink(2) there.
		{"32-bit", ptrace.SyscallInfo{Arch: unix.AUDIT_ARCH_I386, Data: [8]uint64{unix.SYS_MPROTECT}}, "32-bit system calls"},
		{"x32", ptrace.SyscallInfo{Arch: unix.AUDIT_ARCH_X86_64, Data: [8]uint64{0x40000000 | unix.SYS_MPROTECT}}, "system call number 1073741834,"},
	} {
		if err := new(recorder).onEntry(tc.info); problem.KindOf(err) != problem.Refused || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want something about %q", tc.name, err, tc.want)
		}
	}
	// WRFSBASE is no system call.
	if err := (&recorder{fsBase: 0x1000}).check(&ptrace.Regs{Fs_base: 0x2000}); problem.KindOf(err) != problem.Refused || !strings.Contains(err.Error(), "FS base") {
		t.Errorf("another FS base: %v", err)
	}
}

// What only code that runs before the stop point, past the record of its system
// calls, could have done.
func TestArrivedRefuses(t *testing.T) {
	const ip, sp, entry = 0x1000, 0x7ffd0000, 0x2000
	good := linux.Status{Threads: 1}
	for _, tc := range []struct {
		name   string
		point  plan.StopPoint
		regs   ptrace.Regs
		status linux.Status
		state  uint32
		want   string
	}{
		{"linked", plan.StopLinked, ptrace.Regs{Rip: ip, Rsp: sp, Rax: entry}, good, 0, ""},
		{"at the entry rax is anything", plan.StopEntry, ptrace.Regs{Rip: ip, Rsp: sp, Rax: 7}, good, 0, ""},
		{"elsewhere", plan.StopLinked, ptrace.Regs{Rip: ip + 1, Rsp: sp, Rax: entry}, good, 0, "stopped at 0x1001 instead of 0x1000"},
		{"another stack", plan.StopLinked, ptrace.Regs{Rip: ip, Rsp: sp - 8, Rax: entry}, good, 0, "its stack pointer is 0x7ffcfff8"},
		{"another entry", plan.StopLinked, ptrace.Regs{Rip: ip, Rsp: sp, Rax: entry + 8}, good, 0, "rax is 0x2008"},
		{"a thread", plan.StopLinked, ptrace.Regs{Rip: ip, Rsp: sp, Rax: entry}, linux.Status{Threads: 2}, 0, "starts threads"},
		{"a handler", plan.StopLinked, ptrace.Regs{Rip: ip, Rsp: sp, Rax: entry}, linux.Status{Threads: 1, Caught: 1 << 9}, 0, "handles signals"},
		{"half-way", plan.StopLinked, ptrace.Regs{Rip: ip, Rsp: sp, Rax: entry}, good, 1, "has not finished: r_state is 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tm := &Template{Stop: plan.Stop{Addr: ip, Point: tc.point}, Auxv: linux.Auxv{{Type: linux.ATEntry, Value: entry}}}
			err := tm.arrived(&tc.regs, sp, tc.status, tc.state)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want something about %q", err, tc.want)
			}
		})
	}
}

func TestCheckFixupsRefuses(t *testing.T) {
	const tid, robust = 0x5000, 0x5010
	at := func(addrs ...uint64) (fixups []plan.Fixup) {
		fixups = append(fixups, plan.Fixup{Addr: 0x6000, Kind: plan.FixCanary, Size: 8})
		for _, addr := range addrs {
			fixups = append(fixups, plan.Fixup{Addr: addr, Kind: plan.FixTID, Size: 4})
		}
		return fixups
	}
	for _, tc := range []struct {
		name            string
		fixups          []plan.Fixup
		point           plan.StopPoint
		tidAddr, robust uint64
		want            string
	}{
		{"glibc", at(tid), plan.StopLinked, tid, robust, ""},
		{"glibc without threads", at(), plan.StopLinked, 0, 0, ""},
		{"musl", at(tid), plan.StopEntry, tid, 0, ""},
		{"musl with large thread-local storage", at(tid, tid+0x100), plan.StopEntry, tid, 0, ""},
		{"nowhere", at(), plan.StopLinked, tid, robust, "in 0 words instead of one"},
		{"twice", at(tid, tid+0x100), plan.StopLinked, tid, robust, "in 2 words instead of one"},
		{"thrice", at(tid, tid+0x100, tid+0x200), plan.StopEntry, tid, 0, "in 3 words instead of one"},
		{"not in the thread", at(tid + 8), plan.StopLinked, tid, robust, "is at 0x5008, not 16 bytes before the robust list at 0x5010"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := checkFixups(tc.fixups, tc.point, tc.tidAddr, tc.robust)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want something about %q", err, tc.want)
			}
		})
	}
}

func TestCheckMapsRefuses(t *testing.T) {
	const r, w, x = unix.PROT_READ, unix.PROT_WRITE, unix.PROT_EXEC
	good := linux.Mapping{Start: 0x1000, End: 0x2000, Prot: r | x, Path: "/lib/libc.so.6"}
	for _, tc := range []struct {
		name string
		m    linux.Mapping
		want string
	}{
		{"good", good, ""},
		{"executable stack", linux.Mapping{Start: 0x2000, End: 0x3000, Prot: r | w | x, Path: "[stack]"}, "executable stack"},
		{"writable code", linux.Mapping{Start: 0x2000, End: 0x3000, Prot: r | w | x, Path: "/lib/a"}, "both writable and executable"},
		{"shared", linux.Mapping{Start: 0x2000, End: 0x3000, Prot: r, Shared: true, Path: "/dev/shm/a"}, "shared memory"},
		{"deleted", linux.Mapping{Start: 0x2000, End: 0x3000, Prot: r, Deleted: true, Path: "/lib/a"}, "was deleted"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := CheckMaps([]linux.Mapping{good, tc.m}, false)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want something about %q", err, tc.want)
			}
		})
	}
}

// A program that does not link without us either is no refusal.
func TestLinkError(t *testing.T) {
	exited := &ptrace.EndedError{Status: 127 << 8}
	for _, tc := range []struct {
		err           error
		message, want string
	}{
		{exited, "ld.so: odd\n", "the dynamic linker gave up on /p (exit status 127): ld.so: odd"},
		{fmt.Errorf("wait: %w", exited), "", "/p ended before it was linked (exit status 127)"},
	} {
		err := linkError("/p", []byte(tc.message), tc.err)
		if err.Error() != tc.want || problem.KindOf(err) != problem.Program || problem.HintOf(err) != "repair it: it does not start without residentctl either" {
			t.Errorf("got %q, kind %d, hint %q", err, problem.KindOf(err), problem.HintOf(err))
		}
	}
	for _, err := range []error{nil, unix.EPERM, &ptrace.EndedError{Status: unix.WaitStatus(unix.SIGKILL)}} {
		if got := linkError("/p", nil, err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}
