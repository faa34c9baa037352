package registry

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	bolt "go.etcd.io/bbolt"
)

// wish is a record without an image.
func wish(program string, more ...string) Record {
	return Record{Wish: Wish{Program: program, Paths: more, Layouts: 4, Reason: program + " is gone"}}
}

// TestWishWithoutImage: it is an entry, found by its paths and nothing else, and ends
// when it is deleted.
func TestWishWithoutImage(t *testing.T) {
	r := newRegistry(t)
	perl := wish("/usr/bin/perl", "/usr/bin/perl5")
	git := record(1, "/usr/bin/git", 20, "/lib/libc.so.6")
	mustPut(t, r, perl)
	mustPut(t, r, git)
	all, err := r.List()
	if diff := cmp.Diff([]Record{git, perl}, all); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, query := range []string{"perl", "perl5", "/usr/bin/perl", "/usr/bin/perl5"} {
		got, err := r.Find(query)
		if diff := cmp.Diff(perl, got); diff != "" || err != nil {
			t.Errorf("find %s: %v\n%s", query, err, diff)
		}
	}
	if got, err := r.ByPath("/usr/bin/perl5"); err != nil || got.HasImage() {
		t.Errorf("by path: %v, %v", got, err)
	}
	if _, err := r.Get("0000"); !errors.Is(err, ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	if _, err := r.ByInode(perl.Binary.Inode()); !errors.Is(err, ErrNotFound) {
		t.Errorf("by inode: %v", err)
	}
	if users, err := r.ByLibrary(only("/lib/libc.so.6")); err != nil || len(users) != 1 {
		t.Errorf("by library: %v, %v", users, err)
	}
	if _, err := r.Delete(""); !errors.Is(err, ErrNotFound) {
		t.Errorf("delete nothing: %v", err)
	}
	if got, err := r.Delete("/usr/bin/perl5"); err != nil || got.Program != perl.Program {
		t.Errorf("delete: %v, %v", got, err)
	}
	if left, err := r.List(); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestPutEndsNoWish: whatever image comes and goes, the names that a user has added stay,
// with the ways in that were enabled.
func TestPutEndsNoWish(t *testing.T) {
	enabled := func(rec Record, shims ...string) Record {
		rec.Shims, rec.System, rec.SystemIn = shims, shims, map[string][]string{"1-2": shims}
		return rec
	}
	two := enabled(record(1, "/bin/a", 10), "/bin/a", "/bin/b")
	two.Paths = []string{"/bin/b"}
	rest := func(reason string) Record {
		rec := enabled(Record{Wish: Wish{Program: "/bin/b", Paths: []string{}, Reason: reason}}, "/bin/b")
		return rec
	}
	reclaimed := Record{Wish: two.Wish}
	reclaimed.Reason = "/bin/a was gone"
	for _, tc := range []struct {
		name           string
		before         []Record
		put            Record
		replaced, left []Record
	}{
		{"the image is reclaimed", []Record{two}, reclaimed, []Record{two}, []Record{reclaimed}},
		{"an image again", []Record{reclaimed}, two, []Record{reclaimed}, []Record{two}},
		{"a new image by one of the names", []Record{two}, record(2, "/bin/a", 10), []Record{two},
			[]Record{record(2, "/bin/a", 10), rest("/bin/b is not the same file as /bin/a any more")}},
		{"another binary by one of the names", []Record{two}, record(2, "/bin/a", 11), nil,
			[]Record{record(2, "/bin/a", 11), func() Record { r := two; r.Wish = rest("").Wish; return r }()}},
		{"another binary by one of the names of a wish", []Record{reclaimed}, record(2, "/bin/a", 11), nil,
			[]Record{record(2, "/bin/a", 11), rest(reclaimed.Reason)}},
		{"the reason goes with an image", nil, func() Record { r := two; r.Reason = "x"; return r }(), nil, []Record{two}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRegistry(t)
			for _, rec := range tc.before {
				mustPut(t, r, rec)
			}
			replaced := mustPut(t, r, tc.put)
			// A record that goes because its last name is taken has lost the others already.
			ignored := cmpopts.IgnoreFields(Wish{}, "Program", "Paths", "Shims", "System", "SystemIn")
			if diff := cmp.Diff(tc.replaced, replaced, cmpopts.EquateEmpty(), ignored); diff != "" {
				t.Errorf("replaced (-want +got):\n%s", diff)
			}
			left, err := r.List()
			if diff := cmp.Diff(tc.left, left, cmpopts.EquateEmpty()); diff != "" || err != nil {
				t.Errorf("left (-want +got):\n%s%v", diff, err)
			}
		})
	}
}

// TestKeyOutlivesTheImage: a wish has the same key while images come and go.
func TestKeyOutlivesTheImage(t *testing.T) {
	r := newRegistry(t)
	keys := make(map[string]bool)
	for _, rec := range []Record{record(1, "/bin/a", 10), wish("/bin/a"), record(2, "/bin/a", 11), record(3, "/bin/a", 12)} {
		mustPut(t, r, rec)
		edit(t, r, func(tx *bolt.Tx) error { keys[exactly(tx, "/bin/a")[0].key] = true; return nil })
	}
	if len(keys) != 1 {
		t.Errorf("keys %v", keys)
	}
}

func TestPutRefusesWishes(t *testing.T) {
	for name, change := range map[string]func(*Record){
		"a shim of no name":                  func(r *Record) { r.Shims = []string{"/bin/b"} },
		"a name of no program for all":       func(r *Record) { r.System = []string{"/bin/b"} },
		"a name of no program for some":      func(r *Record) { r.SystemIn = map[string][]string{"1-2": {"/bin/b"}} },
		"an instance without a name":         func(r *Record) { r.SystemIn = map[string][]string{"": {"/bin/a"}} },
		"half an image":                      func(r *Record) { r.Digest = "a" },
		"a binary of no image":               func(r *Record) { r.Binary.Ino = 1 },
		"no program":                         func(r *Record) { r.Program = "" },
		"an image without what it was of":    func(r *Record) { r.ID = record(1, "/", 1).ID },
		"a path that is not absolute":        func(r *Record) { r.Paths = []string{"b"} },
		"a path that is named for one shim ": func(r *Record) { r.Shims = []string{"/bin/a", ""} },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			rec := wish("/bin/a")
			change(&rec)
			if _, err := r.Put(rec); err == nil {
				t.Error("taken")
			}
		})
	}
}
