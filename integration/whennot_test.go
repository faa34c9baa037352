package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/pkg/plan"
	stores "github.com/residentctl/residentctl/pkg/store"
)

// The rule of these tests: where a resident start would not be right, the start
// is a normal one, does what a plain one does, and says why if it is asked.

// A library's program, with another library of the same name to take its place.
type searching struct {
	program, library, other string
	first                   string // the directory in which the library is looked for first
}

// newSearching makes one, in a directory of its own, and makes it resident.
func newSearching(t *testing.T, s *kit.Store) searching {
	t.Helper()
	dir := kit.Dir(t)
	w := searching{filepath.Join(dir, "constructors"), filepath.Join(dir, "libconstructors.so"), filepath.Join(dir, "other.so"),
		filepath.Join(dir, "first")}
	if err := os.Mkdir(w.first, 0o755); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join("fixtures", "libconstructors.c")
	kit.Compile(t, w.library, source, "-shared", "-fPIC", "-Wl,-soname,libconstructors.so")
	kit.Compile(t, w.other, source, "-shared", "-fPIC", "-Wl,-soname,libconstructors.so", `-DMARK="other"`)
	kit.Compile(t, w.program, filepath.Join("fixtures", "constructors.c"), w.library, "-Wl,-rpath,$ORIGIN/first:$ORIGIN")
	s.Add(t, w.program)
	return w
}

// TestWhenNot: situations of the caller's that an image was not made for.
func TestWhenNot(t *testing.T) {
	s := kit.SharedStore(t)
	program := kit.Fixture(t, "multicall")
	s.Add(t, program)
	const linked = "the environment changes how it is linked "
	var situations []kit.Situation
	for _, v := range []string{"LD_LIBRARY_PATH=/nowhere", "LD_BIND_NOW=1", "LD_AUDIT=/nowhere.so", "LD_PRELOAD=", "LD_WARN=1",
		"LD_HWCAP_MASK=0", "GLIBC_TUNABLES=glibc.malloc.tcache_count=0", "MALLOC_PERTURB_=1", "MALLOC_ARENA_MAX=1",
		"RESIDENTCTL_OFF=1"} {
		situations = append(situations, kit.Situation{Name: v, Options: []string{"--variable", v}, Normal: linked + v})
	}
	s.Try(t, program, append(situations, []kit.Situation{
		{Name: "among many variables", Options: []string{"--variables", "500", "10", "--variable", "LD_TRACE=", "--variables", "500", "10"},
			Normal: linked + "LD_TRACE="},
		{Name: "unlimited stack", Options: []string{"--limit", kit.LimitStack, "unlimited"}, Normal: kit.NoRoom, Users: kit.OnlyRoot},
		{Name: "unlimited stack", Shell: "ulimit -s unlimited", Normal: kit.NoRoom, Users: kit.OnlyNobody},
		// Some images stand more than 1 TiB below the stack: mmap's base is as random.
		{Name: "1 TiB of stack", Options: []string{"--limit", kit.LimitStack, "1099511627776"}, Normal: kit.Either},
		{Name: "64 TiB of stack", Options: []string{"--limit", kit.LimitStack, "70368744177664"}, Normal: kit.NoRoom},
		{Name: "descriptors run out", Options: []string{"--limit", kit.LimitDescriptors, "4"}, Users: kit.OnlyNobody, Normal: kit.Either},
		{Name: "no descriptor for a second file", Options: []string{"--limit", kit.LimitDescriptors, "4"}, Users: kit.OnlyRoot, Normal: "cannot be opened",
			Special: map[string]string{"criu": ""}}, // it maps the files itself, and has more
		{Name: "system calls are filtered", Options: []string{"--filter-errno", "!"}, Normal: kit.Either, Fails: true},
		{Name: "one system call is filtered", Options: []string{"--filter-errno", "169"}, Normal: "filtered (seccomp)"},
		{Name: "privileges in a user namespace", Options: []string{"--user-namespace"}, Users: kit.OnlyNobody, Normal: "not safe", Special: kit.WithinAnother},
		// The environment is not to be trusted, so nothing is said for what it asks.
		{Name: "another user in effect", Options: []string{"--real-user", "65534"}, Users: kit.OnlyRoot, Normal: kit.Either},
	}...))

	// run --strict never starts anything normally.
	for _, sit := range []kit.Situation{
		{Options: []string{"--variable", "LD_BIND_NOW=1"}, Normal: "LD_BIND_NOW=1"},
		{Options: []string{"--limit", kit.LimitStack, "70368744177664"}, Normal: "the stack limit"},
		{Options: []string{"--filter-errno", "169"}, Normal: "seccomp"},
		{Options: []string{"--limit", kit.LimitDescriptors, "4"}, Normal: "cannot be opened"},
		{Options: []string{"--real-user", "65534"}, Normal: "AT_SECURE"},
	} {
		got := s.Start(t, kit.Strictly.In(t, sit), kit.Root, program, kit.Command{})
		if how, why := kit.Explanation(got.Stderr); got.Status != "exit status 125" || got.Stdout != "" ||
			how != "no resident start" || !strings.Contains(why, sit.Normal) {
			t.Errorf("run --strict with %q: %v, want exit status 125 and a reason with %q", sit.Options, got, sit.Normal)
		}
	}
}

// TestWhenNotPrivileged: a caller who gains privileges by an exec gets the program as
// the kernel gives it to him. A launcher file that is setuid or has capabilities
// (an administrator copied the program's mode) must give its program none.
func TestWhenNotPrivileged(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	program := filepath.Join(kit.Dir(t), "state")
	kit.CopyFile(t, kit.Fixture(t, "state"), program)
	s.Add(t, program)
	launcher := s.Launcher(program)
	privileges := []struct {
		name string
		give func(path string) error
	}{
		{"setuid", func(path string) error { return os.Chmod(path, 0o755|os.ModeSetuid) }},
		{"setgid", func(path string) error { return os.Chmod(path, 0o755|os.ModeSetgid) }},
		{"capabilities", func(path string) error {
			// linux/capability.h, struct vfs_cap_data: version 2 with the effective
			// bit, CAP_NET_BIND_SERVICE permitted.
			return syscall.Setxattr(path, "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0)
		}},
	}
	for _, p := range privileges {
		t.Run("launcher file, "+p.name, func(t *testing.T) {
			if err := p.give(launcher); err != nil {
				t.Skipf("this file system does not keep it: %v", err)
			}
			t.Cleanup(func() {
				os.Chmod(launcher, 0o755)
				syscall.Removexattr(launcher, "security.capability")
			})
			// Of which it says nothing, whatever the environment asks for.
			got := s.Start(t, kit.ByLauncher, kit.Nobody, program, kit.Command{Env: []string{"RESIDENTCTL_EXPLAIN=1"}})
			if got.Stderr != "" || got.Status != "exit status 0" {
				t.Errorf("%v", got)
			}
		})
		t.Run("program, "+p.name, func(t *testing.T) {
			privileged := filepath.Join(kit.Dir(t), "state")
			kit.CopyFile(t, program, privileged)
			if err := p.give(privileged); err != nil {
				t.Skipf("this file system does not keep it: %v", err)
			}
			if output, err := s.Command("add", privileged).CombinedOutput(); err == nil {
				t.Errorf("add of a program that gains privileges succeeded: %s", output)
			}
			// One that gains them later is another file (ctime), and has no image.
			later := filepath.Join(kit.Dir(t), "state")
			kit.CopyFile(t, program, later)
			s.Add(t, later)
			if err := p.give(later); err != nil {
				t.Fatal(err)
			}
			s.WantNormalStart(t, kit.Nobody, later, kit.Command{})
		})
	}

	t.Run("program that cannot be read", func(t *testing.T) {
		hidden := filepath.Join(kit.Dir(t), "state")
		kit.CopyFile(t, program, hidden)
		kit.Chmod(t, hidden, 0o711)
		s.Add(t, hidden)
		// /proc belongs to root then, so the fixture sees less, in both alike.
		s.WantNormalStart(t, kit.Nobody, hidden, kit.Command{})
		if diff := kit.ByExec.Diff(kit.Nobody, kit.Command{}, s.Start(t, kit.Plain, kit.Nobody, hidden, kit.Command{}), s.Start(t, kit.ByExec, kit.Nobody, hidden, kit.Command{})); diff != "" {
			t.Errorf("plain (-) and exec (+) differ:\n%s", diff)
		}
	})
}

// TestWhenNotFiles: files that differ in the caller's root or mount namespace.
func TestWhenNotFiles(t *testing.T) {
	s := kit.SharedStore(t)
	w := newSearching(t, s)
	cache := "/etc/ld.so.cache"
	if _, err := os.Stat(cache); err != nil {
		t.Skip(err)
	}
	interpreter := interpreterOf(t, w.program)
	s.Try(t, w.program, []kit.Situation{
		{Name: "as it was", Users: kit.OnlyRoot, Script: "true"},
		{Name: "the same files elsewhere", Users: kit.OnlyRoot, Script: fmt.Sprintf("mount --bind %[1]s %[1]s", filepath.Dir(w.program))},
		{Name: "another library", Users: kit.OnlyRoot, Script: fmt.Sprintf("mount --bind %s %s", w.other, w.library),
			Normal: "this has changed " + w.library},
		{Name: "a library that comes first", Users: kit.OnlyRoot, Script: fmt.Sprintf(
			"mkdir first; cp %s first/libconstructors.so; mount --bind first %s", w.other, w.first),
			Normal: "this now comes first in the search for libraries " + w.first},
		{Name: "no library", Users: kit.OnlyRoot, Script: fmt.Sprintf("mount --bind /dev/null %s", w.library), Normal: "this has changed"},
		{Name: "an equal cache of libraries", Users: kit.OnlyRoot, Script: fmt.Sprintf("cp %[1]s cache; mount --bind cache %[1]s", cache)},
		{Name: "no cache of libraries", Users: kit.OnlyRoot, Script: fmt.Sprintf("mount --bind /dev/null %s", cache),
			Normal: "this has changed " + cache},
		{Name: "an equal C library", Users: kit.OnlyRoot, Script: `libc=$(ldd ` + w.program + ` | sed -n 's/.*libc.so.6 => \([^ ]*\).*/\1/p')
			cp "$libc" libc; mount --bind libc "$libc"`, Normal: "this has changed"},
		{Name: "an equal dynamic linker", Users: kit.OnlyRoot, Script: fmt.Sprintf("cp %[1]s linker; mount --bind linker %[1]s", interpreter),
			Normal: "this has changed",
			// The copy is one of the covered linker, and leads to the same images.
			Special: map[string]string{"exec": ""}},
		{Name: "another program", Users: kit.OnlyRoot, Script: fmt.Sprintf("mount --bind %s %s", kit.Fixture(t, "multicall"), w.program), Normal: kit.Either},
		{Name: "no store", Users: kit.OnlyRoot, Ways: kit.OnlyRun, Script: "mount -t tmpfs -o mode=755 none " + s.Dir, Normal: "it is not resident"},
		{Name: "no images", Users: kit.OnlyRoot, Script: "mount -t tmpfs -o mode=755 none " + s.Dir + "/images", Normal: "its image is missing"},
		{Name: "another root with the same files", Users: kit.OnlyRoot, Script: "mkdir root; mount --rbind / root",
			Options: []string{"--chroot", "root"}},
		{Name: "another root with another library", Users: kit.OnlyRoot, Script: fmt.Sprintf(
			"mkdir root; mount --rbind / root; mount --bind %s root%s", w.other, w.library),
			Options: []string{"--chroot", "root"}, Normal: "this has changed " + w.library},
	})
}

// TestWithoutProc: no /proc to read the boot's name from, so the CPU is compared.
func TestWithoutProc(t *testing.T) {
	s := kit.SharedStore(t)
	program := kit.Fixture(t, "multicall")
	s.Add(t, program)
	s.Try(t, program, []kit.Situation{{Name: "start", Users: kit.OnlyRoot, Script: "mount -t tmpfs none /proc",
		// Under exec /proc/self/exe is what tells which program it is.
		// Its path, which counts for this program, is not found out by binfmt_misc either.
		Special: map[string]string{"exec": "this cannot be found /proc/self/exe", kit.BySystem.Name: "it finds its libraries relative to itself",
			kit.ByCRIU.Name: "/proc"}}})
}

// TestWhenNotPreloaded: a library that /etc/ld.so.preload names since.
func TestWhenNotPreloaded(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	w := newSearching(t, kit.SharedStore(t))
	// /etc is a copy, in a mount namespace of its own.
	const script = `
		set -eu
		residentctl=$1 data=$2 program=$3 other=$4
		mount --make-rprivate /
		mkdir "$data/etc"
		mount -t tmpfs -o mode=755 none "$data/etc"
		cp -a /etc/ld.so.* /etc/passwd /etc/group "$data/etc"
		mount --bind "$data/etc" /etc
		rm -f /etc/ld.so.preload
		"$residentctl" --store "$data/residentctl" add --even-if-slower "$program" >&2
		# No other program: the library is preloaded into every one.
		say() {
			said=$("${@:2}" 2>&1)
			echo "$1: ${said//$'\n'/ }"
		}
		say before "$residentctl" --store "$data/residentctl" run --explain "$program"
		echo "$other" >/etc/ld.so.preload
		say plain "$program"
		say run "$residentctl" --store "$data/residentctl" run "$program"
		say why "$residentctl" --store "$data/residentctl" run --explain "$program"
		exec 3>/etc/ld.so.preload 3>&-
		say empty "$residentctl" --store "$data/residentctl" run --explain "$program"
		rm /etc/ld.so.preload
		say after "$residentctl" --store "$data/residentctl" run --explain "$program"
	`
	cmd := exec.Command("/bin/bash", "-c", script, "bash", s.Residentctl, s.DataHome, w.program, w.other)
	cmd.Env = s.Environment(s.DataHome)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, stdout, stderr.String())
	}
	said := map[string]string{}
	for line := range strings.Lines(string(stdout)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		said[key] = value
	}
	if !strings.Contains(said["before"], "resident start") || !strings.Contains(said["after"], "resident start") ||
		!strings.Contains(said["plain"], "other: constructor") || said["run"] != said["plain"] ||
		!strings.Contains(said["why"], "started normally: this has changed /etc/ld.so.preload") ||
		!strings.Contains(said["empty"], "started normally: this has changed /etc/ld.so.preload") {
		t.Errorf("%s%s", stdout, stderr.String())
	}
}

// TestWhenNotThisMachine: plans that were made on a machine which differs in one
// thing from this one.
func TestWhenNotThisMachine(t *testing.T) {
	program := filepath.Join(kit.Dir(t), "multicall")
	kit.CopyFile(t, kit.Fixture(t, "multicall"), program)
	s := kit.NewStore(t, kit.Dir(t))
	s.Add(t, program)
	path := s.Plan(t, program)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bootFile := filepath.Join(s.Dir, "boot")
	thisBoot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	boot := strings.TrimSpace(string(thisBoot))
	const (
		described   = "the kernel describes the machine differently"
		otherCPU    = "the CPU is another one"
		otherKernel = "the kernel is another one (vDSO)"
		anotherBoot = "00000000-0000-4000-8000-000000000000"
	)
	p, err := plan.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	mark := p.Caller.BootMark
	if mark == 0 {
		t.Error("the boot has no mark: is /dev not in memory here?")
	}
	forgetBoot := func(p *plan.Plan) { copy(p.Caller.BootID[:], anotherBoot); p.Caller.BootMark ^= 1 }
	stamp := func(id string, sum uint64) string { return stores.Boot{ID: id, MachineSum: sum}.String() }
	marked := func(id string, sum uint64) string { return stores.Boot{ID: id, MachineSum: sum, Mark: mark}.String() }
	var sum uint64
	tests := []struct {
		name   string
		change func(p *plan.Plan)
		stamp  func(p *plan.Plan) string // nil: no file
		normal string
	}{
		{name: "nothing", change: func(*plan.Plan) {}},
		{name: "AT_HWCAP", change: func(p *plan.Plan) { p.Caller.HWCap ^= 1 << 28 }, normal: described},
		{name: "AT_HWCAP2", change: func(p *plan.Plan) { p.Caller.HWCap2 ^= 1 << 1 }, normal: described},
		{name: "AT_PAGESZ", change: func(p *plan.Plan) { p.Caller.PageSize = 65536 }, normal: described},
		{name: "AT_CLKTCK", change: func(p *plan.Plan) { p.Caller.ClockTick = 1000 }, normal: described},
		{name: "AT_FLAGS", change: func(p *plan.Plan) { p.Caller.Flags = 1 }, normal: described},
		{name: "AT_MINSIGSTKSZ", change: func(p *plan.Plan) { p.Caller.MinSigStack += 64 }, normal: described},
		{name: "AT_RSEQ_FEATURE_SIZE", change: func(p *plan.Plan) { p.Caller.RseqSize += 4 }, normal: described},
		{name: "AT_RSEQ_ALIGN", change: func(p *plan.Plan) { p.Caller.RseqAlign *= 2 }, normal: described},
		{name: "XCR0", change: func(p *plan.Plan) { p.Caller.XCR0 ^= 1 << 9 }, normal: otherCPU},
		{name: "place of the stack", change: func(p *plan.Plan) { p.Caller.MapsEnd = 1<<47 - 4096 }, normal: kit.NoRoom},

		{name: "vDSO, in this boot", change: func(p *plan.Plan) { p.VDSO.BuildID[0] ^= 1 }},
		{name: "boot and vDSO, without a stamp", normal: otherKernel,
			change: func(p *plan.Plan) { forgetBoot(p); p.VDSO.BuildID[0] ^= 1 }},
		{name: "boot and vDSO's note elsewhere, with another boot's stamp", normal: otherKernel,
			change: func(p *plan.Plan) { forgetBoot(p); p.VDSO.BuildOff += 4 },
			stamp:  func(p *plan.Plan) string { return stamp(anotherBoot, p.Caller.MachineSum) }},
		{name: "boot and vDSO, with this boot's stamp of this vDSO", normal: otherKernel,
			change: func(p *plan.Plan) {
				forgetBoot(p)
				sum = p.Caller.MachineSum
				p.VDSO.BuildID[0] ^= 1
				p.Caller.MachineSum ^= 1
			},
			stamp: func(*plan.Plan) string { return stamp(boot, sum) }},
		{name: "CPUID, in this boot", change: changeCPU},
		{name: "CPUID, in this boot by its mark", change: func(p *plan.Plan) { copy(p.Caller.BootID[:], anotherBoot); changeCPU(p) }},
		{name: "CPUID, in this boot by its id", change: func(p *plan.Plan) { p.Caller.BootMark ^= 1; changeCPU(p) }},
		{name: "CPUID, in this boot, which has no mark", change: func(p *plan.Plan) { p.Caller.BootMark = 0; changeCPU(p) }},
		{name: "boot, with this mark's stamp of that CPU", change: func(p *plan.Plan) { forgetBoot(p); changeCPU(p) },
			stamp: func(p *plan.Plan) string { return marked(anotherBoot, p.Caller.MachineSum) }},
		{name: "boot and CPUID, with this mark's stamp of this CPU", normal: otherCPU,
			change: func(p *plan.Plan) { forgetBoot(p); sum = p.Caller.MachineSum; changeCPU(p); p.Caller.MachineSum ^= 1 },
			stamp:  func(*plan.Plan) string { return marked(boot, sum) }},
		{name: "boot, without a stamp", change: forgetBoot},
		{name: "boot, with this boot's stamp", change: forgetBoot,
			stamp: func(p *plan.Plan) string { return stamp(boot, p.Caller.MachineSum) }},
		{name: "boot, with another boot's stamp", change: forgetBoot,
			stamp: func(p *plan.Plan) string { return stamp("11111111-1111-4111-8111-111111111111", p.Caller.MachineSum) }},
		{name: "boot and CPUID, without a stamp", normal: otherCPU,
			change: func(p *plan.Plan) { forgetBoot(p); changeCPU(p) }},
		{name: "boot and CPUID, with this boot's stamp of this CPU", normal: otherCPU,
			change: func(p *plan.Plan) { forgetBoot(p); sum = p.Caller.MachineSum; changeCPU(p); p.Caller.MachineSum ^= 1 },
			stamp:  func(*plan.Plan) string { return stamp(boot, sum) }},
		{name: "boot and CPUID, with another boot's stamp of that CPU", normal: otherCPU,
			change: func(p *plan.Plan) { forgetBoot(p); changeCPU(p) },
			stamp:  func(p *plan.Plan) string { return stamp(anotherBoot, p.Caller.MachineSum) }},
		{name: "boot and CPUID, with half a stamp", normal: otherCPU,
			change: func(p *plan.Plan) { forgetBoot(p); changeCPU(p) },
			stamp:  func(p *plan.Plan) string { return marked(boot, p.Caller.MachineSum)[:60] }},
		{name: "boot and CPUID, with an empty stamp", normal: otherCPU,
			change: func(p *plan.Plan) { forgetBoot(p); changeCPU(p) }, stamp: func(*plan.Plan) string { return "" }},

		{name: "a file that was not there", normal: "this has changed " + program,
			change: func(p *plan.Plan) { p.Checks = append(p.Checks, plan.CheckedFile{Path: program}) }},
		{name: "a file that is not there any more", normal: "this has changed /nowhere",
			change: func(p *plan.Plan) {
				p.Checks = append(p.Checks, plan.CheckedFile{Path: "/nowhere", ID: p.Program().ID})
			}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Cleanup(func() { rewrite(t, path, raw); os.Remove(bootFile) })
			p := changePlan(t, path, test.change)
			kit.Remove(t, bootFile)
			if test.stamp != nil {
				if err := os.WriteFile(bootFile, []byte(test.stamp(p)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			// Without shims, since enabling one looks at the image too, and could mend it.
			s.Try(t, program, []kit.Situation{{Name: "start", Normal: test.normal, Ways: kit.SurroundedWays}})
		})
	}
}

// changePlan rewrites a plan, which stays whole, and gives what it is now.
func changePlan(t *testing.T, path string, change func(*plan.Plan)) *plan.Plan {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	change(p)
	if raw, err = p.Encode(); err != nil {
		t.Fatal(err)
	}
	rewrite(t, path, raw)
	return p
}

// changeCPU makes a leaf's answer another one, in a bit that counts.
func changeCPU(p *plan.Plan) {
	for i := range p.CPUID {
		for k, mask := range p.CPUID[i].Mask {
			if mask != 0 {
				p.CPUID[i].Value[k] ^= mask & -mask
				return
			}
		}
	}
}

// TestWhenNotInItsPlace: something of the caller's stands where the image goes.
func TestWhenNotInItsPlace(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	program := filepath.Join(kit.Dir(t), "multicall")
	kit.CopyFile(t, kit.Fixture(t, "multicall"), program)
	s.Add(t, program)

	// Layouts that are not the usual one, many times: the kernel chooses.
	t.Run("layouts", func(t *testing.T) {
		for round := range 20 {
			ways := kit.ResidentWays
			if round < 5 { // its starts take longest
				ways = kit.SurroundedWays
			}
			for _, options := range [][]string{
				{"--personality", kit.NoRandomisation}, {"--personality", kit.CompatLayout}, {"--personality", "0x0240000"}, {"--limit", kit.LimitStack, "unlimited"},
				{"--limit", kit.LimitStack, "6000000000"},
			} {
				sit := kit.Situation{Options: options}
				want := s.Start(t, kit.Plain.In(t, sit), kit.Root, program, kit.Command{})
				for _, w := range ways {
					if diff := cmp.Diff(want, s.Start(t, w.In(t, sit), kit.Root, program, kit.Command{})); diff != "" {
						t.Fatalf("%q: plain (-) and %s (+) differ:\n%s", options, w.Name, diff)
					}
				}
			}
		}
	})

	// A plan whose image reaches into the stack; without randomisation that is
	// always at the same place.
	t.Run("the stack", func(t *testing.T) {
		path := s.Plan(t, program)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		defer rewrite(t, path, raw)
		changePlan(t, path, func(p *plan.Plan) {
			p.Anon = append(p.Anon, plan.Map{Addr: 0x7ffffffde000, Len: 0x20000, Prot: syscall.PROT_READ,
				Flags: syscall.MAP_PRIVATE | syscall.MAP_ANONYMOUS | 0x100000})
			p.Caller.MapsEnd = 0x7ffffffff000 - 0x1000
		})
		s.Try(t, program, []kit.Situation{{Name: "start", Options: []string{"--personality", kit.NoRandomisation},
			Normal: kit.NoRoom}})
	})

	// A plan whose image has something where the kernel has mapped something.
	t.Run("a mapping of the caller's", func(t *testing.T) {
		path := s.Plan(t, program)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		defer rewrite(t, path, raw)
		changePlan(t, path, func(p *plan.Plan) {
			p.Anon = append(p.Anon, plan.Map{Addr: 0, Len: 4096, Prot: syscall.PROT_READ,
				Flags: syscall.MAP_PRIVATE | syscall.MAP_ANONYMOUS | 0x100000})
		})
		// The kernel maps page 0 itself with MMAP_PAGE_ZERO, and without that lets
		// only root do so.
		s.Try(t, program, []kit.Situation{
			{Name: "page 0", Options: []string{"--personality", kit.PageZero}, Users: kit.OnlyRoot, Normal: "there is no memory at the image's place"},
			{Name: "page 0", Users: kit.OnlyNobody, Normal: "there is no memory at the image's place"},
		})
	})

	// Images of programs that stand where residentctl or its launcher files do are
	// refused, or started in a way that works.
	for name, flags := range map[string][]string{
		"not position-independent": {"-no-pie"},
		"at residentctl's place":   {"-no-pie", "-Wl,-Ttext-segment=0x70100000"},
		"below residentctl":        {"-no-pie", "-Wl,-Ttext-segment=0x6ffff000"},
	} {
		t.Run(name, func(t *testing.T) {
			fixed := filepath.Join(kit.Dir(t), "multicall")
			kit.Compile(t, fixed, filepath.Join("fixtures", "multicall.c"), flags...)
			message, err := s.Command("add", "--even-if-slower", fixed).CombinedOutput()
			if err != nil && !strings.Contains(string(message), "stands where the launcher works") {
				t.Errorf("add: %v\n%s", err, message)
			}
			for _, u := range kit.Users {
				want := s.Start(t, kit.Plain, u, fixed, kit.Command{})
				for _, w := range []kit.Way{kit.ByRun, kit.ByExec} {
					if diff := cmp.Diff(want, s.Start(t, w, u, fixed, kit.Command{})); diff != "" {
						t.Errorf("plain (-) and %s (+) differ:\n%s", w.Name, diff)
					}
				}
				if err != nil {
					continue
				}
				if diff := cmp.Diff(want, s.Start(t, kit.ByLauncher, u, fixed, kit.Command{})); diff != "" {
					t.Errorf("plain (-) and launcher (+) differ:\n%s", diff)
				}
			}
		})
	}
}

// rewrite gives a file another content and keeps its owner and mode.
func rewrite(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// interpreterOf is the dynamic linker that a program names.
func interpreterOf(t *testing.T, program string) string {
	t.Helper()
	headers, err := exec.Command("readelf", "--program-headers", "--wide", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`program interpreter: (\S+)\]`).FindSubmatch(headers)
	if match == nil {
		t.Fatalf("%s names no dynamic linker", program)
	}
	return string(match[1])
}

// TestWhenNotThatProgram: an inode number that has been given to another program
// since, and another program at the path of one that is still there by another
// name. What is started is what was asked for.
func TestWhenNotThatProgram(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	asked, other := kit.Fixture(t, "multicall"), kit.Fixture(t, "c-main")
	dir := kit.Dir(t)
	first, second := filepath.Join(dir, "first", "program"), filepath.Join(dir, "second", "program")
	for _, path := range []string{first, second} {
		if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	wantPlain := func(t *testing.T, program string) {
		t.Helper()
		for _, u := range kit.Users {
			// A launcher file knows its program by the path that was made resident.
			c := kit.Command{Noise: []kit.Noise{{Pattern: regexp.MustCompile("execfn .*/program"), Replacement: "execfn program"}}}
			want := s.Start(t, kit.Plain, u, program, c)
			for _, w := range []kit.Way{kit.ByRun, kit.ByExec} {
				if diff := cmp.Diff(want, s.Start(t, w, u, program, c)); diff != "" {
					t.Errorf("plain (-) and %s (+) differ as %s:\n%s", w.Name, u.Name, diff)
				}
			}
		}
	}
	t.Run("renamed, another in its place", func(t *testing.T) {
		kit.CopyFile(t, asked, first)
		s.Add(t, first)
		if err := os.Rename(first, second); err != nil {
			t.Fatal(err)
		}
		wantPlain(t, second)
		kit.CopyFile(t, other, first)
		wantPlain(t, second)
		wantPlain(t, first)
	})
	t.Run("another name, another in the place of the first", func(t *testing.T) {
		kit.Remove(t, first)
		kit.Remove(t, second)
		kit.CopyFile(t, asked, first)
		if err := os.Link(first, second); err != nil {
			t.Fatal(err)
		}
		s.Add(t, first)
		wantPlain(t, second)
		kit.CopyFile(t, other, first+".new")
		if err := os.Rename(first+".new", first); err != nil {
			t.Fatal(err)
		}
		wantPlain(t, second)
		wantPlain(t, first)
	})
	t.Run("the inode's number given to another", func(t *testing.T) {
		kit.Remove(t, first)
		kit.Remove(t, second)
		kit.CopyFile(t, asked, first)
		s.Add(t, first)
		inode := func(path string) uint64 {
			var st syscall.Stat_t
			if err := syscall.Stat(path, &st); err != nil {
				t.Fatal(err)
			}
			return st.Ino
		}
		number := inode(first)
		kit.Remove(t, first)
		for range 50 {
			kit.CopyFile(t, other, second)
			if inode(second) == number {
				break
			}
			// Kept until the end, or the same number would come again.
			if err := os.Rename(second, filepath.Join(kit.Dir(t), "kept")); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := os.Stat(second); err != nil {
			t.Skip("this file system does not give a number twice so soon")
		}
		wantPlain(t, second)
	})
}
