package registry

import (
	"bytes"
	"fmt"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// The indexes. Every entry's value is a record's key. The id stands alone as a
// key; paths and libraries are followed by a NUL and the id, so that a scan of
// the prefix path\0 finds everybody that has this path. There is no index by
// inode, since records are stored under it.
var (
	idBucket      = []byte("by-id")
	pathBucket    = []byte("by-path")
	libraryBucket = []byte("by-library")

	indexBuckets = [][]byte{idBucket, pathBucket, libraryBucket}
)

type indexEntry struct {
	bucket, key string
}

// entries are the index entries that must exist for a record.
func (r *Record) entries() map[indexEntry]bool {
	all := map[indexEntry]bool{{string(idBucket), r.ID}: true}
	for _, name := range r.Names() {
		all[indexEntry{string(pathBucket), name + "\x00" + r.ID}] = true
	}
	for _, lib := range r.LibraryPaths {
		all[indexEntry{string(libraryBucket), lib + "\x00" + r.ID}] = true
	}
	return all
}

// insert writes a record and its index entries.
func insert(tx *bolt.Tx, r *Record) error {
	value, err := encodeRecord(r)
	if err != nil {
		return err
	}
	key := []byte(r.key())
	if err := tx.Bucket(recordsBucket).Put(key, value); err != nil {
		return err
	}
	for e := range r.entries() {
		if err := tx.Bucket([]byte(e.bucket)).Put([]byte(e.key), key); err != nil {
			return err
		}
	}
	return nil
}

// drop deletes the record under key with its index entries. Of a record that
// cannot be decoded it returns what the indexes know.
func drop(tx *bolt.Tx, key string) (Record, error) {
	records := tx.Bucket(recordsBucket)
	old, err := decodeRecord(records.Get([]byte(key)))
	entries := old.entries()
	if err != nil || old.key() != key {
		old, entries = entriesOf(tx, key)
	}
	for e := range entries {
		if err := tx.Bucket([]byte(e.bucket)).Delete([]byte(e.key)); err != nil {
			return Record{}, err
		}
	}
	return old, records.Delete([]byte(key))
}

// entriesOf searches all indexes for entries that lead to key.
func entriesOf(tx *bolt.Tx, key string) (Record, map[indexEntry]bool) {
	var known Record
	_, _ = fmt.Sscanf(key, "%d-%d-%s", &known.Binary.Dev, &known.Binary.Ino, &known.Digest)
	found := make(map[indexEntry]bool)
	for _, name := range indexBuckets {
		c := tx.Bucket(name).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if string(v) != key {
				continue
			}
			found[indexEntry{string(name), string(k)}] = true
			path, id, _ := strings.Cut(string(k), "\x00")
			switch {
			case bytes.Equal(name, idBucket):
				known.ID = string(k)
			case bytes.Equal(name, pathBucket):
				known.Program, known.ID = path, id
			}
		}
	}
	return known, found
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

// load is the record under key, which an index gave.
func load(tx *bolt.Tx, key string) (Record, error) {
	value := tx.Bucket(recordsBucket).Get([]byte(key))
	if value == nil {
		return Record{}, corruptf("an index leads to %s, which is not there", key)
	}
	r, err := decodeRecord(value)
	if err != nil {
		return Record{}, corruptf("record %s: %v", key, err)
	}
	if r.key() != key {
		return Record{}, corruptf("record %s says that it is %s", key, r.key())
	}
	return r, nil
}
