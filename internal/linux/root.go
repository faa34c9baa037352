package linux

import "golang.org/x/sys/unix"

// RootIsMount reports whether the process's root directory is a mount point. It is none
// after a plain chroot(2) to a directory: what is mounted there cannot be found then from
// /proc/self/mountinfo (fs/proc_namespace.c leaves out what is not below the root). Before
// Linux 5.8 the kernel does not say (statx(2), STATX_ATTR_MOUNT_ROOT), and it is true.
func RootIsMount() bool {
	var st unix.Statx_t
	err := EINTR(func() error { return unix.Statx(unix.AT_FDCWD, "/", unix.AT_NO_AUTOMOUNT, 0, &st) })
	const mount = unix.STATX_ATTR_MOUNT_ROOT
	return err != nil || st.Attributes_mask&mount == 0 || st.Attributes&mount != 0
}

// What is said where the root directory is no mount point: why something fails, and what
// can be done.
const (
	PlainChroot     = "the root directory is no mount point, as in a plain chroot"
	MountBeforeRoot = "make it one: `mount --rbind DIR DIR` before the chroot to DIR"
)
