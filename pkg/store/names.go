package store

import (
	"fmt"
	"path/filepath"

	"github.com/residentctl/residentctl/internal/linux"
)

// At returns the path of what a plan names from the store's directory.
func (s *Store) At(name string) string { return filepath.Join(s.dir, name) }

// NameOf returns the name of what is in the store, from its directory.
func (s *Store) NameOf(path string) (string, error) {
	name, err := filepath.Rel(s.dir, path)
	if err != nil || !filepath.IsLocal(name) {
		return "", wrap("name from the store", path, fmt.Errorf("it is not in %s", s.dir))
	}
	return name, nil
}

// IndexName returns the name of the link to the plan of a program, from the store's
// directory.
func IndexName(b linux.Inode) string { return filepath.Join(indexName, b.String()) }
