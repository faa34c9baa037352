package registry

import (
	"errors"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// keyOf is the key of an image's record.
func keyOf(t *testing.T, tx *bolt.Tx, id string) []byte {
	t.Helper()
	key := tx.Bucket(idBucket).Get([]byte(id))
	if key == nil {
		t.Fatalf("no record of %s", id)
	}
	return slices.Clone(key)
}

func TestCheckFindsEveryFault(t *testing.T) {
	perl := record(1, "/usr/bin/perl", 10, "/lib/libc.so.6")
	git := record(2, "/usr/bin/git", 20, "/lib/libc.so.6")
	// With the keys of both.
	type damage func(tx *bolt.Tx, perlKey, gitKey []byte) error
	for _, tc := range []struct {
		name   string
		damage damage
		want   []FaultKind
	}{
		{"nothing", func(*bolt.Tx, []byte, []byte) error { return nil }, nil},
		{"no index entry", func(tx *bolt.Tx, key, _ []byte) error {
			return tx.Bucket(libraryBucket).Delete([]byte("/lib/libc.so.6\x00" + string(key)))
		}, []FaultKind{FaultUnindexed}},
		{"an index entry that leads elsewhere", func(tx *bolt.Tx, _, gitKey []byte) error {
			return tx.Bucket(idBucket).Put([]byte(perl.ID), gitKey)
		}, []FaultKind{FaultIndex, FaultUnindexed}},
		{"an index without a record", func(tx *bolt.Tx, _, _ []byte) error {
			return tx.Bucket(pathBucket).Put([]byte("/x\x00record-1"), []byte("record-1"))
		}, []FaultKind{FaultDangling}},
		{"a record deleted", func(tx *bolt.Tx, key, _ []byte) error {
			return tx.Bucket(recordsBucket).Delete(key)
		}, []FaultKind{FaultDangling, FaultDangling, FaultDangling, FaultDangling}},
		{"a record without a sum", func(tx *bolt.Tx, key, _ []byte) error {
			return tx.Bucket(recordsBucket).Put(key, []byte("{"))
		}, []FaultKind{FaultRecord}},
		{"two faults at once", func(tx *bolt.Tx, key, _ []byte) error {
			return errors.Join(tx.Bucket(recordsBucket).Put(key, []byte("{")),
				tx.Bucket(idBucket).Delete([]byte(git.ID)))
		}, []FaultKind{FaultRecord, FaultUnindexed}},
		{"a record under another key", func(tx *bolt.Tx, key, gitKey []byte) error {
			b := tx.Bucket(recordsBucket)
			return b.Put(key, b.Get(gitKey))
		}, []FaultKind{FaultRecord}},
		{"one path, two records", func(tx *bolt.Tx, _, _ []byte) error {
			second := record(3, "/usr/bin/perl", 30)
			return insert(tx, "record-1", storedOf(&second))
		}, []FaultKind{FaultTwice}},
		{"one binary, two records", func(tx *bolt.Tx, _, _ []byte) error {
			second := record(3, "/usr/bin/perl5", 10)
			return insert(tx, "record-1", storedOf(&second))
		}, []FaultKind{FaultTwice}},
		{"a bucket is missing", func(tx *bolt.Tx, _, _ []byte) error { return tx.DeleteBucket(pathBucket) },
			[]FaultKind{FaultBucket, FaultSchema}},
		{"a strange bucket", func(tx *bolt.Tx, _, _ []byte) error {
			_, err := tx.CreateBucket([]byte("strange"))
			return err
		}, []FaultKind{FaultBucket}},
		{"no version", func(tx *bolt.Tx, _, _ []byte) error { return tx.Bucket(metaBucket).Delete(schemaKey) },
			[]FaultKind{FaultSchema}},
		{"an older version", func(tx *bolt.Tx, _, _ []byte) error { return setSchema(tx, schemaVersion-1) },
			[]FaultKind{FaultOlder}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRegistryWithoutCheck(t)
			mustPut(t, r, perl)
			mustPut(t, r, git)
			edit(t, r, func(tx *bolt.Tx) error {
				return tc.damage(tx, keyOf(t, tx, perl.ID), keyOf(t, tx, git.ID))
			})
			faults, err := r.Check()
			if err != nil {
				t.Fatal(err)
			}
			var kinds []FaultKind
			for _, f := range faults {
				kinds = append(kinds, f.Kind)
			}
			slices.Sort(kinds)
			slices.Sort(tc.want)
			if !slices.Equal(kinds, tc.want) {
				t.Errorf("want %v, got %v", tc.want, faults)
			}
		})
	}
}
