package registry

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	bolt "go.etcd.io/bbolt"

	"github.com/residentctl/residentctl/internal/linux"
)

// minPrefix is how many digits of an id are needed at least, as git(1) has it.
const minPrefix = 4

// List returns every entry, by program and then by id, also those without an image. When some are damaged, the others
// are returned along with an ErrCorrupt (see Damaged).
func (r *Registry) List() (all []Record, err error) {
	var bad []error
	err = r.view(func(tx *bolt.Tx) error {
		var whole []*stored
		for _, d := range decodeAll(tx) {
			if d.err != nil {
				bad = append(bad, damaged(tx, d.key, d.err))
				continue
			}
			whole = append(whole, d.stored)
		}
		all = recordsOf(whole)
		return allFaults(bad)
	})
	return all, err
}

// A decoded record, or what is wrong with it.
type decoded struct {
	key    string
	stored *stored
	err    error
}

// decodeAll decodes every record, on all processors: that takes the most time in a registry with
// many. A fault in the mapped file is one of the caller's, as without it.
func decodeAll(tx *bolt.Tx) []decoded {
	var all []decoded
	var values [][]byte
	c := tx.Bucket(recordsBucket).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		all, values = append(all, decoded{key: string(k)}), append(values, v)
	}
	each := runtime.GOMAXPROCS(0)
	panics := make([]any, each)
	var workers sync.WaitGroup
	for first := range each {
		workers.Go(func() {
			debug.SetPanicOnFault(true)
			defer func() { panics[first] = recover() }()
			for i := first; i < len(all); i += each {
				all[i].stored, all[i].err = decodeStored(all[i].key, values[i])
			}
		})
	}
	workers.Wait()
	for _, p := range panics {
		if p != nil {
			panic(p)
		}
	}
	return all
}

// recordsOf are the records, sorted by program and then by id.
func recordsOf(all []*stored) []Record {
	slices.SortFunc(all, func(a, b *stored) int {
		return cmp.Or(cmp.Compare(a.Wish.Program, b.Wish.Program), cmp.Compare(a.id(), b.id()))
	})
	records := make([]Record, 0, len(all))
	for _, s := range all {
		records = append(records, s.record())
	}
	return records
}

// id is the image's, "" without one.
func (s *stored) id() string {
	if s.Image == nil {
		return ""
	}
	return s.Image.ID
}

// Get returns the entry whose id begins with prefix.
func (r *Registry) Get(prefix string) (Record, error) {
	return r.one(prefix, func(tx *bolt.Tx) []match { return ofID(tx, prefix) })
}

// ByPath returns the entry that has this absolute path among its names.
func (r *Registry) ByPath(path string) (Record, error) {
	return r.one(path, func(tx *bolt.Tx) []match { return matches(tx, pathBucket, path+"\x00") })
}

// ByName returns the entries that have a path with this last component, by program. When
// some are damaged, the others are returned along with an ErrCorrupt (see Damaged).
func (r *Registry) ByName(base string) (all []Record, err error) {
	err = r.view(func(tx *bolt.Tx) error {
		var bad []error
		all, bad = loadAll(tx, ofName(tx, base))
		return allFaults(bad)
	})
	return all, err
}

// ByInode returns the entry of a binary.
func (r *Registry) ByInode(b linux.Inode) (Record, error) {
	return r.one(fmt.Sprintf("inode %d of device %d", b.Ino, b.Dev), func(tx *bolt.Tx) []match {
		return matches(tx, inodeBucket, b.String()+"\x00")
	})
}

// ByLibrary returns every entry that depends on one of the libraries that are meant, by
// program: a library may have been opened by several paths, by each program by
// another one. Each path is asked about once. When some entries are damaged, the
// others are returned along with an ErrCorrupt (see Damaged).
func (r *Registry) ByLibrary(meant func(path string) bool) (all []Record, err error) {
	var bad []error
	err = r.view(func(tx *bolt.Tx) error {
		var users []match
		last, is := "", false
		for _, m := range matches(tx, libraryBucket, "") {
			path := m.entry.name()
			if path != last {
				last, is = path, meant(path)
			}
			if is {
				users = append(users, m)
			}
		}
		all, bad = loadAll(tx, users)
		return allFaults(bad)
	})
	return all, err
}

// ByFiles returns every entry that uses one of the files that are meant: that has it as a name, as
// its binary or a library, or whose image depends on what is at this path otherwise. Each path
// is asked about once, and only the records of these entries are read. When some are damaged,
// the others are returned along with an ErrCorrupt (see Damaged).
func (r *Registry) ByFiles(meant func(path string) bool, binaries []linux.Inode) (all []Record, err error) {
	var bad []error
	err = r.view(func(tx *bolt.Tx) error {
		var users []match
		known := map[string]bool{}
		for _, bucket := range [][]byte{pathBucket, libraryBucket, lookupBucket} {
			c := tx.Bucket(bucket).Cursor()
			for k, v := c.First(); k != nil; k, v = c.Next() {
				name, _, _ := bytes.Cut(k, []byte{0})
				is, asked := known[string(name)]
				if !asked {
					is = meant(string(name))
					known[string(name)] = is
				}
				if is {
					users = append(users, match{indexEntry{string(bucket), string(k)}, string(v)})
				}
			}
		}
		for _, b := range binaries {
			users = append(users, matches(tx, inodeBucket, b.String()+"\x00")...)
		}
		all, bad = loadAll(tx, users)
		return allFaults(bad)
	})
	return all, err
}

// Find returns the entry that a person means: by the path of a program, absolute or
// relative, also one that leads to a known binary under another name (of an entry
// without an image the binary is not known); or,
// without a slash in it, by the beginning of an id or the program's base name, or,
// since a damaged one may be known by nothing else, by its key. If it is damaged the
// error is a *DamagedError.
func (r *Registry) Find(query string) (Record, error) {
	if !strings.Contains(query, "/") {
		return r.one(query, func(tx *bolt.Tx) []match {
			return slices.Concat(ofID(tx, query), ofName(tx, query), ofKey(tx, query))
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
	found, err := r.ByInode(id.Inode())
	return found, err == nil && found.Binary.Size == id.Size && found.Binary.Mtime == id.Mtime
}

// one reads the single entry that match finds, which is what query means.
func (r *Registry) one(query string, find func(*bolt.Tx) []match) (found Record, err error) {
	err = r.view(func(tx *bolt.Tx) error {
		all, bad := loadAll(tx, find(tx))
		switch {
		case len(all)+len(bad) > 1:
			for _, err := range bad {
				all = append(all, presumed(err))
			}
			return &AmbiguousError{Query: query, Candidates: all}
		case len(bad) == 1:
			return bad[0]
		case len(all) == 1:
			found = all[0]
		}
		return nil
	})
	if err == nil && found.Program == "" {
		err = r.wrap("read registry", fmt.Errorf("%w: %s", ErrNotFound, query))
	}
	return found, err
}

// presumed is how a record that cannot be read is named beside others.
func presumed(err error) (r Record) {
	r.Program = "damaged"
	var d *DamagedError
	if errors.As(err, &d) {
		r.ID = d.Key
		if len(d.Names) > 0 {
			r.Program += ", " + d.Names[0]
		}
	}
	return r
}

// loadAll reads the records that matches lead to, each once, sorted, and says what is
// wrong with the others.
func loadAll(tx *bolt.Tx, found []match) (all []Record, bad []error) {
	seen := make(map[string]bool)
	var whole []*stored
	for _, m := range found {
		if seen[m.key] {
			continue
		}
		s, err := loadMatch(tx, m)
		var d *DamagedError
		seen[m.key] = err == nil || errors.As(err, &d) // else only this entry is false
		if err != nil {
			bad = append(bad, err)
			continue
		}
		whole = append(whole, s)
	}
	return recordsOf(whole), bad
}

func ofID(tx *bolt.Tx, prefix string) []match {
	if len(prefix) < minPrefix {
		return nil
	}
	return matches(tx, idBucket, prefix)
}

func ofName(tx *bolt.Tx, base string) (found []match) {
	for _, m := range matches(tx, pathBucket, "") {
		if filepath.Base(m.entry.name()) == base {
			found = append(found, m)
		}
	}
	return found
}

// ofKey is the damaged record with a key, if there is one.
func ofKey(tx *bolt.Tx, key string) []match {
	if key == "" || tx.Bucket(recordsBucket).Get([]byte(key)) == nil {
		return nil
	}
	if _, err := load(tx, key); err == nil {
		return nil
	}
	return []match{{key: key}}
}
