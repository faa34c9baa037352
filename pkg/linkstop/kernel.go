package linkstop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/plural"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// A KernelFeature is something that making or starting an image needs of the
// kernel, tried out.
type KernelFeature struct {
	Name   string
	Detail string // what was seen
	Err    error  // nil: it works
	// Optional is a feature without which everything works, if not as well.
	Optional bool
	Without  string // what it means that it does not work
}

// kernelTests are what ProbeKernel tries, each in a process of its own that
// is at its exec stop.
var kernelTests = []struct {
	name     string
	optional bool
	try      func(c *guinea) (string, error)
	without  string
}{
	{"ptrace", false, (*guinea).ptraced, "no program can be made resident here: allow ptrace (kernel.yama.ptrace_scope, the container's seccomp filter)"},
	{"hardware breakpoints", true, (*guinea).breakpoint, "breakpoints are written into the program's text instead, which costs one copied page a template"},
	{"system call filters", false, (*guinea).filters, "no program can be made resident here: a kernel with CONFIG_SECCOMP_FILTER is needed, and a container that allows seccomp(2)"},
	{"close_range", false, (*guinea).closeRange, "the kernel is too old: Linux 5.9 or newer is needed"},
	{"MAP_FIXED_NOREPLACE", false, (*guinea).noReplace, "the kernel is too old (before Linux 4.17) or filters mmap: resident starts would be refused"},
	{"moving the vDSO", false, (*guinea).moveVDSO, "the kernel forbids mremap of the vDSO (mseal, a seccomp filter): every start will be a normal one"},
	{"rseq", false, (*guinea).rseq, "rseq(2) is missing or filtered: glibc's programs will start normally"},
	{"PR_SET_MM_MAP", false, (*guinea).setMM, "a kernel with CONFIG_CHECKPOINT_RESTORE is needed; without it CRIU does not work either"},
	{"setting /proc/PID/exe", true, (*guinea).setExe, "in a start by this user a child in a user namespace sets it, for programs that look at themselves; root, and who has CAP_CHECKPOINT_RESTORE, need none"},
	{"user namespaces", true, (*guinea).userNamespace, "in a start by an ordinary user /proc/self/exe is the launcher file, and programs that read their own file start normally"},
}

// ProbeKernel tries out what is needed of the kernel, by doing it in processes
// of the program at path, which never execute an instruction of their own: any
// 64-bit program will do.
func ProbeKernel(ctx context.Context, path string) []KernelFeature {
	var features []KernelFeature
	for _, test := range kernelTests {
		f := KernelFeature{Name: test.name, Optional: test.optional, Without: test.without}
		f.Detail, f.Err = inGuinea(ctx, path, test.try)
		features = append(features, f)
		if test.name == "ptrace" && f.Err != nil {
			break // the others need it
		}
	}
	return features
}

// A guinea is a process at its exec stop that something is tried out in.
type guinea struct {
	*ptrace.Tracer
	pid     int
	insn    uint64 // a SYSCALL instruction that is not the vDSO's
	maps    []linux.Mapping
	regs    ptrace.Regs
	scratch uint64 // an address on the stack with a page of nothing below the stack pointer
}

func inGuinea(ctx context.Context, path string, try func(*guinea) (string, error)) (detail string, err error) {
	const timeout = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	g := &guinea{Tracer: ptrace.NewTracer()}
	defer g.End()
	err = g.Run(ctx, func() error {
		if err := g.begin(path); err != nil {
			return err
		}
		detail, err = try(g)
		return err
	})
	return detail, err
}

// begin starts the process.
func (g *guinea) begin(path string) (err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	fd := null.Fd()
	if g.pid, err = g.Start(path, []string{path}, nil, "/", [3]uintptr{fd, fd, fd}); err != nil {
		return err
	}
	if g.regs, err = g.Regs64(g.pid); err != nil {
		return err
	}
	if g.maps, err = linux.ReadMaps(g.pid); err != nil {
		return err
	}
	var files []linux.Mapping
	for _, m := range g.maps {
		if !m.Kernel() {
			files = append(files, m)
		}
	}
	g.scratch = (g.regs.Rsp - 4096) &^ 63
	g.insn, err = ptrace.FindSyscall(g.pid, files)
	return err
}

// call makes a system call in the process.
func (g *guinea) call(nr uint64, args ...uint64) (uint64, error) {
	return g.Inject(g.pid, g.insn, nr, args...)
}

func (g *guinea) ptraced() (string, error) {
	pid, err := g.call(unix.SYS_GETPID)
	if err == nil && int(pid) != g.pid {
		err = fmt.Errorf("an injected getpid answered %d instead of %d", pid, g.pid)
	}
	return "a child was stopped and made a system call for us", err
}

func (g *guinea) breakpoint() (string, error) {
	return "a child stopped at one", g.TryDebugRegister(g.pid)
}

func (g *guinea) filters() (string, error) {
	return "a child made one for itself", filter(g.Tracer, g.pid, g.insn, g.regs.Rsp)
}

func (g *guinea) closeRange() (string, error) {
	_, err := g.call(unix.SYS_CLOSE_RANGE, 3, 1<<32-1, 0)
	return "", err
}

func (g *guinea) noReplace() (string, error) {
	const flags = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	none := ^uint64(0)
	at, err := g.call(unix.SYS_MMAP, 0, 8192, unix.PROT_READ, flags, none, 0)
	if err != nil {
		return "", err
	}
	if _, err := g.call(unix.SYS_MMAP, at, 4096, unix.PROT_READ, flags|unix.MAP_FIXED_NOREPLACE, none, 0); err != unix.EEXIST {
		return "", fmt.Errorf("mapping over a mapping gave %v instead of %v", err, unix.EEXIST)
	}
	if _, err := g.call(unix.SYS_MUNMAP, at, 8192); err != nil {
		return "", err
	}
	got, err := g.call(unix.SYS_MMAP, at, 4096, unix.PROT_READ, flags|unix.MAP_FIXED_NOREPLACE, none, 0)
	if err == nil && got != at {
		err = fmt.Errorf("mapped at %#x instead of %#x", got, at)
	}
	return "", err
}

// moveVDSO moves it as the launcher does, each part by the same distance.
func (g *guinea) moveVDSO() (string, error) {
	var parts []linux.Mapping
	for _, m := range g.maps {
		if m.Kernel() && m.Path != "[vsyscall]" {
			parts = append(parts, m)
		}
	}
	if len(parts) == 0 {
		return "", errors.New("there is none")
	}
	size := parts[len(parts)-1].End - parts[0].Start
	to, err := g.call(unix.SYS_MMAP, 0, size, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uint64(0), 0)
	if err != nil {
		return "", err
	}
	for _, m := range parts {
		_, err := g.call(unix.SYS_MREMAP, m.Start, m.Len(), m.Len(),
			unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, to+(m.Start-parts[0].Start))
		if err != nil {
			return "", fmt.Errorf("mremap of %s: %w", m.Path, err)
		}
	}
	return plural.Count(len(parts), "mapping"), nil
}

// rseq registers the area that every kernel takes: 32 bytes (rseq.h,
// ORIG_RSEQ_SIZE), with glibc's signature.
func (g *guinea) rseq() (string, error) {
	const size, signature = 32, 0x53053053
	if _, err := g.call(unix.SYS_RSEQ, g.scratch, size, 0, signature); err != nil {
		return "", err
	}
	c, err := ptrace.Rseq(g.pid)
	if err == nil && c.Addr != g.scratch {
		err = errors.New("ptrace does not show its registration (requires Linux 5.13)")
	}
	return "", err
}

func (g *guinea) setMM() (string, error) {
	return "", g.describe(^uint32(0))
}

// setExe names descriptor 0 as the executable. That is /dev/null, so the kernel
// refuses, but a caller without the capability it refuses first, with EPERM
// (kernel/sys.c, prctl_set_mm_map).
func (g *guinea) setExe() (string, error) {
	switch err := g.describe(0); err {
	case unix.EACCES, unix.EBUSY:
		return "", nil
	case nil:
		return "", errors.New("the kernel took /dev/null for a program")
	default:
		return "", err
	}
}

// describe describes the process to the kernel as it is.
func (g *guinea) describe(exe uint32) error {
	field, err := linux.StatFields(g.pid)
	if err != nil {
		return err
	}
	brk, err := g.call(unix.SYS_BRK, 0)
	if err != nil {
		return err
	}
	mm := linux.MMMap{
		StartCode: field[26], EndCode: field[27], StartStack: field[28],
		StartData: field[45], EndData: field[46], StartBrk: field[47], Brk: brk,
		ArgStart: field[48], ArgEnd: field[49], EnvStart: field[50], EnvEnd: field[51],
		ExeFD: exe,
	}.Bytes()
	if err := linux.WriteMem(g.pid, g.scratch, mm); err != nil {
		return err
	}
	_, err = g.call(unix.SYS_PRCTL, unix.PR_SET_MM, unix.PR_SET_MM_MAP, g.scratch, uint64(len(mm)))
	return err
}

func (g *guinea) userNamespace() (string, error) {
	_, err := g.call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
	return "this user may make one", err
}
