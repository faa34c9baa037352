package launcher

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/plan"
)

// witness writes testdata/witness.c, compiled, into dir.
func witness(t *testing.T, dir string) string {
	t.Helper()
	requireTool(t, "gcc")
	program, err := compiledWitness()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "witness")
	writeFile(t, bin, program, 0o755)
	return bin
}

var compiledWitness = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "witness-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "witness")
	out, err := exec.Command("gcc", "-std=c11", "-Os", "-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-fno-pie",
		"-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns", "-mgeneral-regs-only", "-fno-strict-aliasing",
		"-static", "-no-pie", "-nostdlib", "-Wl,-Ttext-segment=0x10000000,-z,noseparate-code,--build-id=none",
		"-I", "src", "-o", bin, "testdata/witness.c").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("gcc: %w\n%s", err, out)
	}
	return os.ReadFile(bin)
})

// openDirectory is a temporary directory that every user may enter.
func openDirectory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A saying is what a witness has said, by its lines' first words.
type saying map[string][]string

// An ending is how a process ended.
type ending struct {
	status int
	stdout string
	stderr string
}

func run(t *testing.T, cmd *exec.Cmd) ending {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return ending{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func (e ending) said() saying {
	s := saying{}
	report, maps, _ := strings.Cut(e.stdout, "\nmaps ")
	s["maps"] = strings.Split(strings.TrimSpace(maps), "\n")
	for line := range strings.Lines(report + "\n") {
		word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		s[word] = append(s[word], rest)
	}
	return s
}

func (s saying) one(word string) string { return strings.Join(s[word], ",") }

func (s saying) hex(t *testing.T, word string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s.one(word), 16, 64)
	if err != nil {
		t.Errorf("%s: %v", word, err)
	}
	return n
}

const (
	witnessText  = 0x10000000
	witnessWords = 0x20000000 // read-only in the end
	witnessData  = 0x20001000
	witnessFresh = 0x20002000
	witnessBrk   = 0x30000000
	witnessVDSO  = 0x7e0000000000
)

// witnessPlan writes CRIU's part in dir, and gives the plan that makes a
// process the witness.
func witnessPlan(t *testing.T, dir, bin string) *plan.Plan {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pages := filepath.Join(dir, "pages-1.img")
	must(os.WriteFile(pages, make([]byte, 3*4096), 0o644))
	id := func(path string) plan.FileID {
		id, err := linux.StatID(path)
		must(err)
		return id
	}
	raw, err := os.ReadFile("/proc/self/auxv")
	must(err)
	aux, err := linux.ParseAuxv(raw)
	must(err)
	boot, err := linux.BootID()
	must(err)
	f, err := elf.Open(bin)
	must(err)
	defer f.Close()
	symbols, err := f.Symbols()
	must(err)
	symbol := func(name string) uint64 {
		i := slices.IndexFunc(symbols, func(s elf.Symbol) bool { return s.Name == name })
		return symbols[i].Value
	}
	var size uint64
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD {
			size = (p.Filesz + 4095) &^ 4095
		}
	}

	const private = unix.MAP_PRIVATE | unix.MAP_FIXED_NOREPLACE
	p := &plan.Plan{
		Kind: plan.KindLinked, Path: bin, Real: bin, ID: "by-hand",
		Files: []plan.MappedFile{
			{Path: bin, Flags: plan.FileProgram | plan.FileExe, ID: id(bin),
				Maps: []plan.Map{{Addr: witnessText, Len: size, Prot: unix.PROT_READ | unix.PROT_EXEC, Flags: private}}},
			{Path: filepath.Base(pages), Flags: plan.FilePages, ID: id(pages), Maps: []plan.Map{
				{Addr: witnessWords, Len: 4096, Prot: unix.PROT_READ | unix.PROT_WRITE, Flags: private},
				{Addr: witnessData, Len: 4096, Off: 8192, Prot: unix.PROT_READ | unix.PROT_WRITE, Flags: private},
			}},
		},
		Anon:        []plan.Map{{Addr: witnessFresh, Len: 8192, Prot: unix.PROT_READ | unix.PROT_WRITE, Flags: private | unix.MAP_ANONYMOUS}},
		Protects:    []plan.Protect{{Addr: witnessWords, Len: 4096, Prot: unix.PROT_READ}},
		Checks:      []plan.CheckedFile{{Path: "/proc/version", ID: id("/proc/version")}, {Path: "/does/not/exist"}},
		Directories: []plan.SearchedDirectory{{Path: dir, Misses: []string{filepath.Join(dir, "missing.so")}}},
		Caller: plan.Caller{
			HWCap: aux.Value(linux.ATHWCap), HWCap2: aux.Value(linux.ATHWCap2), PageSize: aux.Value(linux.ATPageSize),
			ClockTick: aux.Value(linux.ATClockTick), Flags: aux.Value(linux.ATFlags), MinSigStack: aux.Value(linux.ATMinSigStackSize),
			RseqSize: aux.Value(linux.ATRseqFeatureSize), RseqAlign: aux.Value(linux.ATRseqAlign),
		},
		VDSO: plan.VDSO{Addr: witnessVDSO},
		MM:   plan.MM{StartCode: witnessText, EndCode: witnessText + size, StartData: witnessData, EndData: witnessData + 4096, BrkBase: witnessBrk},
		Kernel: plan.Kernel{FSBase: witnessData, TIDAddr: witnessData + 0x100, RobustHead: witnessData + 0x200, RobustLen: 24,
			RseqAddr: witnessData + 0x400, RseqLen: 32, RseqSig: 0x53053053},
		Entry: plan.Entry{RIP: f.Entry, RBX: 0xb0b, R12: 1, Gadget: symbol("gadget"), SigReturn: symbol("sig_return"),
			Phdr: witnessText + 64, Phent: 56, Phnum: uint64(len(f.Progs)), ProgramEntry: f.Entry},
		Stop: plan.Stop{Addr: f.Entry, Point: plan.StopEntry},
	}
	copy(p.Caller.BootID[:], boot)
	for kind := range uint32(plan.FixStackSize + 1) {
		p.Fixups = append(p.Fixups, plan.Fixup{Addr: witnessWords + 8*uint64(kind), Kind: kind, Size: 8})
	}
	// A word of four bytes leaves its neighbour alone.
	p.Fixups[plan.FixTID].Size = 4

	maps, err := linux.ReadMaps(os.Getpid())
	must(err)
	n := 0
	for _, m := range maps {
		if m.Kernel() && m.Path != "[vsyscall]" {
			if m.Path == "[vdso]" {
				p.VDSO.Code = p.VDSO.Addr + p.VDSO.Len
			}
			p.VDSO.Parts[n], n = m.Len(), n+1
			p.VDSO.Len += m.Len()
		}
	}
	p.Caller.MapsEnd = p.VDSO.Addr + p.VDSO.Len
	return p
}

// write puts the plan where a launcher finds it.
func write(t *testing.T, path string, p *plan.Plan) {
	t.Helper()
	raw, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, raw, 0o644)
}

func writeFile(t *testing.T, path string, b []byte, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
}

// launcherFile writes the launcher file of a program.
// storeIn is a directory, which need not be there, as a launcher knows it.
func storeIn(dir string) Store {
	id, _ := linux.StatID(dir)
	return Store{dir, id.Inode()}
}

// storeOf is a directory with this device and inode.
func storeOf(dir string, dev, ino uint64) Store { return Store{dir, linux.Inode{Dev: dev, Ino: ino}} }

func launcherFile(t *testing.T, path, program, planPath string) string {
	t.Helper()
	raw, err := File(0, storeIn(filepath.Dir(planPath)), filepath.Base(planPath), program, 0)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, raw, 0o755)
	return path
}
