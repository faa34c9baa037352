package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
)

// schema1 makes a registry of schema 1 with these records, as the residentctl of
// that time did.
func schema1(t *testing.T, all ...Record) *Registry {
	t.Helper()
	r := newRegistryWithoutCheck(t)
	edit(t, r, func(tx *bolt.Tx) error {
		err := errors.Join(tx.DeleteBucket(inodeBucket), tx.DeleteBucket(lookupBucket), setSchema(tx, 1))
		put := func(bucket []byte, key, value string) {
			err = errors.Join(err, tx.Bucket(bucket).Put([]byte(key), []byte(value)))
		}
		for _, rec := range all {
			text, jsonErr := json.Marshal(&rec)
			err = errors.Join(err, jsonErr)
			text = append([]byte(`{"mirror":true,`), text[1:]...) // a field of that time
			key := key1(&rec)
			put(recordsBucket, key, string(text))
			put(idBucket, rec.ID, key)
			for _, name := range rec.Names() {
				put(pathBucket, name+"\x00"+rec.ID, key)
			}
			for _, lib := range rec.LibraryPaths {
				put(libraryBucket, lib+"\x00"+rec.ID, key)
			}
		}
		return err
	})
	return r
}

// TestMigrateFromSchema1: the first that may write brings it up to date, with all
// that it held; who only reads says that it is older, and so does Check.
func TestMigrateFromSchema1(t *testing.T) {
	perl := record(1, "/usr/bin/perl", 10, "/lib/libc.so.6", "/lib/libm.so.6")
	perl.Paths, perl.Layouts, perl.LauncherPlace = []string{"/usr/bin/perl5"}, 3, 1<<62
	git := record(2, "/usr/bin/git", 20, "/lib/libc.so.6")
	r := schema1(t, perl, git)
	was, err := os.ReadFile(r.Path())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(r.Path(), Options{ReadOnly: true}); !errors.Is(err, ErrOlderSchema) {
		t.Errorf("for reading only: %v", err)
	}
	if _, err := r.List(); !errors.Is(err, ErrOlderSchema) {
		t.Errorf("list: %v", err)
	}
	if faults, err := r.Check(); err != nil || len(faults) != 1 || faults[0].Kind != FaultOlder {
		t.Errorf("check: %v, %v", faults, err)
	}
	if now, err := os.ReadFile(r.Path()); err != nil || string(now) != string(was) {
		t.Errorf("reading has changed it (%v)", err)
	}
	if _, err := Open(r.Path(), Options{Existing: true}); err != nil {
		t.Fatal(err)
	}
	mustBeSound(t, r)
	all, err := r.List()
	if diff := cmp.Diff([]Record{git, perl}, all); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if got, err := r.ByInode(inode(10)); err != nil || got.ID != perl.ID {
		t.Errorf("by inode: %v, %v", got.Program, err)
	}
	if users, err := r.ByLibrary(only("/lib/libc.so.6")); err != nil || len(users) != 2 {
		t.Errorf("by library: %v, %v", users, err)
	}
	if replaced := mustPut(t, r, record(3, "/usr/bin/perl", 10)); len(replaced) != 1 || replaced[0].ID != perl.ID {
		t.Errorf("replaced %v", replaced)
	}
	mustBeSound(t, r)
}

// TestMigrateDamagedRecord: one that could not be read before is damaged after it,
// with all that its indexes know.
func TestMigrateDamagedRecord(t *testing.T) {
	perl := record(1, "/usr/bin/perl", 10, "/lib/libc.so.6")
	git := record(2, "/usr/bin/git", 20, "/lib/libc.so.6")
	for name, spoil := range map[string]func(records *bolt.Bucket) []byte{
		"no JSON":   func(*bolt.Bucket) []byte { return []byte("{") },
		"another's": func(records *bolt.Bucket) []byte { return records.Get([]byte(key1(&git))) },
	} {
		t.Run(name, func(t *testing.T) {
			r := schema1(t, perl, git)
			edit(t, r, func(tx *bolt.Tx) error {
				records := tx.Bucket(recordsBucket)
				return records.Put([]byte(key1(&perl)), spoil(records))
			})
			if _, err := Open(r.Path(), Options{}); err != nil {
				t.Fatal(err)
			}
			if all, err := r.List(); len(all) != 1 || all[0].ID != git.ID || len(Damaged(err)) != 1 {
				t.Errorf("list: %v, %v", all, err)
			}
			_, err := r.ByInode(inode(10))
			if d := Damaged(err); len(d) != 1 || len(d[0].IDs) != 1 || d[0].IDs[0] != perl.ID || d[0].Names[0] != perl.Program {
				t.Errorf("by inode: %+v, %v", d, err)
			}
			if replaced := mustPut(t, r, record(3, "/usr/bin/perl", 10)); len(replaced) > 0 {
				t.Errorf("replaced %v", replaced)
			}
			mustBeSound(t, r)
		})
	}
}

// TestReadsRecordsOfMirrors: a field that older versions wrote is passed over.
func TestReadsRecordsOfMirrors(t *testing.T) {
	perl := record(1, "/usr/bin/perl", 10)
	value, err := encodeStored("record-1", storedOf(&perl))
	if err != nil {
		t.Fatal(err)
	}
	object := bytes.Replace(value[len(storedHeader("", nil)):], []byte(`"image":{`), []byte(`"image":{"mirror":true,`), 1)
	s, err := decodeStored("record-1", append(storedHeader("record-1", object), object...))
	if err != nil || !bytes.Contains(object, []byte("mirror")) {
		t.Fatal(err)
	}
	if diff := cmp.Diff(perl, s.record()); diff != "" {
		t.Error(diff)
	}
}
