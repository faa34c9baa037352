package store

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
)

// Staging is a directory to make something in. Until it is published or discarded
// it is locked, which tells gc that a process is at work there.
type Staging struct {
	Dir   string
	store *Store
	lock  *os.File
}

// Stage makes a new staging directory.
func (s *Store) Stage() (*Staging, error) {
	g, err := s.stage()
	if err != nil {
		return nil, wrap("make a staging directory in", s.in(stagingName), err)
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

// makeLocked makes a directory and locks it. It tries again when gc was quicker to
// lock the new directory: that one is garbage then.
func makeLocked(parent, prefix string) (dir string, lock *os.File, err error) {
	const attempts = 100
	for range attempts {
		dir, err := os.MkdirTemp(parent, prefix)
		if err != nil {
			return "", nil, err
		}
		lock, err := lockDirectory(dir)
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

// lockDirectory locks a directory, which must still be there afterwards: a process that
// removes one holds its lock. EWOULDBLOCK says that another process has it.
func lockDirectory(dir string) (*os.File, error) {
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
// and group, and no one else. Without it an image is for the store's owner only.
// Nobody may write to what is exposed but its owner, and nobody may execute it.
// What has its mode already keeps its times.
func (g *Staging) Expose(program fs.FileMode, gid int) error { return g.ExposePart("", program, gid) }

// ExposePart is Expose for a directory in the staging directory.
func (g *Staging) ExposePart(name string, program fs.FileMode, gid int) error {
	file, directory := Exposed(program, gid)
	path := filepath.Join(g.Dir, name)
	return wrap("set the modes of", path, expose(path, directory, file))
}

// Exposed returns the access that Expose gives to files and directories.
func Exposed(program fs.FileMode, gid int) (file, directory Access) {
	read := program & 0o044
	return Access{0o600 | read, gid}, Access{0o700 | read | read>>2, gid}
}

// Publish brings everything in the directory to the disk and makes it the image
// id. After an error nothing is published, and the directory is still there to be
// discarded; only when the very last step fails, bringing the image's name to
// the disk, the image is in its place. From here on it never changes.
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
// the staged files in place of those of images: of each image id the files with these
// names, in this order, which are staged at id/name. Names are slash-separated. Commit may
// take images out; after an error of its own nothing is replaced. A process that has an old
// file open or mapped keeps it.
func (g *Staging) Replace(commit func() error, images map[string][]string) error {
	return wrap("replace files of images in", g.store.in(imagesName), g.replace(commit, images))
}

func (g *Staging) replace(commit func() error, images map[string][]string) error {
	ids := slices.Sorted(maps.Keys(images))
	if err := errors.Join(mapErrors(ids, checkID)...); err != nil {
		return err
	}
	if err := atOnce(ids, func(id string) error { return syncTree(filepath.Join(g.Dir, id)) }); err != nil {
		return err
	}
	Fault("before-replace")
	if err := commit(); err != nil {
		return err
	}
	return atOnce(slices.Sorted(maps.Keys(images)), func(id string) error { return g.replaceIn(id, images[id]) })
}

// replaceIn is replace for one image.
func (g *Staging) replaceIn(id string, names []string) error {
	image := g.store.ImageDir(id)
	dirs := map[string]bool{}
	for _, name := range names {
		to := filepath.Join(image, name)
		if err := os.Rename(filepath.Join(g.Dir, id, name), to); err != nil {
			return err
		}
		dirs[filepath.Dir(to)] = true
		Fault("after-replace")
	}
	return errors.Join(mapErrors(slices.Sorted(maps.Keys(dirs)), syncPath)...)
}

// mapErrors are what f returns for each, nil where it succeeds.
func mapErrors(all []string, f func(string) error) []error {
	errs := make([]error, len(all))
	for i, one := range all {
		errs[i] = f(one)
	}
	return errs
}

// atOnce calls f for several at once: a journal brings what is waiting for it to the disk
// in one go (jbd2).
func atOnce(all []string, f func(string) error) error {
	const several = 16
	errs := make([]error, len(all))
	free := make(chan struct{}, several)
	var group sync.WaitGroup
	for i, one := range all {
		free <- struct{}{}
		group.Go(func() {
			errs[i] = f(one)
			<-free
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// Discard removes the directory, unless it was published; it can be deferred.
func (g *Staging) Discard() error {
	defer g.lock.Close()
	if sameFile(g.lock, g.Dir) != nil {
		return nil
	}
	return wrap("discard", g.Dir, os.RemoveAll(g.Dir))
}

// Abandoned returns the paths in staging/ that no process works in: what processes left
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

// inUse reports whether a process works in a directory of staging/, or has just
// removed it. Only directories are made there.
func inUse(path string, e fs.DirEntry) (bool, error) {
	if !e.IsDir() {
		return false, nil
	}
	lock, err := lockDirectory(path)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK), errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil:
		return false, err
	}
	return false, lock.Close()
}

// RemoveAbandoned removes a path that Abandoned returned. If another process has
// begun to work there, it stays, and the error is syscall.EWOULDBLOCK.
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
		if lock, err = lockDirectory(path); err == nil {
			defer lock.Close()
		}
	}
	if err == nil {
		err = os.RemoveAll(path)
	}
	return wrap("remove", path, err)
}
