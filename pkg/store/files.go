package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

func eintr(f func() error) error { return linux.EINTR(f) }

// makeDirectory makes a directory of exactly this mode, whatever the umask, if it is
// not there, and brings its name to the disk. It has its mode from the start, for the
// mode of an existing directory is never changed: a user may have chosen it.
func makeDirectory(path string, mode fs.FileMode) error {
	parent, err := openDirectory(unix.AT_FDCWD, filepath.Dir(path), unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	return makeDirectoryAt(parent, filepath.Base(path), mode)
}

// makeDirectoryAt is makeDirectory for a name in an open directory.
func makeDirectoryAt(parent int, name string, mode fs.FileMode) error {
	switch err := mkdirUnmasked(parent, name, mode); {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	Fault("after-mkdir")
	made, err := openDirectory(parent, name, unix.O_RDONLY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(made)
	// A default ACL of the directory above can take more from the mode (acl(5)).
	if err := unix.Fchmod(made, uint32(mode.Perm())); err != nil {
		return &fs.PathError{Op: "chmod", Path: name, Err: err}
	}
	above, err := openDirectory(parent, ".", unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(above)
	if err := unix.Fsync(above); err != nil && err != unix.EINVAL {
		return &fs.PathError{Op: "fsync", Path: filepath.Dir(name), Err: err}
	}
	return nil
}

// openDirectory opens a directory by its name in another one.
func openDirectory(parent int, name string, flags int) (fd int, err error) {
	err = eintr(func() (err error) {
		fd, err = unix.Openat(parent, name, flags|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// mkdirUnmasked is mkdirat(2) without a umask. The umask is the process's, so this
// is a thread's work that no longer shares it (unshare(2), CLONE_FS) and ends with
// the goroutine. Where a filter forbids that, the umask counts.
func mkdirUnmasked(parent int, name string, mode fs.FileMode) error {
	made := make(chan error)
	go func() {
		runtime.LockOSThread()
		if syscall.Unshare(syscall.CLONE_FS) == nil {
			syscall.Umask(0)
		} else {
			runtime.UnlockOSThread()
		}
		made <- eintr(func() error { return unix.Mkdirat(parent, name, uint32(mode.Perm())) })
	}()
	return <-made
}

// syncPath brings a file, or the names in a directory, to the disk. Some file
// systems have nothing to do for a directory and answer EINVAL (fsync(2)).
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// syncTree brings everything below root to the disk, files before the directory
// that names them.
func syncTree(root string) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(root, e.Name())
		switch {
		case e.IsDir():
			err = syncTree(path)
		case e.Type().IsRegular():
			err = syncPath(path)
		}
		if err != nil {
			return err
		}
	}
	return syncPath(root)
}

// writeFile writes a file that does not exist yet, of exactly this mode, and
// brings it to the disk.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	_, err := writeFileOf(path, data, mode)
	return err
}

// writeFileOf is writeFile, and says which file that is.
func writeFileOf(path string, data []byte, mode fs.FileMode) (File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return File{}, err
	}
	file, statErr := fileOf(f, path)
	_, err = f.Write(data)
	return file, errors.Join(statErr, err, f.Chmod(mode), f.Sync(), f.Close())
}

// renameDurably renames and brings both directories' names to the disk.
func renameDurably(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return errors.Join(syncPath(filepath.Dir(to)), syncPath(filepath.Dir(from)))
}
