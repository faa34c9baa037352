package linkstop

import (
	"bytes"
	"fmt"

	"github.com/residentctl/residentctl/internal/linux"
)

// A StopPoint is the place at which template and twin are stopped.
type StopPoint int

const (
	// StopLinked is where glibc's entry code has the dynamic linker behind it.
	StopLinked StopPoint = iota + 1
	// StopEntry is the program's entry (AT_ENTRY), for musl.
	StopEntry
)

func (p StopPoint) String() string {
	switch p {
	case StopLinked:
		return "linked"
	case StopEntry:
		return "entry"
	}
	return fmt.Sprintf("StopPoint(%d)", int(p))
}

// entryLen is how much of an entry code decodeEntry wants to see.
const entryLen = 24

// decodeEntry tells by the first instructions of a dynamic linker which one it
// is, and for StopLinked at which offset the stop point is.
//
//	glibc 2.31 to 2.43, RTLD_START     musl 1.2, arch/x86_64/crt_arch.h
//	48 89 e7        mov %rsp,%rdi      48 31 ed              xor %rbp,%rbp
//	e8 ........     call _dl_start     48 89 e7              mov %rsp,%rdi
//	49 89 c4        mov %rax,%r12      48 8d 35 ........     lea _DYNAMIC(%rip),%rsi
//	                                   48 83 e4 f0           and $-16,%rsp
//
// A start enters behind the `mov %rax,%r12`, so that must be there too.
func decodeEntry(code []byte) (offset uint64, point StopPoint, err error) {
	endbr64 := []byte{0xf3, 0x0f, 0x1e, 0xfa}
	body := bytes.TrimPrefix(code, endbr64)
	prefix := uint64(len(code) - len(body))
	switch {
	case len(body) >= 11 &&
		bytes.HasPrefix(body, []byte{0x48, 0x89, 0xe7, 0xe8}) &&
		bytes.Equal(body[8:11], []byte{0x49, 0x89, 0xc4}):
		return prefix + 8, StopLinked, nil
	case len(body) >= 17 &&
		bytes.HasPrefix(body, []byte{0x48, 0x31, 0xed, 0x48, 0x89, 0xe7, 0x48, 0x8d, 0x35}) &&
		bytes.Equal(body[13:17], []byte{0x48, 0x83, 0xe4, 0xf0}):
		return 0, StopEntry, nil
	}
	return 0, 0, &Refusal{
		Reason: fmt.Sprintf("its dynamic linker is neither glibc's nor musl's: it starts with % x", code),
		Err:    ErrUnknownLinker,
	}
}

// findStop tells where to stop a process that is about to execute the first
// instruction, at entry, of its dynamic linker.
func findStop(pid int, entry uint64, auxv linux.Auxv) (uint64, StopPoint, error) {
	code := make([]byte, entryLen)
	if err := linux.ReadMem(pid, entry, code); err != nil {
		return 0, 0, err
	}
	offset, point, err := decodeEntry(code)
	if err != nil {
		return 0, 0, err
	}
	if point == StopEntry {
		return auxv.Value(linux.ATEntry), point, nil
	}
	return entry + offset, point, nil
}
