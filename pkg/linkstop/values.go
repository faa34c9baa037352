package linkstop

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/plan"
)

// FixupValues returns what each kind of word is in a process with this initial stack.
// It does not go by what the launcher writes there (pkg/launcher/src/map.c, correct).
func FixupValues(pid int, stack linux.InitialStack) (values [plan.FixKinds]uint64, err error) {
	var random [16]byte
	if err := linux.ReadMem(pid, stack.Random, random[:]); err != nil {
		return values, err
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_STACK, nil, &limit); err != nil {
		return values, fmt.Errorf("read the stack limit: %w", err)
	}
	return fixupValues(pid, stack, random[:], limit.Cur), nil
}

// fixupValues is FixupValues of a process with these AT_RANDOM bytes and this soft
// RLIMIT_STACK, in bytes.
func fixupValues(pid int, stack linux.InitialStack, random []byte, limit uint64) [plan.FixKinds]uint64 {
	return [plan.FixKinds]uint64{
		plan.FixSP:       stack.SP,
		plan.FixArgv:     stack.Argv,
		plan.FixEnvp:     stack.Envp,
		plan.FixAuxv:     stack.Auxv,
		plan.FixPlatform: stack.Platform,
		plan.FixRandom:   stack.Random,
		plan.FixExecfn:   stack.Execfn,
		plan.FixArgc:     stack.Argc,
		plan.FixTID:      uint64(pid),
		// glibc, sysdeps/unix/sysv/linux/dl-osinfo.h: _dl_setup_stack_chk_guard
		// and _dl_setup_pointer_guard.
		plan.FixCanary:    binary.LittleEndian.Uint64(random) &^ 0xff,
		plan.FixGuard:     binary.LittleEndian.Uint64(random[8:]),
		plan.FixStackSize: threadStack(limit),
	}
}

// threadStack is the default size of thread stacks, in bytes, as glibc derives it from
// the limit (nptl/pthread_early_init.h, __pthread_initialize_minimal_internal).
func threadStack(limit uint64) uint64 {
	const least, unlimited = 16384, 2 << 20 // PTHREAD_STACK_MIN, ARCH_STACK_DEFAULT_SIZE
	switch {
	case limit == unix.RLIM_INFINITY:
		return unlimited
	case limit < least:
		return least
	}
	return (limit + linux.PageSize - 1) &^ (linux.PageSize - 1)
}
