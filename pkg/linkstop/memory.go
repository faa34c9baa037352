package linkstop

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

// DefaultMemory is how much memory of its own a program may have when it is linked, in
// bytes. Programs with hundreds of libraries have 10 MiB; what has more has mostly been
// touched by a resolver.
const DefaultMemory = 256 << 20

// mappedFactor is how many times as much it may map as it may touch: a .bss is mapped as
// a whole.
const mappedFactor = 2

// limitMemory bounds the memory that a process at its exec stop, and what is cloned from
// it, can map to write to (setrlimit(2), RLIMIT_DATA): then it cannot touch more, however
// it runs. The kernel has checked none of what the exec has mapped. undo puts the limit
// back, since an image holds it.
func limitMemory(pid int, memory uint64) (undo func() error, err error) {
	var old unix.Rlimit
	if err = unix.Prlimit(pid, unix.RLIMIT_DATA, nil, &old); err == nil {
		err = unix.Prlimit(pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: min(old.Cur, memory*mappedFactor), Max: old.Max}, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("limit the memory of process %d: %w", pid, err)
	}
	return func() error {
		if err := unix.Prlimit(pid, unix.RLIMIT_DATA, &old, nil); err != nil {
			return fmt.Errorf("put the memory limit of process %d back: %w", pid, err)
		}
		return nil
	}, nil
}

// MemoryHint says what a person can do about a refusal for too much memory.
const MemoryHint = "raise the limit: `residentctl add --memory-limit SIZE`"

// checkMemory refuses a process that has touched more than memory bytes of its own.
func checkMemory(pid int, memory uint64) error {
	s, err := linux.ReadStatus(pid)
	if err != nil || s.Own <= memory {
		return err
	}
	return problem.Refusef("it has %d MiB of memory of its own when it is linked, more than the limit of %d MiB", s.Own>>20, memory>>20).
		WithHint(MemoryHint)
}

// onMemory refuses a process that was refused memory by limitMemory: on its own it would
// have got it. It is told what a call gave.
func (r *recorder) onMemory(result int64) error {
	wanted, e := uint64(0), &r.entry
	switch nr, failed := e.Number(), unix.Errno(-result) == unix.ENOMEM; {
	case r.memory == 0:
		return nil
	case nr == unix.SYS_MMAP && failed && e.Arg(2)&unix.PROT_WRITE != 0, nr == unix.SYS_MPROTECT && failed && e.Arg(2)&unix.PROT_WRITE != 0:
		wanted = e.Arg(1)
	case nr == unix.SYS_MREMAP && failed && e.Arg(2) > e.Arg(1):
		wanted = e.Arg(2) - e.Arg(1)
	case nr == unix.SYS_BRK && e.Arg(0) > uint64(result): // brk(2) returns what it has left unchanged
		wanted = e.Arg(0) - uint64(result)
	default:
		return nil
	}
	s, err := linux.ReadStatus(r.pid)
	if limit := r.memory * mappedFactor; err != nil || wanted <= limit && s.Data <= limit-wanted {
		return err // for another reason, which it would find without us too
	}
	return problem.Refusef("it maps more than %d MiB to write to while it is linked, %d times the limit of %d MiB", r.memory*mappedFactor>>20, mappedFactor, r.memory>>20).
		WithHint(MemoryHint)
}
