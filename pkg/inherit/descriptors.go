package inherit

import (
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/pkg/launcher/front"
)

// giveDescriptors gives the process this process's descriptors that an exec leaves open,
// and its working directory. They are the same open files, offsets and all, which the
// process fetches itself (pidfd_getfd(2)).
func (g *giving) giveDescriptors() error {
	fds, err := descriptors()
	if err != nil {
		return err
	}
	highest := max(slices.Max(append(fds, 2)), 2)
	if err := g.allowDescriptors(uint64(highest)); err != nil {
		return err
	}
	// With kernel.yama.ptrace_scope=1 a child cannot do that to its parent, unless the
	// parent allows it. Without Yama this is EINVAL.
	_ = unix.Prctl(unix.PR_SET_PTRACER, uintptr(g.PID), 0, 0, 0)
	defer func() { _ = unix.Prctl(unix.PR_SET_PTRACER, 0, 0, 0, 0) }()
	us, err := g.openUs(spare(fds))
	for fd := 0; err == nil && fd <= highest; fd++ {
		switch {
		case slices.Contains(fds, fd):
			err = g.giveDescriptor(us, fd)
		case fd <= 2: // it was dumped with these
			_, err = g.Call(unix.SYS_CLOSE, uint64(fd))
		}
	}
	if err == nil {
		err = g.giveDirectory(us)
	}
	if err == nil {
		_, err = g.Call(unix.SYS_CLOSE, us)
	}
	return err
}

// spare is a descriptor that is not among these, and next to them: the kernel's table
// grows with the highest number.
func spare(fds []int) uint64 {
	fd := 3
	for slices.Contains(fds, fd) {
		fd++
	}
	return uint64(fd)
}

// openUs has the process open this process as the descriptor at.
func (g *giving) openUs(at uint64) (uint64, error) {
	us, err := g.Call(unix.SYS_PIDFD_OPEN, uint64(os.Getpid()), 0)
	if err != nil {
		return 0, fmt.Errorf("open this process: %w", err)
	}
	if us == at {
		return us, nil
	}
	if _, err = g.Call(unix.SYS_DUP3, us, at, unix.O_CLOEXEC); err == nil {
		_, err = g.Call(unix.SYS_CLOSE, us)
	}
	return at, err
}

// giveDescriptor fetches a descriptor of this process, which us is open on, to the same
// number.
func (g *giving) giveDescriptor(us uint64, fd int) error {
	to := uint64(fd)
	got, err := g.Call(unix.SYS_PIDFD_GETFD, us, to, 0)
	if err != nil {
		return fmt.Errorf("fetch descriptor %d: %w", fd, err)
	}
	if got == to { // it is fetched with FD_CLOEXEC
		_, err = g.Call(unix.SYS_FCNTL, to, unix.F_SETFD, 0)
		return err
	}
	if _, err = g.Call(unix.SYS_DUP2, got, to); err == nil {
		_, err = g.Call(unix.SYS_CLOSE, got)
	}
	return err
}

func (g *giving) giveDirectory(us uint64) error {
	var dir int
	var err error
	if dir, err = unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open the working directory: %w", err)
	}
	defer unix.Close(dir)
	got, err := g.Call(unix.SYS_PIDFD_GETFD, us, uint64(dir), 0)
	if err == nil {
		_, err = g.Call(unix.SYS_FCHDIR, got)
	}
	if err == nil {
		_, err = g.Call(unix.SYS_CLOSE, got)
	}
	if err != nil {
		err = fmt.Errorf("fetch the working directory: %w", err)
	}
	return err
}

// allowDescriptors allows the process descriptors up to this number, and the two that it
// needs besides, until it gets its limits.
func (g *giving) allowDescriptors(highest uint64) error {
	var limit unix.Rlimit
	if err := unix.Prlimit(g.PID, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		return err
	}
	needed := highest + 3
	limit.Cur, limit.Max = max(limit.Cur, needed), max(limit.Max, needed)
	return unix.Prlimit(g.PID, unix.RLIMIT_NOFILE, &limit, nil)
}

// descriptors are this process's that an exec leaves open, in ascending order. Those that
// only the Go runtime has opened are left out.
func descriptors() (fds []int, err error) {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", dir, err)
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 || slices.Contains(front.Closed(), fd) {
			continue // or the directory's own, which is closed by now
		}
		fds = append(fds, fd)
	}
	slices.Sort(fds)
	return fds, nil
}

// Forget gives up what Give has given, as far as this process has it too: its descriptors,
// with /dev/null in place of the first three, and its working directory. What fails is left.
func Forget() {
	_ = unix.Chdir("/")
	fds, _ := descriptors()
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	for _, fd := range fds {
		if fd > 2 {
			_ = unix.Close(fd)
		} else {
			_ = unix.Dup2(null, fd)
		}
	}
	_ = unix.Close(null)
}
