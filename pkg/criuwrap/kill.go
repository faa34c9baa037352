package criuwrap

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// killTree kills a process and all that it started. CRIU's own children, those
// that try out the kernel and those that are being restored, wait for CRIU for
// ever when only it is killed, and hold its socket open, so that go-criu would
// wait for them.
func killTree(pid int) {
	syscall.Kill(pid, syscall.SIGSTOP)
	for range 500 {
		if s := stateOf(pid); s == 0 || strings.IndexByte("TtZX", s) >= 0 {
			break
		}
		time.Sleep(200 * time.Microsecond)
	}
	for _, child := range childrenOf(pid) {
		killTree(child)
	}
	syscall.Kill(pid, syscall.SIGKILL)
}

// stateOf is the letter of proc_pid_status(5) "State", 0 for no such process.
func stateOf(pid int) byte {
	rest, ok := statusField(pid, "State")
	if !ok || rest == "" {
		return 0
	}
	return rest[0]
}

// parentOf is a process's parent, 0 for no such process.
func parentOf(pid int) int {
	text, _ := statusField(pid, "PPid")
	ppid, _ := strconv.Atoi(text)
	return ppid
}

func statusField(pid int, name string) (string, bool) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", false
	}
	_, rest, ok := bytes.Cut(status, []byte("\n"+name+":\t"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	return string(line), ok
}

// childrenOf lists the children of all threads of a process.
func childrenOf(pid int) []int {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var pids []int
	for _, file := range files {
		some, _ := readChildren(file) // a thread may have ended meanwhile
		pids = append(pids, some...)
	}
	return pids
}

// readChildren reads proc(5) "children", which a kernel that CRIU can work on
// has (CONFIG_PROC_CHILDREN).
func readChildren(file string) ([]int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, field := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
