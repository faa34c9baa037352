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

	"github.com/residentctl/residentctl/pkg/plan"
	stores "github.com/residentctl/residentctl/pkg/store"
)

// The rule of these tests: where a resident start would not be right, the start
// is a normal one, does what a plain one does, and says why if it is asked.

// A library's program, with another library of the same name to take its place.
type searching struct {
	program, library, other string
	first                   string // the folder in which the library is looked for first
}

// newSearching makes one, in a folder of its own, and makes it resident.
func newSearching(t *testing.T, s *store) searching {
	t.Helper()
	dir := folder(t)
	w := searching{filepath.Join(dir, "constructors"), filepath.Join(dir, "libconstructors.so"), filepath.Join(dir, "other.so"),
		filepath.Join(dir, "first")}
	if err := os.Mkdir(w.first, 0o755); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join("fixtures", "libconstructors.c")
	compile(t, w.library, source, "-shared", "-fPIC", "-Wl,-soname,libconstructors.so")
	compile(t, w.other, source, "-shared", "-fPIC", "-Wl,-soname,libconstructors.so", `-DMARK="other"`)
	compile(t, w.program, filepath.Join("fixtures", "constructors.c"), w.library, "-Wl,-rpath,$ORIGIN/first:$ORIGIN")
	s.add(t, w.program)
	return w
}

// TestWhenNot: situations of the caller's that an image was not made for.
func TestWhenNot(t *testing.T) {
	s := sharedStore(t)
	program := fixture(t, "multicall")
	s.add(t, program)
	const linked = "the environment changes how it is linked "
	var situations []situation
	for _, v := range []string{"LD_LIBRARY_PATH=/nowhere", "LD_BIND_NOW=1", "LD_AUDIT=/nowhere.so", "LD_PRELOAD=", "LD_WARN=1",
		"LD_HWCAP_MASK=0", "GLIBC_TUNABLES=glibc.malloc.tcache_count=0", "MALLOC_PERTURB_=1", "MALLOC_ARENA_MAX=1",
		"RESIDENTCTL_OFF=1"} {
		situations = append(situations, situation{name: v, options: []string{"--variable", v}, normal: linked + v})
	}
	s.try(t, program, append(situations, []situation{
		{name: "among many variables", options: []string{"--variables", "500", "10", "--variable", "LD_TRACE=", "--variables", "500", "10"},
			normal: linked + "LD_TRACE="},
		{name: "unlimited stack", options: []string{"--limit", limitStack, "unlimited"}, normal: noRoom, users: onlyRoot},
		{name: "unlimited stack", shell: "ulimit -s unlimited", normal: noRoom, users: onlyNobody},
		// Some images stand more than 1 TiB below the stack: mmap's base is as random.
		{name: "1 TiB of stack", options: []string{"--limit", limitStack, "1099511627776"}, normal: either},
		{name: "64 TiB of stack", options: []string{"--limit", limitStack, "70368744177664"}, normal: noRoom},
		{name: "descriptors run out", options: []string{"--limit", limitDescriptors, "4"}, users: onlyNobody, normal: either},
		{name: "no descriptor for a second file", options: []string{"--limit", limitDescriptors, "4"}, users: onlyRoot, normal: "cannot be opened"},
		{name: "system calls are filtered", options: []string{"--filter-errno", "!"}, normal: either, fails: true},
		{name: "one system call is filtered", options: []string{"--filter-errno", "169"}, normal: "filtered (seccomp)"},
		{name: "privileges in a user namespace", options: []string{"--user-namespace"}, users: onlyNobody, normal: "not safe", special: withinAnother},
		// The environment is not to be trusted, so nothing is said for what it asks.
		{name: "another user in effect", options: []string{"--real-user", "65534"}, users: onlyRoot, normal: either},
	}...))

	// run --strict never starts anything normally.
	for _, sit := range []situation{
		{options: []string{"--variable", "LD_BIND_NOW=1"}, normal: "LD_BIND_NOW=1"},
		{options: []string{"--limit", limitStack, "70368744177664"}, normal: "the stack limit"},
		{options: []string{"--filter-errno", "169"}, normal: "seccomp"},
		{options: []string{"--limit", limitDescriptors, "4"}, normal: "cannot be opened"},
		{options: []string{"--real-user", "65534"}, normal: "AT_SECURE"},
	} {
		got := s.start(t, strictly.in(t, sit), root, program, command{})
		if how, why := explanation(got.Stderr); got.Status != "exit status 125" || got.Stdout != "" ||
			how != "no resident start" || !strings.Contains(why, sit.normal) {
			t.Errorf("run --strict with %q: %v, want exit status 125 and a reason with %q", sit.options, got, sit.normal)
		}
	}
}

// TestWhenNotPrivileged: whoever gains privileges by an exec gets the program as
// the kernel gives it to him. A launcher file that is setuid or has capabilities
// (an administrator copied the program's mode) must give its program none.
func TestWhenNotPrivileged(t *testing.T) {
	s := newStore(t, folder(t))
	program := filepath.Join(folder(t), "state")
	copyFile(t, fixture(t, "state"), program)
	s.add(t, program)
	launcher := s.launcher(program)
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
			got := s.start(t, byLauncher, nobody, program, command{env: []string{"RESIDENTCTL_EXPLAIN=1"}})
			if got.Stderr != "" || got.Status != "exit status 0" {
				t.Errorf("%v", got)
			}
		})
		t.Run("program, "+p.name, func(t *testing.T) {
			privileged := filepath.Join(folder(t), "state")
			copyFile(t, program, privileged)
			if err := p.give(privileged); err != nil {
				t.Skipf("this file system does not keep it: %v", err)
			}
			if output, err := s.command("add", privileged).CombinedOutput(); err == nil {
				t.Errorf("add of a program that gains privileges succeeded: %s", output)
			}
			// One that gains them later is another file (ctime), and has no image.
			later := filepath.Join(folder(t), "state")
			copyFile(t, program, later)
			s.add(t, later)
			if err := p.give(later); err != nil {
				t.Fatal(err)
			}
			s.wantNormalStart(t, nobody, later, command{})
		})
	}

	t.Run("program that may not be read", func(t *testing.T) {
		hidden := filepath.Join(folder(t), "state")
		copyFile(t, program, hidden)
		chmod(t, hidden, 0o711)
		s.add(t, hidden)
		// /proc belongs to root then, so the fixture sees less, in both alike.
		s.wantNormalStart(t, nobody, hidden, command{})
		if diff := byExec.diff(nobody, command{}, s.start(t, plain, nobody, hidden, command{}), s.start(t, byExec, nobody, hidden, command{})); diff != "" {
			t.Errorf("plain (-) and exec (+) differ:\n%s", diff)
		}
	})
}

// TestWhenNotFiles: files that differ in the caller's root or mount namespace.
func TestWhenNotFiles(t *testing.T) {
	s := sharedStore(t)
	w := newSearching(t, s)
	cache := "/etc/ld.so.cache"
	if _, err := os.Stat(cache); err != nil {
		t.Skip(err)
	}
	interpreter := interpreterOf(t, w.program)
	s.try(t, w.program, []situation{
		{name: "as it was", users: onlyRoot, script: "true"},
		{name: "the same files elsewhere", users: onlyRoot, script: fmt.Sprintf("mount --bind %[1]s %[1]s", filepath.Dir(w.program))},
		{name: "another library", users: onlyRoot, script: fmt.Sprintf("mount --bind %s %s", w.other, w.library),
			normal: "this has changed " + w.library},
		{name: "a library that comes first", users: onlyRoot, script: fmt.Sprintf(
			"mkdir first; cp %s first/libconstructors.so; mount --bind first %s", w.other, w.first),
			normal: "this now comes first in the search for libraries " + w.first},
		{name: "no library", users: onlyRoot, script: fmt.Sprintf("mount --bind /dev/null %s", w.library), normal: "this has changed"},
		{name: "another cache of libraries", users: onlyRoot, script: fmt.Sprintf("cp %[1]s cache; mount --bind cache %[1]s", cache),
			normal: "this has changed " + cache},
		{name: "an equal C library", users: onlyRoot, script: `libc=$(ldd ` + w.program + ` | sed -n 's/.*libc.so.6 => \([^ ]*\).*/\1/p')
			cp "$libc" libc; mount --bind libc "$libc"`, normal: "this has changed"},
		{name: "an equal dynamic linker", users: onlyRoot, script: fmt.Sprintf("cp %[1]s linker; mount --bind linker %[1]s", interpreter),
			normal: "this has changed",
			// The copy is one of the covered linker, and leads to the same images.
			special: map[string]string{"exec": ""}},
		{name: "another program", users: onlyRoot, script: fmt.Sprintf("mount --bind %s %s", fixture(t, "multicall"), w.program), normal: either},
		{name: "no store", users: onlyRoot, ways: onlyRun, script: "mount -t tmpfs -o mode=755 none " + s.dir, normal: "it is not resident"},
		{name: "no images", users: onlyRoot, script: "mount -t tmpfs -o mode=755 none " + s.dir + "/images", normal: "its image is missing"},
		{name: "another root with the same files", users: onlyRoot, script: "mkdir root; mount --rbind / root",
			options: []string{"--chroot", "root"}},
		{name: "another root with another library", users: onlyRoot, script: fmt.Sprintf(
			"mkdir root; mount --rbind / root; mount --bind %s root%s", w.other, w.library),
			options: []string{"--chroot", "root"}, normal: "this has changed " + w.library},
	})
}

// TestWithoutProc: no /proc to read the boot's name from, so the CPU is compared.
func TestWithoutProc(t *testing.T) {
	s := sharedStore(t)
	program := fixture(t, "multicall")
	s.add(t, program)
	s.try(t, program, []situation{{name: "start", users: onlyRoot, script: "mount -t tmpfs none /proc",
		// Under exec /proc/self/exe is what tells which program it is.
		// Its path, which counts for this program, is not found out by binfmt_misc either.
		special: map[string]string{"exec": "this cannot be found /proc/self/exe", bySystem.name: "it finds its libraries relative to itself"}}})
}

// TestWhenNotPreloaded: a library that /etc/ld.so.preload names since.
func TestWhenNotPreloaded(t *testing.T) {
	s := newStore(t, folder(t))
	w := newSearching(t, sharedStore(t))
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
	cmd := exec.Command("/bin/bash", "-c", script, "bash", s.residentctl, s.dataHome, w.program, w.other)
	cmd.Env = s.environment(s.dataHome)
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
	program := filepath.Join(folder(t), "multicall")
	copyFile(t, fixture(t, "multicall"), program)
	s := newStore(t, folder(t))
	s.add(t, program)
	path := s.plan(t, program)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bootFile := filepath.Join(s.dir, "boot")
	thisBoot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	boot := strings.TrimSpace(string(thisBoot))
	const (
		described   = "the kernel describes the machine otherwise"
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
		{name: "place of the stack", change: func(p *plan.Plan) { p.Caller.MapsEnd = 1<<47 - 4096 }, normal: noRoom},

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
			remove(t, bootFile)
			if test.stamp != nil {
				if err := os.WriteFile(bootFile, []byte(test.stamp(p)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			// Without shims, since enabling one looks at the image too, and could mend it.
			s.try(t, program, []situation{{name: "start", normal: test.normal, ways: surroundedWays}})
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
	s := newStore(t, folder(t))
	program := filepath.Join(folder(t), "multicall")
	copyFile(t, fixture(t, "multicall"), program)
	s.add(t, program)

	// Layouts that are not the usual one, many times: the kernel chooses.
	t.Run("layouts", func(t *testing.T) {
		for round := range 20 {
			ways := residentWays
			if round < 5 { // its starts take longest
				ways = surroundedWays
			}
			for _, options := range [][]string{
				{"--personality", noRandomisation}, {"--personality", compatLayout}, {"--personality", "0x0240000"}, {"--limit", limitStack, "unlimited"},
				{"--limit", limitStack, "6000000000"},
			} {
				sit := situation{options: options}
				want := s.start(t, plain.in(t, sit), root, program, command{})
				for _, w := range ways {
					if diff := cmp.Diff(want, s.start(t, w.in(t, sit), root, program, command{})); diff != "" {
						t.Fatalf("%q: plain (-) and %s (+) differ:\n%s", options, w.name, diff)
					}
				}
			}
		}
	})

	// A plan whose image reaches into the stack; without randomisation that is
	// always at the same place.
	t.Run("the stack", func(t *testing.T) {
		path := s.plan(t, program)
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
		s.try(t, program, []situation{{name: "start", options: []string{"--personality", noRandomisation},
			normal: noRoom}})
	})

	// A plan whose image has something where the kernel has mapped something.
	t.Run("a mapping of the caller's", func(t *testing.T) {
		path := s.plan(t, program)
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
		s.try(t, program, []situation{
			{name: "page 0", options: []string{"--personality", pageZero}, users: onlyRoot, normal: "there is no memory at the image's place"},
			{name: "page 0", users: onlyNobody, normal: "there is no memory at the image's place"},
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
			fixed := filepath.Join(folder(t), "multicall")
			compile(t, fixed, filepath.Join("fixtures", "multicall.c"), flags...)
			message, err := s.command("add", "--even-if-slower", fixed).CombinedOutput()
			if err != nil && !strings.Contains(string(message), "stands where the launcher works") {
				t.Errorf("add: %v\n%s", err, message)
			}
			for _, u := range users {
				want := s.start(t, plain, u, fixed, command{})
				for _, w := range []way{byRun, byExec} {
					if diff := cmp.Diff(want, s.start(t, w, u, fixed, command{})); diff != "" {
						t.Errorf("plain (-) and %s (+) differ:\n%s", w.name, diff)
					}
				}
				if err != nil {
					continue
				}
				if diff := cmp.Diff(want, s.start(t, byLauncher, u, fixed, command{})); diff != "" {
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
	s := newStore(t, folder(t))
	asked, other := fixture(t, "multicall"), fixture(t, "c-main")
	dir := folder(t)
	first, second := filepath.Join(dir, "first", "program"), filepath.Join(dir, "second", "program")
	for _, path := range []string{first, second} {
		if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	wantPlain := func(t *testing.T, program string) {
		t.Helper()
		for _, u := range users {
			// A launcher file knows its program by the path that was made resident.
			c := command{noise: []noise{{regexp.MustCompile("execfn .*/program"), "execfn program"}}}
			want := s.start(t, plain, u, program, c)
			for _, w := range []way{byRun, byExec} {
				if diff := cmp.Diff(want, s.start(t, w, u, program, c)); diff != "" {
					t.Errorf("plain (-) and %s (+) differ as %s:\n%s", w.name, u.name, diff)
				}
			}
		}
	}
	t.Run("renamed, another in its place", func(t *testing.T) {
		copyFile(t, asked, first)
		s.add(t, first)
		if err := os.Rename(first, second); err != nil {
			t.Fatal(err)
		}
		wantPlain(t, second)
		copyFile(t, other, first)
		wantPlain(t, second)
		wantPlain(t, first)
	})
	t.Run("another name, another in the place of the first", func(t *testing.T) {
		remove(t, first)
		remove(t, second)
		copyFile(t, asked, first)
		if err := os.Link(first, second); err != nil {
			t.Fatal(err)
		}
		s.add(t, first)
		wantPlain(t, second)
		copyFile(t, other, first+".new")
		if err := os.Rename(first+".new", first); err != nil {
			t.Fatal(err)
		}
		wantPlain(t, second)
		wantPlain(t, first)
	})
	t.Run("the inode's number given to another", func(t *testing.T) {
		remove(t, first)
		remove(t, second)
		copyFile(t, asked, first)
		s.add(t, first)
		inode := func(path string) uint64 {
			var st syscall.Stat_t
			if err := syscall.Stat(path, &st); err != nil {
				t.Fatal(err)
			}
			return st.Ino
		}
		number := inode(first)
		remove(t, first)
		for range 50 {
			copyFile(t, other, second)
			if inode(second) == number {
				break
			}
			// Kept until the end, or the same number would come again.
			if err := os.Rename(second, filepath.Join(folder(t), "kept")); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := os.Stat(second); err != nil {
			t.Skip("this file system does not give a number twice so soon")
		}
		wantPlain(t, second)
	})
}
