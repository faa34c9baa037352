package criuwrap

import (
	"regexp"
	"syscall"

	"github.com/residentctl/residentctl/internal/problem"
)

// TooLarge says what to do where a file cannot get as large as it has to be.
const TooLarge = "raise the limit of file sizes (ulimit -f unlimited)"

// hints are the known causes, first match wins: what the log says, and what
// to do about it. The texts come from CRIU's sources, named by file; logs that
// hold them are in testdata.
var hints = []struct {
	log   func() *regexp.Regexp
	errno syscall.Errno // matches as well, unless 0
	hint  string
}{
	{ // strerror(ENOSPC), wherever a write failed
		lazily(`No space left on device|Disk quota exceeded`), syscall.ENOSPC,
		"free some space: the disk is full, and an image takes as much room as the program's writable memory, usually 1 to 10 MB",
	},
	{ // strerror(EFBIG); request.run
		lazily(`File too large`), syscall.EFBIG, TooLarge,
	},
	{ // servicefd.c; strerror(EMFILE)
		lazily(`Can't chose service_fd_base|Too many open files`), syscall.EMFILE,
		"raise the limit of open files for CRIU (ulimit -n 1024)",
	},
	{ // vdso.c before 4.1 takes [vvar_vclock], new in Linux 6.13, for an error
		lazily(`vdso: (?:Unexpected rt|Failed to fill)`), 0,
		"install CRIU 4.1 or newer: this CRIU does not know this kernel's vDSO",
	},
	{ // pie/util-vdso.c: a CRIU before 4.2 finds no pages where 4.2 counts them
		lazily(`vdso: ELF header magic mismatch`), 0,
		"use CRIU 4.2 or newer, or remove the program and add it again: a newer CRIU than this one made the image",
	},
	{ // files-reg.c
		lazily(`Can't lookup mount=|Can't dump .*mount|[Mm]ount .*(?:not found|unsupported|unreachable)`), 0,
		"look for a file of the program on a mount that CRIU cannot see: it was unmounted, is in another mount namespace, or is an overlay",
	},
	{ // compel/src/lib/ptrace.c, seccomp.c
		lazily(`(?i)seccomp`), 0,
		"run residentctl outside the sandbox or container, or as root: a seccomp filter is in the way",
	},
	{ // cr-restore.c, fork_with_pid; Restore
		lazily(`Can't fork for \d+: File exists|Pid \d+ do not match expected|^process \d+ exists`), syscall.EEXIST,
		"wait until it ends: another process has the image's pid, and CRIU can restore under no other",
	},
	{ // compel/src/lib/infect.c; PTRACE_SEIZE's EPERM; Dump
		lazily(`Unable to interrupt task|^process \d+ is being traced`), 0,
		"let CRIU trace the process: something else is tracing it, or kernel.yama.ptrace_scope forbids it",
	},
	{ // util.c, check_caps; strerror(EPERM) and strerror(EACCES). It looks for
		// CAP_SYS_ADMIN and CAP_CHECKPOINT_RESTORE; others it can do without.
		lazily(`Effective capability (?:21|40) missing|CAP_CHECKPOINT_RESTORE|Operation not permitted|Permission denied`), syscall.EPERM,
		"be root, or have an administrator let every user dump with CRIU (`scripts/setup --users`, which does `" + Setcap("criu") + "`); nosuid mounts and no_new_privs prevent that",
	},
	{ // compel, when the process has gone; Dump
		lazily(`No such process`), syscall.ESRCH,
		"try again: the process ended during the dump; another one may have killed it, or the kernel for lack of memory (see dmesg)",
	},
	{ // noAnswer
		lazily(`^no answer after`), 0,
		"see in CRIU's log, if there is one, how far it came; if the machine or its disk is busy, try again later",
	},
	{ // Dump
		lazily(`^process \d+ is not stopped`), 0,
		"try again; another process may have continued it (SIGCONT)",
	},
}

// AsProblem adds what can be done about the failure, if something is known.
func (e *Error) AsProblem() *problem.Problem {
	return &problem.Problem{Kind: problem.CRIU, Hint: e.hint()}
}

func (e *Error) hint() string {
	for _, h := range hints {
		for _, line := range e.Lines {
			if h.log().MatchString(line) {
				return h.hint
			}
		}
	}
	for _, h := range hints {
		if h.errno != 0 && h.errno == e.Errno {
			return h.hint
		}
	}
	return ""
}
