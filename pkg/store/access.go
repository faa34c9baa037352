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
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		// Its owner could give it another mode again.
		if err := os.Lchown(path, os.Geteuid(), -1); err != nil {
			return err
		}
	}
	a.Mode |= 0o700
	return a.give(path, info)
}

// give changes the access of a file that had what info says. A group that the
// caller cannot give gets nothing, and so do others. A file that has it all
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

// ExceededBy reports whether any user may do more with a file that has what info says.
func (a Access) ExceededBy(info fs.FileInfo) bool {
	had, may := info.Mode().Perm(), a.Mode
	if a.groupMatters() && a.GID != int(info.Sys().(*syscall.Stat_t).Gid) {
		may = may&0o707 | may&7<<3 // to this one, others are meant
	}
	return had&^may&0o077 != 0
}

// Fits reports whether a file that has what info says has this access, as nearly as
// the caller could give it.
func (a Access) Fits(info fs.FileInfo) bool {
	had := info.Mode().Perm() & 0o077
	if a.groupMatters() && a.GID != int(info.Sys().(*syscall.Stat_t).Gid) {
		return had == 0 && os.Geteuid() != 0
	}
	return had == a.Mode&0o077
}

// expose gives all directories and files from root on their access.
func expose(root string, directory, file Access) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if e.IsDir() {
			return directory.give(path, info)
		}
		return file.give(path, info)
	})
}
