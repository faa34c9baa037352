package readers

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/residentctl/residentctl/pkg/launcher"
	"github.com/residentctl/residentctl/pkg/store"
)

// Exposure looks at the owners and modes of a directory and everything below it: what
// others can change or, where it is known who may read it, could read. It also reports
// whether all have exactly the access that is wanted.
func Exposure(dir string, file, directory store.Access, known bool) (faults []string, exact bool) {
	exact = true
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		want := file
		if e.IsDir() {
			want = directory
		}
		switch why := Changeable(path, info.Sys().(*syscall.Stat_t)); {
		case !e.IsDir() && !e.Type().IsRegular():
			faults = append(faults, path+" is not a file")
		case why != "":
			faults = append(faults, why)
		case !known:
		case want.ExceededBy(info):
			faults = append(faults, TooOpen(path, info))
		case !want.Fits(info):
			exact = false
		}
		return nil
	})
	if err != nil {
		faults = append(faults, err.Error())
	}
	return faults, exact
}

// euid is found out once in a process, which does not change it.
var euid = sync.OnceValue(os.Geteuid)

// Changeable says why a user other than the caller and root could change a file or
// directory, or "".
func Changeable(path string, st *syscall.Stat_t) string {
	switch {
	case int(st.Uid) != euid() && !launcher.ShownForRoot(path, st.Uid):
		return fmt.Sprintf("%s belongs to user %d, neither to root nor to user %d", path, st.Uid, euid())
	case st.Mode&0o022 != 0:
		return fmt.Sprintf("users other than its owner may write to %s (mode %04o)", path, st.Mode&0o7777)
	}
	return ""
}

// TooOpen returns what is said of a file that others may read than those who may read the
// program.
func TooOpen(path string, info fs.FileInfo) string {
	return fmt.Sprintf("%s is open to users who may not read or execute the program (mode %04o)", path, info.Mode().Perm())
}
