package inherit

import (
	"fmt"
	"os"
	"strings"
)

// readStatus is /proc/PID/status (proc_pid_status(5)), by the names of its lines. The
// process is named as in /proc: "self", or by its id.
func readStatus(process string) (map[string]string, error) {
	text, err := os.ReadFile("/proc/" + process + "/status")
	if err != nil {
		return nil, err
	}
	status := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		status[key] = strings.TrimSpace(value)
	}
	return status, nil
}

// statuses are the caller's and the process's.
func (g *giving) statuses() (own, its map[string]string, err error) {
	if own, err = readStatus("self"); err == nil {
		its, err = readStatus(fmt.Sprint(g.PID))
	}
	return own, its, err
}
