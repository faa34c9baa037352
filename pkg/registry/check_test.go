package registry

import (
	"errors"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"
)

func TestCheckFindsEveryFault(t *testing.T) {
	perl := record(1, "/usr/bin/perl", 10, "/lib/libc.so.6")
	git := record(2, "/usr/bin/git", 20, "/lib/libc.so.6")
	for _, tc := range []struct {
		name   string
		damage func(*bolt.Tx) error
		want   []FaultKind
	}{
		{"nothing", func(*bolt.Tx) error { return nil }, nil},
		{"no index entry", func(tx *bolt.Tx) error {
			return tx.Bucket(libraryBucket).Delete([]byte("/lib/libc.so.6\x00" + perl.ID))
		}, []FaultKind{FaultUnindexed}},
		{"an index entry that leads elsewhere", func(tx *bolt.Tx) error {
			return tx.Bucket(idBucket).Put([]byte(perl.ID), []byte(git.key()))
		}, []FaultKind{FaultIndex, FaultUnindexed}},
		{"an index without a record", func(tx *bolt.Tx) error {
			return tx.Bucket(pathBucket).Put([]byte("/x\x00123412341234"), []byte("1-2-3"))
		}, []FaultKind{FaultDangling}},
		{"a record deleted", func(tx *bolt.Tx) error {
			return tx.Bucket(recordsBucket).Delete([]byte(perl.key()))
		}, []FaultKind{FaultDangling, FaultDangling, FaultDangling}},
		{"a record that is no JSON", func(tx *bolt.Tx) error {
			return tx.Bucket(recordsBucket).Put([]byte(perl.key()), []byte("{"))
		}, []FaultKind{FaultRecord}},
		{"two faults at once", func(tx *bolt.Tx) error {
			return errors.Join(tx.Bucket(recordsBucket).Put([]byte(perl.key()), []byte("{")),
				tx.Bucket(idBucket).Delete([]byte(git.ID)))
		}, []FaultKind{FaultRecord, FaultUnindexed}},
		{"a record under another key", func(tx *bolt.Tx) error {
			b := tx.Bucket(recordsBucket)
			return b.Put([]byte(perl.key()), b.Get([]byte(git.key())))
		}, []FaultKind{
			FaultKey, FaultTwice, // perl's key holds git
			FaultIndex, FaultIndex, FaultIndex, // what leads there is perl's
			FaultUnindexed, FaultUnindexed, FaultUnindexed, // git's indexes lead to git's key
		}},
		{"one path, two records", func(tx *bolt.Tx) error {
			second := record(3, "/usr/bin/perl", 30)
			return insert(tx, &second)
		}, []FaultKind{FaultTwice}},
		{"a bucket is missing", func(tx *bolt.Tx) error { return tx.DeleteBucket(pathBucket) },
			[]FaultKind{FaultBucket, FaultSchema}},
		{"a strange bucket", func(tx *bolt.Tx) error {
			_, err := tx.CreateBucket([]byte("strange"))
			return err
		}, []FaultKind{FaultBucket}},
		{"no version", func(tx *bolt.Tx) error { return tx.Bucket(metaBucket).Delete(schemaKey) },
			[]FaultKind{FaultSchema}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRegistryWithoutCheck(t)
			mustPut(t, r, perl)
			mustPut(t, r, git)
			edit(t, r, tc.damage)
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

// What cannot be decoded can be listed around, replaced and deleted.
func TestUndecodableRecord(t *testing.T) {
	perl := record(1, "/usr/bin/perl", 10, "/lib/libc.so.6")
	git := record(2, "/usr/bin/git", 20)
	for _, tc := range []struct {
		name   string
		mend   func(*Registry) error
		remain int
	}{
		{"put on the same binary", func(r *Registry) error {
			replaced, err := r.Put(record(3, "/usr/bin/perl5", 10))
			return errors.Join(err, wantReplaced(replaced, perl))
		}, 2},
		{"put on the same path", func(r *Registry) error {
			replaced, err := r.Put(record(3, "/usr/bin/perl", 30))
			return errors.Join(err, wantReplaced(replaced, perl))
		}, 2},
		{"delete", func(r *Registry) error {
			deleted, err := r.Delete(perl.ID)
			return errors.Join(err, wantReplaced([]Record{deleted}, perl))
		}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRegistry(t)
			mustPut(t, r, perl)
			mustPut(t, r, git)
			edit(t, r, func(tx *bolt.Tx) error {
				return tx.Bucket(recordsBucket).Put([]byte(perl.key()), []byte("no JSON"))
			})
			all, err := r.List()
			if len(all) != 1 || !errors.Is(err, ErrCorrupt) {
				t.Errorf("list: %v, %v", all, err)
			}
			if _, err := r.Get(perl.ID); !errors.Is(err, ErrCorrupt) {
				t.Errorf("get: %v", err)
			}
			if err := tc.mend(r); err != nil {
				t.Fatal(err)
			}
			if all, err := r.List(); len(all) != tc.remain || err != nil {
				t.Errorf("left: %v, %v", all, err)
			}
		})
	}
}

func wantReplaced(got []Record, want Record) error {
	if len(got) != 1 || got[0].ID != want.ID || got[0].Program != want.Program ||
		got[0].Binary.Dev != want.Binary.Dev || got[0].Binary.Ino != want.Binary.Ino {
		return errors.New("not what was replaced")
	}
	return nil
}
