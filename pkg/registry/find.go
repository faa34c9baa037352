package registry

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"

	"github.com/residentctl/residentctl/internal/linux"
)

// minPrefix is how many digits of an id are needed at least, as git(1) has it.
const minPrefix = 4

// List is every entry, by program and then by id. When some cannot be decoded,
// the others are returned along with an ErrCorrupt.
func (r *Registry) List() (all []Record, err error) {
	var bad []error
	err = r.view(func(tx *bolt.Tx) error {
		for _, kv := range pairs(tx, recordsBucket, "") {
			rec, err := load(tx, kv[0])
			if err != nil {
				bad = append(bad, err)
				continue
			}
			all = append(all, rec)
		}
		return errors.Join(bad...)
	})
	sortRecords(all)
	return all, err
}

func sortRecords(all []Record) {
	slices.SortFunc(all, func(a, b Record) int {
		return cmp.Or(cmp.Compare(a.Program, b.Program), cmp.Compare(a.ID, b.ID))
	})
}

// Get is the entry whose id begins with prefix.
func (r *Registry) Get(prefix string) (Record, error) {
	return r.one(prefix, func(tx *bolt.Tx) []string { return keysOfID(tx, prefix) })
}

// ByPath is the entry that has this absolute path among its names.
func (r *Registry) ByPath(path string) (Record, error) {
	return r.one(path, func(tx *bolt.Tx) []string { return values(pairs(tx, pathBucket, path+"\x00")) })
}

// ByInode is the entry of a binary.
func (r *Registry) ByInode(dev, ino uint64) (Record, error) {
	prefix := inodePrefix(dev, ino)
	return r.one(fmt.Sprintf("inode %d of device %d", ino, dev), func(tx *bolt.Tx) []string {
		return keys(pairs(tx, recordsBucket, prefix))
	})
}

// ByLibrary is every entry that depends on one of the libraries that are meant, by
// program: a library may have been opened by several paths, by each program by
// another one. Each path is asked about once. When some entries cannot be decoded,
// the others are returned along with an ErrCorrupt.
func (r *Registry) ByLibrary(meant func(path string) bool) (all []Record, err error) {
	var bad []error
	err = r.view(func(tx *bolt.Tx) error {
		var users []string
		last, is := "", false
		for _, kv := range pairs(tx, libraryBucket, "") {
			path, _, _ := strings.Cut(kv[0], "\x00")
			if path != last {
				last, is = path, meant(path)
			}
			if is {
				users = append(users, kv[1])
			}
		}
		slices.Sort(users)
		for _, key := range slices.Compact(users) {
			rec, err := load(tx, key)
			if err != nil {
				bad = append(bad, err)
				continue
			}
			all = append(all, rec)
		}
		return errors.Join(bad...)
	})
	sortRecords(all)
	return all, err
}

// Find is the entry that a person means: by the path of a program, absolute or
// relative, also one that leads to a known binary under another name; or,
// without a slash in it, by the beginning of an id or the program's base name.
func (r *Registry) Find(query string) (Record, error) {
	if !strings.Contains(query, "/") {
		return r.one(query, func(tx *bolt.Tx) []string {
			return append(keysOfID(tx, query), keysOfName(tx, query)...)
		})
	}
	abs, err := filepath.Abs(query)
	if err != nil {
		return Record{}, fmt.Errorf("find %s: %w", query, err)
	}
	found, err := r.ByPath(abs)
	if errors.Is(err, ErrNotFound) {
		if other, ok := r.byFile(abs); ok {
			return other, nil
		}
	}
	return found, err
}

// byFile is the entry of the file that path leads to. Inode numbers are used
// again, so size and time of change must agree as well.
func (r *Registry) byFile(path string) (Record, bool) {
	id, err := linux.StatID(path)
	if err != nil {
		return Record{}, false
	}
	found, err := r.ByInode(id.Dev, id.Ino)
	return found, err == nil && found.Binary.Size == id.Size && found.Binary.Mtime == id.Mtime
}

// one reads the single entry among keys, which are those that match query.
func (r *Registry) one(query string, match func(*bolt.Tx) []string) (found Record, err error) {
	err = r.view(func(tx *bolt.Tx) error {
		all, err := loadAll(tx, match(tx))
		switch {
		case err != nil:
			return err
		case len(all) > 1:
			return &AmbiguousError{Query: query, Candidates: all}
		case len(all) == 1:
			found = all[0]
		}
		return nil
	})
	if err == nil && found.ID == "" {
		err = r.wrap("read registry", fmt.Errorf("%w: %s", ErrNotFound, query))
	}
	return found, err
}

// loadAll reads the records under keys, each once, sorted.
func loadAll(tx *bolt.Tx, keys []string) ([]Record, error) {
	slices.Sort(keys)
	var all []Record
	for _, key := range slices.Compact(keys) {
		rec, err := load(tx, key)
		if err != nil {
			return nil, err
		}
		all = append(all, rec)
	}
	sortRecords(all)
	return all, nil
}

func keysOfID(tx *bolt.Tx, prefix string) []string {
	if len(prefix) < minPrefix {
		return nil
	}
	return values(pairs(tx, idBucket, prefix))
}

func keysOfName(tx *bolt.Tx, base string) []string {
	var found []string
	for _, kv := range pairs(tx, pathBucket, "") {
		path, _, _ := strings.Cut(kv[0], "\x00")
		if filepath.Base(path) == base {
			found = append(found, kv[1])
		}
	}
	return found
}

func keys(all [][2]string) []string   { return column(all, 0) }
func values(all [][2]string) []string { return column(all, 1) }

func column(all [][2]string, n int) []string {
	var out []string
	for _, kv := range all {
		out = append(out, kv[n])
	}
	return out
}
