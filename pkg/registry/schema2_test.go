package registry

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/residentctl/residentctl/internal/linux"
)

// A registry of schema 2 says only in what an image depends on where something was looked for.
func TestMigrateFromSchema2IndexesLookups(t *testing.T) {
	r := newRegistry(t)
	perl := record(1, "/usr/bin/perl", 5)
	perl.Deps = json.RawMessage(`{"checks":[{"path":"/etc/ld.so.cache"}],"folders":[{"path":"/opt/lib","misses":["/opt/lib/a/libc.so.6"]}]}`)
	if _, err := r.Put(perl); err != nil {
		t.Fatal(err)
	}
	edit(t, r, func(tx *bolt.Tx) error { return errors.Join(tx.DeleteBucket(lookupBucket), setSchema(tx, 2)) })
	r, err := Open(r.Path(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if faults, err := r.Check(); err != nil || len(faults) > 0 {
		t.Errorf("faults %v, %v", faults, err)
	}
	for _, path := range []string{"/etc/ld.so.cache", "/opt/lib", "/opt/lib/a/libc.so.6", "/usr/bin/perl"} {
		if all, err := r.ByFiles(func(p string) bool { return p == path }, nil); err != nil || len(all) != 1 {
			t.Errorf("%s: %v, %v", path, all, err)
		}
	}
	all, err := r.List()
	if err != nil || len(all) != 1 || !slices.Contains(all[0].Lookups, "/opt/lib") {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestByFiles(t *testing.T) {
	r := newRegistry(t)
	perl, git := record(1, "/usr/bin/perl", 5, "/lib/libc.so.6"), record(2, "/usr/bin/git", 6, "/lib/libz.so.1", "/lib/libc.so.6")
	git.Lookups = []string{"/etc/ld.so.preload"}
	bare := Record{Wish: Wish{Program: "/usr/bin/absent"}}
	for _, rec := range []Record{perl, git, bare} {
		if _, err := r.Put(rec); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string][]string{
		"/lib/libc.so.6":     {"/usr/bin/git", "/usr/bin/perl"},
		"/lib/libz.so.1":     {"/usr/bin/git"},
		"/etc/ld.so.preload": {"/usr/bin/git"},
		"/usr/bin/perl":      {"/usr/bin/perl"},
		"/usr/bin/absent":    {"/usr/bin/absent"},
		"/nowhere":           nil,
	} {
		all, err := r.ByFiles(func(p string) bool { return p == path }, nil)
		var got []string
		for _, rec := range all {
			got = append(got, rec.Program)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
	if all, err := r.ByFiles(func(string) bool { return false }, []linux.Inode{perl.Binary.Inode(), {Dev: 1, Ino: 1}}); err != nil || len(all) != 1 {
		t.Errorf("by inode: %v, %v", all, err)
	}
}
