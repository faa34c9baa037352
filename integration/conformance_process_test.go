package integration

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
)

// The differences between a plain and a resident start that these tests allow are
// those that DESIGN.md lists, with their causes, under "What is compared with an
// exec, and what differs".

// Signals, limits and personalities by number, as fixtures/situation.c takes them
// (signal(7), asm-generic/resource.h, linux/personality.h).
const (
	sigINT, sigUSR1, sigCHLD, sigRTMIN    = "2", "10", "17", "40"
	limitData, limitStack, limitCore      = "2", "3", "4"
	limitDescriptors, limitAS             = "7", "9"
	noRandomisation, pageZero             = "0x0040000", "0x0100000"
	readImpliesExec, compatLayout, uname2 = "0x0400000", "0x0200000", "0x0020000"
	capNetBind                            = "10"
)

// TestVectors: arguments, environment, auxiliary vector, from none to the limit.
func TestVectors(t *testing.T) {
	s := sharedStore(t)
	program := fixture(t, "vector")
	s.add(t, program)
	s.try(t, program, []situation{
		{name: "as it is"},
		{name: "argc 0", options: []string{"--no-arguments"}, ways: exactly},
		{name: "empty name", argv0: " ", ways: exactly},
		{name: "empty strings", args: []string{"", "", "", "end", ""}},
		{name: "100,000 arguments", options: []string{"--arguments", "100000", "4"}},
		{name: "99,999 arguments", options: []string{"--arguments", "99999", "0"}},
		{name: "longest strings", options: []string{"--arguments", "8", "131071"}},
		{name: "no environment", options: []string{"--no-environment"}, ways: exactly, normal: either},
		{name: "huge environment", options: []string{"--variables", "20000", "50"}},
		{name: "odd variables", options: []string{"--variable", "", "--variable", "=", "--variable", "=x", "--variable", "A",
			"--variable", "A=1", "--variable", "A=2", "--variable", "LD", "--variable", "L", "--variable", "LDX=1",
			"--variable", "MALLOC=1", "--variable", "RESIDENTCTL_OFF=", "--variable", "RESIDENTCTL_OFF=0"}},
		{name: "name of the launcher's own", options: []string{"--variable", "RESIDENTCTL_RUNNING=s"}},
		{name: "variable of the launcher's own", options: []string{"--variable", "RESIDENTCTL_RUN=s", "--variable", "RESIDENTCTL_RUN=e:1",
			"--variable", "B=2", "--variable", "RESIDENTCTL_RUN=x"}},
		{name: "variable of the launcher's own, last", options: []string{"--variable", "B=2", "--variable", "RESIDENTCTL_RUN=s"}},
	})

	// The kernel takes a quarter of the stack's limit for strings and pointers
	// (execve(2)); here the limit for the stack is 8 MiB. The longer path of a
	// launcher file costs as many bytes.
	t.Run("up to ARG_MAX", func(t *testing.T) {
		const pointers, strings = 15000, 131072
		worked := 0
		for count := 14; count <= 16; count++ {
			for _, size := range []int{strings - 1, strings - 4096, strings - 20000} {
				sit := situation{options: []string{"--limit", limitStack, "8388608",
					"--arguments", fmt.Sprint(count), fmt.Sprint(size), "--arguments", fmt.Sprint(pointers - 1000), "1"}}
				want := s.start(t, plain.in(t, sit), nobody, program, command{})
				if want.Status == "exit status 0" {
					worked++
				}
				for _, w := range surroundedWays {
					if diff := cmp.Diff(want, s.start(t, w.in(t, sit), nobody, program, command{})); diff != "" {
						t.Errorf("%d times %d bytes: plain (-) and %s (+) differ:\n%s", count, size, w.name, diff)
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
// folders, as the interpreter of a script.
func TestNames(t *testing.T) {
	s := sharedStore(t)
	program := fixture(t, "multicall")
	s.add(t, program)
	s.try(t, program, []situation{
		{name: "by its path"},
		{name: "by a name", argv0: "yes", ways: exactly},
		{name: "by a path that is not there", argv0: "/nowhere/arguments", args: []string{"a", "", "b"}, ways: exactly},
		{name: "as a login shell", argv0: "-yes", ways: exactly},
	})

	// In a plain start the links lead to the program, in a resident one to its
	// launcher file; run is given the same path as a plain start.
	outcomes := func(t *testing.T, u user, target, name string) outcome {
		link := linkTo(t, target, name)
		return s.start(t, way{name: "link", argv: func(*store, string) (string, string, []string) { return link, name, nil }}, u,
			program, command{args: []string{"a", ""}, noise: []noise{{regexp.MustCompile(regexp.QuoteMeta(filepath.Dir(link))), "LINKS"}}})
	}
	for _, u := range users {
		for _, name := range []string{"yes", "arguments", "a-name-that-is-longer-than-comm"} {
			t.Run("link "+name+", "+u.name, func(t *testing.T) {
				if diff := cmp.Diff(outcomes(t, u, program, name), outcomes(t, u, s.launcher(program), name)); diff != "" {
					t.Errorf("link to the program (-) and to the launcher file (+) differ:\n%s", diff)
				}
				link := linkTo(t, program, name)
				straight := way{name: "plain", argv: func(*store, string) (string, string, []string) { return link, link, nil }}
				through := way{name: "run", argv: func(s *store, _ string) (string, string, []string) {
					return s.residentctl, "residentctl", []string{"run", "--store", s.dir, link}
				}}
				if diff := cmp.Diff(s.start(t, straight, u, program, command{}), s.start(t, through, u, program, command{})); diff != "" {
					t.Errorf("plain (-) and run (+) of a link differ:\n%s", diff)
				}
			})
		}
		t.Run("relative, "+u.name, func(t *testing.T) {
			relative := "../fixtures/multicall" // from the working folder
			plainly := way{name: "plain", argv: func(*store, string) (string, string, []string) { return relative, relative, nil }}
			byRun := way{name: "run", argv: func(s *store, _ string) (string, string, []string) {
				return s.residentctl, "residentctl", []string{"run", "--store", s.dir, relative}
			}}
			tool := situation{options: []string{"--umask", "022"}} // os/exec would look the path up itself
			// Without the capability run executes the launcher file, which knows the
			// program by its whole path.
			c := command{noise: []noise{{regexp.MustCompile("execfn .*multicall"), "execfn multicall"}}}
			if u == root {
				c.noise = nil
			}
			if diff := cmp.Diff(s.start(t, plainly.in(t, tool), u, program, c), s.start(t, byRun.in(t, tool), u, program, c)); diff != "" {
				t.Errorf("plain (-) and run (+) of a relative path differ:\n%s", diff)
			}
		})
		t.Run("script, "+u.name, func(t *testing.T) {
			interpreted := func(interpreter string) outcome {
				c := command{name: "script", args: []string{"argument"}, inputs: map[string]string{
					"script": "#!" + interpreter + " option\n"}, shell: "cp script run-me && chmod +x run-me",
					// argv[0] of an interpreter is its path in the script.
					noise: []noise{{regexp.MustCompile(regexp.QuoteMeta(interpreter)), "INTERPRETER"}}}
				return s.start(t, way{name: "script", argv: func(*store, string) (string, string, []string) {
					return "./run-me", "./run-me", nil
				}}, u, program, c)
			}
			want := interpreted(program)
			if !strings.Contains(want.Stdout, "run-me\n") {
				t.Fatalf("the script did not run: %v", want)
			}
			if diff := cmp.Diff(want, interpreted(s.launcher(program))); diff != "" {
				t.Errorf("script of the program (-) and of the launcher file (+) differ:\n%s", diff)
			}
		})
	}

	title := fixture(t, "title")
	s.add(t, title)
	s.try(t, title, []situation{{name: "title"}, {name: "title over arguments", args: []string{"one", "two"}}})
}

// TestInheritance: what a process has from its parent is as an exec leaves it.
func TestInheritance(t *testing.T) {
	s := sharedStore(t)
	program := fixture(t, "state")
	s.add(t, program)
	affinity := firstCPU(t)
	s.try(t, program, []situation{
		{name: "as it is", options: []string{"--umask", "0022"}},
		{name: "session", options: []string{"--session"}},
		{name: "process group", options: []string{"--group"}},
		{name: "children", options: []string{"--children"}},
		{name: "deleted folder", options: []string{"--deleted-folder"}},
		{name: "folder", options: []string{"--folder", "/usr/share", "--umask", "077"}},
		{name: "descriptors", options: []string{"--open", "3", "--open", "9", "--open-cloexec", "4", "--open", "255"}},
		{name: "high descriptors", options: []string{"--limit", limitDescriptors, "1024", "--open", "1023", "--open-cloexec", "1022"}},
		{name: "descriptor beyond the limit", options: []string{"--open", "900", "--limit", limitDescriptors, "64"}},
		{name: "no stdin", options: []string{"--close", "0"}},
		{name: "no stderr", options: []string{"--close", "2"}, normal: either},
		{name: "only stdout", options: []string{"--close", "0", "--close", "2"}, normal: either},
		{name: "descriptor 3 only", options: []string{"--open", "3", "--close", "0", "--close", "2"}, normal: either},
		{name: "signals blocked", options: []string{"--block", sigINT, "--block", sigRTMIN, "--block", sigUSR1}},
		{name: "signals pending", options: []string{"--pending", sigUSR1, "--pending", sigRTMIN, "--pending", sigRTMIN}},
		{name: "signals ignored", options: []string{"--ignore", sigUSR1, "--ignore", "1", "--ignore", "13"}},
		{name: "children ignored", options: []string{"--ignore", sigCHLD}},
		{name: "signals handled", options: []string{"--handle", sigUSR1, "--handle", "11", "--alternative-stack"}},
		{name: "no new privileges", options: []string{"--no-new-privileges"}},
		{name: "timer slack", options: []string{"--timer-slack", "123456"}},
		{name: "worse for the OOM killer", options: []string{"--oom-score", "500"}},
		{name: "nice", options: []string{"--nice", "7", "--io-priority", "0x4005"}},
		{name: "one CPU", options: []string{"--cpu", affinity}},
		{name: "batch", options: []string{"--scheduler", "3", "0"}},
		{name: "core filter", options: []string{"--core-filter", "0x7f", "--limit", limitCore, "0"}},
		{name: "death signal", options: []string{"--death-signal", "15"}},
		{name: "timer", options: []string{"--timer", "1000"}},
		{name: "no huge pages", options: []string{"--no-huge-pages"}},
		{name: "no new code", options: []string{"--no-new-code"}, users: onlyRoot},
		{name: "no new code", options: []string{"--no-new-code"}, users: onlyNobody, special: exeIsNotSet},
		{name: "subreaper", options: []string{"--subreaper"}},
		{name: "memory policy", options: []string{"--memory-policy"}, normal: either},
		{name: "no randomisation", options: []string{"--personality", noRandomisation}, special: notToBeRandom},
		{name: "readable is executable", options: []string{"--personality", readImpliesExec}},
		{name: "page 0", options: []string{"--personality", pageZero}, users: onlyRoot},
		{name: "compatible layout", options: []string{"--personality", compatLayout}, normal: either},
		{name: "old kernel's name", options: []string{"--personality", uname2}},
		{name: "all limits", shell: "ulimit -c 0 -d 800000 -f 100000 -l 8 -m 100000 -n 100 -q 1000 -s 4096 -t 77 -u 5000 -v 900000 -x 100"},

		{name: "root's limits and priorities", users: onlyRoot, ways: onTheMachine, options: []string{"--nice", "-5", "--scheduler", "1", "3",
			"--oom-score", "1", "--limit", limitDescriptors, "5000", "--open", "4999"}},
		{name: "bounding set", users: onlyRoot, options: []string{"--bounding", capNetBind, "--bounding", "21"}},
		{name: "no capability to say which file", users: onlyRoot, options: []string{"--bounding", "21", "--bounding", "40"}},
		{name: "securebits", users: onlyRoot, options: []string{"--securebits", "0x2f"}},
		{name: "groups", users: onlyRoot, options: []string{"--groups", "5", "77", "1000"}},
		{name: "ordinary user", users: onlyRoot, options: []string{"--user", "12345"}},
		{name: "ambient capability", users: onlyRoot, options: []string{"--capability", "12345", capNetBind}},
		{name: "ambient capability to say which file", users: onlyRoot, options: []string{"--capability", "12345", "40"}},
		{name: "pid namespace", users: onlyRoot, options: []string{"--pid-namespace"}},
		{name: "time namespace", users: onlyRoot, options: []string{"--time-namespace", "864000"}},
		{name: "time namespace in the past", users: onlyRoot, options: []string{"--time-namespace", "-1"}},
		{name: "namespaces", users: onlyRoot, options: []string{"--namespaces", "0x4E020000"}},
		{name: "user namespace", users: onlyRoot, options: []string{"--user-namespace"}},
		{name: "user namespace", users: onlyNobody, options: []string{"--user-namespace"}, normal: "not safe", special: withinAnother},
		{name: "chroot", users: onlyRoot, script: `mkdir root; mount --rbind / root`, options: []string{"--chroot", "root"}},
		{name: "cgroup", users: onlyRoot, script: cgroupScript},
	})
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
	s := sharedStore(t)
	space := fixture(t, "space")
	s.add(t, space)
	s.try(t, space, []situation{
		{name: "plain"},
		{name: "arguments", args: []string{"one", "", "two words"}},
		{name: "large vectors", options: []string{"--arguments", "1000", "100", "--variables", "1000", "100"}},
		{name: "no randomisation", options: []string{"--personality", noRandomisation}, special: notToBeRandom, differs: coveredLinker},
		{name: "small stack", options: []string{"--limit", limitStack, "1048576"}},
		{name: "no new code", options: []string{"--no-new-code"}, users: onlyRoot},
		{name: "no new code", options: []string{"--no-new-code"}, users: onlyNobody, special: exeIsNotSet},
	})

	stack := fixture(t, "stack")
	s.add(t, stack)
	s.try(t, stack, []situation{
		{name: "8 MiB", options: []string{"--limit", limitStack, "8388608"}},
		{name: "odd", options: []string{"--limit", limitStack, "1234567"}},
		{name: "64 MiB", options: []string{"--limit", limitStack, "67108864"}},
		{name: "1 GiB", options: []string{"--limit", limitStack, "1073741824"}, normal: either},
	})

	t.Run("executable stack", func(t *testing.T) {
		program := filepath.Join(folder(t), "execstack")
		compile(t, program, filepath.Join("fixtures", "space.c"), "-rdynamic", "-pthread", "-z", "execstack")
		if output, err := s.command("add", program).CombinedOutput(); err == nil || !strings.Contains(string(output), "executable stack") {
			t.Errorf("add of a program with an executable stack: %v\n%s", err, output)
		}
		for _, u := range users {
			if diff := cmp.Diff(s.start(t, plain, u, program, command{}), s.start(t, byRun, u, program, command{})); diff != "" {
				t.Errorf("plain (-) and run (+) differ:\n%s", diff)
			}
		}
	})
}

// TestSmallLimits: wherever a plain start is possible a resident one is, and does
// the same. The limits go down from what is enough to what is not.
func TestSmallLimits(t *testing.T) {
	s := sharedStore(t)
	program := fixture(t, "multicall")
	s.add(t, program)
	const kib, mib = 1 << 10, 1 << 20
	tests := []struct {
		name     string
		limit    string
		values   []int
		runNeeds int // what `run` needs itself
	}{
		// With less it is the kernel's random start of the stack within its last page
		// that decides, in every start anew.
		{"stack", limitStack, []int{16 * kib, 20 * kib, 24 * kib, 32 * kib, 40 * kib, 64 * kib, 100 * kib, 128 * kib, 136 * kib, 256 * kib}, 0},
		{"address space", limitAS, steps(1*mib, 4*mib, 128*kib, 48*mib, 64*mib), 48 * mib},
		{"data", limitData, steps(0, 512*kib, 32*kib, 48*mib, 64*mib), 48 * mib},
		{"descriptors", limitDescriptors, []int{0, 1, 2, 3, 4, 5, 6, 7, 8}, 0},
		{"file size", "1", []int{0, 1}, 0},
		{"locked memory", "8", []int{0}, 0},
		{"pending signals", "11", []int{0}, 0},
		{"processes", "6", []int{0}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			worked, enough := 0, map[string]bool{}
			for _, value := range test.values {
				sit := situation{options: []string{"--limit", test.limit, strconv.Itoa(value)}}
				for _, u := range users {
					want := s.start(t, plain.in(t, sit), u, program, command{})
					if want.Status != "exit status 0" {
						continue // it need not fail in the same way
					}
					worked++
					for _, w := range surroundedWays {
						if w.name == byRun.name && value < test.runNeeds {
							continue
						}
						// A normal start under exec takes some pages more (coveredLinker).
						if w.name == byExec.name && !enough[u.name] && slices.Contains([]string{limitAS, limitData}, test.limit) {
							continue
						}
						if diff := cmp.Diff(want, s.start(t, w.in(t, sit), u, program, command{})); diff != "" {
							t.Errorf("limit of %d as %s: plain (-) and %s (+) differ:\n%s", value, u.name, w.name, diff)
						}
					}
					enough[u.name] = true
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
// exec, whatever system calls its launcher would have liked to make.
func TestFilters(t *testing.T) {
	s := sharedStore(t)
	program := fixture(t, "multicall")
	s.add(t, program)
	// Those that a start may make and a plain one does not.
	extra := map[string]int{
		"stat": syscall.SYS_STAT, "mremap": syscall.SYS_MREMAP, "capget": syscall.SYS_CAPGET, "prctl": syscall.SYS_PRCTL,
		"rt_sigprocmask": syscall.SYS_RT_SIGPROCMASK, "rt_sigreturn": syscall.SYS_RT_SIGRETURN, "faccessat2": 439,
	}
	var situations []situation
	var all []string
	for name, number := range extra {
		situations = append(situations, situation{name: name + " refused", normal: either,
			options: []string{"--filter-errno", strconv.Itoa(number)}})
		if name == "prctl" { // the fixture itself asks for its name
			continue
		}
		situations = append(situations, situation{name: name + " kills", normal: either,
			options: []string{"--filter-kill", strconv.Itoa(number)}})
		all = append(all, strconv.Itoa(number))
	}
	situations = append(situations, situation{name: "all kill but prctl", normal: "filtered", ways: exactly,
		options: []string{"--filter-kill", strings.Join(all, ",")}})
	s.try(t, program, situations)
}
