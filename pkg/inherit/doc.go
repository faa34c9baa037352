// Package inherit turns a process that CRIU has restored into what an exec by this process
// would have made. It gives the stopped process the caller's arguments, environment and
// auxiliary vector on a stack of its own, corrects the words of the image that belong to
// the process, and passes on what an exec leaves unchanged (execve(2)).
//
// The nouns. The process is the restored one, a stopped and traced child of this process.
// The caller is this process, in whose place an exec would have started the program. Some
// steps have to be done by the process itself; system calls are injected for these
// (ptrace.Process, Call).
//
// The flow is Give, one list. If the process cannot be given something that the caller
// has, that is an error, and the process must be killed.
//
// It follows the kernel's fs/binfmt_elf.c and fs/exec.c rather than the launcher, which
// has the kernel's own stack and state already.
//
// It needs Linux 5.6 (pidfd_getfd(2)).
package inherit
