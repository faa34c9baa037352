package registry

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// key1 is a record's key in schema 1.
func key1(r *Record) string {
	return fmt.Sprintf("%v-%s", r.Binary.Inode(), r.Digest)
}

// decode1 is a record of schema 1.
func decode1(key string, value []byte) (r Record, err error) {
	if err := json.Unmarshal(value, &r); err != nil {
		return r, err
	}
	if err := cmp.Or(r.Image.validate(), r.Wish.validate()); err != nil {
		return r, err
	}
	if key1(&r) != key {
		return r, fmt.Errorf("it says that it is %s", key1(&r))
	}
	return r, nil
}

// migrateTo2 gives each record a key of its own, a checksum and its index entries. A
// record that cannot be read is not lost by this: its value stays, which is damaged
// in schema 2 as well, and what the indexes say of it.
func migrateTo2(tx *bolt.Tx) error {
	for _, name := range [][]byte{inodeBucket, lookupBucket} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	if err := requireBuckets(tx); err != nil {
		return err
	}
	renamed := make(map[string]string)
	for _, kv := range pairs(tx, recordsBucket, "") {
		key, err := newKey(tx)
		if err != nil {
			return err
		}
		renamed[kv[0]] = key
		if err := tx.Bucket(recordsBucket).Delete([]byte(kv[0])); err != nil {
			return err
		}
		if err := migrateRecord(tx, kv[0], key, []byte(kv[1])); err != nil {
			return err
		}
	}
	for _, bucket := range [][]byte{idBucket, pathBucket, libraryBucket} {
		for _, m := range matches(tx, bucket, "") {
			if err := migrateEntry(tx, m, renamed[m.key]); err != nil {
				return err
			}
		}
	}
	return nil
}

func migrateRecord(tx *bolt.Tx, old, key string, value []byte) error {
	rec, err := decode1(old, value)
	if err == nil {
		return insert(tx, key, storedOf(&rec))
	}
	if err := tx.Bucket(recordsBucket).Put([]byte(key), value); err != nil {
		return err
	}
	if b := strings.SplitN(old, "-", 3); len(b) == 3 {
		return tx.Bucket(inodeBucket).Put([]byte(b[0]+"-"+b[1]+"\x00"+key), []byte(key))
	}
	return nil
}

// migrateEntry makes an index entry of schema 1 lead to a record's new key. One that
// insert has made is left alone, and one that led nowhere still does.
func migrateEntry(tx *bolt.Tx, m match, key string) error {
	name := m.entry
	switch {
	case key == "":
		return nil
	case name.bucket != string(idBucket):
		if err := deleteEntry(tx, name); err != nil {
			return err
		}
		name.key = name.name() + "\x00" + key
	}
	return tx.Bucket([]byte(name.bucket)).Put([]byte(name.key), []byte(key))
}
