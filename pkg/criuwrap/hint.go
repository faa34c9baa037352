package criuwrap

import (
	"regexp"
	"syscall"

	"github.com/residentctl/residentctl/internal/problem"
)

// TooLarge says what to do where a file cannot get as large as it has to be.
const TooLarge = "the limit of file sizes is too low: raise it (ulimit -f unlimited)"

// hints are the known causes, first match wins: what stands in the log, and what
// to do about it. The texts come from CRIU's sources, named by file; logs that
// hold them are in testdata.
var hints = []struct {
	log   func() *regexp.Regexp
	errno syscall.Errno // matches as well, unless 0
	hint  string
}{
	{ // strerror(ENOSPC), wherever a write failed
		lazily(`No space left on device|Disk quota exceeded`), syscall.ENOSPC,
		"the disk is full: an image takes as much room as the program's writable memory, usually 1 to 10 MB",
	},
	{ // strerror(EFBIG); request.run
		lazily(`File too large`), syscall.EFBIG, TooLarge,
	},
	{ // servicefd.c; strerror(EMFILE)
		lazily(`Can't chose service_fd_base|Too many open files`), syscall.EMFILE,
		"the limit of open files is too low for CRIU: raise it (ulimit -n 1024)",
	},
	{ // vdso.c before 4.1 takes [vvar_vclock], new in Linux 6.13, for an error
		lazily(`vdso: (?:Unexpected rt|Failed to fill)`), 0,
		"this CRIU does not know this kernel's vDSO: install CRIU 4.1 or newer",
	},
	{ // pie/util-vdso.c: a CRIU before 4.2 finds no pages where 4.2 counts them
		lazily(`vdso: ELF header magic mismatch`), 0,
		"a newer CRIU than this one made the image: use CRIU 4.2 or newer, or remove the program and add it again",
	},
	{ // files-reg.c
		lazily(`Can't lookup mount=|Can't dump .*mount|[Mm]ount .*(?:not found|unsupported|unreachable)`), 0,
		"the program has a file open or mapped on a mount that CRIU cannot see: it was unmounted, is in another mount namespace, or is an overlay",
	},
	{ // compel/src/lib/ptrace.c, seccomp.c
		lazily(`(?i)seccomp`), 0,
		"a seccomp filter is in the way: run residentctl outside of the sandbox or container, or as root",
	},
	{ // cr-restore.c, fork_with_pid; Restore
		lazily(`Can't fork for \d+: File exists|Pid \d+ do not match expected|^process \d+ exists`), syscall.EEXIST,
		"another process has the image's pid: CRIU can only restore under the pid that was dumped",
	},
	{ // compel/src/lib/infect.c; PTRACE_SEIZE's EPERM; Dump
		lazily(`Unable to interrupt task|^process \d+ is being traced`), 0,
		"CRIU may not trace the process: something else is tracing it, or kernel.yama.ptrace_scope forbids it",
	},
	{ // util.c, check_caps; strerror(EPERM) and strerror(EACCES). It looks for
		// CAP_SYS_ADMIN and CAP_CHECKPOINT_RESTORE; others it can do without.
		lazily(`Effective capability (?:21|40) missing|CAP_CHECKPOINT_RESTORE|Operation not permitted|Permission denied`), syscall.EPERM,
		"CRIU may not dump for this user: be root, or have an administrator let every user dump (`scripts/setup --users`, which does `" + Setcap("criu") + "`); a mount with nosuid, or no_new_privs, takes that away",
	},
	{ // compel, when the process has gone; Dump
		lazily(`No such process`), syscall.ESRCH,
		"the process ended while it was being dumped: somebody may have killed it, or the kernel for want of memory (see dmesg); try again",
	},
	{ // noAnswer
		lazily(`^no answer after`), 0,
		"see how far CRIU came in its log, if there is one; if the machine or its disk is busy just now, try again later",
	},
	{ // Dump
		lazily(`^process \d+ is not stopped`), 0,
		"somebody may have let the process go on (SIGCONT); try again",
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
