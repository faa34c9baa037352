package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Access is what the group GID and others may do with a file beside its owner,
// who may do all. A GID of -1 is the group that the file has.
type Access struct {
	Mode fs.FileMode
	GID  int
}

// groupMatters: where the group may do what others may, it does not matter whose
// it is, and an ordinary user could not always give it.
func (a Access) groupMatters() bool { return a.GID >= 0 && a.Mode>>3&7 != a.Mode&7 }

// set gives the file at path this access.
func (a Access) set(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	a.Mode |= 0o700
	return a.give(path, info)
}

// give changes the access of a file that had what info says. A group that the
// caller may not give gets nothing, and so do others. A file that has it all
// keeps its times: chmod would change ctime, which plans record.
func (a Access) give(path string, info fs.FileInfo) error {
	had := info.Mode().Perm()
	if a.groupMatters() && a.GID != int(info.Sys().(*syscall.Stat_t).Gid) {
		// The new group must not have the old one's rights, not even for a moment.
		if had != had&0o700 {
			had &= 0o700
			if err := os.Chmod(path, had); err != nil {
				return err
			}
		}
		switch err := os.Lchown(path, -1, a.GID); {
		case errors.Is(err, syscall.EPERM):
			a.Mode &= 0o700
		case err != nil:
			return err
		}
	}
	if had == a.Mode {
		return nil
	}
	return os.Chmod(path, a.Mode)
}

// expose gives all folders and files from root on their access.
func expose(root string, folder, file Access) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if e.IsDir() {
			return folder.give(path, info)
		}
		return file.give(path, info)
	})
}
