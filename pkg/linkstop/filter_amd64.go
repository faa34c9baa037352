package linkstop

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
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

// filter has a process that stands at an exec stop, or was cloned from one there, stop
// before each system call that a recorder might refuse: runTo looks at those. Its stack
// pointer is sp, and insn the address of a SYSCALL instruction. The filter stays over an
// exec. Unlike under a recorder the process stops for no other call and runs at its own
// pace: between the medians of 60 starts of perl with and without it was no difference.
//
// It gains no privileges any more (PR_SET_NO_NEW_PRIVS), without which only root may
// set a filter; programs that would gain some are refused before.
func (t *tracer) filter(pid int, insn, sp uint64) error {
	at := (sp - 8192) &^ 63 // nothing but zeros is below a fresh stack pointer
	program := filterProgram()
	var code []byte
	for _, f := range program {
		code = binary.LittleEndian.AppendUint16(code, f.Code)
		code = append(code, f.Jt, f.Jf)
		code = binary.LittleEndian.AppendUint32(code, f.K)
	}
	// struct sock_fprog (include/uapi/linux/filter.h)
	arg := binary.LittleEndian.AppendUint64(nil, uint64(len(program)))
	arg = binary.LittleEndian.AppendUint64(arg, at+16)
	arg = append(arg, code...)
	err := linux.WriteMem(pid, at, arg)
	if err == nil {
		_, err = t.inject(pid, insn, unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	if err == nil {
		// Else kernels before 5.16 slow the process down (spec_store_bypass_disable=seccomp).
		_, err = t.inject(pid, insn, unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, at)
	}
	if err == nil {
		err = linux.WriteMem(pid, at, make([]byte, len(arg)))
	}
	if err == nil {
		err = unix.PtraceSetOptions(pid, traceOptions|unix.PTRACE_O_TRACESECCOMP)
	}
	if err != nil {
		return fmt.Errorf("filter the system calls of process %d: %w", pid, err)
	}
	return nil
}

// filtered looks at a call before which a filter has stopped a process.
func (t *tracer) filtered(pid int) error {
	info, err := getSyscallInfo(pid)
	if err != nil {
		return t.gone(pid, err)
	}
	return (&recorder{pid: pid}).onEntry(info)
}
