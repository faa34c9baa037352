package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Staging is a folder to make something in. Until it is published or discarded
// it is locked, which tells gc that somebody is at work there.
type Staging struct {
	Dir   string
	store *Store
	lock  *os.File
}

// Stage makes a new staging folder.
func (s *Store) Stage() (*Staging, error) {
	g, err := s.stage()
	if err != nil {
		return nil, wrap("make a staging folder in", s.in(stagingName), err)
	}
	Fault("after-stage")
	return g, nil
}

func (s *Store) stage() (*Staging, error) {
	if err := s.same(); err != nil {
		return nil, err
	}
	dir, lock, err := makeLocked(s.in(stagingName), "work-")
	if err != nil {
		return nil, err
	}
	return &Staging{Dir: dir, store: s, lock: lock}, nil
}

// makeLocked makes a folder and locks it. It tries again when gc was quicker to
// lock the new folder: that one is garbage then.
func makeLocked(parent, prefix string) (dir string, lock *os.File, err error) {
	const attempts = 100
	for range attempts {
		dir, err := os.MkdirTemp(parent, prefix)
		if err != nil {
			return "", nil, err
		}
		lock, err := lockFolder(dir)
		if err == nil {
			return dir, lock, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(dir)
			return "", nil, err
		}
	}
	return "", nil, syscall.EBUSY
}

// lockFolder locks a folder, which must still be there afterwards: whoever
// removes one holds its lock. EWOULDBLOCK says that somebody else has it.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	err = eintr(func() error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) })
	if err == nil {
		err = sameFile(f, dir)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sameFile is fs.ErrNotExist when path does not lead to f (any more).
func sameFile(f *os.File, path string) error {
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	there, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(mine, there) {
		return fs.ErrNotExist
	}
	return nil
}

// Expose lets those read the staged files who may read a program of this mode
// and group, and nobody else. Without it an image is for the store's owner only.
// Nobody may write to what is exposed but its owner, and nobody may execute it.
// What has its mode already keeps its times.
func (g *Staging) Expose(program fs.FileMode, gid int) error {
	file, folder := Exposed(program, gid)
	return wrap("set the modes of", g.Dir, expose(g.Dir, folder, file))
}

// Exposed is the access that Expose gives to files and folders.
func Exposed(program fs.FileMode, gid int) (file, folder Access) {
	read := program & 0o044
	return Access{0o600 | read, gid}, Access{0o700 | read | read>>2, gid}
}

// Publish brings everything in the folder to the disk and makes it the image
// id. After an error nothing is published, and the folder is still there to be
// discarded; only when the very last step fails, bringing the image's name to
// the disk, the image stands in its place. From here on it never changes.
func (g *Staging) Publish(id string) error {
	return wrap("publish image", g.store.ImageDir(id), g.publish(id))
}

func (g *Staging) publish(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	Fault("before-publish")
	if err := syncTree(g.Dir); err != nil {
		return err
	}
	Fault("after-sync")
	if err := os.Rename(g.Dir, g.store.ImageDir(id)); err != nil {
		return err
	}
	Fault("after-publish")
	g.lock.Close()
	return errors.Join(syncPath(g.store.in(imagesName)), syncPath(g.store.in(stagingName)))
}

// Replace brings everything in the staging directory to the disk, calls commit, and puts
// the files with these names, which are slash-separated paths in it, in the place of
// those of the image id, in this order. After an error of commit nothing is replaced. A
// process that has an old one open or mapped keeps it.
func (g *Staging) Replace(id string, commit func() error, names ...string) error {
	return wrap("replace files of image", g.store.ImageDir(id), g.replace(id, commit, names))
}

func (g *Staging) replace(id string, commit func() error, names []string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if err := syncTree(g.Dir); err != nil {
		return err
	}
	Fault("before-replace")
	if err := commit(); err != nil {
		return err
	}
	for _, name := range names {
		if err := renameDurably(filepath.Join(g.Dir, name), filepath.Join(g.store.ImageDir(id), name)); err != nil {
			return err
		}
		Fault("after-replace")
	}
	return nil
}

// Discard removes the folder, unless it was published; it can be deferred.
func (g *Staging) Discard() error {
	defer g.lock.Close()
	if sameFile(g.lock, g.Dir) != nil {
		return nil
	}
	return wrap("discard", g.Dir, os.RemoveAll(g.Dir))
}

// Abandoned are the paths in staging/ that nobody works in: what processes left
// that were killed.
func (s *Store) Abandoned() ([]string, error) {
	entries, err := os.ReadDir(s.in(stagingName))
	if err != nil {
		return nil, wrap("read", s.in(stagingName), err)
	}
	var left []string
	for _, e := range entries {
		path := s.in(stagingName, e.Name())
		busy, err := inUse(path, e)
		if err != nil {
			return left, wrap("lock", path, err)
		}
		if !busy {
			left = append(left, path)
		}
	}
	return left, nil
}

// inUse tells whether somebody works in a folder of staging/, or has just taken
// it away. Nothing but folders is made there.
func inUse(path string, e fs.DirEntry) (bool, error) {
	if !e.IsDir() {
		return false, nil
	}
	lock, err := lockFolder(path)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK), errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil:
		return false, err
	}
	return false, lock.Close()
}

// RemoveAbandoned removes a path that Abandoned gave. Should somebody have
// begun to work there it stays, and the error is syscall.EWOULDBLOCK.
func (s *Store) RemoveAbandoned(path string) error {
	if filepath.Dir(path) != s.in(stagingName) {
		return wrap("remove", path, fs.ErrInvalid)
	}
	return removeAbandoned(path)
}

func removeAbandoned(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.IsDir() {
		var lock *os.File
		if lock, err = lockFolder(path); err == nil {
			defer lock.Close()
		}
	}
	if err == nil {
		err = os.RemoveAll(path)
	}
	return wrap("remove", path, err)
}
