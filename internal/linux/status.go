package linux

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Status is what is needed of /proc/PID/status (proc_pid_status(5)).
type Status struct {
	Threads                  uint64
	Pending, Ignored, Caught uint64 // signals, as bit masks
	Own                      uint64 // bytes that are no file's (any more): RssAnon and VmSwap
	Data                     uint64 // bytes that RLIMIT_DATA counts: VmData
	Umask                    uint64
}

// ReadStatus reads it of a process or thread.
func ReadStatus(pid int) (s Status, err error) {
	name := fmt.Sprintf("/proc/%d/status", pid)
	text, err := os.ReadFile(name)
	if err != nil {
		return s, err
	}
	number := func(value string, base int) (n uint64) {
		if err == nil {
			n, err = strconv.ParseUint(value, base, 64)
		}
		return n
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Threads":
			s.Threads = number(value, 10)
		case "SigPnd", "ShdPnd": // the thread's and the process's
			s.Pending |= number(value, 16)
		case "SigIgn":
			s.Ignored = number(value, 16)
		case "SigCgt":
			s.Caught = number(value, 16)
		case "RssAnon", "VmSwap":
			s.Own += number(strings.TrimSuffix(value, " kB"), 10) << 10
		case "VmData":
			s.Data = number(strings.TrimSuffix(value, " kB"), 10) << 10
		case "Umask":
			s.Umask = number(value, 8)
		}
	}
	if err != nil {
		return s, fmt.Errorf("read %s: %w", name, err)
	}
	return s, nil
}

// OpenBeyond returns the first descriptor that a process has open beyond the standard ones, and
// what it leads to (proc_pid_fd(5)); "" if there is none.
func OpenBeyond(pid int) (descriptor, target string, err error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", "", err
	}
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err != nil || n > 2 {
			target, _ := os.Readlink(filepath.Join(dir, e.Name()))
			return e.Name(), target, nil
		}
	}
	return "", "", nil
}
