// Package inherit makes a process that CRIU has restored what an exec by this process
// would have made: it gives the stopped process the caller's arguments, environment and
// auxiliary vector on a stack of its own, corrects the words of the image that belong to
// the process, and hands on what an exec leaves as it is (execve(2)).
//
// The nouns. The process is the restored one, a child of this process that is stopped
// and traced. The caller is this process, in whose place an exec would have started the
// program. What has to be done in the process itself it does by system calls that are
// injected (ptrace.Process, Call).
//
// The flow is Give, one list. Whatever the caller has and cannot be given is an error,
// and then the process must be killed.
//
// It goes by the kernel's fs/binfmt_elf.c and fs/exec.c, and not by the launcher, which
// has the kernel's own stack and state already.
//
// It needs Linux 5.6 (pidfd_getfd(2)).
package inherit
