package integration

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/pkg/plan"
)

// TestSecrets: what is random in a process is another in each of a thousand
// starts, and as random in a resident start as in a plain one.
func TestSecrets(t *testing.T) {
	const starts = 1000
	s := kit.SharedStore(t)
	programs := []struct{ name, path string }{
		{"position-independent", kit.Build(t, "random", kit.Part{Output: "random", Source: "random.c", Args: nil})},
		{"fixed", kit.Build(t, "random-fixed", kit.Part{Output: "random", Source: "random.c", Args: []string{"-no-pie", "-fno-pie"}})},
	}
	field := regexp.MustCompile(`(\w+)=(\S+)`)
	// collect counts the different values of each field; a start is by one of the
	// ways in turn.
	collect := func(t *testing.T, program string, starts int, c kit.Command, ways ...kit.Way) map[string]map[string]int {
		seen := map[string]map[string]int{}
		for i := range starts {
			got := s.Start(t, ways[i%len(ways)], kit.Users[i/2%2], program, c)
			if got.Status != "exit status 0" {
				t.Fatalf("start %d: %s\n%s%s", i, got.Status, got.Stdout, got.Stderr)
			}
			for _, match := range field.FindAllStringSubmatch(got.Stdout, -1) {
				if seen[match[1]] == nil {
					seen[match[1]] = map[string]int{}
				}
				seen[match[1]][match[2]]++
			}
		}
		return seen
	}
	for _, program := range programs {
		t.Run(program.name, func(t *testing.T) {
			s.Do(t, "add", "--even-if-slower", program.path)
			for _, w := range kit.ResidentWays {
				for _, u := range kit.Users {
					s.RequireResident(t, w, u, program.path, kit.Command{})
				}
			}
			resident := collect(t, program.path, starts, kit.Command{}, kit.ResidentWays...)
			for _, name := range []string{"canary", "guard", "random"} {
				if n := len(resident[name]); n != starts {
					t.Errorf("%d different values of %s in %d starts", n, name, starts)
				}
			}
			// The kernel has fewer places for a break, a stack and a mapping than there
			// are numbers: as many as in plain starts will do, give or take the chance.
			const sample = starts / 5
			plainly := collect(t, program.path, sample, kit.Command{}, kit.Plain)
			resident = collect(t, program.path, sample, kit.Command{}, kit.ResidentWays...)
			for _, name := range []string{"break", "stack", "mapping"} {
				want, got := len(plainly[name]), len(resident[name])
				t.Logf("%s: %d different in %d plain starts, %d in as many resident ones", name, want, sample, got)
				if got < want-sample/10 {
					t.Errorf("%s: %d different in %d plain starts, but %d in as many resident ones", name, want, sample, got)
				}
			}

			// Without randomisation the break is right after the program's data.
			fixed := kit.Command{Shell: `exec setarch --addr-no-randomize "$@"`}
			plainly = collect(t, program.path, 4, fixed, kit.Plain)
			resident = collect(t, program.path, 8, fixed, kit.ResidentWays...)
			if len(plainly["break"]) != 1 || len(resident["break"]) != 1 {
				t.Errorf("without randomisation: break at %v in plain starts, at %v in resident ones", plainly["break"], resident["break"])
			}
			for distance := range plainly["break"] {
				if resident["break"][distance] == 0 {
					t.Errorf("without randomisation: break at %v in plain starts, at %v in resident ones", plainly["break"], resident["break"])
				}
			}
			for _, name := range []string{"canary", "guard"} {
				if len(resident[name]) != 8 {
					t.Errorf("%s does not change without randomisation of addresses", name)
				}
			}
		})
	}
}

// TestOldSecrets looks at all memory of resident processes that are in main:
// neither the canary and the pointer guard of the process that was dumped are
// there, nor a pointer that was mangled with that guard.
func TestOldSecrets(t *testing.T) {
	s := kit.SharedStore(t)
	// Each reads its stdin in main.
	programs := []struct {
		name, path string
		args       []string
	}{
		{"fixture", kit.Build(t, "random", kit.Part{Output: "random", Source: "random.c", Args: nil}), []string{"wait"}},
		{"C++", kit.Fixture(t, "cxx-main"), nil},
		{"perl", "/usr/bin/perl", []string{"-e", `$| = 1; print "main\n"; <STDIN>`}},
		{"bash", "/usr/bin/bash", []string{"-c", "echo main; read"}},
	}
	for _, program := range programs {
		t.Run(program.name, func(t *testing.T) {
			if _, err := os.Stat(program.path); err != nil {
				t.Skip(err)
			}
			s.Do(t, "add", "--even-if-slower", program.path)
			oldCanary, oldGuard := dumpedSecrets(t, s, program.path)
			for _, w := range kit.ResidentWays {
				for _, u := range kit.Users {
					process := startWaiting(t, s, w, u, program.path, program.args)
					m := readMemory(t, process.pid)
					canary, guard := m.threadSecrets(t)
					if canary == oldCanary || guard == oldGuard {
						t.Fatalf("%s as %s: the secrets are the image's", w.Name, u.Name)
					}
					// That the search finds what is there is shown by the new ones: the
					// pointer guard in the thread's block and in the dynamic linker, and
					// the handler that the dynamic linker registered for exit, mangled.
					if m.count(canary) < 1 || m.count(guard) < 2 || m.mangled(guard) < 1 {
						t.Errorf("%s as %s: the new canary is in %d places, the new guard in %d, mangled pointers in %d",
							w.Name, u.Name, m.count(canary), m.count(guard), m.mangled(guard))
					}
					if c, g, p := m.count(oldCanary), m.count(oldGuard), m.mangled(oldGuard); c+g+p != 0 {
						t.Errorf("%s as %s: the old canary is in %d places, the old guard in %d, pointers mangled with it in %d",
							w.Name, u.Name, c, g, p)
					}
					process.end(t)
				}
			}
		})
	}
}

// dumpedSecrets are the canary and the pointer guard of the process that was
// dumped for the program, from the image's pages.
func dumpedSecrets(t *testing.T, s *kit.Store, program string) (canary, guard uint64) {
	t.Helper()
	raw, err := os.ReadFile(s.Plan(t, program))
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range p.Fixups {
		if f.Kind != plan.FixCanary && f.Kind != plan.FixGuard {
			continue
		}
		old := uint64(0)
		for _, file := range p.Files {
			if file.Flags&plan.FilePages == 0 {
				continue
			}
			for _, m := range file.Maps {
				if f.Addr < m.Addr || f.Addr >= m.Addr+m.Len {
					continue
				}
				pages, err := os.Open(filepath.Join(s.Dir, file.Path))
				if err != nil {
					t.Fatal(err)
				}
				var word [8]byte
				_, err = pages.ReadAt(word[:], int64(m.Off+f.Addr-m.Addr))
				pages.Close()
				if err != nil {
					t.Fatal(err)
				}
				old = binary.LittleEndian.Uint64(word[:])
			}
		}
		if f.Kind == plan.FixCanary {
			canary = old
		} else {
			guard = old
		}
	}
	if canary == 0 || guard == 0 {
		t.Fatalf("the image has the canary %#x and the guard %#x", canary, guard)
	}
	return canary, guard
}

// A waiting process has reached main, said so in a line, and reads its stdin.
type waiting struct {
	pid   int
	stdin io.Closer
	wait  func() error
}

func startWaiting(t *testing.T, s *kit.Store, w kit.Way, u kit.User, program string, args []string) *waiting {
	t.Helper()
	path, argv0, words := w.Argv(s, program)
	cmd := exec.Command(path, append(words, args...)...)
	cmd.Args[0] = argv0
	cmd.Dir = kit.Temporary
	cmd.Env = s.Environment(kit.Temporary)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.ID, Gid: u.ID}, Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatalf("%s of %s: %v", w.Name, program, err)
	}
	return &waiting{cmd.Process.Pid, stdin, cmd.Wait}
}

func (p *waiting) end(t *testing.T) {
	t.Helper()
	p.stdin.Close()
	if err := p.wait(); err != nil && !strings.HasPrefix(err.Error(), "exit status") {
		t.Error(err)
	}
}

// memory is what a process can read.
type memory struct {
	pid    int
	ranges []memoryRange
}

type memoryRange struct {
	start, end uint64
	content    []byte
}

func readMemory(t *testing.T, pid int) *memory {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	m := &memory{pid: pid}
	image := false
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		from, to, _ := strings.Cut(fields[0], "-")
		start, err := strconv.ParseUint(from, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		end, err := strconv.ParseUint(to, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		image = image || strings.HasPrefix(filepath.Base(fields[len(fields)-1]), "pages-")
		r := memoryRange{start: start, end: end}
		// The kernel's own cannot be read, and hold nothing of the process.
		if fields[1][0] == 'r' && !strings.Contains(line, "[v") {
			r.content = make([]byte, end-start)
			n, err := mem.ReadAt(r.content, int64(start))
			if n == 0 {
				t.Fatalf("read %s: %v", strings.TrimSpace(line), err)
			}
		}
		m.ranges = append(m.ranges, r)
	}
	if !image {
		t.Fatalf("the process is not resident:\n%s", raw)
	}
	return m
}

// threadSecrets are those in force: glibc, sysdeps/x86_64/nptl/tls.h, tcbhead_t.
// AT_RANDOM has them too; it is read from there, so that the thread's own words
// are part of what is searched.
func (m *memory) threadSecrets(t *testing.T) (canary, guard uint64) {
	t.Helper()
	auxv, err := os.ReadFile(fmt.Sprintf("/proc/%d/auxv", m.pid))
	if err != nil {
		t.Fatal(err)
	}
	const atRandom = 25 // <linux/auxvec.h>
	for ; len(auxv) >= 16; auxv = auxv[16:] {
		if binary.LittleEndian.Uint64(auxv) != atRandom {
			continue
		}
		at := binary.LittleEndian.Uint64(auxv[8:])
		for _, r := range m.ranges {
			if at >= r.start && at < r.end {
				random := r.content[at-r.start:]
				return binary.LittleEndian.Uint64(random) &^ 0xff, binary.LittleEndian.Uint64(random[8:])
			}
		}
	}
	t.Fatal("no AT_RANDOM in the auxiliary vector")
	return 0, 0
}

// count is in how many places a word stands, aligned or not. The canary's copy in
// AT_RANDOM has another first byte and does not count.
func (m *memory) count(word uint64) int {
	n := 0
	pattern := binary.LittleEndian.AppendUint64(nil, word)
	for _, r := range m.ranges {
		n += bytes.Count(r.content, pattern)
	}
	return n
}

// mangled is how many words are pointers that were mangled with the guard: glibc,
// sysdeps/unix/sysv/linux/x86_64/pointer_guard.h, PTR_MANGLE.
func (m *memory) mangled(guard uint64) int {
	n := 0
	for _, r := range m.ranges {
		for i := 0; i+8 <= len(r.content); i += 8 {
			pointer := bits.RotateLeft64(binary.LittleEndian.Uint64(r.content[i:]), -17) ^ guard
			if pointer>>47 == 0 && m.mapped(pointer) {
				n++
			}
		}
	}
	return n
}

func (m *memory) mapped(address uint64) bool {
	for _, r := range m.ranges {
		if address >= r.start && address < r.end {
			return true
		}
	}
	return false
}
