package linkstop

import (
	"bytes"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/plan"
)

// entryLen is how much of an entry code decodeEntry wants to see.
const entryLen = 24

// moveEntry is `mov %rax,%r12`, the instruction at glibc's stop point.
var moveEntry = []byte{0x49, 0x89, 0xc4}

// Enter returns where a start from an image goes on and what it has in r12, if the
// template has rax at the stop point. For glibc that is after the instruction there, with
// the program's entry in r12, which leaves rax to the launcher's last system call
// (sysdeps/x86_64/dl-machine.h, RTLD_START).
func Enter(stop plan.Stop, rax uint64) (rip, r12 uint64) {
	if stop.Point == plan.StopEntry {
		return stop.Addr, 0
	}
	return stop.Addr + uint64(len(moveEntry)), rax
}

// decodeEntry finds out from the first instructions of a dynamic linker which one it
// is, and for plan.StopLinked at which offset the stop point is.
//
//	glibc 2.31 to 2.43, RTLD_START     musl 1.2, arch/x86_64/crt_arch.h
//	48 89 e7        mov %rsp,%rdi      48 31 ed              xor %rbp,%rbp
//	e8 ........     call _dl_start     48 89 e7              mov %rsp,%rdi
//	49 89 c4        mov %rax,%r12      48 8d 35 ........     lea _DYNAMIC(%rip),%rsi
//	                                   48 83 e4 f0           and $-16,%rsp
//
// A start enters after the `mov %rax,%r12` (Enter), so that must be there too.
func decodeEntry(code []byte) (offset uint64, point plan.StopPoint, err error) {
	endbr64 := []byte{0xf3, 0x0f, 0x1e, 0xfa}
	body := bytes.TrimPrefix(code, endbr64)
	prefix := uint64(len(code) - len(body))
	switch {
	case len(body) >= 11 &&
		bytes.HasPrefix(body, []byte{0x48, 0x89, 0xe7, 0xe8}) &&
		bytes.HasPrefix(body[8:], moveEntry):
		return prefix + 8, plan.StopLinked, nil
	case len(body) >= 17 &&
		bytes.HasPrefix(body, []byte{0x48, 0x31, 0xed, 0x48, 0x89, 0xe7, 0x48, 0x8d, 0x35}) &&
		bytes.Equal(body[13:17], []byte{0x48, 0x83, 0xe4, 0xf0}):
		return 0, plan.StopEntry, nil
	}
	return 0, 0, problem.Refusef("its dynamic linker is neither glibc's nor musl's: it starts with % x", code)
}

// findStop returns where to stop a process that is about to execute the first
// instruction, at entry, of its dynamic linker.
func findStop(pid int, entry uint64, auxv linux.Auxv) (plan.Stop, error) {
	code := make([]byte, entryLen)
	if err := linux.ReadMem(pid, entry, code); err != nil {
		return plan.Stop{}, err
	}
	offset, point, err := decodeEntry(code)
	if err != nil {
		return plan.Stop{}, err
	}
	if point == plan.StopEntry {
		return plan.Stop{Addr: auxv.Value(linux.ATEntry), Point: point}, nil
	}
	return plan.Stop{Addr: entry + offset, Point: point}, nil
}
