package criuwrap

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

// Capabilities of linux/capability.h that are enough for a dump, as bits. The
// second is the first's forerunner and far more than is needed.
const (
	capCheckpointRestore = uint64(1) << 40
	capSysAdmin          = uint64(1) << 21
)

// Setcap returns what an administrator does once to let ordinary users dump with the
// criu at path. Nothing else is needed: CRIU sees what the user himself may trace.
// CAP_SYS_PTRACE in particular would let him dump, and so read, every process of
// the machine.
func Setcap(path string) string { return "setcap cap_checkpoint_restore+ep " + path }

// noCapability is the error of a criu that dumps for root only.
func noCapability(path string) error {
	return problem.Newf(problem.System, "%s lacks the capability (CAP_CHECKPOINT_RESTORE) to dump a process for an ordinary user", path).
		WithHint("give it to CRIU, as root, for all users: `%s`", Setcap(path))
}

// MayDump reports as an error why the criu at path cannot dump a process of the
// caller's. What can only be found out by trying, such as a mount where files give no
// capabilities (nosuid), it does not know.
func MayDump(path string) error {
	if !linux.RootIsMount() { // mount.c, mnt_build_ids_tree: it finds no root among the mounts
		return problem.Newf(problem.System, "%s, so CRIU cannot dump", linux.PlainChroot).WithHint("%s", linux.MountBeforeRoot)
	}
	if os.Geteuid() == 0 {
		return nil
	}
	if (fileCapabilities(path)|ambientCapabilities())&(capCheckpointRestore|capSysAdmin) == 0 {
		return noCapability(path)
	}
	return nil
}

// fileCapabilities are those that a program has when it begins, whichever user executes
// it: linux/capability.h, struct vfs_cap_data, of any of its revisions.
func fileCapabilities(path string) uint64 {
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved
	}
	var data [24]byte
	n, err := syscall.Getxattr(path, "security.capability", data[:])
	if err != nil || n < 12 {
		return 0
	}
	word := func(at int) uint64 { return uint64(binary.LittleEndian.Uint32(data[at:])) }
	if word(0)&1 == 0 { // VFS_CAP_FLAGS_EFFECTIVE: CRIU does not raise them itself
		return 0
	}
	permitted := word(4)
	if n >= 20 {
		permitted |= word(12) << 32
	}
	return permitted
}

// ambientCapabilities are those that the caller hands on to what it executes
// (capabilities(7)).
func ambientCapabilities() uint64 {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "\nCapAmb:\t")
	line, _, _ := strings.Cut(rest, "\n")
	caps, _ := strconv.ParseUint(line, 16, 64)
	return caps
}
