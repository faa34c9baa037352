package intercept

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// settled decides which programs exec --auto may execute beside the command. While a
// program is being made resident, a tenth of a second as a rule, its file is
// executing, and a process that opens it for writing then gets ETXTBSY (open(2)): a `cp`
// over it fails that would have gone well. No lease and no mark is told of that open
// in time, since the kernel asks for write access first (fs/open.c, do_dentry_open).
// So it must be known in advance that no process will.
type settled struct {
	began time.Time // when the command was started
	from  string    // in which directory, its links resolved; "" if that is not known
}

// clockGrain is by how much a file's times may lie before the moment of the change:
// the kernel's tick, or the file system's seconds, of which FAT has two.
const clockGrain = 2 * time.Second

func newSettled() settled {
	s := settled{began: time.Now()}
	if dir, err := os.Getwd(); err == nil {
		s.from, _ = filepath.EvalSymlinks(dir)
	}
	return s
}

// is reports whether the program at path, which must be that binary, is one that the
// command will not write to in place. What the caller cannot write to, it cannot
// either. Of the rest, all there is for root, those count which the command can have
// no business with but to execute them: file and directory are as they were before it
// began, so neither it nor a build of it nor an installation under way made them,
// and they do not lie where it was started, which is what it works on.
func (s settled) is(path string, b linux.Inode) bool {
	file, err := linux.StatID(path)
	if err != nil || file.Inode() != b {
		return false // replaced since, or a path of another mount namespace
	}
	if unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS) != nil {
		return true
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	dir, err := linux.StatID(filepath.Dir(real))
	return err == nil && s.before(file) && s.before(dir) && !s.isWorkedOn(real)
}

// before reports whether it last changed before the command began. The ctime counts
// too: the mtime is what `cp -p`, tar and touch(1) make it.
func (s settled) before(id linux.FileID) bool {
	return max(id.Mtime, id.Ctime) < s.began.Add(-clockGrain).UnixNano()
}

// isWorkedOn reports whether the path lies below the directory that the command was
// started in. Everything is below /, so that says nothing.
func (s settled) isWorkedOn(path string) bool {
	return s.from != "/" && (s.from == "" || strings.HasPrefix(path, s.from+"/"))
}
