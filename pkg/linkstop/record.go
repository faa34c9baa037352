package linkstop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// A recorder watches the system calls of a dynamic linker: it notes what an
// image depends on and refuses what an image could not repeat.
type recorder struct {
	pid    int
	probes []fingerprint.Probe
	// What was registered with the kernel; 0 where nothing was.
	fsBase, tidAddr, robustHead, robustLen, rseqAddr uint64
	rseqLen, rseqSig                                 uint32
	// random are the words that getrandom(2) gave.
	random []uint64
	// message is what was written to standard error.
	message []byte
	mask    uint64 // the signals that were blocked before

	memory uint64  // limitMemory's, or 0
	placer *placer // chooses where memory is mapped, or nil
	allow  Allow   // may be nil

	entry ptrace.SyscallInfo // of the call under way
	probe *fingerprint.Probe // that it makes, or nil
}

// plainCalls are the calls that a dynamic linker makes and that leave nothing
// behind but memory, or that onEntry and onExit look at. Anything else refuses
// the image: what the call did, or how its answer was used, would be missing
// in a process made from it. getuid(2) is the example: its answer is the same
// in template and twin, so comparing them cannot find it.
var plainCalls = map[uint64]bool{
	unix.SYS_READ: true, unix.SYS_PREAD64: true, unix.SYS_LSEEK: true, unix.SYS_CLOSE: true,
	unix.SYS_FSTAT: true, unix.SYS_FCNTL: true,
	unix.SYS_MMAP: true, unix.SYS_MUNMAP: true, unix.SYS_MPROTECT: true, unix.SYS_MREMAP: true,
	unix.SYS_MADVISE: true, unix.SYS_BRK: true, unix.SYS_FUTEX: true,
	unix.SYS_RT_SIGPROCMASK: true, unix.SYS_UNAME: true,
	unix.SYS_ARCH_PRCTL: true, unix.SYS_SET_TID_ADDRESS: true, unix.SYS_SET_ROBUST_LIST: true,
	unix.SYS_RSEQ: true, unix.SYS_GETRANDOM: true, unix.SYS_PRLIMIT64: true, unix.SYS_GETRLIMIT: true,
	unix.SYS_WRITE: true, unix.SYS_WRITEV: true, unix.SYS_EXIT_GROUP: true, unix.SYS_EXIT: true,
	unix.SYS_RESTART_SYSCALL: true,
}

// What madvise(2) and fcntl(2) are asked for that concerns the process alone.
var (
	plainAdvice = []uint64{
		unix.MADV_NORMAL, unix.MADV_RANDOM, unix.MADV_SEQUENTIAL, unix.MADV_WILLNEED, unix.MADV_DONTNEED,
		unix.MADV_FREE, unix.MADV_HUGEPAGE, unix.MADV_NOHUGEPAGE, unix.MADV_DONTDUMP, unix.MADV_DODUMP,
	}
	plainCommands = []uint64{unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_DUPFD, unix.F_DUPFD_CLOEXEC}
)

// fileCalls are plainCalls that are about the descriptor that is their argument of
// this number.
var fileCalls = map[uint64]struct {
	name string
	file int
}{
	unix.SYS_READ:    {"read", 0},
	unix.SYS_PREAD64: {"pread64", 0},
	unix.SYS_LSEEK:   {"lseek", 0},
	unix.SYS_CLOSE:   {"close", 0},
	unix.SYS_FSTAT:   {"fstat", 0},
	unix.SYS_FCNTL:   {"fcntl", 0},
}

// callNames are those of the calls that a message is likely to be about.
var callNames = map[uint64]string{
	unix.SYS_CLONE: "clone", unix.SYS_CLONE3: "clone3", unix.SYS_FORK: "fork", unix.SYS_VFORK: "vfork",
	unix.SYS_EXECVE: "execve", unix.SYS_SOCKET: "socket", unix.SYS_CONNECT: "connect",
	unix.SYS_KILL: "kill", unix.SYS_TGKILL: "tgkill", unix.SYS_PRCTL: "prctl", unix.SYS_IOCTL: "ioctl",
	unix.SYS_GETPID: "getpid", unix.SYS_GETUID: "getuid", unix.SYS_GETEUID: "geteuid", unix.SYS_GETCWD: "getcwd",
	unix.SYS_RT_SIGACTION: "rt_sigaction", unix.SYS_SCHED_GETAFFINITY: "sched_getaffinity",
	unix.SYS_GETDENTS64: "getdents64", unix.SYS_MEMFD_CREATE: "memfd_create", unix.SYS_MSEAL: "mseal",
}

func callName(nr uint64) string {
	if name, ok := callNames[nr]; ok {
		return name
	}
	return fmt.Sprintf("system call number %d", nr)
}

// Values that x/sys/unix does not have.
const (
	archSetFS = 0x1002 // ARCH_SET_FS, arch/x86/include/uapi/asm/prctl.h
	archSetGS = 0x1001 // ARCH_SET_GS
)

// run lets the process run to the breakpoint, noting its system calls.
func (r *recorder) run(t *ptrace.Tracer, b *ptrace.Breakpoint) error {
	var err error
	if r.mask, err = ptrace.SignalMask(r.pid); err != nil {
		return err
	}
	return t.WatchTo(b, func(info ptrace.SyscallInfo) error {
		var err error
		if info.Entry() {
			err = r.onEntry(info)
		} else {
			err = r.onExit(info.Result())
		}
		if err == nil && r.placer != nil {
			err = r.placer.at(t, &r.entry, info)
		}
		return err
	})
}

// onEntry looks at a call that is about to be made.
func (r *recorder) onEntry(info ptrace.SyscallInfo) error {
	r.entry, r.probe = info, nil
	nr := info.Number()
	if info.Arch != unix.AUDIT_ARCH_X86_64 { // int $0x80, whose numbers are others
		return problem.Refusef("its dynamic linker makes 32-bit system calls")
	}
	if call, ok := ptrace.PathCalls[nr]; ok {
		return r.onPath(call.Name, call.Path)
	}
	if !plainCalls[nr] {
		return problem.Refusef("its dynamic linker calls %s, which an image cannot repeat", callName(nr))
	}
	if call, ok := fileCalls[nr]; ok {
		if err := r.onFile(call.name, info.Arg(call.file)); err != nil {
			return err
		}
	}
	switch nr {
	case unix.SYS_MMAP:
		if info.Arg(3)&unix.MAP_TYPE != unix.MAP_PRIVATE {
			return problem.Refusef("its dynamic linker maps shared memory")
		}
		if info.Arg(3)&unix.MAP_ANONYMOUS == 0 {
			return r.onFile("mmap", info.Arg(4))
		}
	case unix.SYS_ARCH_PRCTL:
		if info.Arg(0) == archSetGS {
			return problem.Refusef("its dynamic linker sets the GS base")
		}
	case unix.SYS_MADVISE:
		// Others (madvise(2)) reach beyond the process, as root's MADV_HWPOISON does.
		if advice := info.Arg(2); !slices.Contains(plainAdvice, advice) {
			return problem.Refusef("its dynamic linker calls madvise with the advice %d", advice)
		}
	case unix.SYS_FCNTL:
		// Not what a lease, a lock or a signal's receiver is set by (fcntl(2)).
		if command := info.Arg(1); !slices.Contains(plainCommands, command) {
			return problem.Refusef("its dynamic linker calls fcntl with the command %d", command)
		}
	case unix.SYS_PRLIMIT64, unix.SYS_GETRLIMIT:
		return r.onLimit()
	case unix.SYS_WRITE, unix.SYS_WRITEV:
		return r.onWrite()
	}
	return nil
}

// onFile refuses what is about a descriptor that the caller of the program has
// opened: the template's lead to /dev/null. Any other one was opened by the linker.
func (r *recorder) onFile(name string, fd uint64) error {
	if int32(fd) >= 0 && int32(fd) <= 2 {
		return problem.Refusef("its dynamic linker calls %s of the descriptor %d, which is another file in each process", name, int32(fd))
	}
	return nil
}

// onPath notes which path a call asks for; onExit completes the probe.
func (r *recorder) onPath(name string, arg int) error {
	path, err := linux.ReadString(r.pid, r.entry.Arg(arg), unix.PathMax)
	if errors.Is(err, unix.EFAULT) {
		return nil // the call will fail with it
	}
	if err != nil {
		return err
	}
	switch {
	case path == "": // the descriptor itself, AT_EMPTY_PATH
		if arg == 0 {
			return nil
		}
		return r.onFile(name, r.entry.Arg(arg-1))
	case path == "/proc/self/exe" && strings.HasPrefix(name, "readlink"):
		// $ORIGIN (glibc's _dl_get_origin). It tells the program's own path,
		// which the image is bound to anyway.
		return nil
	case !filepath.IsAbs(path):
		return problem.Refusef("its dynamic linker looks for the relative path %q, so what it finds depends on the current directory", path).
			WithHint("give it an RPATH or RUNPATH of absolute directories or $ORIGIN")
	case strings.HasPrefix(path, "/proc/self/"), strings.HasPrefix(path, "/proc/thread-self/"):
		return problem.Refusef("its dynamic linker looks at %s, which is different in each process", path)
	}
	if flags, ok := r.entry.OpenFlags(r.pid); ok && flags&(unix.O_ACCMODE|unix.O_CREAT|unix.O_TRUNC) != unix.O_RDONLY {
		return problem.Refusef("its dynamic linker opens %s for writing", path)
	}
	r.probe = &fingerprint.Probe{Call: name, Path: path}
	return nil
}

// onLimit lets only RLIMIT_STACK be read, of which the twin has another value.
func (r *recorder) onLimit() error {
	resource, newLimit := r.entry.Arg(0), uint64(0)
	if r.entry.Number() == unix.SYS_PRLIMIT64 {
		resource, newLimit = r.entry.Arg(1), r.entry.Arg(2)
	}
	if resource != unix.RLIMIT_STACK {
		return problem.Refusef("its dynamic linker reads the resource limit number %d", resource)
	}
	if newLimit != 0 {
		return problem.Refusef("its dynamic linker sets a resource limit")
	}
	return nil
}

// messageLimit is how much of an error message is kept.
const messageLimit = 4096

// onWrite keeps what is written to standard error.
func (r *recorder) onWrite() error {
	if r.entry.Arg(0) != 2 {
		return problem.Refusef("its dynamic linker writes to a file")
	}
	parts := []linux.PageRange{{Start: r.entry.Arg(1), End: r.entry.Arg(1) + r.entry.Arg(2)}}
	if r.entry.Number() == unix.SYS_WRITEV {
		vec := make([]byte, min(r.entry.Arg(2), 64)*16)
		if err := linux.ReadMem(r.pid, r.entry.Arg(1), vec); err != nil {
			return err
		}
		parts = parts[:0]
		for ; len(vec) > 0; vec = vec[16:] {
			base, size := binary.LittleEndian.Uint64(vec), binary.LittleEndian.Uint64(vec[8:])
			parts = append(parts, linux.PageRange{Start: base, End: base + size})
		}
	}
	for _, p := range parts {
		text := make([]byte, min(p.Len(), uint64(messageLimit-len(r.message))))
		if err := linux.ReadMem(r.pid, p.Start, text); err != nil {
			return err
		}
		r.message = append(r.message, text...)
	}
	return nil
}

// onExit looks at what a call gave.
func (r *recorder) onExit(result int64) error {
	if r.probe != nil {
		if result < 0 {
			r.probe.Errno = syscall.Errno(-result)
		}
		p := *r.probe
		r.probes, r.probe = append(r.probes, p), nil
		return r.allowed(p, result)
	}
	if err := r.onMemory(result); err != nil || result < 0 {
		return err
	}
	switch e := &r.entry; e.Number() {
	case unix.SYS_ARCH_PRCTL:
		if e.Arg(0) == archSetFS {
			r.fsBase = e.Arg(1)
		}
	case unix.SYS_SET_TID_ADDRESS:
		r.tidAddr = e.Arg(0)
	case unix.SYS_SET_ROBUST_LIST:
		r.robustHead, r.robustLen = e.Arg(0), e.Arg(1)
	case unix.SYS_RSEQ:
		r.rseqAddr, r.rseqLen, r.rseqSig = e.Arg(0), uint32(e.Arg(1)), uint32(e.Arg(3))
	case unix.SYS_GETRANDOM:
		return r.onRandom(uint64(result))
	}
	return nil
}

// onRandom remembers the words that getrandom(2) has written.
func (r *recorder) onRandom(size uint64) error {
	buf := make([]byte, min(size, 256))
	if err := linux.ReadMem(r.pid, r.entry.Arg(0), buf); err != nil {
		return err
	}
	for ; len(buf) >= 8; buf = buf[8:] {
		r.random = append(r.random, binary.LittleEndian.Uint64(buf))
	}
	return nil
}

// check compares what was recorded with what the kernel says.
func (r *recorder) check(regs *ptrace.Regs) error {
	if r.fsBase != 0 && regs.Fs_base != r.fsBase {
		return problem.Refusef("its FS base is %#x at the stop point, but arch_prctl set %#x", regs.Fs_base, r.fsBase)
	}
	mask, err := ptrace.SignalMask(r.pid)
	if err != nil {
		return err
	}
	if mask != r.mask {
		return problem.Refusef("its dynamic linker changes which signals are blocked (from %#x to %#x)", r.mask, mask)
	}
	r.fsBase = regs.Fs_base // WRFSBASE sets it without a system call
	rseq, err := ptrace.Rseq(r.pid)
	if err != nil {
		return fmt.Errorf("read the rseq registration: %w", err)
	}
	if rseq.Addr != 0 && (rseq.Addr != r.rseqAddr || rseq.Len != r.rseqLen || rseq.Sig != r.rseqSig) {
		return fmt.Errorf("rseq is registered at %#x, but was seen at %#x", rseq.Addr, r.rseqAddr)
	}
	head, size, err := ptrace.RobustList(r.pid)
	if err != nil {
		return err
	}
	if head != r.robustHead || head != 0 && size != r.robustLen {
		return fmt.Errorf("the robust list is at %#x, but was seen at %#x", head, r.robustHead)
	}
	return nil
}
