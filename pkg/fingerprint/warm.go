package fingerprint

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/residentctl/residentctl/internal/linux"
)

// DependOnDirectories makes directories that were read dependencies as a whole. One that is
// gone by now is ErrChanged.
func (d *Dependencies) DependOnDirectories(paths []string) error {
	for _, path := range paths {
		if UnderKernel(path) {
			continue
		}
		if err := d.dependOn(path); err != nil {
			return err
		}
	}
	return nil
}

// DependOnManaged makes dependencies of the directories of the checks of which
// managed says that while they are unchanged, so is all that is in them (Managed).
func (d *Dependencies) DependOnManaged(managed func(dir string) bool) error {
	known := map[string]bool{}
	for _, c := range d.Checks {
		dir := filepath.Dir(c.Path)
		if c.absent() || known[dir] {
			continue
		}
		known[dir] = true
		if !managed(dir) {
			continue
		}
		if err := d.dependOn(dir); err != nil {
			return err
		}
		d.Managed = append(d.Managed, dir)
	}
	slices.Sort(d.Managed)
	return nil
}

// IsManaged reports whether a start need not look at a check, because it looks at the check's
// directory.
func (d *Dependencies) IsManaged(c Checked) bool {
	_, found := slices.BinarySearch(d.Managed, filepath.Dir(c.Path))
	return found && !c.absent() && len(c.Answers) == 0
}

// dependOn makes one directory an exact dependency.
func (d *Dependencies) dependOn(path string) error {
	i := slices.IndexFunc(d.Directories, func(f Directory) bool { return f.Path == path })
	if i >= 0 {
		d.Directories[i].Exact = true
		return nil
	}
	id, err := linux.StatID(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s %w: %w", path, ErrChanged, err)
	}
	if err != nil {
		return err
	}
	d.Directories = append(d.Directories, Directory{Path: path, ID: id, Misses: []string{}, Exact: true})
	return nil
}

// DependOnCache makes /etc/ld.so.cache a dependency as a whole, instead of by what it answers.
func (d *Dependencies) DependOnCache() {
	for i := range d.Checks {
		d.Checks[i].Answers = nil
	}
}

// IDOf returns the identity of the mapped file that was opened by a path, the zero one if there is
// none.
func (d *Dependencies) IDOf(path string) linux.FileID {
	for _, f := range d.files() {
		if f.Path == path {
			return f.ID
		}
	}
	return linux.FileID{}
}
