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

// LockProgram waits until nobody else makes an image of this binary, and keeps
// all others from it until unlock is called: the second of two would only make
// the same again. Unlike Lock it is held for as long as that takes.
//
// The lock is that of a folder in staging/ with the binary's name, so that what
// a killed process leaves of it is garbage like everything there.
func (s *Store) LockProgram(ctx context.Context, b linux.Inode) (unlock func(), err error) {
	const pause = 5 * time.Millisecond
	dir := s.in(stagingName, "program-"+b.String())
	for {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, wrap("lock", dir, err)
		}
		lock, err := lockFolder(dir)
		switch {
		case err == nil:
			return func() {
				_ = os.Remove(dir)
				lock.Close()
			}, nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, fs.ErrNotExist):
			return nil, wrap("lock", dir, err)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}
