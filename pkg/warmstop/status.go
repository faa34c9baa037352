package warmstop

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// status is what is needed of /proc/PID/status (proc_pid_status(5)).
type status struct {
	threads                  uint64
	pending, ignored, caught uint64 // signals, as bit masks
	umask                    uint64
}

func readStatus(pid int) (s status, err error) {
	name := fmt.Sprintf("/proc/%d/status", pid)
	text, err := os.ReadFile(name)
	if err != nil {
		return s, err
	}
	number := func(into *uint64, value string, base int) {
		var n uint64
		if err == nil {
			n, err = strconv.ParseUint(value, base, 64)
			*into |= n
		}
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Threads":
			number(&s.threads, value, 10)
		case "SigPnd", "ShdPnd":
			number(&s.pending, value, 16)
		case "SigIgn":
			number(&s.ignored, value, 16)
		case "SigCgt":
			number(&s.caught, value, 16)
		case "Umask":
			number(&s.umask, value, 8)
		}
	}
	if err != nil {
		return s, fmt.Errorf("read %s: %w", name, err)
	}
	return s, nil
}
