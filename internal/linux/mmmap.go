package linux

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// MMMap is struct prctl_mm_map (include/uapi/linux/prctl.h), which PR_SET_MM_MAP of
// prctl(2) takes. All but the last two fields are addresses.
type MMMap struct {
	StartCode, EndCode, StartData, EndData, StartBrk, Brk uint64
	StartStack, ArgStart, ArgEnd, EnvStart, EnvEnd        uint64
	Auxv                                                  uint64
	AuxvSize                                              uint32 // bytes
	ExeFD                                                 uint32 // NoFD: the executed file stays as it is
}

// NoFD is MMMap's -1.
const NoFD = ^uint32(0)

// Bytes returns the struct as the kernel reads it.
func (m MMMap) Bytes() []byte {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, m)
	return b.Bytes()
}

// statFields is one more than the number of fields in /proc/PID/stat.
const statFields = 53

// StatFields returns the fields of /proc/PID/stat by their numbers in proc_pid_stat(5), from
// 4 on. A negative one is 0.
func StatFields(pid int) (fields [statFields]uint64, err error) {
	name := fmt.Sprintf("/proc/%d/stat", pid)
	text, err := os.ReadFile(name)
	if err != nil {
		return fields, err
	}
	// The second field may hold anything, in parentheses.
	words := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(words) < statFields-3 {
		return fields, fmt.Errorf("read %s: only %d fields", name, len(words)+2)
	}
	for n := 4; n < statFields; n++ {
		word := words[n-3]
		if strings.HasPrefix(word, "-") {
			continue
		}
		if fields[n], err = strconv.ParseUint(word, 10, 64); err != nil {
			return fields, fmt.Errorf("read %s: %w", name, err)
		}
	}
	return fields, nil
}
