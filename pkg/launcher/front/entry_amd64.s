#include "textflag.h"

// The program's entry when it is linked with -E _residentctl_start: the
// launcher looks whether this is a plain run, and does not come back if it is.
// Then what the Go runtime is about to change is noted down. rsp is the initial
// stack; the runtime finds it as it was.
TEXT _residentctl_start(SB),NOSPLIT|NOFRAME,$0
	MOVQ SP, DI
	LEAQ _residentctl_launcher(SB), AX
	ADDQ $16, AX
	CALL AX

	// Which of the descriptors 0, 1 and 2 are closed: the runtime will open
	// /dev/null in their place.
	XORL DI, DI
descriptor:
	MOVL $72, AX // fcntl
	MOVL $1, SI  // F_GETFD
	SYSCALL
	TESTL AX, AX
	JGE  open
	BTSL DI, ·closed(SB)
open:
	INCL DI
	CMPL DI, $3
	JLT  descriptor

	// The signal mask, of which the runtime will take some out.
	MOVL $14, AX // rt_sigprocmask
	XORL DI, DI
	XORL SI, SI
	LEAQ ·blocked(SB), DX
	MOVL $8, R10
	SYSCALL

	// Which signals are ignored: the runtime will catch them.
	SUBQ $32, SP // the kernel's struct sigaction
	XORL BX, BX
signal:
	MOVL $13, AX // rt_sigaction
	LEAL 1(BX), DI
	XORL SI, SI
	MOVQ SP, DX
	MOVL $8, R10
	SYSCALL
	CMPQ 0(SP), $1 // SIG_IGN
	JNE  heeded
	BTSQ BX, ·ignored(SB)
heeded:
	INCL BX
	CMPL BX, $64
	JLT  signal
	ADDQ $32, SP

	MOVL $1, ·entered(SB)
	JMP  _rt0_amd64_linux(SB)
