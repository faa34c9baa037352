package linux

import (
	"fmt"
	"syscall"
)

// FileID tells whether a file is still the one that it was: stat(2)'s tuple.
// Times are nanoseconds since the epoch. It stands in plans byte for byte, so
// its layout is part of their format.
type FileID struct {
	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`
	Size  uint64 `json:"size"`
	Mtime int64  `json:"mtime_ns"`
	Ctime int64  `json:"ctime_ns"`
}

// IDOf takes the identity out of what stat(2) answered.
func IDOf(st *syscall.Stat_t) FileID {
	return FileID{
		Dev:   st.Dev,
		Ino:   st.Ino,
		Size:  uint64(st.Size),
		Mtime: st.Mtim.Nano(),
		Ctime: st.Ctim.Nano(),
	}
}

// StatID is the identity of the file that path leads to, links followed. Its
// error is a syscall.Errno wrapped with the path.
func StatID(path string) (FileID, error) {
	var st syscall.Stat_t
	if err := EINTR(func() error { return syscall.Stat(path, &st) }); err != nil {
		return FileID{}, fmt.Errorf("stat %s: %w", path, err)
	}
	return IDOf(&st), nil
}

// FstatID is the identity of an open file. Its error is a syscall.Errno.
func FstatID(fd int) (FileID, error) {
	var st syscall.Stat_t
	err := EINTR(func() error { return syscall.Fstat(fd, &st) })
	return IDOf(&st), err
}

// EINTR calls f until it ends otherwise than with EINTR.
func EINTR(f func() error) error {
	for {
		if err := f(); err != syscall.EINTR {
			return err
		}
	}
}
