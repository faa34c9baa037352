package linux

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Affinity reads the CPUs that a thread may run on, 0 being the caller's, and returns how many
// bytes the kernel has for them (sched_getaffinity(2), the system call's own result).
func Affinity(tid int, set *unix.CPUSet) (size int, err error) {
	n, _, errno := unix.RawSyscall(unix.SYS_SCHED_GETAFFINITY, uintptr(tid), unsafe.Sizeof(*set), uintptr(unsafe.Pointer(set)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
