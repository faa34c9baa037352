package registry

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
)

// openLocked opens the file and takes the lock that bbolt would take: flock(2),
// shared for readers, exclusive for a writer. Taking it first is what lets the
// pages be checked while nobody changes them.
func openLocked(path string, flag int, timeout time.Duration) (*os.File, error) {
	file, err := os.OpenFile(path, flag|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	info, err := file.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = errNotARegistry
	default:
		err = distrust(info.Sys().(*syscall.Stat_t), os.Geteuid())
	}
	if err == nil {
		err = lockInTurn(file, flag != os.O_RDONLY, timeout)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// distrust says why the user euid cannot trust a registry that st describes: who
// can write to it decides which images there are, and which gc removes. The rule
// is that of the store's directories.
func distrust(st *syscall.Stat_t, euid int) error {
	switch {
	case st.Uid != 0 && int(st.Uid) != euid:
		return fmt.Errorf("%w: it belongs to user %d, not to root or user %d", ErrUnsafe, st.Uid, euid)
	case st.Mode&0o022 != 0:
		return fmt.Errorf("%w: users other than its owner may write to it (mode %04o)", ErrUnsafe, st.Mode&0o7777)
	}
	return nil
}

// lockInTurn goes through a gate to the lock, so that a writer is not kept out
// for ever by readers whose shared locks overlap: it holds the gate while it
// waits, and the readers queue up before it. The gate is the same lock on a file
// beside the registry, which is its owner's alone, as the registry is: every process
// that can open a file can lock it, and all users can open the directory. Where
// there is no gate, lockInTurn does without.
func lockInTurn(file *os.File, exclusive bool, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	gate, err := openGate(file.Name(), exclusive)
	if err == nil {
		defer gate.Close()
		err = lock(gate, exclusive, deadline)
	}
	if !errors.Is(err, ErrLocked) {
		err = lock(file, exclusive, deadline)
	}
	if errors.Is(err, ErrLocked) {
		return fmt.Errorf("%w (waited %s)", err, timeout)
	}
	return err
}

// GatePath returns the path of the gate of the registry at path.
func GatePath(path string) string { return path + ".gate" }

// openGate opens the gate of the registry at path, and for a writer makes it.
func openGate(path string, create bool) (*os.File, error) {
	flag := os.O_RDONLY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	if create {
		flag |= os.O_CREATE
	}
	return os.OpenFile(GatePath(path), flag, 0o600)
}

// lock polls because flock(2) has no timeout; a transaction takes about as long
// as one pause.
func lock(file *os.File, exclusive bool, deadline time.Time) error {
	const pause = 5 * time.Millisecond
	how := syscall.LOCK_SH
	if exclusive {
		how = syscall.LOCK_EX
	}
	for {
		err := linux.EINTR(func() error { return syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB) })
		if err == nil {
			return nil
		}
		if err != syscall.EWOULDBLOCK {
			return fmt.Errorf("lock: %w", err)
		}
		if !time.Now().Before(deadline) {
			return ErrLocked
		}
		time.Sleep(pause)
	}
}
