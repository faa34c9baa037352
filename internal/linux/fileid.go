package linux

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// FileID is what stat(2) shows of a file that differs once the file is changed or
// replaced. Times are nanoseconds since the epoch. Plans hold it byte for byte, so its
// layout is part of their format.
type FileID struct {
	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`
	Size  uint64 `json:"size"`
	Mtime int64  `json:"mtime_ns"`
	Ctime int64  `json:"ctime_ns"`
}

// Inode identifies a file among those that exist at one time, by device and inode as stat(2)
// shows them. What is made later may have the inode of what is gone: FileID.
type Inode struct {
	Dev, Ino uint64
}

// String returns DEVICE-INODE in decimal. The names in a store are made of it, and the
// launcher makes the same (pkg/launcher/src).
func (i Inode) String() string { return fmt.Sprintf("%d-%d", i.Dev, i.Ino) }

// ParseInode takes only what String returns: no signs, no leading zeros.
func ParseInode(s string) (i Inode, ok bool) {
	n, err := fmt.Sscanf(s, "%d-%d", &i.Dev, &i.Ino)
	return i, err == nil && n == 2 && i.String() == s
}

// Inode returns which file it is, whatever its content.
func (id FileID) Inode() Inode { return Inode{id.Dev, id.Ino} }

// InodeOf takes the device and inode out of what stat(2) returned.
func InodeOf(st *unix.Stat_t) Inode { return Inode{st.Dev, st.Ino} }

// SameFile reports whether both paths, links followed, lead to one file.
func SameFile(a, b string) bool {
	x, err := StatID(a)
	if err != nil {
		return false
	}
	y, err := StatID(b)
	return err == nil && x.Inode() == y.Inode()
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

// StatID returns the identity of the file that path leads to, links followed. Its
// error is a syscall.Errno wrapped with the path.
func StatID(path string) (FileID, error) {
	st, err := Stat(path)
	if err != nil {
		return FileID{}, err
	}
	return IDOf(st), nil
}

// Stat is the state of the file that path leads to, links followed. Its error is that of StatID.
func Stat(path string) (*syscall.Stat_t, error) {
	var st syscall.Stat_t
	if err := EINTR(func() error { return syscall.Stat(path, &st) }); err != nil {
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	return &st, nil
}

// FstatID returns the identity of an open file. Its error is a syscall.Errno.
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
