package linkstop

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// A firstStop is a process at its first exec stop, in which system calls can
// be injected.
type firstStop struct {
	pid   int
	insn  uint64 // the address of a SYSCALL instruction
	stack linux.InitialStack
	soft  bool // breakpoints have to be INT3s
}

// preservedArgv0 in AT_FLAGS tells an interpreter of binfmt_misc that argv[0] is
// passed on (include/linux/binfmts.h, AT_FLAGS_PRESERVE_ARGV0, since Linux 5.12).
const preservedArgv0 = 1

// startClean executes path with nothing of ours but the three standard
// descriptors, and refuses what is not worth going on with.
func startClean(t *ptrace.Tracer, path string) (f firstStop, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return f, err
	}
	defer null.Close()
	fd := null.Fd()
	if f.pid, err = t.Start(path, []string{path}, nil, "/", [3]uintptr{fd, fd, fd}); err != nil {
		return f, err
	}
	regs, err := t.Regs64(f.pid)
	if err != nil {
		return f, err
	}
	maps, err := linux.ReadMaps(f.pid)
	if err != nil {
		return f, err
	}
	stack, auxv, _, err := linux.ReadStack(f.pid, regs.Rsp, maps)
	if err != nil {
		return f, err
	}
	if err := CheckExec(auxv, stack.Argc != 1); err != nil {
		return f, err
	}
	f.stack = stack
	if f.insn, err = ptrace.FindSyscall(f.pid, maps); err != nil {
		return f, err
	}
	f.soft, err = t.SoftBreakpoints(f.pid)
	return f, err
}

// CheckExec refuses what is no exec of a dynamically linked program by the kernel itself, by the
// auxiliary vector of the new process; isScript says that the kernel has put other arguments first.
func CheckExec(auxv linux.Auxv, isScript bool) error {
	switch {
	case auxv.Value(linux.ATFlags)&preservedArgv0 != 0:
		return problem.Refusef("the kernel executes another program in its place (binfmt_misc)").
			WithHint("run it as root: only root can do this for programs that are enabled for the whole system (see `residentctl status`), and others with the same first bytes")
	case isScript:
		return problem.Refusef("it is a script: the kernel starts an interpreter for it").
			WithHint("make the interpreter resident")
	case auxv.Value(linux.ATSecure) != 0:
		return problem.Refusef("it runs with other privileges than its caller's")
	case auxv.Value(linux.ATBase) == 0:
		return problem.Refusef("it is statically linked").
			WithHint("leave it as it is: there is no dynamic linking to save")
	}
	return nil
}

// prepare sets what the second exec and the image start from: the sentinel
// limits, and nothing of ours (ptrace.Tracer.Clean).
func prepare(t *ptrace.Tracer, f firstStop) (limit, twinLimit uint64, err error) {
	pid, insn := f.pid, f.insn
	var lim unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_STACK, nil, &lim); err != nil {
		return 0, 0, fmt.Errorf("read the limit of the stack: %w", err)
	}
	if limit, twinLimit, err = stackLimits(lim.Max); err != nil {
		return 0, 0, err
	}
	if err := setStackLimit(pid, limit); err != nil {
		return 0, 0, err
	}
	t.AllowAny(pid, insn)
	return limit, twinLimit, t.Clean(pid, insn, f.stack.SP)
}

// pinCPU lets the process, and this thread, run on the thread's present CPU
// only. Tracer and tracee take turns, so that loses nothing; waking each other
// across CPUs made linking ffmpeg take 150 to 450 ms instead of 135.
func pinCPU(pid int) error {
	var cpu uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 {
		return fmt.Errorf("getcpu: %w", errno)
	}
	var set unix.CPUSet
	set.Set(int(cpu))
	for _, thread := range []int{0, pid} {
		if err := unix.SchedSetaffinity(thread, &set); err != nil {
			return fmt.Errorf("set the CPU affinity: %w", err)
		}
	}
	return nil
}
