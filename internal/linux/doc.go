// Package linux holds what the rest needs of the kernel: calls that are safe
// against EINTR, readers of /proc, and instructions that tell about the CPU.
package linux
