package integration

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/integration/kit"
)

// resolver is a library with a function that is chosen while the program is linked,
// by a resolver that does what RESOLVE says.
const resolver = `
static long call(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

static char kept[64];

static inline void keep(const char *path)
{
	long fd = call(2, (long)path, 0, 0); /* open */
	if (fd >= 0) {
		call(0, fd, (long)kept, sizeof kept - 1); /* read */
		call(3, fd, 0, 0); /* close */
	}
}

static inline void crash(void) { __builtin_trap(); }

static const char *plain(void) { return kept; }

static const char *(*resolve(void))(void)
{
	RESOLVE;
	return plain;
}

const char *chosen(void) __attribute__((ifunc("resolve")));
`

// caller prints what the library has kept.
const caller = `#include <stdio.h>
const char *chosen(void);
int main(void) { puts(chosen()); return 0; }
`

// resolving builds a program in a directory, with its library in another one, whose
// resolver does something.
func resolving(t *testing.T, program, library, does string, options ...string) {
	t.Helper()
	dir := kit.Dir(t)
	sources := map[string]string{"library.c": resolver, "program.c": caller}
	for name, text := range sources {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kit.Compile(t, library, filepath.Join(dir, "library.c"), "-shared", "-fPIC", "-fno-stack-protector", "-DRESOLVE="+does)
	if len(options) == 0 {
		options = []string{"-Wl,-rpath," + filepath.Dir(library)}
	}
	kit.Compile(t, program, filepath.Join(dir, "program.c"), append([]string{library, "-Wl,-z,now"}, options...)...)
}

// TestImageShowsOnlyWhatItsReadersMayRead: what a resolver reads is in the image, so
// only those who may read it may read the image.
func TestImageShowsOnlyWhatItsReadersMayRead(t *testing.T) {
	for _, test := range []struct {
		name      string
		file, dir fs.FileMode
		path      string      // "" for a file of the test's own
		want      fs.FileMode // of the plan, for group and others
	}{
		{name: "for all", file: 0o644, dir: 0o755, want: 0o044},
		{name: "for root", file: 0o600, dir: 0o755, want: 0},
		{name: "for a group", file: 0o640, dir: 0o755, want: 0o040},
		{name: "for two groups", file: 0o640, dir: 0o750, want: 0},
		{name: "in root's directory", file: 0o644, dir: 0o700, want: 0},
		{name: "of the kernel's", path: "/proc/cmdline", want: 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := kit.NewStore(t, kit.Dir(t))
			dir := kit.Dir(t)
			path := test.path
			if path == "" {
				below := filepath.Join(kit.Dir(t), "secrets")
				path = filepath.Join(below, "secret")
				if err := os.Mkdir(below, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte("xyzzy"), 0o600); err != nil {
					t.Fatal(err)
				}
				for file, id := range map[string]int{path: kit.StaffID, below: kit.StaffID + 1} {
					if err := os.Chown(file, 0, id); err != nil {
						t.Fatal(err)
					}
				}
				kit.Chmod(t, path, test.file)
				kit.Chmod(t, below, test.dir)
			}
			program := filepath.Join(dir, "resolving")
			resolving(t, program, filepath.Join(dir, "libresolving.so"), fmt.Sprintf("keep(%q)", path))
			s.Do(t, "add", "--even-if-slower", program)
			if test.path == "" {
				if held, err := os.ReadFile(s.Pages(t, program)); err != nil || !strings.Contains(string(held), "xyzzy") {
					t.Fatalf("the image does not hold what was read: %v", err)
				}
			}
			for _, file := range []string{s.Plan(t, program), s.Pages(t, program)} {
				info, err := os.Stat(file)
				if err != nil {
					t.Fatal(err)
				}
				if got := info.Mode().Perm() & 0o077; got != test.want {
					t.Errorf("%s has mode %04o, want %04o", filepath.Base(file), got, test.want)
				}
				if st := info.Sys().(*syscall.Stat_t); test.want == 0o040 && st.Gid != kit.StaffID {
					t.Errorf("%s is group %d's", filepath.Base(file), st.Gid)
				}
			}
			if again := s.Do(t, "add", program); !strings.Contains(again, "already resident") {
				t.Errorf("it is made again: %s", again)
			}
		})
	}
}

// TestAddExecutesOnlyWhatRootAloneCanChange: nothing of a program, its dynamic linker
// or its libraries runs as root that another user could have put there, unless that
// user is trusted; which refresh and verify remember.
func TestAddExecutesOnlyWhatRootAloneCanChange(t *testing.T) {
	kit.RequireCRIU(t)
	linker := "/lib64/ld-linux-x86-64.so.2"
	for _, test := range []struct {
		name string
		// make makes the program in the directory users, which is a user's, or roots, and
		// returns what is to be added and what is refused.
		make func(t *testing.T, users, roots string) (program, refused string)
	}{
		{"a program of a user's", func(t *testing.T, _, roots string) (string, string) {
			p := program(t, filepath.Join(roots, "program"), 0o755, 0)
			kit.Chown(t, p, kit.BobID)
			return p, p
		}},
		{"a program that others may write", func(t *testing.T, _, roots string) (string, string) {
			p := program(t, filepath.Join(roots, "program"), 0o757, 0)
			return p, p
		}},
		{"a program in a user's directory", func(t *testing.T, users, _ string) (string, string) {
			return program(t, filepath.Join(users, "program"), 0o755, 0), users
		}},
		{"a link in a user's directory", func(t *testing.T, users, roots string) (string, string) {
			link := filepath.Join(users, "link-to-program")
			kit.Symlink(t, program(t, filepath.Join(roots, "program"), 0o755, 0), link)
			return link, users
		}},
		{"a dynamic linker of a user's", func(t *testing.T, users, roots string) (string, string) {
			p := filepath.Join(roots, "program")
			kit.CopyFile(t, linker, filepath.Join(users, "linker"))
			kit.Compile(t, p, kit.FixtureSource("args"), "-Wl,--dynamic-linker="+filepath.Join(users, "linker"))
			return p, users
		}},
		{"a library of a user's", func(t *testing.T, _, roots string) (string, string) {
			p, library := filepath.Join(roots, "program"), filepath.Join(roots, "libresolving.so")
			resolving(t, p, library, "0")
			kit.Chown(t, library, kit.BobID)
			return p, library
		}},
		{"a library in a user's directory", func(t *testing.T, users, roots string) (string, string) {
			p := filepath.Join(roots, "program")
			resolving(t, p, filepath.Join(users, "libresolving.so"), "0")
			return p, users
		}},
		{"a library that a user's directory could have", func(t *testing.T, users, roots string) (string, string) {
			p := filepath.Join(roots, "program")
			resolving(t, p, filepath.Join(roots, "libresolving.so"), "0", "-Wl,-rpath,"+users+":"+roots)
			return p, users
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := kit.NewStore(t, kit.Dir(t))
			users, roots := kit.Dir(t), kit.Dir(t)
			kit.Chown(t, users, kit.BobID)
			program, refused := test.make(t, users, roots)
			for _, args := range [][]string{{"add", "--even-if-slower"}, {"enable", "--even-if-slower"}} {
				r := kit.Finish(t, s.Command(append(args, program)...))
				if r.Code != 1 || !strings.Contains(r.Stderr, refused+" ") || !strings.Contains(r.Stderr, "hint: give --trust-owner if you trust ") {
					t.Fatalf("%s: want %s refused: %v", args[0], refused, r)
				}
			}
			s.Do(t, "add", "--even-if-slower", "--trust-owner", program)
			if said := s.Do(t, "inspect", program); !strings.Contains(said, "\ntrusted:") {
				t.Errorf("inspect does not say that the owner is trusted:\n%s", said)
			}
			s.Do(t, "verify", program)
			s.Do(t, "refresh", "--all")
			if said := s.Do(t, "add", "--trust-owner", program); !strings.Contains(said, "already resident") {
				t.Errorf("it is made again: %s", said)
			}
			s.Do(t, "verify", program)
		})
	}
}

// TestRefusedLibraryDoesNotRun: a library is refused before its resolver runs, which
// would end the program.
func TestRefusedLibraryDoesNotRun(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	dir := kit.Dir(t)
	program, library := filepath.Join(dir, "crashing"), filepath.Join(dir, "libcrashing.so")
	resolving(t, program, library, "crash()")
	if r := kit.Finish(t, s.Command("add", program)); !strings.Contains(r.Stderr, "SIGILL") {
		t.Fatalf("root's library does not run: %v", r)
	}
	kit.Chown(t, library, kit.BobID)
	if r := kit.Finish(t, s.Command("add", program)); r.Code != 1 || strings.Contains(r.Stderr, "SIGILL") || !strings.Contains(r.Stderr, "as root: "+library+" belongs to user ") {
		t.Errorf("a user's library runs: %v", r)
	}
}

// TestVerifyAndRefreshFollowTheRuleAboutOwners: they execute the program too, and the
// directory that leads to it can have got another owner since.
func TestVerifyAndRefreshFollowTheRuleAboutOwners(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	dir := kit.Dir(t)
	p := program(t, filepath.Join(dir, "program"), 0o755, 0)
	s.Do(t, "add", "--even-if-slower", p)
	s.Do(t, "verify", p)
	kit.Chown(t, dir, kit.BobID)
	for _, args := range [][]string{{"verify", p}, {"refresh", "--all"}} {
		if r := kit.Finish(t, s.Command(args...)); r.Code != 1 || !strings.Contains(r.Stderr, dir+" belongs to user ") {
			t.Errorf("%s: %v", args[0], r)
		}
	}
	s.Do(t, "verify", "--trust-owner", p)
	s.Do(t, "refresh", "--all", "--trust-owner")
	s.Do(t, "verify", p)
	s.Do(t, "refresh", "--all")
}

// TestFollowExecutesOnlyWhatRootAloneCanChange: a user's wrapper is not run as root to
// see what it becomes.
func TestFollowExecutesOnlyWhatRootAloneCanChange(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	dir := kit.Dir(t)
	wrapper, ran := filepath.Join(dir, "wrapper"), filepath.Join(dir, "ran")
	if err := os.WriteFile(wrapper, []byte("#!/bin/sh\n: >"+ran+"\nexec /usr/bin/env\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	kit.Chown(t, wrapper, kit.BobID)
	r := kit.Finish(t, s.Command("add", "--follow", wrapper))
	if _, err := os.Stat(ran); r.Code != 1 || !strings.Contains(r.Stderr, "--trust-owner") || err == nil {
		t.Errorf("a user's wrapper runs: %v", r)
	}
	s.Do(t, "add", "--follow", "--even-if-slower", "--trust-owner", wrapper)
}

// TestAutoCountsWhatItRefuses: exec --auto as root executes only what root alone can
// change, and says at the end how many programs it left out.
func TestAutoCountsWhatItRefuses(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	dir := kit.Dir(t)
	p := program(t, filepath.Join(dir, "program"), 0o755, 0)
	kit.Chown(t, dir, kit.BobID)
	waitUntilOlder(t, dir, 2*time.Second) // what is younger is left out for that (clockGrain)
	// The program is tried as soon as a look at the log has found it.
	c := s.Command("exec", "--auto", "--no-background", "--", "/bin/sh", "-c",
		`i=0; while [ $i -lt 40 ]; do "$0"; sleep .05; i=$((i+1)); done`, p)
	c.Dir = "/"
	r := kit.Finish(t, c)
	if r.Code != 0 || !strings.Contains(r.Stderr, " made resident meanwhile, 1 refused that users other than root may change\n") {
		t.Errorf("%v", r)
	}
}

// TestNoRuleInUserNamespaceOfOne: root of a user namespace that maps one user is an
// ordinary user, who executes what they choose.
func TestNoRuleInUserNamespaceOfOne(t *testing.T) {
	kit.RequireCRIU(t)
	dir := kit.Dir(t)
	p := program(t, filepath.Join(dir, "program"), 0o755, 0)
	kit.Chown(t, p, kit.BobID)
	c := exec.Command("unshare", "--user", "--map-root-user", kit.Residentctl(t), "--store", filepath.Join(dir, "store"), "add", p)
	if r := kit.Finish(t, c); strings.Contains(r.Stderr, "--trust-owner") {
		t.Errorf("the rule applies: %v", r)
	}
}

// TestAddRefusesFileThatIsMappedForWriting: through a shared mapping whose page is
// dirty already a file changes without a new time, which no start would notice.
func TestAddRefusesFileThatIsMappedForWriting(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	dir := kit.Dir(t)
	program, library := filepath.Join(dir, "program"), filepath.Join(dir, "libresolving.so")
	resolving(t, program, library, "0")
	f, err := os.OpenFile(library, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	mapped[48] = 0 // of e_flags, which x86-64 does not use: the page is dirty now, and the time new
	waitUntilOlder(t, library, 0)

	r := kit.Finish(t, s.Command("add", "--even-if-slower", program))
	if r.Code != 1 || !strings.Contains(r.Stderr, library+": it is open for writing") || !strings.Contains(r.Stderr, "hint: try again when ") {
		t.Errorf("want it refused: %v", r)
	}
	var before, after unix.Stat_t
	if err := unix.Stat(library, &before); err != nil {
		t.Fatal(err)
	}
	mapped[48] = 1
	if err := unix.Stat(library, &after); err != nil {
		t.Fatal(err)
	}
	if before.Mtim != after.Mtim || before.Ctim != after.Ctim {
		t.Fatal("the write has changed the file's times, so this test shows nothing")
	}

	if err := unix.Munmap(mapped); err != nil {
		t.Fatal(err)
	}
	s.Do(t, "add", "--even-if-slower", program)
	s.Do(t, "verify", program)
}

// waitUntilOlder waits until a file's time of change is older than an age by the
// kernel's clock for files: one that has just changed is treated with care.
func waitUntilOlder(t *testing.T, path string, age time.Duration) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	for now := (unix.Timespec{}); now.Nano() <= st.Ctim.Nano()+int64(age); time.Sleep(time.Millisecond) {
		if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLeaseIsNotTakenForALimitOfProcesses: the EWOULDBLOCK of a file on which another
// process has a write lease is reported as what it is.
func TestLeaseIsNotTakenForALimitOfProcesses(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	p := program(t, filepath.Join(kit.Dir(t), "program"), 0o755, 0)
	f, err := os.OpenFile(p, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, call := range [][2]int{{unix.F_SETSIG, int(unix.SIGURG)}, {unix.F_SETLEASE, unix.F_WRLCK}} {
		if _, err := unix.FcntlInt(f.Fd(), call[0], call[1]); err != nil {
			t.Fatal(err)
		}
	}
	r := kit.Finish(t, s.Command("add", p))
	if r.Code != 1 || strings.Contains(r.Stderr, "ulimit") || !strings.Contains(r.Stderr, "open "+p+": ") || !strings.Contains(r.Stderr, "lease") {
		t.Errorf("%v", r)
	}
}
