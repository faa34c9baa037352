package linkstop

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/problem"
)

const touch400MiB = `kept = r(9, 0, 400L << 20, 3, 0x22, -1); for (long i = 0; i < 400L << 20; i += 4096) ((volatile char *)kept)[i] = 1;`

// A resolver gets no more memory than is allowed, however it asks for it.
func TestStopBoundsMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	for _, tc := range []struct{ name, body, want string }{
		{"touches 400 MiB", touch400MiB, "it has 400 MiB of memory of its own when it is linked, more than the limit of 256 MiB"},
		{"touches 400 MiB of .bss", `static char large[400L << 20]; for (long i = 0; i < 400L << 20; i += 4096) ((volatile char *)large)[i] = 1;`,
			"it has 400 MiB of memory of its own"},
		{"maps 1 GiB", `kept = r(9, 0, 1L << 30, 3, 0x22, -1);`, "it maps more than 512 MiB to write to"},
		{"makes 1 GiB writable", `kept = r(9, 0, 1L << 30, 0, 0x22, -1); r(10, kept, 1L << 30, 3, 0, 0);`, "it maps more than 512 MiB to write to"},
		{"maps 1 GiB bit by bit", `for (int i = 0; i < 1024; i++) r(9, 0, 1 << 20, 3, 0x22, -1);`, "it maps more than 512 MiB to write to"},
		{"moves the break", `long end = r(12, 0, 0, 0, 0, 0); r(12, end + (1L << 30), 0, 0, 0, 0);`, "it maps more than 512 MiB to write to"},
		{"grows by mremap", `kept = r(9, 0, 4096, 3, 0x22, -1); r(25, kept, 4096, 1L << 30, 1, 0);`, "it maps more than 512 MiB to write to"},
		// The program itself needs so much; the next mapping is one too many.
		{"has a .bss of 1 GiB", `static char large[1L << 30]; kept = (long)large;`, "it maps more than 512 MiB to write to"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			noChildren(t)
			tm, err := Stop(t.Context(), resolving(t, tc.body), Options{})
			if err == nil {
				_ = tm.Kill()
				t.Fatal("it was accepted")
			}
			if problem.KindOf(err) != problem.Refused || !strings.Contains(err.Error(), tc.want) || !strings.Contains(problem.HintOf(err), "--memory-limit") {
				t.Errorf("got %q, want something about %q and a hint", err, tc.want)
			}
		})
	}
}

// What is allowed is accepted, and nothing of the bound is left in the template.
func TestStopAllowsMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	noChildren(t)
	program := resolving(t, strings.ReplaceAll(touch400MiB, "400L", "40L"))
	if tm, err := Stop(t.Context(), program, Options{Memory: 32 << 20}); err == nil || !strings.Contains(err.Error(), "it has 40 MiB of memory of its own when it is linked, more than the limit of 32 MiB") {
		if err == nil {
			_ = tm.Kill()
		}
		t.Errorf("with a limit of 32 MiB: %v", err)
	}
	tm := stop(t, program, Options{Memory: 48 << 20})
	var ours, its unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_DATA, &ours); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(tm.PID, unix.RLIMIT_DATA, nil, &its); err != nil || its != ours {
		t.Errorf("its limit is %v, not %v (%v)", its, ours, err)
	}
	// Memory that nothing can be written to, and more of it than there are addresses.
	stop(t, resolving(t, `r(9, 0, 1L << 40, 0, 0x4022, -1); r(9, 0, 1L << 50, 0, 0x22, -1);`), Options{})
}

// In timed starts and when it is linked again the bound is the same.
func TestBoundsMemoryElsewhere(t *testing.T) {
	noChildren(t)
	_, err := TimeStarts(t.Context(), build(t, hello, "-static"), []TimedStart{{
		Path: resolving(t, `if (r(9, 0, 600L << 20, 3, 0x22, -1) == -12) r(83, (long)"/none/none", 0, 0, 0, 0);`), Until: At(0x1000), Filtered: true,
	}}, TimeOptions{Rounds: 1, Least: 1})
	if err == nil || !strings.Contains(err.Error(), "calls system call number 83,") {
		t.Errorf("a timed start got the memory: %v", err)
	}
}
