package registry

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// create makes the registry whole under another name and then links it into
// place, so that an empty or half-made file at the registry's path is always
// damage and never a beginning. Of two processes that do this at once one wins,
// and both go on with the winner's. Once there is a registry, a file under such
// another name is good for nothing and may be removed (see Leftovers).
func (r *Registry) create() error {
	return r.wrap("make registry", r.createFile())
}

func (r *Registry) createFile() error {
	dir := filepath.Dir(r.path)
	file, err := os.CreateTemp(dir, r.newPattern())
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if err := file.Chmod(r.opts.Mode); err != nil {
		return err
	}
	err = withBolt(file, false, func(db *bolt.DB) error { return db.Update(initSchema) })
	if err != nil {
		return err
	}
	if err := os.Link(file.Name(), r.path); err != nil && !errors.Is(err, fs.ErrExist) {
		if _, there := os.Lstat(r.path); there != nil {
			return err
		}
	}
	return syncDir(dir)
}

func (r *Registry) newPattern() string { return "." + filepath.Base(r.path) + ".new-*" }

// Leftovers returns half-made registries beside this one, of processes that were
// killed while they made them.
func (r *Registry) Leftovers() ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(r.path))
	if err != nil {
		return nil, r.wrap("look beside registry", err)
	}
	var left []string
	for _, e := range entries {
		if ok, _ := filepath.Match(r.newPattern(), e.Name()); ok && e.Type().IsRegular() {
			left = append(left, filepath.Join(filepath.Dir(r.path), e.Name()))
		}
	}
	return left, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
