package linux

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// HasXattr reports whether the open file f carries the extended attribute name.
// A file system without extended attributes carries none.
func HasXattr(f *os.File, name string) (bool, error) {
	var size int
	err := EINTR(func() (err error) {
		size, err = unix.Fgetxattr(int(f.Fd()), name, nil)
		return err
	})
	switch {
	case err == nil:
		return size > 0, nil
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
		return false, nil
	}
	return false, fmt.Errorf("read attribute %s of %s: %w", name, f.Name(), err)
}

// CanExecute asks whether this process, with its effective ids, may execute
// the file at path. A nil error is a yes; EACCES is also what a file on a
// noexec mount gives.
func CanExecute(path string) error {
	err := EINTR(func() error {
		return unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
	})
	if err != nil {
		return fmt.Errorf("ask for permission to execute %s: %w", path, err)
	}
	return nil
}

// Kernel returns the running kernel's release and version as uname(2) has them, for
// instance "6.12.9 #1 SMP PREEMPT_DYNAMIC Debian 6.12.9-1": two builds of one
// release differ in it.
func Kernel() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Version[:]), nil
}

// CoarseNow returns the clock that the kernel stamps files from, in nanoseconds
// since the epoch: it moves at each timer tick, 1 to 10 ms apart
// (clock_gettime(2), CLOCK_REALTIME_COARSE; fs/inode.c, current_time).
func CoarseNow() (int64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &ts); err != nil {
		return 0, fmt.Errorf("read the coarse clock: %w", err)
	}
	return time.Unix(ts.Unix()).UnixNano(), nil
}

// StatusText says how a process ended.
func StatusText(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return "killed by " + unix.SignalName(ws.Signal())
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}
