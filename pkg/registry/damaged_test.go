package registry

import (
	"errors"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/residentctl/residentctl/internal/linux"
)

// TestFlippedBitOfARecord: every bit of a stored record's value and key, and every
// other length, is noticed.
func TestFlippedBitOfARecord(t *testing.T) {
	r := newRegistryWithoutCheck(t)
	perl := record(1, "/usr/bin/perl", 10, "/lib/libc.so.6")
	perl.Paths, perl.Layouts = []string{"/usr/bin/perl5"}, 3
	mustPut(t, r, perl)
	rolledBack := errors.New("rolled back")
	err := r.update(func(tx *bolt.Tx) error {
		key := keyOf(t, tx, perl.ID)
		records := tx.Bucket(recordsBucket)
		good := slices.Clone(records.Get(key))
		mustBeDamaged := func(what string, n int, key, value []byte) {
			t.Helper()
			if err := records.Put(key, value); err != nil {
				t.Fatal(err)
			}
			var d *DamagedError
			if s, err := load(tx, string(key)); !errors.As(err, &d) || !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s %d: read as %+v, %v", what, n, s, err)
			}
		}
		for bit := range 8 * len(good) {
			bad := slices.Clone(good)
			bad[bit/8] ^= 1 << (bit % 8)
			mustBeDamaged("bit", bit, key, bad)
		}
		for n := range len(good) {
			mustBeDamaged("cut to", n, key, good[:n])
		}
		mustBeDamaged("longer by", 1, key, append(slices.Clone(good), ' '))
		for bit := range 8 * len(key) {
			bad := slices.Clone(key)
			bad[bit/8] ^= 1 << (bit % 8)
			mustBeDamaged("bit of the key", bit, bad, good)
		}
		if err := records.Put(key, good); err != nil {
			return err
		}
		if _, err := load(tx, string(key)); err != nil {
			t.Error(err)
		}
		return rolledBack
	})
	if !errors.Is(err, rolledBack) {
		t.Fatal(err)
	}
}

// damage flips a bit in the middle of the record of an image, and gives its key.
func damage(t *testing.T, r *Registry, id string) (key string) {
	t.Helper()
	edit(t, r, func(tx *bolt.Tx) error {
		k := keyOf(t, tx, id)
		key = string(k)
		bad := slices.Clone(tx.Bucket(recordsBucket).Get(k))
		bad[len(bad)/2] ^= 1
		return tx.Bucket(recordsBucket).Put(k, bad)
	})
	return key
}

// TestDamagedRecord: the others are listed, and it can be replaced and forgotten. But
// it is nothing that a caller is told to remove an image of.
func TestDamagedRecord(t *testing.T) {
	perl := record(1, "/usr/bin/perl", 10, "/lib/libc.so.6")
	perl.Paths = []string{"/usr/bin/perl5"}
	git := record(2, "/usr/bin/git", 20)
	put := func(rec Record) func(*Registry, string) ([]Record, error) {
		return func(r *Registry, _ string) ([]Record, error) { return r.Put(rec) }
	}
	bothNames := record(3, "/usr/bin/perl", 30)
	bothNames.Paths = perl.Paths
	for _, tc := range []struct {
		name   string
		mend   func(r *Registry, key string) ([]Record, error)
		remain int
		still  bool // damaged
	}{
		{"put of the same binary", put(record(3, "/opt/perl", 10)), 2, false},
		{"put of all its paths", put(bothNames), 2, false},
		{"put of one of its paths", put(record(3, "/usr/bin/perl", 30)), 2, true},
		{"put of something else", put(record(3, "/usr/bin/sed", 30)), 2, true},
		{"forget", func(r *Registry, key string) ([]Record, error) { return nil, r.Forget(key) }, 1, false},
		{"delete", func(r *Registry, key string) ([]Record, error) {
			deleted, err := r.Delete(perl.ID)
			if d := Damaged(err); len(d) != 1 || d[0].Key != key || deleted.ID != "" {
				t.Errorf("deleted %v: %v", deleted, err)
			}
			return nil, nil
		}, 1, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRegistryWithoutCheck(t)
			mustPut(t, r, perl)
			mustPut(t, r, git)
			key := damage(t, r, perl.ID)
			all, err := r.List()
			if len(all) != 1 || all[0].ID != git.ID || !errors.Is(err, ErrCorrupt) {
				t.Errorf("list: %v, %v", all, err)
			}
			for _, query := range []string{perl.ID, perl.ID[:6], "perl", "/usr/bin/perl5", key} {
				_, err := r.Find(query)
				d := Damaged(err)
				if len(d) != 1 || d[0].Key != key || !slices.Equal(d[0].IDs, []string{perl.ID}) ||
					!slices.Equal(d[0].Names, perl.Names()) || !slices.Equal(d[0].Binaries, []linux.Inode{inode(10)}) {
					t.Errorf("find %s: %+v, %v", query, d, err)
				}
			}
			replaced, err := tc.mend(r, key)
			if err != nil || len(replaced) > 0 {
				t.Fatalf("replaced %v, %v", replaced, err)
			}
			all, err = r.List()
			if len(all) != tc.remain || (len(Damaged(err)) == 1) != tc.still || !tc.still && err != nil {
				t.Errorf("left: %v, %v", all, err)
			}
			faults, err := r.Check()
			for _, f := range faults {
				if f.Kind != FaultRecord || !tc.still {
					t.Error(f)
				}
			}
			if err != nil || (len(faults) > 0) != tc.still {
				t.Errorf("check: %v, %v", faults, err)
			}
		})
	}
}

// TestForgetWhatIsNotDamaged: what is whole is not forgotten by its key.
func TestForgetWhatIsNotDamaged(t *testing.T) {
	r := newRegistry(t)
	perl := record(1, "/usr/bin/perl", 10)
	mustPut(t, r, perl)
	var key string
	edit(t, r, func(tx *bolt.Tx) error { key = string(keyOf(t, tx, perl.ID)); return nil })
	if err := r.Forget(key); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("whole: %v", err)
	}
	if err := r.Forget("record-1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("missing: %v", err)
	}
	if _, err := r.Find(key); !errors.Is(err, ErrNotFound) {
		t.Errorf("a whole one is found by its key: %v", err)
	}
}

// TestFalseIndexEntry: an index entry that leads to a record which does not have it
// finds nothing that could be removed in its place.
func TestFalseIndexEntry(t *testing.T) {
	perl := record(1, "/usr/bin/perl", 10, "/lib/libc.so.6")
	git := record(2, "/usr/bin/git", 20)
	for _, tc := range []struct {
		name  string
		entry func(gitKey string) indexEntry
		find  func(r *Registry) (Record, error)
	}{
		{"id", func(string) indexEntry { return indexEntry{string(idBucket), perl.ID} },
			func(r *Registry) (Record, error) { return r.Find(perl.ID) }},
		{"deleted by id", func(string) indexEntry { return indexEntry{string(idBucket), perl.ID} },
			func(r *Registry) (Record, error) { return r.Delete(perl.ID) }},
		{"path", func(key string) indexEntry { return indexEntry{string(pathBucket), "/usr/bin/gis\x00" + key} },
			func(r *Registry) (Record, error) { return r.Find("/usr/bin/gis") }},
		{"inode", func(key string) indexEntry { return indexEntry{string(inodeBucket), inode(21).String() + "\x00" + key} },
			func(r *Registry) (Record, error) { return r.ByInode(inode(21)) }},
		{"put of the path", func(key string) indexEntry { return indexEntry{string(pathBucket), "/usr/bin/sed\x00" + key} },
			func(r *Registry) (Record, error) { return first(r.Put(record(3, "/usr/bin/sed", 30))) }},
		{"put of the binary", func(key string) indexEntry { return indexEntry{string(inodeBucket), inode(30).String() + "\x00" + key} },
			func(r *Registry) (Record, error) { return first(r.Put(record(3, "/usr/bin/sed", 30))) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRegistryWithoutCheck(t)
			mustPut(t, r, perl)
			mustPut(t, r, git)
			edit(t, r, func(tx *bolt.Tx) error {
				key := keyOf(t, tx, git.ID)
				e := tc.entry(string(key))
				return tx.Bucket([]byte(e.bucket)).Put([]byte(e.key), key)
			})
			if rec, err := tc.find(r); rec.ID != "" || err != nil && !errors.Is(err, ErrCorrupt) {
				t.Errorf("found %v, %v", rec.Program, err)
			}
			all, err := r.List()
			for _, want := range []Record{perl, git} {
				if err != nil || !slices.ContainsFunc(all, func(r Record) bool { return r.ID == want.ID && r.Program == want.Program }) {
					t.Errorf("%s is gone: %v, %v", want.Program, all, err)
				}
			}
		})
	}
}

func first(all []Record, err error) (r Record, _ error) {
	if len(all) > 0 {
		r = all[0]
	}
	return r, err
}

// TestMissingRecord: what only the indexes still have can be replaced and forgotten.
func TestMissingRecord(t *testing.T) {
	perl := record(1, "/usr/bin/perl", 10, "/lib/libc.so.6")
	for name, mend := range map[string]func(r *Registry, key string) error{
		"put":    func(r *Registry, _ string) error { _, err := r.Put(record(3, "/usr/bin/perl", 30)); return err },
		"forget": func(r *Registry, key string) error { return r.Forget(key) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t) // it must be sound in the end
			mustPut(t, r, perl)
			var key []byte
			edit(t, r, func(tx *bolt.Tx) error {
				key = keyOf(t, tx, perl.ID)
				return tx.Bucket(recordsBucket).Delete(key)
			})
			if _, err := r.Find("perl"); len(Damaged(err)) != 1 {
				t.Errorf("find: %v", err)
			}
			if err := mend(r, string(key)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAmbiguousWithDamaged: a damaged record is not what a query means that could
// also mean another.
func TestAmbiguousWithDamaged(t *testing.T) {
	r := newRegistryWithoutCheck(t)
	perl := record(1, "/usr/bin/perl", 10)
	mustPut(t, r, perl)
	mustPut(t, r, record(2, "/opt/bin/perl", 20))
	damage(t, r, perl.ID)
	if _, err := r.Find("perl"); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("got %v", err)
	}
}

// TestKeyStays: a record has the same key after its image was replaced.
func TestKeyStays(t *testing.T) {
	r := newRegistry(t)
	keys := make(map[string]bool)
	for n := range 3 {
		rec := record(n, "/usr/bin/perl", 10)
		mustPut(t, r, rec)
		edit(t, r, func(tx *bolt.Tx) error { keys[string(keyOf(t, tx, rec.ID))] = true; return nil })
	}
	if len(keys) != 1 {
		t.Errorf("keys %v", keys)
	}
}
