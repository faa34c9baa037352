package intercept

import (
	"errors"
	"io/fs"

	"github.com/residentctl/residentctl/pkg/launcher"
	"github.com/residentctl/residentctl/pkg/store"
)

// LookIn checks the stores in these directories, as a launcher is to look in them. One
// that is not there is left out, and one that cannot be used if there is another. The
// errors are store.Open's.
func LookIn(dirs []string) ([]launcher.Store, error) {
	var stores []launcher.Store
	var unusable error
	for _, dir := range dirs {
		s, err := store.Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			unusable = err
			continue
		}
		dev, ino := s.Identity()
		stores = append(stores, launcher.Store{Dir: s.Dir(), Dev: dev, Ino: ino})
	}
	if len(stores) > 0 {
		return stores, nil
	}
	return nil, unusable
}
