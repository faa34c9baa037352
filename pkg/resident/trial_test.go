package resident

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/launcher"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// wantWrong fails unless err is errTrial, with a hint, that says want; or nil if
// want is "".
func wantWrong(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && (!errors.Is(err, errTrial) || problem.HintOf(err) != trialHint || !strings.Contains(err.Error(), "the trial start failed: "+want)):
		t.Errorf("got %v, want %q", err, want)
	}
}

// TestTrialStartsNormally: what the launcher says of a normal start is the reason.
func TestTrialStartsNormally(t *testing.T) {
	dir := t.TempDir()
	id, err := linux.StatID(dir)
	if err != nil {
		t.Fatal(err)
	}
	start, err := writeStarter(launcher.Store{Dir: dir, Inode: id.Inode()}, dir, 0, &plan.Plan{Path: "/bin/true"}, []byte("no plan"))
	if err != nil {
		t.Fatal(err)
	}
	proc, err := startTrial(t.Context(), start, &plan.Plan{Path: "/bin/true", Entry: plan.Entry{RIP: plan.Nowhere}})
	if err == nil {
		_ = proc.Kill()
	}
	wantWrong(t, err, "residentctl: /bin/true: started normally: its plan is damaged")
}

// TestTrialAdvice: what `residentctl check` says does not lead to it.
func TestTrialAdvice(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
	}{
		{wrong("rsp is 0"), "report it"},
		{wrong("odd: %w", problem.Refusef("slow").WithHint("try later")), "try later"},
		{otherFormat(criuwrap.Release{}, "criu", criuwrap.ErrUnsupported), "another version"},
		{&criuwrap.Error{Op: "dump"}, "CRIU's log"},
		{problem.Refusef("odd").WithHint("do this"), "do this"},
		{fmt.Errorf("/lib/a %w", fingerprint.ErrChanged), "try again"},
		{unix.EPERM, "forbids it"},
		{errors.New("odd"), ""},
	} {
		if got := trialAdvice(tc.err); !strings.Contains(got, tc.want) || (got == "") != (tc.want == "") || strings.Contains(got, "residentctl check") {
			t.Errorf("%v: %q, want something about %q", tc.err, got, tc.want)
		}
	}
}

func TestCompareRegisters(t *testing.T) {
	for _, tc := range []struct {
		want   string
		change func(p *ptrace.Process, auxv linux.Auxv)
	}{
		{"", func(*ptrace.Process, linux.Auxv) {}},
		{"rsp is 0x7ff8 instead of 0x7000", func(p *ptrace.Process, _ linux.Auxv) { p.Regs.Rsp = 0x7ff8 }},
		{"r12 is 0x1 instead of 0x100", func(p *ptrace.Process, _ linux.Auxv) { p.Regs.R12 = 1 }},
		{"the thread pointer is 0x1", func(p *ptrace.Process, _ linux.Auxv) { p.Regs.Fs_base = 1 }},
		{"the robust list is 0x0", func(p *ptrace.Process, _ linux.Auxv) { p.RobustHead = 0 }},
		{"rseq is 0x0", func(p *ptrace.Process, _ linux.Auxv) { p.Rseq.Addr = 0 }},
		{"AT_PHDR is 0x1", func(_ *ptrace.Process, auxv linux.Auxv) { auxv[0].Value = 1 }},
		{"AT_PHNUM is 0x1", func(_ *ptrace.Process, auxv linux.Auxv) { auxv[1].Value = 1 }},
		{"AT_BASE is 0x1", func(_ *ptrace.Process, auxv linux.Auxv) { auxv[2].Value = 1 }},
		{"AT_ENTRY is 0x1", func(_ *ptrace.Process, auxv linux.Auxv) { auxv[3].Value = 1 }},
		{"AT_SYSINFO_EHDR is 0x1", func(_ *ptrace.Process, auxv linux.Auxv) { auxv[4].Value = 1 }},
	} {
		p := &plan.Plan{
			Entry:  plan.Entry{R12: 0x100, Phdr: 0x200, Phnum: 11, Base: 0x300, ProgramEntry: 0x400},
			Kernel: plan.Kernel{FSBase: 0x500, RobustHead: 0x600, RseqAddr: 0x700},
			VDSO:   plan.VDSO{Code: 0x800},
		}
		proc := &ptrace.Process{RobustHead: 0x600, Rseq: ptrace.RseqConfig{Addr: 0x700}}
		proc.Regs.Rsp, proc.Regs.R12, proc.Regs.Fs_base = 0x7000, 0x100, 0x500
		auxv := linux.Auxv{
			{Type: linux.ATPhdr, Value: 0x200}, {Type: linux.ATPhnum, Value: 11}, {Type: linux.ATBase, Value: 0x300},
			{Type: linux.ATEntry, Value: 0x400}, {Type: linux.ATSysinfoEhdr, Value: 0x800},
		}
		tc.change(proc, auxv)
		wantWrong(t, compareRegisters(p, proc, linux.InitialStack{SP: 0x7000}, auxv), tc.want)
	}
}

func TestCompareMaps(t *testing.T) {
	const r, rw, rx = unix.PROT_READ, unix.PROT_READ | unix.PROT_WRITE, unix.PROT_READ | unix.PROT_EXEC
	file := func(from, to, off uint64, prot int) linux.Mapping {
		return linux.Mapping{Start: from, End: to, Offset: off, Prot: prot, Ino: 7, Path: "/bin/p"}
	}
	good := []linux.Mapping{
		file(0x1000, 0x3000, 0, rx), file(0x3000, 0x4000, 0x8000, r), // RELRO, protected in the end
		{Start: 0x4000, End: 0x6000, Prot: rw},
		{Start: 0x7ffd000, End: 0x7fff000, Prot: rw, Path: "[stack]"},
		{Start: 0x9ffd000, End: 0x9fff000, Prot: rx, Path: "[vdso]"},
	}
	for _, tc := range []struct {
		name, want string
		change     func(maps []linux.Mapping) []linux.Mapping
	}{
		{"right", "", func(m []linux.Mapping) []linux.Mapping { return m }},
		{"cut", "", func(m []linux.Mapping) []linux.Mapping {
			return append(m[1:], file(0x1000, 0x2000, 0, rx), file(0x2000, 0x3000, 0x1000, rx))
		}},
		{"left writable", "there is 3000-4000 prot 3", func(m []linux.Mapping) []linux.Mapping { m[1].Prot = rw; return m }},
		{"of another file", "there is 1000-3000 prot 5 inode 8", func(m []linux.Mapping) []linux.Mapping { m[0].Ino = 8; return m }},
		{"from elsewhere in the file", "there is 1000-3000 prot 5 inode 7 offset 0x1000", func(m []linux.Mapping) []linux.Mapping { m[0].Offset = 0x1000; return m }},
		{"at another place", "there is 5000-6000", func(m []linux.Mapping) []linux.Mapping { m[2].Start = 0x5000; return m }},
		{"one too few", "it has 2 mappings instead of 3", func(m []linux.Mapping) []linux.Mapping { return append(m[:2], m[3:]...) }},
		{"one too many", "it has 4 mappings instead of 3", func(m []linux.Mapping) []linux.Mapping {
			return append(m, linux.Mapping{Start: 0x8000, End: 0x9000, Prot: r})
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &plan.Plan{
				Files: []plan.MappedFile{{ID: linux.FileID{Ino: 7}, Maps: []plan.Map{
					{Addr: 0x1000, Len: 0x2000, Prot: rx}, {Addr: 0x3000, Len: 0x1000, Off: 0x8000, Prot: rw},
				}}},
				Anon:     []plan.Map{{Addr: 0x4000, Len: 0x2000, Prot: rw}},
				Protects: []plan.Protect{{Addr: 0x3000, Len: 0x1000, Prot: r}},
			}
			wantWrong(t, compareMaps(p, tc.change(append([]linux.Mapping(nil), good...))), tc.want)
		})
	}
}

// TestComparePages has this process be the one that was started.
func TestComparePages(t *testing.T) {
	const canary, rseq = 0x40, 0x100
	memory, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(memory) }()
	at := uint64(uintptr(unsafe.Pointer(&memory[0])))
	random := []byte("0123456789abcdef")
	pages := filepath.Join(t.TempDir(), "pages-1.img")
	image := make([]byte, 4096)
	image[5] = 55
	copy(image[canary:], "dumped's")
	if err := os.WriteFile(pages, image, 0o600); err != nil {
		t.Fatal(err)
	}
	p := &plan.Plan{
		Files:  []plan.MappedFile{{Maps: []plan.Map{{Addr: at, Len: 4096}}}},
		Fixups: []plan.Fixup{{Addr: at + canary, Kind: plan.FixCanary, Size: 8}},
		Kernel: plan.Kernel{RseqAddr: at + rseq, RseqLen: 32},
	}
	for _, tc := range []struct {
		name, want string
		change     func()
	}{
		{"right", "", func() {}},
		{"what the kernel writes", "", func() { memory[rseq+4] = 1 }},
		{"another byte", "the byte at ", func() { memory[5] = 56 }},
		{"after the kernel's", "the byte at ", func() { memory[rseq+32] = 1 }},
		{"a canary that was not corrected", "the byte at ", func() { copy(memory[canary:], "dumped's") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			copy(memory, image)
			binary.LittleEndian.PutUint64(memory[canary:], binary.LittleEndian.Uint64(random)&^0xff)
			tc.change()
			stack := linux.InitialStack{Random: uint64(uintptr(unsafe.Pointer(&random[0])))}
			wantWrong(t, comparePages(p, pages, &ptrace.Process{PID: os.Getpid()}, stack), tc.want)
		})
	}
}

func TestSameDomain(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ours := file("ours", "unconfined\n")
	for _, tc := range []struct{ name, ours, its, want string }{
		{"the same", ours, file("same", "unconfined\n"), ""},
		{"a profile of its own", ours, file("other", "man_groff (enforce)\n\x00"), `the security domain "man_groff (enforce)"`},
		{"no such module", filepath.Join(dir, "none"), filepath.Join(dir, "none"), ""},
		{"it has gone", ours, filepath.Join(dir, "none"), ""},
	} {
		err := sameDomain(tc.ours, tc.its)
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", tc.name, err)
		case tc.want != "" && (problem.KindOf(err) != problem.Refused || !strings.Contains(err.Error(), tc.want) || problem.HintOf(err) == ""):
			t.Errorf("%s: %v, want something about %q and a hint", tc.name, err, tc.want)
		}
	}
}

// TestRefusedWhileChanged: a refusal counts only of a program that is still there.
func TestRefusedWhileChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	replace := func() {
		t.Helper()
		content, err := os.ReadFile("/proc/self/exe")
		if err == nil {
			err = os.WriteFile(path+".new", content, 0o755)
		}
		if err := errors.Join(err, os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	replace()
	program, err := elfinfo.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	a, refusal, failure := &adding{inspected: program.ID}, problem.Refusef("it differs"), errors.New("disk full")
	for _, err := range []error{refusal, failure} {
		if got := a.changedMeanwhile(path, err); got != err {
			t.Errorf("unchanged: %v became %v", err, got)
		}
	}
	replace()
	if got := a.changedMeanwhile(path, refusal); !errors.Is(got, fingerprint.ErrChanged) || !errors.Is(got, refusal) {
		t.Errorf("replaced: %v", got)
	}
	if got := a.changedMeanwhile(path, failure); got != failure {
		t.Errorf("replaced: %v became %v", failure, got)
	}
	if got := (&adding{}).changedMeanwhile(path, refusal); got != refusal {
		t.Errorf("refused by inspection: %v", got)
	}
}
