// Package linux holds what the other packages need from the kernel: system calls
// that restart after EINTR, readers of /proc, and instructions that describe the CPU.
package linux
