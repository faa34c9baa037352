package linkstop

import (
	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/pkg/ptrace"
)

// A condition of a filtered call: the lower half of an argument, masked, is compared
// with a value. Kernel and dynamic linker take no more than that half of those that are
// looked at here, unless whole is set.
type condition struct {
	arg   int
	whole bool   // the upper half must be 0
	mask  uint32 // 0: all bits
	test  uint16 // unix.BPF_JEQ or unix.BPF_JGT
	not   bool   // the comparison must fail
	value uint32
}

// writing are the flags of open(2) with which it does not only read.
const writing = unix.O_ACCMODE | unix.O_CREAT | unix.O_TRUNC

var (
	// What the caller of the program has opened: onFile.
	notStandard = condition{arg: 0, test: unix.BPF_JGT, value: 2}

	// freeCalls are those calls of a dynamic linker that onEntry lets pass, or refuses for
	// nothing but that an image would depend on their answer, without a stop. The most
	// frequent ones come first.
	freeCalls = []struct {
		nr   uint32
		when []condition
	}{
		{unix.SYS_MMAP, []condition{
			{arg: 3, mask: unix.MAP_TYPE, test: unix.BPF_JEQ, value: unix.MAP_PRIVATE},
			{arg: 4, test: unix.BPF_JGT, value: 2}, // of anonymous memory it is -1
		}},
		{unix.SYS_OPENAT, []condition{{arg: 2, mask: writing, test: unix.BPF_JEQ, value: unix.O_RDONLY}}},
		{unix.SYS_READ, []condition{notStandard}},
		{unix.SYS_FSTAT, []condition{notStandard}},
		{unix.SYS_CLOSE, []condition{notStandard}},
		{unix.SYS_PREAD64, []condition{notStandard}},
		{unix.SYS_MPROTECT, nil},
		{unix.SYS_NEWFSTATAT, nil},
		{unix.SYS_MUNMAP, nil},
		{unix.SYS_BRK, nil},
		{unix.SYS_OPEN, []condition{{arg: 1, mask: writing, test: unix.BPF_JEQ, value: unix.O_RDONLY}}},
		{unix.SYS_STAT, nil},
		{unix.SYS_LSEEK, []condition{notStandard}},
		{unix.SYS_ACCESS, nil},
		{unix.SYS_READLINK, nil},
		{unix.SYS_ARCH_PRCTL, []condition{{arg: 0, test: unix.BPF_JEQ, not: true, value: archSetGS}}},
		{unix.SYS_SET_TID_ADDRESS, nil},
		{unix.SYS_SET_ROBUST_LIST, nil},
		{unix.SYS_RSEQ, nil},
		{unix.SYS_PRLIMIT64, []condition{
			{arg: 1, test: unix.BPF_JEQ, value: unix.RLIMIT_STACK},
			{arg: 2, whole: true, test: unix.BPF_JEQ, value: 0},
		}},
		{unix.SYS_GETRANDOM, nil},
		{unix.SYS_FUTEX, nil},
		{unix.SYS_MREMAP, nil},
		{unix.SYS_RT_SIGPROCMASK, nil},
		{unix.SYS_UNAME, nil},
		{unix.SYS_EXIT_GROUP, nil},
		{unix.SYS_RESTART_SYSCALL, nil},
	}
)

// filterProgram is the seccomp filter (seccomp(2)): freeCalls pass, all others stop for
// the tracer, before they do anything.
func filterProgram() []unix.SockFilter {
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		jump = unix.BPF_JMP | unix.BPF_K
		// offsetof(struct seccomp_data, …), include/uapi/linux/seccomp.h
		offsetNr, offsetArch, offsetArgs = 0, 4, 16
	)
	stop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_TRACE}
	program := []unix.SockFilter{
		{Code: load, K: offsetArch},
		{Code: jump | unix.BPF_JEQ, Jt: 1, K: unix.AUDIT_ARCH_X86_64},
		stop,
		{Code: load, K: offsetNr},
	}
	for _, call := range freeCalls {
		// What does not hold leads to the stop at the end of these.
		var tests []unix.SockFilter
		test := func(code uint16, value uint32, not bool) {
			t := unix.SockFilter{Code: jump | code, K: value, Jt: 1} // over the stop
			if not {
				t.Jt, t.Jf = 0, 1
			}
			tests = append(tests, t, stop)
		}
		for _, c := range call.when {
			at := offsetArgs + 8*uint32(c.arg)
			if c.whole {
				tests = append(tests, unix.SockFilter{Code: load, K: at + 4})
				test(unix.BPF_JEQ, 0, false)
			}
			tests = append(tests, unix.SockFilter{Code: load, K: at})
			if c.mask != 0 {
				tests = append(tests, unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: c.mask})
			}
			test(c.test, c.value, c.not)
		}
		tests = append(tests, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
		program = append(program, unix.SockFilter{Code: jump | unix.BPF_JEQ, Jf: uint8(len(tests)), K: call.nr})
		program = append(program, tests...)
	}
	return append(program, stop)
}

// filter has a process stop before each system call that a recorder might refuse, and
// RunTo ask the recorder about those: see ptrace.Tracer.Filter. Programs that would gain
// privileges, which one with a filter does not, are refused before.
func filter(t *ptrace.Tracer, pid int, insn, sp uint64) error {
	return t.Filter(pid, insn, sp, filterProgram(), func(pid int, call ptrace.SyscallInfo) error {
		return (&recorder{pid: pid}).onEntry(call)
	})
}
