package linux

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Of ioprio_set(2) and linux/ioprio.h.
const (
	ioprioWhoProcess = 1
	ioprioIdle       = 3 << 13 // IOPRIO_CLASS_IDLE, level 0
)

// Background lets this process, and the processes that it starts from now on, have the processors
// and disks only when nothing else wants them: SCHED_IDLE (sched(7)) and the idle class of
// ioprio_set(2). Both belong to each thread, and a thread inherits them from its creator.
func Background() error {
	done := map[int]bool{}
	var failed error
	for {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		before := len(done)
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err == nil && !done[tid] {
				done[tid] = true
				failed = errors.Join(failed, backgroundThread(tid))
			}
		}
		if len(done) == before || failed != nil {
			return failed // a thread that was not seen has a creator that was
		}
	}
}

// backgroundThread is Background of one thread, which may have ended.
func backgroundThread(tid int) error {
	var failed []error
	err := unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
	if err != nil && err != unix.ESRCH {
		failed = append(failed, fmt.Errorf("set the scheduling policy: %w", err))
	}
	_, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(tid), ioprioIdle)
	if errno != 0 && errno != unix.ESRCH {
		failed = append(failed, fmt.Errorf("set the priority of I/O: %w", errno))
	}
	return errors.Join(failed...)
}

// Foreground takes SCHED_IDLE from a process with one thread, which needs CAP_SYS_NICE or
// enough of RLIMIT_NICE.
func Foreground(pid int) error {
	attr, err := unix.SchedGetAttr(pid, 0)
	if err != nil || attr.Policy != unix.SCHED_IDLE {
		return err
	}
	return unix.SchedSetAttr(pid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: attr.Nice}, 0)
}
