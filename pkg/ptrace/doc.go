// Package ptrace stops a process at a point: before an instruction, at the ends of its
// system calls, or where it executes a program (ptrace(2)). It knows nothing about what
// the process is; package linkstop does.
//
// A Tracer is the thread that makes all calls for its processes, and kills them when it
// ends. Package linkstop is built on it. StartAt, Attach and Follow are complete ways to
// a Process, or to a program's path.
//
// It needs Linux 5.3 (PTRACE_GET_SYSCALL_INFO).
package ptrace
