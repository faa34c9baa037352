package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// execName is the directory of what `residentctl exec` puts over files of the
// system in a mount namespace of its own.
const execName = "exec"

// File is a file by its path, and which one fstat(2) showed that to be.
type File struct {
	Path  string
	Inode linux.Inode
}

// fileOf is the file that is open as f.
func fileOf(f *os.File, path string) (File, error) {
	info, err := f.Stat()
	if err != nil {
		return File{}, err
	}
	return File{path, linux.IDOf(info.Sys().(*syscall.Stat_t)).Inode()}, nil
}

// WriteExec keeps data as an executable file that is named after its content. One that
// is there already stays, unless it holds something else or another user could change it:
// processes may have it mapped.
func (s *Store) WriteExec(data []byte) (File, error) {
	sum := sha256.Sum256(data)
	path := s.in(execName, hex.EncodeToString(sum[:8]))
	err := s.makeExec()
	if err != nil {
		return File{}, wrap("write", path, err)
	}
	if file, ok := execFile(path, data); ok {
		return file, nil
	}
	var file File
	err = s.replace(path, "exec", func(made string) (err error) {
		file, err = writeFileOf(made, data, 0o755)
		return err
	})
	file.Path = path
	return file, wrap("write", path, err)
}

// execFile is the file at path, if it is an executable one of data that only root or the
// caller can change.
func execFile(path string, data []byte) (File, bool) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return File{}, false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o755 || info.Size() != int64(len(data)) {
		return File{}, false
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 && int(uid) != os.Geteuid() {
		return File{}, false
	}
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, data) {
		return File{}, false
	}
	file, err := fileOf(f, path)
	return file, err == nil
}

// Execs returns the paths of what WriteExec has written.
func (s *Store) Execs() ([]string, error) {
	entries, err := os.ReadDir(s.in(execName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var paths []string
	for _, e := range entries {
		if sum, err := hex.DecodeString(e.Name()); err == nil && len(sum) == 8 {
			paths = append(paths, s.in(execName, e.Name()))
		}
	}
	return paths, wrap("read", s.in(execName), err)
}

// RemoveExec removes one of them. Where it is mounted it stays.
func (s *Store) RemoveExec(path string) error {
	if filepath.Dir(path) != s.in(execName) {
		return wrap("remove", path, fs.ErrInvalid)
	}
	return wrap("remove", path, os.Remove(path))
}

// ExecOriginal returns an empty file over which the covered file can be mounted, so
// that it still has a path.
func (s *Store) ExecOriginal() (file File, err error) {
	path := s.in(execName, "original")
	if err = s.makeExec(); err != nil {
		return file, wrap("make", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|syscall.O_NOFOLLOW, 0o644)
	if err == nil {
		file, err = fileOf(f, path)
		f.Close()
	}
	return file, wrap("make", path, err)
}

// WriteFile writes a new file in the directory.
func (g *Staging) WriteFile(name string, data []byte, mode fs.FileMode) (File, error) {
	path := filepath.Join(g.Dir, name)
	file, err := writeFileOf(path, data, mode)
	return file, wrap("write", path, err)
}

// FirstExec reports whether this is the first time that it is called for this store.
// Where it cannot be noted, it is.
func (s *Store) FirstExec() bool {
	if s.makeExec() != nil {
		return true
	}
	f, err := os.OpenFile(s.in(execName, "told"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err == nil {
		err = f.Close()
	}
	return !errors.Is(err, fs.ErrExist)
}

func (s *Store) makeExec() error {
	if err := makeDirectory(s.in(execName), s.mode); err != nil {
		return err
	}
	_, err := checkDirectory(unix.AT_FDCWD, s.in(execName), s.in(execName))
	return err
}
