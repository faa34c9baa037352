package inherit

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/pkg/ptrace"
)

// limits are the resource limits by their numbers (getrlimit(2)).
type limits [16]unix.Rlimit // include/uapi/asm-generic/resource.h, RLIM_NLIMITS

// readLimits reads those that an exec by this process would hand on, from a child at its
// exec stop: the Go runtime has raised RLIMIT_NOFILE for this process and puts it back in
// its children (package syscall, origRlimitNofile).
func readLimits(ctx context.Context) (all limits, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return all, err
	}
	defer null.Close()
	t := ptrace.NewTracer()
	defer t.End()
	err = t.Run(ctx, func() error {
		fd := null.Fd()
		pid, err := t.Start("/proc/self/exe", []string{"residentctl"}, nil, "/", [3]uintptr{fd, fd, fd})
		for n := range all {
			if err == nil {
				err = unix.Prlimit(pid, n, nil, &all[n])
			}
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("read the resource limits: %w", err)
	}
	return all, err
}

func (g *giving) giveLimits() error {
	for n := range g.limits {
		if err := unix.Prlimit(g.PID, n, &g.limits[n], nil); err != nil {
			return fmt.Errorf("set limit %d to %d, and at most %d: %w", n, g.limits[n].Cur, g.limits[n].Max, err)
		}
	}
	return nil
}

// attributeFiles are those below /proc/PID through which an attribute is read and set.
var attributeFiles = []string{"coredump_filter", "oom_score_adj", "timerslack_ns"}

// giveAttributes gives what an exec leaves as it is, and CRIU restores as it was or not at
// all. The rest a process has from its parent, CRIU, which has it from this process.
func (g *giving) giveAttributes() error {
	own, err := readStatus("self")
	if err != nil {
		return err
	}
	umask, err := strconv.ParseUint(own["Umask"], 8, 32)
	if err != nil {
		return fmt.Errorf("read the umask: %w", err)
	}
	if _, err := g.Call(unix.SYS_UMASK, umask); err != nil {
		return err
	}
	if err := g.givePersonality(); err != nil {
		return err
	}
	for _, name := range attributeFiles {
		if err := g.giveFile(name); err != nil {
			return err
		}
	}
	if err := g.giveScheduling(); err != nil {
		return fmt.Errorf("set its scheduling: %w", err)
	}
	hugePages, err := unix.PrctlRetInt(unix.PR_GET_THP_DISABLE, 0, 0, 0, 0)
	if err == nil {
		_, err = g.Call(unix.SYS_PRCTL, unix.PR_SET_THP_DISABLE, uint64(hugePages), 0, 0, 0)
	}
	if err != nil {
		return fmt.Errorf("set its use of huge pages: %w", err)
	}
	var reaper int32
	err = unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&reaper)), 0, 0, 0)
	if err == nil {
		_, err = g.Call(unix.SYS_PRCTL, unix.PR_SET_CHILD_SUBREAPER, uint64(reaper), 0, 0, 0)
	}
	return err
}

// givePersonality gives the execution domain (personality(2)).
func (g *giving) givePersonality() error {
	const ask = 0xffffffff
	persona, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, ask, 0, 0)
	if errno != 0 {
		return errno
	}
	_, err := g.Call(unix.SYS_PERSONALITY, uint64(persona))
	return err
}

// giveFile copies one of attributeFiles.
func (g *giving) giveFile(name string) error {
	own, err := os.ReadFile("/proc/self/" + name)
	if os.IsNotExist(err) {
		return nil // the kernel is built without it
	}
	if err != nil {
		return err
	}
	path := fmt.Sprintf("/proc/%d/%s", g.PID, name)
	its, err := os.ReadFile(path)
	if err != nil || string(its) == string(own) {
		return err
	}
	if name == "coredump_filter" { // it is read without the prefix with which it is written
		own = append([]byte("0x"), own...)
	}
	return os.WriteFile(path, own, 0)
}

// giveScheduling gives policy, priority and nice value.
func (g *giving) giveScheduling() error {
	own, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return err
	}
	its, err := unix.SchedGetAttr(g.PID, 0)
	if err == nil && *its != *own {
		err = unix.SchedSetAttr(g.PID, own, 0)
	}
	if err != nil {
		return err
	}
	// A realtime policy does not show the nice value, which is kept for later. The system
	// call returns 20 minus it (getpriority(2), "C library/kernel differences").
	const shifted = 20
	nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err == nil {
		err = unix.Setpriority(unix.PRIO_PROCESS, g.PID, shifted-nice)
	}
	return err
}

// giveTimers gives the timers that an exec leaves running, with the time that they have
// left (setitimer(2)). This process has none any more then.
func (g *giving) giveTimers() error {
	for _, which := range []unix.ItimerWhich{unix.ITIMER_REAL, unix.ITIMER_VIRTUAL, unix.ITIMER_PROF} {
		timer, err := unix.Getitimer(which)
		if err != nil {
			return err
		}
		if timer == (unix.Itimerval{}) {
			continue
		}
		if timer, err = unix.Setitimer(which, unix.Itimerval{}); err != nil {
			return err
		}
		var data []byte
		for _, n := range []int64{timer.Interval.Sec, timer.Interval.Usec, timer.Value.Sec, timer.Value.Usec} {
			data = binary.LittleEndian.AppendUint64(data, uint64(n))
		}
		if err := g.callWith(data, 1, unix.SYS_SETITIMER, uint64(which), 0, 0); err != nil {
			return err
		}
	}
	return nil
}
