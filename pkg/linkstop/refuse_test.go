package linkstop

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
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
		{"closes standard input", "r(3, 0, 0, 0, 0, 0);", "close of the descriptor 0"},
		{"writable and executable", "r(10, (long)page & -4096, 4096, 7, 0, 0);", "both writable and executable"},
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
			var refusal *Refusal
			if !errors.As(err, &refusal) || !strings.Contains(refusal.Reason, tc.want) {
				t.Errorf("got %q, want something about %q", err, tc.want)
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
			err := checkMaps([]linux.Mapping{good, tc.m})
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want something about %q", err, tc.want)
			}
		})
	}
}
