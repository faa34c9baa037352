package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/integration/kit"
)

// The differences between a plain and a resident start that these tests allow are
// those that docs/differences.md lists, with their causes.

// TestVectors: arguments, environment, auxiliary vector, from none to the limit.
func TestVectors(t *testing.T) {
	s := kit.SharedStore(t)
	program := kit.Fixture(t, "vector")
	s.Add(t, program)
	s.Try(t, program, []kit.Situation{
		{Name: "as it is"},
		{Name: "argc 0", Options: []string{"--no-arguments"}, Ways: kit.Exactly},
		{Name: "empty name", Argv0: " ", Ways: kit.Exactly},
		{Name: "empty strings", Args: []string{"", "", "", "end", ""}},
		{Name: "100,000 arguments", Options: []string{"--arguments", "100000", "4"}},
		{Name: "99,999 arguments", Options: []string{"--arguments", "99999", "0"}},
		{Name: "longest strings", Options: []string{"--arguments", "8", "131071"}},
		{Name: "no environment", Options: []string{"--no-environment"}, Ways: kit.Exactly, Normal: kit.Either},
		{Name: "huge environment", Options: []string{"--variables", "20000", "50"}},
		{Name: "odd variables", Options: []string{"--variable", "", "--variable", "=", "--variable", "=x", "--variable", "A",
			"--variable", "A=1", "--variable", "A=2", "--variable", "LD", "--variable", "L", "--variable", "LDX=1",
			"--variable", "MALLOC=1", "--variable", "RESIDENTCTL_OFF=", "--variable", "RESIDENTCTL_OFF=0"}},
		{Name: "name of the launcher's own", Options: []string{"--variable", "RESIDENTCTL_RUNNING=s"}},
		{Name: "variable of the launcher's own", Options: []string{"--variable", "RESIDENTCTL_RUN=s", "--variable", "RESIDENTCTL_RUN=e:1",
			"--variable", "B=2", "--variable", "RESIDENTCTL_RUN=x"}},
		{Name: "variable of the launcher's own, last", Options: []string{"--variable", "B=2", "--variable", "RESIDENTCTL_RUN=s"}},
	})

	// The kernel takes a quarter of the stack's limit for strings and pointers
	// (execve(2)); here the limit for the stack is 8 MiB. The longer path of a
	// launcher file costs as many bytes.
	t.Run("up to ARG_MAX", func(t *testing.T) {
		const pointers, strings = 15000, 131072
		worked := 0
		for count := 14; count <= 16; count++ {
			for _, size := range []int{strings - 1, strings - 4096, strings - 20000} {
				sit := kit.Situation{Options: []string{"--limit", kit.LimitStack, "8388608",
					"--arguments", fmt.Sprint(count), fmt.Sprint(size), "--arguments", fmt.Sprint(pointers - 1000), "1"}}
				want := s.Start(t, kit.Plain.In(t, sit), kit.Nobody, program, kit.Command{})
				if want.Status == "exit status 0" {
					worked++
				}
				for _, w := range kit.SurroundedWays {
					if diff := cmp.Diff(want, s.Start(t, w.In(t, sit), kit.Nobody, program, kit.Command{})); diff != "" {
						t.Errorf("%d times %d bytes: plain (-) and %s (+) differ:\n%s", count, size, w.Name, diff)
					}
				}
			}
		}
		if worked == 0 || worked == 9 {
			t.Errorf("%d of 9 plain starts worked, so the limit was not met", worked)
		}
	})
}

// TestNames: a program that is several by its name, called by links, from other
// directories, as the interpreter of a script.
func TestNames(t *testing.T) {
	s := kit.SharedStore(t)
	program := kit.Fixture(t, "multicall")
	s.Add(t, program)
	s.Try(t, program, []kit.Situation{
		{Name: "by its path"},
		{Name: "by a name", Argv0: "yes", Ways: kit.Exactly},
		{Name: "by a path that is not there", Argv0: "/nowhere/arguments", Args: []string{"a", "", "b"}, Ways: kit.Exactly},
		{Name: "as a login shell", Argv0: "-yes", Ways: kit.Exactly},
	})

	// In a plain start the links lead to the program, in a resident one to its
	// launcher file; run is given the same path as a plain start.
	outcomes := func(t *testing.T, u kit.User, target, name string) kit.Outcome {
		link := kit.LinkTo(t, target, name)
		return s.Start(t, kit.Way{Name: "link", Argv: func(*kit.Store, string) (string, string, []string) { return link, name, nil }}, u,
			program, kit.Command{Args: []string{"a", ""}, Noise: []kit.Noise{{Pattern: regexp.MustCompile(regexp.QuoteMeta(filepath.Dir(link))), Replacement: "LINKS"}}})
	}
	for _, u := range kit.Users {
		for _, name := range []string{"yes", "arguments", "a-name-that-is-longer-than-comm"} {
			t.Run("link "+name+", "+u.Name, func(t *testing.T) {
				if diff := cmp.Diff(outcomes(t, u, program, name), outcomes(t, u, s.Launcher(program), name)); diff != "" {
					t.Errorf("link to the program (-) and to the launcher file (+) differ:\n%s", diff)
				}
				link := kit.LinkTo(t, program, name)
				straight := kit.Way{Name: "plain", Argv: func(*kit.Store, string) (string, string, []string) { return link, link, nil }}
				through := kit.Way{Name: "run", Argv: func(s *kit.Store, _ string) (string, string, []string) {
					return s.Residentctl, "residentctl", []string{"run", "--store", s.Dir, link}
				}}
				if diff := cmp.Diff(s.Start(t, straight, u, program, kit.Command{}), s.Start(t, through, u, program, kit.Command{})); diff != "" {
					t.Errorf("plain (-) and run (+) of a link differ:\n%s", diff)
				}
			})
		}
		t.Run("relative, "+u.Name, func(t *testing.T) {
			relative := "../fixtures/multicall" // from the working directory
			plainly := kit.Way{Name: "plain", Argv: func(*kit.Store, string) (string, string, []string) { return relative, relative, nil }}
			byRun := kit.Way{Name: "run", Argv: func(s *kit.Store, _ string) (string, string, []string) {
				return s.Residentctl, "residentctl", []string{"run", "--store", s.Dir, relative}
			}}
			tool := kit.Situation{Options: []string{"--umask", "022"}} // os/exec would look the path up itself
			// Without the capability run executes the launcher file, which knows the
			// program by its whole path.
			c := kit.Command{Noise: []kit.Noise{{Pattern: regexp.MustCompile("execfn .*multicall"), Replacement: "execfn multicall"}}}
			if u == kit.Root {
				c.Noise = nil
			}
			if diff := cmp.Diff(s.Start(t, plainly.In(t, tool), u, program, c), s.Start(t, byRun.In(t, tool), u, program, c)); diff != "" {
				t.Errorf("plain (-) and run (+) of a relative path differ:\n%s", diff)
			}
		})
		t.Run("script, "+u.Name, func(t *testing.T) {
			interpreted := func(interpreter string) kit.Outcome {
				c := kit.Command{Name: "script", Args: []string{"argument"}, Inputs: map[string]string{
					"script": "#!" + interpreter + " option\n"}, Shell: "cp script run-me && chmod +x run-me",
					// argv[0] of an interpreter is its path in the script.
					Noise: []kit.Noise{{Pattern: regexp.MustCompile(regexp.QuoteMeta(interpreter)), Replacement: "INTERPRETER"}}}
				return s.Start(t, kit.Way{Name: "script", Argv: func(*kit.Store, string) (string, string, []string) {
					return "./run-me", "./run-me", nil
				}}, u, program, c)
			}
			want := interpreted(program)
			if !strings.Contains(want.Stdout, "run-me\n") {
				t.Fatalf("the script did not run: %v", want)
			}
			if diff := cmp.Diff(want, interpreted(s.Launcher(program))); diff != "" {
				t.Errorf("script of the program (-) and of the launcher file (+) differ:\n%s", diff)
			}
		})
	}

	title := kit.Fixture(t, "title")
	s.Add(t, title)
	s.Try(t, title, []kit.Situation{{Name: "title"}, {Name: "title over arguments", Args: []string{"one", "two"}}})
}

// TestInheritance: what a process has from its parent is as an exec leaves it.
func TestInheritance(t *testing.T) {
	s := kit.SharedStore(t)
	program := kit.Fixture(t, "state")
	s.Add(t, program)
	affinity := firstCPU(t)
	few, many := descriptors(t, 1024), descriptors(t, 5000)
	s.Try(t, program, []kit.Situation{
		{Name: "as it is", Options: []string{"--umask", "0022"}},
		{Name: "session", Options: []string{"--session"}},
		{Name: "process group", Options: []string{"--group"}},
		{Name: "children", Options: []string{"--children"}},
		{Name: "deleted directory", Options: []string{"--deleted-directory"}},
		{Name: "directory", Options: []string{"--directory", "/usr/share", "--umask", "077"}},
		{Name: "descriptors", Options: []string{"--open", "3", "--open", "9", "--open-cloexec", "4", "--open", "255"}},
		{Name: "high descriptors", Options: []string{"--limit", kit.LimitDescriptors, strconv.Itoa(few), "--open", strconv.Itoa(few - 1), "--open-cloexec", strconv.Itoa(few - 2)}},
		{Name: "descriptor beyond the limit", Options: []string{"--open", "900", "--limit", kit.LimitDescriptors, "64"}},
		{Name: "no stdin", Options: []string{"--close", "0"}},
		{Name: "no stderr", Options: []string{"--close", "2"}, Normal: kit.Either},
		{Name: "only stdout", Options: []string{"--close", "0", "--close", "2"}, Normal: kit.Either},
		{Name: "descriptor 3 only", Options: []string{"--open", "3", "--close", "0", "--close", "2"}, Normal: kit.Either},
		{Name: "signals blocked", Options: []string{"--block", kit.SigINT, "--block", kit.SigRTMIN, "--block", kit.SigUSR1}},
		{Name: "signals pending", Options: []string{"--pending", kit.SigUSR1, "--pending", kit.SigRTMIN, "--pending", kit.SigRTMIN}},
		{Name: "signals ignored", Options: []string{"--ignore", kit.SigUSR1, "--ignore", "1", "--ignore", "13"}},
		{Name: "children ignored", Options: []string{"--ignore", kit.SigCHLD}},
		{Name: "signals handled", Options: []string{"--handle", kit.SigUSR1, "--handle", "11", "--alternative-stack"}},
		{Name: "no new privileges", Options: []string{"--no-new-privileges"}},
		{Name: "timer slack", Options: []string{"--timer-slack", "123456"}},
		{Name: "worse for the OOM killer", Options: []string{"--oom-score", "500"}},
		{Name: "nice", Options: []string{"--nice", "7", "--io-priority", "0x4005"}},
		{Name: "one CPU", Options: []string{"--cpu", affinity}},
		{Name: "batch", Options: []string{"--scheduler", "3", "0"}},
		{Name: "core filter", Options: []string{"--core-filter", "0x7f", "--limit", kit.LimitCore, "0"}},
		{Name: "death signal", Options: []string{"--death-signal", "15"}},
		{Name: "timer", Options: []string{"--timer", "1000"}},
		{Name: "no huge pages", Options: []string{"--no-huge-pages"}},
		{Name: "no new code", Options: []string{"--no-new-code"}, Users: kit.OnlyRoot, Special: map[string]string{"criu": "PR_SET_MDWE"}},
		{Name: "no new code", Options: []string{"--no-new-code"}, Users: kit.OnlyNobody, Special: kit.ExeIsNotSet},
		{Name: "subreaper", Options: []string{"--subreaper"}},
		{Name: "memory policy", Options: []string{"--memory-policy"}, Normal: kit.Either},
		{Name: "no randomisation", Options: []string{"--personality", kit.NoRandomisation}, Special: kit.NotToBeRandom},
		{Name: "readable is executable", Options: []string{"--personality", kit.ReadImpliesExec}},
		{Name: "page 0", Options: []string{"--personality", kit.PageZero}, Users: kit.OnlyRoot, Special: kit.NotByCRIU},
		{Name: "compatible layout", Options: []string{"--personality", kit.CompatLayout}, Normal: kit.Either},
		{Name: "old kernel's name", Options: []string{"--personality", kit.Uname2}, Special: map[string]string{"criu": "the kernel is another one"}},
		{Name: "all limits", Special: map[string]string{"criu": "residentctl needs 2 GiB of address space"}, Shell: "ulimit -c 0 -d 800000 -f 100000 -l 8 -m 100000 -n 100 -q 1000 -s 4096 -t 77 -u 5000 -v 900000 -x 100"},

		{Name: "root's limits and priorities", Users: kit.OnlyRoot, Ways: kit.OnTheMachine, Options: []string{"--nice", "-5", "--scheduler", "1", "3",
			"--oom-score", "1", "--limit", kit.LimitDescriptors, strconv.Itoa(many), "--open", strconv.Itoa(many - 1)}},
		{Name: "bounding set", Users: kit.OnlyRoot, Special: kit.NotByCRIU, Options: []string{"--bounding", kit.CapNetBind, "--bounding", "21"}},
		{Name: "no capability to say which file", Users: kit.OnlyRoot, Special: kit.NotByCRIU, Options: []string{"--bounding", "21", "--bounding", "40"}},
		{Name: "securebits", Users: kit.OnlyRoot, Special: kit.NotByCRIU, Options: []string{"--securebits", "0x2f"}},
		{Name: "groups", Users: kit.OnlyRoot, Options: []string{"--groups", "5", "77", "1000"}},
		{Name: "ordinary user", Users: kit.OnlyRoot, Special: kit.NotByCRIU, Options: []string{"--user", "12345"}},
		{Name: "ambient capability", Users: kit.OnlyRoot, Special: kit.NotByCRIU, Options: []string{"--capability", "12345", kit.CapNetBind}},
		{Name: "ambient capability to say which file", Users: kit.OnlyRoot, Special: kit.NotByCRIU, Options: []string{"--capability", "12345", "40"}},
		{Name: "pid namespace", Users: kit.OnlyRoot, Special: kit.NotByCRIU, Options: []string{"--pid-namespace"}},
		{Name: "time namespace", Users: kit.OnlyRoot, Options: []string{"--time-namespace", "864000"}},
		{Name: "time namespace in the past", Users: kit.OnlyRoot, Options: []string{"--time-namespace", "-1"}},
		{Name: "namespaces", Users: kit.OnlyRoot, Special: kit.NotByCRIU, Options: []string{"--namespaces", "0x4E020000"}},
		{Name: "user namespace", Users: kit.OnlyRoot, Special: kit.NotByCRIU, Options: []string{"--user-namespace"}},
		{Name: "user namespace", Users: kit.OnlyNobody, Options: []string{"--user-namespace"}, Normal: "not safe", Special: kit.WithinAnother},
		{Name: "chroot", Users: kit.OnlyRoot, Script: `mkdir root; mount --rbind / root`, Options: []string{"--chroot", "root"}},
		{Name: "cgroup", Users: kit.OnlyRoot, Script: cgroupScript},
	})
}

// descriptors is a limit of open files: what a test wants, or less. Without
// CAP_SYS_RESOURCE root too can only have what the hard limit allows.
func descriptors(t *testing.T, want uint64) int {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return int(min(want, limit.Max))
}

// cgroupScript moves itself to a cgroup of its own, where there is a hierarchy to
// do so in.
const cgroupScript = `
	for hierarchy in /sys/fs/cgroup/unified /sys/fs/cgroup /sys/fs/cgroup/pids; do
		if [ -e $hierarchy/cgroup.procs ]; then
			mkdir -p $hierarchy/residentctl-test
			echo $$ >$hierarchy/residentctl-test/cgroup.procs
			# Not a child: the program waits for its children.
			( ( while [ -e /proc/$$ ]; do sleep 0.05; done; rmdir $hierarchy/residentctl-test ) </dev/null >/dev/null 2>&1 & )
			break
		fi
	done`

// firstCPU is the number of a CPU that this process may use.
func firstCPU(t *testing.T) string {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`(?m)^Cpus_allowed_list:\s*(\d+)`).FindSubmatch(status)
	if match == nil {
		t.Fatal("/proc/self/status does not list the CPUs")
	}
	return string(match[1])
}

// TestAddressSpace: what /proc shows of memory, and the stack.
func TestAddressSpace(t *testing.T) {
	s := kit.SharedStore(t)
	space := kit.Fixture(t, "space")
	s.Add(t, space)
	s.Try(t, space, []kit.Situation{
		{Name: "plain"},
		{Name: "arguments", Args: []string{"one", "", "two words"}},
		{Name: "large vectors", Options: []string{"--arguments", "1000", "100", "--variables", "1000", "100"}},
		{Name: "no randomisation", Options: []string{"--personality", kit.NoRandomisation}, Special: kit.NotToBeRandom, Differs: kit.CoveredLinker},
		{Name: "small stack", Options: []string{"--limit", kit.LimitStack, "1048576"}},
		{Name: "no new code", Options: []string{"--no-new-code"}, Users: kit.OnlyRoot, Special: map[string]string{"criu": "PR_SET_MDWE"}},
		{Name: "no new code", Options: []string{"--no-new-code"}, Users: kit.OnlyNobody, Special: kit.ExeIsNotSet},
	})

	stack := kit.Fixture(t, "stack")
	s.Add(t, stack)
	s.Try(t, stack, []kit.Situation{
		{Name: "8 MiB", Options: []string{"--limit", kit.LimitStack, "8388608"}},
		{Name: "odd", Options: []string{"--limit", kit.LimitStack, "1234567"}},
		{Name: "64 MiB", Options: []string{"--limit", kit.LimitStack, "67108864"}},
		{Name: "1 GiB", Options: []string{"--limit", kit.LimitStack, "1073741824"}, Normal: kit.Either},
	})

	t.Run("executable stack", func(t *testing.T) {
		program := filepath.Join(kit.Dir(t), "execstack")
		kit.Compile(t, program, filepath.Join("fixtures", "space.c"), "-rdynamic", "-pthread", "-z", "execstack")
		if output, err := s.Command("add", program).CombinedOutput(); err == nil || !strings.Contains(string(output), "executable stack") {
			t.Errorf("add of a program with an executable stack: %v\n%s", err, output)
		}
		for _, u := range kit.Users {
			if diff := cmp.Diff(s.Start(t, kit.Plain, u, program, kit.Command{}), s.Start(t, kit.ByRun, u, program, kit.Command{})); diff != "" {
				t.Errorf("plain (-) and run (+) differ:\n%s", diff)
			}
		}
	})
}

// TestSmallLimits: wherever a plain start is possible a resident one is, and does
// the same. The limits go down from what is enough to what is not.
func TestSmallLimits(t *testing.T) {
	s := kit.SharedStore(t)
	program := kit.Fixture(t, "multicall")
	s.Add(t, program)
	const kib, mib = 1 << 10, 1 << 20
	tests := []struct {
		name     string
		limit    string
		values   []int
		runNeeds int // what `run` needs itself
	}{
		// With less it is the kernel's random start of the stack within its last page
		// that decides, in every start again.
		{"stack", kit.LimitStack, []int{16 * kib, 20 * kib, 24 * kib, 32 * kib, 40 * kib, 64 * kib, 100 * kib, 128 * kib, 136 * kib, 256 * kib}, 0},
		{"address space", kit.LimitAS, steps(1*mib, 4*mib, 128*kib, 48*mib, 64*mib), 48 * mib},
		{"data", kit.LimitData, steps(0, 512*kib, 32*kib, 48*mib, 64*mib), 48 * mib},
		{"descriptors", kit.LimitDescriptors, []int{0, 1, 2, 3, 4, 5, 6, 7, 8}, 0},
		{"file size", "1", []int{0, 1}, 0},
		{"locked memory", "8", []int{0}, 0},
		{"pending signals", "11", []int{0}, 0},
		{"processes", "6", []int{0}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			worked, enough := 0, map[string]bool{}
			for _, value := range test.values {
				sit := kit.Situation{Options: []string{"--limit", test.limit, strconv.Itoa(value)}}
				for _, u := range kit.Users {
					want := s.Start(t, kit.Plain.In(t, sit), u, program, kit.Command{})
					if want.Status != "exit status 0" {
						continue // it need not fail in the same way
					}
					worked++
					for _, w := range kit.SurroundedWays {
						if w.Name == kit.ByRun.Name && value < test.runNeeds {
							continue
						}
						// A normal start under exec takes some pages more (kit.CoveredLinker).
						if w.Name == kit.ByExec.Name && !enough[u.Name] && slices.Contains([]string{kit.LimitAS, kit.LimitData}, test.limit) {
							continue
						}
						if diff := cmp.Diff(want, s.Start(t, w.In(t, sit), u, program, kit.Command{})); diff != "" {
							t.Errorf("limit of %d as %s: plain (-) and %s (+) differ:\n%s", value, u.Name, w.Name, diff)
						}
					}
					enough[u.Name] = true
				}
			}
			if worked == 0 {
				t.Error("no plain start worked")
			}
		})
	}
}

func steps(from, to, step int, more ...int) []int {
	var all []int
	for n := from; n <= to; n += step {
		all = append(all, n)
	}
	return append(all, more...)
}

// TestFilters: under a seccomp filter a program may do what it may do after an
// exec, whatever system calls its launcher would have liked to make. (CRIU's restore is not
// tried: residentctl, a Go program, then makes such calls itself.)
func TestFilters(t *testing.T) {
	s := kit.SharedStore(t)
	program := kit.Fixture(t, "multicall")
	s.Add(t, program)
	// Those that a start may make and a plain one does not.
	extra := map[string]int{
		"stat": syscall.SYS_STAT, "mremap": syscall.SYS_MREMAP, "capget": syscall.SYS_CAPGET, "prctl": syscall.SYS_PRCTL,
		"rt_sigprocmask": syscall.SYS_RT_SIGPROCMASK, "rt_sigreturn": syscall.SYS_RT_SIGRETURN, "faccessat2": 439,
	}
	var situations []kit.Situation
	var all []string
	for name, number := range extra {
		situations = append(situations, kit.Situation{Name: name + " refused", Normal: kit.Either, Ways: kit.Launched,
			Options: []string{"--filter-errno", strconv.Itoa(number)}})
		if name == "prctl" { // the fixture itself asks for its name
			continue
		}
		situations = append(situations, kit.Situation{Name: name + " kills", Normal: kit.Either, Ways: kit.Launched,
			Options: []string{"--filter-kill", strconv.Itoa(number)}})
		all = append(all, strconv.Itoa(number))
	}
	situations = append(situations, kit.Situation{Name: "all kill but prctl", Normal: "filtered", Ways: kit.Exactly,
		Options: []string{"--filter-kill", strings.Join(all, ",")}})
	s.Try(t, program, situations)
}
