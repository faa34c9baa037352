package linux

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/plural"
)

// bootIDLen is the length of a UUID in text, RFC 9562 section 4.
const bootIDLen = 36

// BootID returns the kernel's name for the time since the machine was started, 36
// characters (random(4), "boot_id").
func BootID() (string, error) {
	const path = "/proc/sys/kernel/random/boot_id"
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	id := strings.TrimSuffix(string(b), "\n")
	if len(id) != bootIDLen {
		return "", fmt.Errorf("read the boot id: %s holds %s instead of %d", path, plural.Count(len(id), "character"), bootIDLen)
	}
	return id, nil
}

// bootNode is a file that each boot makes again, if it is in memory.
const bootNode = "/dev/null"

// clockFloor is 2025-01-01, in nanoseconds since the epoch: a clock that is set back by
// a power failure, or that no battery keeps, begins earlier.
const clockFloor = 1735689600e9

// BootMark distinguishes this boot from others as BootID does, but by one stat(2): the XXH64
// (seed 0) of what it says of bootNode, the device, the inode, mtime and ctime in
// nanoseconds, each as eight bytes, little-endian. It is 0 where that is not reliable:
// where /dev is kept over a boot, since it is no tmpfs (devtmpfs is one to statfs(2) too:
// drivers/base/devtmpfs.c has shmem's super block), or where the clock may have stood at
// the same time in two boots, since it was not right: earlier than clockFloor, or than
// builtAt, nanoseconds since the epoch, the time of a file that was built before this
// boot.
func BootMark(builtAt int64) uint64 {
	var fs unix.Statfs_t
	var st syscall.Stat_t
	if EINTR(func() error { return syscall.Stat(bootNode, &st) }) != nil || st.Mode&syscall.S_IFMT != syscall.S_IFCHR ||
		EINTR(func() error { return unix.Statfs(bootNode, &fs) }) != nil || fs.Type != unix.TMPFS_MAGIC {
		return 0
	}
	return markOf(IDOf(&st), builtAt)
}

func markOf(id FileID, builtAt int64) uint64 {
	if min(id.Mtime, id.Ctime) <= max(builtAt, clockFloor) {
		return 0
	}
	var b []byte
	for _, word := range []uint64{id.Dev, id.Ino, uint64(id.Mtime), uint64(id.Ctime)} {
		b = binary.LittleEndian.AppendUint64(b, word)
	}
	return xxhash.Sum64(b)
}
