package linkstop

import (
	"encoding/binary"
	"unsafe"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

// checkDescriptors refuses a dynamic linker that leaves files open.
func checkDescriptors(pid int) error {
	descriptor, _, err := linux.OpenBeyond(pid)
	if err == nil && descriptor != "" {
		err = problem.Refusef("its dynamic linker leaves descriptor %s open", descriptor)
	}
	return err
}

// debugState is r_debug.r_state of the program's DT_DEBUG (link.h), and
// whether there is one: 0 is RT_CONSISTENT.
func debugState(pid int, auxv linux.Auxv) (state uint32, found bool) {
	phdr, phnum := auxv.Value(linux.ATPhdr), auxv.Value(linux.ATPhnum)
	const ptDynamic, ptPhdr, dtDebug, phentSize = 2, 6, 21, 56
	if auxv.Value(linux.ATPhent) != phentSize || phnum > 256 {
		return 0, false
	}
	table := make([]byte, phnum*phentSize)
	if linux.ReadMem(pid, phdr, table) != nil {
		return 0, false
	}
	var bias, dynamic, size uint64
	for ; len(table) > 0; table = table[phentSize:] {
		vaddr := binary.LittleEndian.Uint64(table[16:])
		switch binary.LittleEndian.Uint32(table) {
		case ptPhdr:
			bias = phdr - vaddr
		case ptDynamic:
			dynamic, size = vaddr, binary.LittleEndian.Uint64(table[40:])
		}
	}
	entries := make([]byte, min(size, 1<<16))
	if dynamic == 0 || linux.ReadMem(pid, bias+dynamic, entries) != nil {
		return 0, false
	}
	dyn, err := linux.ParseAuxv(entries) // a dynamic section has the same shape
	if err != nil {
		return 0, false
	}
	debug := dyn.Value(dtDebug)
	const stateOffset = 24 // offsetof(struct r_debug, r_state)
	buf := make([]byte, unsafe.Sizeof(state))
	if debug == 0 || linux.ReadMem(pid, debug+stateOffset, buf) != nil {
		return 0, false
	}
	return binary.LittleEndian.Uint32(buf), true
}
