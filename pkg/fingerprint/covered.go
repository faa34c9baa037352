package fingerprint

import (
	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/launcher"
)

// StatID is linux.StatID, but of the copy with which `residentctl exec` has covered
// the dynamic linker it returns the linker itself: that is what starts map in such a
// command tree, and what an image made outside it depends on.
func StatID(path string) (linux.FileID, error) {
	_, id, err := look(path)
	return id, err
}

// look returns the path by which a file is to be opened, and its identity. If the
// dynamic linker is covered and cannot be seen, the error is none of the kernel's:
// nobody may take the linker for missing.
func look(path string) (string, linux.FileID, error) {
	id, err := linux.StatID(path)
	if err != nil {
		return path, id, err
	}
	if c := launcher.Inside(); c != nil && id == c.ID {
		id, err = c.Linker()
		path = c.Original
	}
	return path, id, err
}
