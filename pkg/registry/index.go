package registry

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// The indexes. Every entry's value is a record's key. An image's id is alone as a
// key; paths, libraries, inodes and lookups are followed by a NUL and the record's key, so
// that a scan of the prefix path\0 finds every record that has this path. What an
// index leads to counts only if the record there has the entry (stored.has).
var (
	idBucket      = []byte("by-id")
	pathBucket    = []byte("by-path")
	libraryBucket = []byte("by-library")
	inodeBucket   = []byte("by-inode")
	lookupBucket  = []byte("by-lookup")

	indexBuckets = [][]byte{idBucket, pathBucket, libraryBucket, inodeBucket, lookupBucket}
)

type indexEntry struct {
	bucket, key string
}

// name is what an entry is found by, without the record's key.
func (e indexEntry) name() string {
	name, _, _ := strings.Cut(e.key, "\x00")
	return name
}

// entries are the index entries that must exist for what is stored under key.
func (s *stored) entries(key string) []indexEntry {
	suffix := "\x00" + key
	var all []indexEntry
	add := func(bucket []byte, names ...string) {
		for _, name := range names {
			all = append(all, indexEntry{string(bucket), name + suffix})
		}
	}
	add(pathBucket, s.Wish.Names()...)
	if s.Image == nil {
		return all
	}
	all = append(all, indexEntry{string(idBucket), s.Image.ID})
	add(inodeBucket, s.Image.Binary.Inode().String())
	add(libraryBucket, s.Image.LibraryPaths...)
	add(lookupBucket, s.Image.Lookups...)
	return all
}

// countEntries is the number of entries.
func (s *stored) countEntries() int {
	names := 1 + len(s.Wish.Paths)
	if s.Image == nil {
		return names
	}
	return names + 2 + len(s.Image.LibraryPaths) + len(s.Image.Lookups)
}

// has reports whether an index entry is one of those for what is stored under key.
func (s *stored) has(key string, e indexEntry) bool {
	if e.bucket == string(idBucket) {
		return s.Image != nil && s.Image.ID == e.key
	}
	name, suffix, _ := strings.Cut(e.key, "\x00")
	if suffix != key {
		return false
	}
	switch e.bucket {
	case string(pathBucket):
		return slices.Contains(s.Wish.Names(), name)
	case string(libraryBucket):
		return s.Image != nil && slices.Contains(s.Image.LibraryPaths, name)
	case string(lookupBucket):
		return s.Image != nil && slices.Contains(s.Image.Lookups, name)
	case string(inodeBucket):
		return s.Image != nil && name == s.Image.Binary.Inode().String()
	}
	return false
}

// insert writes a record and its index entries.
func insert(tx *bolt.Tx, key string, s *stored) error {
	value, err := encodeStored(key, s)
	if err != nil {
		return err
	}
	if err := tx.Bucket(recordsBucket).Put([]byte(key), value); err != nil {
		return err
	}
	for _, e := range s.entries(key) {
		if err := tx.Bucket([]byte(e.bucket)).Put([]byte(e.key), []byte(key)); err != nil {
			return err
		}
	}
	return nil
}

// drop deletes the record under key with its index entries: those that it has, or
// of a damaged one those that lead to it.
func drop(tx *bolt.Tx, key string) error {
	var entries []indexEntry
	if s, err := load(tx, key); err == nil {
		entries = s.entries(key)
	} else {
		entries = entriesOf(tx, key, indexBuckets...)
	}
	for _, e := range entries {
		if err := deleteEntry(tx, e); err != nil {
			return err
		}
	}
	return tx.Bucket(recordsBucket).Delete([]byte(key))
}

func deleteEntry(tx *bolt.Tx, e indexEntry) error {
	return tx.Bucket([]byte(e.bucket)).Delete([]byte(e.key))
}

// entriesOf searches indexes for entries that lead to key.
func entriesOf(tx *bolt.Tx, key string, buckets ...[]byte) (found []indexEntry) {
	for _, name := range buckets {
		c := tx.Bucket(name).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if string(v) == key {
				found = append(found, indexEntry{string(name), string(k)})
			}
		}
	}
	return found
}

// A match is an index entry with the key that it leads to.
type match struct {
	entry indexEntry
	key   string
}

// matches are the entries of an index that begin with prefix.
func matches(tx *bolt.Tx, bucket []byte, prefix string) (all []match) {
	for _, kv := range pairs(tx, bucket, prefix) {
		all = append(all, match{indexEntry{string(bucket), kv[0]}, kv[1]})
	}
	return all
}

// pairs are the keys that begin with prefix and their values, copied, so that
// the bucket may be changed while they are gone through.
func pairs(tx *bolt.Tx, bucket []byte, prefix string) [][2]string {
	var all [][2]string
	c := tx.Bucket(bucket).Cursor()
	for k, v := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
		all = append(all, [2]string{string(k), string(v)})
	}
	return all
}

// load is what is stored under key. Its error is a *DamagedError, also where an
// index leads to a record that is missing.
func load(tx *bolt.Tx, key string) (*stored, error) {
	value := tx.Bucket(recordsBucket).Get([]byte(key))
	if value == nil {
		return nil, damaged(tx, key, errors.New("it is missing"))
	}
	s, err := decodeStored(key, value)
	if err != nil {
		return nil, damaged(tx, key, err)
	}
	return s, nil
}

// loadMatch is what is stored where an index entry leads to. The error is a
// *DamagedError, or ErrCorrupt alone if it does not have that entry.
func loadMatch(tx *bolt.Tx, m match) (*stored, error) {
	s, err := load(tx, m.key)
	if err == nil && !s.has(m.key, m.entry) {
		return nil, corruptf("%s leads to %s, which does not have it", m.entry, m.key)
	}
	return s, err
}
