package linkstop

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

// status is what is needed of /proc/PID/status (proc_pid_status(5)).
type status struct {
	threads         uint64
	ignored, caught uint64 // signals, as bit masks
	own             uint64 // bytes that are no file's (any more): RssAnon and VmSwap
	data            uint64 // bytes that RLIMIT_DATA counts: VmData
}

func readStatus(pid int) (s status, err error) {
	name := fmt.Sprintf("/proc/%d/status", pid)
	text, err := os.ReadFile(name)
	if err != nil {
		return s, err
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Threads":
			s.threads, err = strconv.ParseUint(value, 10, 64)
		case "SigIgn":
			s.ignored, err = strconv.ParseUint(value, 16, 64)
		case "SigCgt":
			s.caught, err = strconv.ParseUint(value, 16, 64)
		case "RssAnon", "VmSwap":
			var kib uint64
			kib, err = strconv.ParseUint(strings.TrimSuffix(value, " kB"), 10, 64)
			s.own += kib << 10
		case "VmData":
			s.data, err = strconv.ParseUint(strings.TrimSuffix(value, " kB"), 10, 64)
			s.data <<= 10
		}
		if err != nil {
			return s, fmt.Errorf("read %s: %w", name, err)
		}
	}
	return s, nil
}

// checkDescriptors refuses a dynamic linker that leaves files open.
func checkDescriptors(pid int) error {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err != nil || n > 2 {
			return problem.Refusef("its dynamic linker leaves descriptor %s open", e.Name())
		}
	}
	return nil
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
