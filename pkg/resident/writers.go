package resident

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/fingerprint"
)

// A file that is mapped shared and writable changes without a new time: the kernel
// stamps it at the first write to a page and not at later ones (mm/memory.c,
// do_shared_fault and wp_page_shared, which call file_update_time). So an image of a
// file is only good if no such mapping was older than its recorded times, and stat(2)
// does not show that. A read lease does: the kernel grants none on a file that is open
// for writing, which it is while a shared writable mapping of it lasts (fs/locks.c,
// check_conflicting_open). Two moments count:
//
//   - Before anything of a file is read. For the program and its dynamic linker that
//     is before the template is started; for each library, when it has been opened and
//     is not mapped yet. Nothing writes to it then, so whatever writes later has opened
//     it later, and its first write gives the file a time that is not older than the
//     start of linking, which ChangedSince finds, or Stale.
//   - Before the image is published. That also finds a writer on a file system that
//     has no first write to notice (tmpfs: a page that was read through a writable
//     mapping is writable at once).
//
// The lease is given back at once. Holding it would gain nothing, since it does not
// hold a writer up for longer than /proc/sys/fs/lease-break-time.

// errWriter refuses a file that is open for writing.
var errWriter = errors.New("it is open for writing, and can change without a new time of change")

// refuseWriters returns errWriter if the file at path, which name is shown for,
// is open for writing. Where the kernel does not say (the file is another user's,
// EACCES; NFS or FUSE, EINVAL) there is none. A file whose identity is not want, of
// which a zero inode stands for any, is fingerprint.ErrChanged. It returns the file's
// identity.
func refuseWriters(path, name string, want linux.FileID) (id linux.FileID, err error) {
	// Without O_NONBLOCK it would wait for the holder of a write lease.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return id, err
	}
	defer f.Close()
	id, err = linux.FstatID(int(f.Fd()))
	if err != nil {
		return id, fmt.Errorf("stat %s: %w", name, err)
	}
	if want.Ino != 0 && id.Inode() != want.Inode() {
		return id, fmt.Errorf("%s %w", name, fingerprint.ErrChanged)
	}
	// A writer that comes in this moment breaks the lease, for which the kernel sends
	// SIGIO unless another signal is chosen. SIGURG is ignored by default.
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETSIG, int(unix.SIGURG)); err != nil {
		return id, fmt.Errorf("choose the signal of a lease on %s: %w", name, err)
	}
	err = linux.EINTR(func() error {
		_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
		return err
	})
	if err == unix.EAGAIN {
		return id, problem.Errorf("link %s: %w", name, errWriter).
			WithHint("try again when the program that writes to it has ended (`fuser -v %s` shows it)", name)
	}
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
		if err != nil {
			return id, fmt.Errorf("give back the lease on %s: %w", name, err)
		}
	}
	return id, nil
}
