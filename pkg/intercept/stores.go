package intercept

import (
	"errors"
	"io/fs"

	"github.com/residentctl/residentctl/pkg/launcher"
	"github.com/residentctl/residentctl/pkg/store"
)

// LookIn checks the stores in these directories, as a launcher is to look in them. One
// that does not exist is left out. The error is store.Open's of one that cannot be used,
// beside the others.
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
		stores = append(stores, s.ForLaunchers())
	}
	return stores, unusable
}
