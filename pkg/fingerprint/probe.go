package fingerprint

import "syscall"

// A Probe is one path at which the dynamic linker looked, with the system call
// that it used ("openat", "newfstatat", "access" …) and what the kernel
// answered: Errno 0 is a hit.
type Probe struct {
	Call  string
	Path  string
	Errno syscall.Errno
}
