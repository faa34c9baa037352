package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
)

// LockProgram waits until no other process makes an image of this binary, and keeps
// all others from it until unlock is called: the second of two would only make
// the same again. Unlike Lock it is held for as long as that takes.
//
// The lock is that of a directory in staging/ with the binary's name, so that what
// a killed process leaves of it is garbage like everything there.
func (s *Store) LockProgram(ctx context.Context, b linux.Inode) (unlock func(), err error) {
	const pause = 5 * time.Millisecond
	for {
		unlock, taken, err := s.lockNamed("program-" + b.String())
		if !taken {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// LockBackground keeps other processes that work on the store in the background from it
// until unlock is called. It does not wait: where there is such a process, its error is
// ErrBusy.
func (s *Store) LockBackground() (unlock func(), err error) {
	unlock, taken, err := s.lockNamed("background")
	if taken {
		return nil, wrap("lock", s.dir, ErrBusy)
	}
	return unlock, err
}

// lockNamed locks a directory in staging/ of this name. Taken is a lock that another
// process has, or has just given back.
func (s *Store) lockNamed(name string) (unlock func(), taken bool, err error) {
	dir := s.in(stagingName, name)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, false, wrap("lock", dir, err)
	}
	lock, err := lockDirectory(dir)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK), errors.Is(err, fs.ErrNotExist):
		return nil, true, nil
	case err != nil:
		return nil, false, wrap("lock", dir, err)
	}
	return func() {
		_ = os.Remove(dir)
		lock.Close()
	}, false, nil
}
