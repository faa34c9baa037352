package store

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

// ErrBusy is a store that another process is changing, and has been for longer
// than LockTimeout.
var ErrBusy = errors.New("another residentctl is changing it")

// LockTimeout is how long Lock waits. A change takes some milliseconds, or the
// time that the disk needs for an image.
const LockTimeout = 30 * time.Second

// Lock keeps all others from changing what is published until unlock is called:
// an image with its record, its launcher files and its index link come, and go,
// as one. So a process that holds it knows that an image without a record is garbage,
// and not one whose record is about to be written. Readers do not take it, least
// of all a start. It ends with the process.
//
// The lock is flock(2) on staging/, which only the store's owner can open:
// a reader of the store cannot hold its owner up. flock has no timeout, hence
// the polling.
func (s *Store) Lock(ctx context.Context) (unlock func(), err error) {
	f, err := s.lock(ctx)
	if err != nil {
		return nil, wrap("lock", s.dir, err)
	}
	return func() { f.Close() }, nil
}

func (s *Store) lock(ctx context.Context) (*os.File, error) {
	const pause = 2 * time.Millisecond
	if err := s.same(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.in(stagingName), os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(LockTimeout); ; time.Sleep(pause) {
		err = eintr(func() error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) })
		switch {
		case err == nil:
			return f, nil
		case err != syscall.EWOULDBLOCK:
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		case time.Now().After(deadline):
			err = ErrBusy
		default:
			continue
		}
		f.Close()
		return nil, err
	}
}
