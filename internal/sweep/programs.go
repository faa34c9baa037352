package sweep

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/elfinfo"
)

// file is a dynamic program and the names that lead to it.
type file struct {
	Inode linux.Inode
	Names []string // absolute, sorted
}

// directories are searched for programs, with all that is below them.
var directories = []string{"/usr/bin", "/usr/sbin", "/usr/libexec"}

// neverRun are programs that are not even started in a cell, by their names.
var neverRun = map[string]string{
	"halt":     "stops the machine",
	"init":     "is process 1 of a machine, or tells it to change its state",
	"kexec":    "starts another kernel",
	"poweroff": "stops the machine",
	"reboot":   "stops the machine",
	"rtcwake":  "puts the machine to sleep",
	"shutdown": "stops the machine",
	"systemd":  "is process 1 of a machine",
	"telinit":  "tells process 1 to change the machine's state",
}

// findPrograms finds every dynamic program under every name.
func findPrograms() ([]file, error) {
	found := map[linux.FileID]*file{}
	for _, directory := range directories {
		err := filepath.WalkDir(directory, func(path string, e fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil // no libexec, or removed meanwhile
			}
			if err != nil || e.IsDir() {
				return err
			}
			f, err := elfinfo.Open(path)
			if err != nil || f.Interp == "" || linux.CanExecute(path) != nil {
				return nil // a script, a static program, something else
			}
			if found[f.ID] == nil {
				found[f.ID] = &file{Inode: f.ID.Inode()}
			}
			found[f.ID].Names = append(found[f.ID].Names, path)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("look for programs: %w", err)
		}
	}
	files := make([]file, 0, len(found))
	for _, f := range found {
		slices.Sort(f.Names)
		files = append(files, *f)
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.Names[0], b.Names[0]) })
	return files, nil
}

// matching keeps the names for which match is true.
func matching(files []file, match func(string) bool) []file {
	var kept []file
	for _, f := range files {
		names := slices.DeleteFunc(slices.Clone(f.Names), func(name string) bool { return !match(name) })
		if len(names) > 0 {
			kept = append(kept, file{f.Inode, names})
		}
	}
	return kept
}

// only keeps the programs that are named, by their path or its last part.
func only(files []file, wanted []string) ([]file, error) {
	for _, want := range wanted {
		is := func(name string) bool { return name == want || filepath.Base(name) == want }
		if len(matching(files, is)) == 0 {
			return nil, fmt.Errorf("%q is no dynamic program in %s", want, strings.Join(directories, ", "))
		}
	}
	return matching(files, func(name string) bool {
		return slices.Contains(wanted, name) || slices.Contains(wanted, filepath.Base(name))
	}), nil
}
