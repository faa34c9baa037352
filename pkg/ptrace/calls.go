package ptrace

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// A PathCall is a system call that asks for a path: its name, and the number of the argument
// that holds the path. The one before it, if any, is the directory's descriptor.
type PathCall struct {
	Name string
	Path int
}

// PathCalls are these calls, by number.
var PathCalls = map[uint64]PathCall{
	unix.SYS_OPEN:       {"open", 0},
	unix.SYS_OPENAT:     {"openat", 1},
	unix.SYS_OPENAT2:    {"openat2", 1},
	unix.SYS_STAT:       {"stat", 0},
	unix.SYS_LSTAT:      {"lstat", 0},
	unix.SYS_NEWFSTATAT: {"newfstatat", 1},
	unix.SYS_STATX:      {"statx", 1},
	unix.SYS_ACCESS:     {"access", 0},
	unix.SYS_FACCESSAT:  {"faccessat", 1},
	unix.SYS_FACCESSAT2: {"faccessat2", 1},
	unix.SYS_READLINK:   {"readlink", 0},
	unix.SYS_READLINKAT: {"readlinkat", 1},
}

// OpenFlags returns the flags of a call of a process, at its entry, if it opens a file.
func (i *SyscallInfo) OpenFlags(pid int) (flags uint64, ok bool) {
	switch i.Number() {
	case unix.SYS_OPEN:
		return i.Arg(1), true
	case unix.SYS_OPENAT:
		return i.Arg(2), true
	case unix.SYS_OPENAT2: // struct open_how begins with them
		var how [8]byte
		if linux.ReadMem(pid, i.Arg(2), how[:]) != nil {
			return 0, false
		}
		return binary.LittleEndian.Uint64(how[:]), true
	}
	return 0, false
}
