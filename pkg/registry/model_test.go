package registry

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// model is what a registry should do, with nothing but a map by binary.
type model map[uint64]Record

func (m model) put(rec Record) (replaced []string) {
	if old, ok := m[rec.Binary.Ino]; ok && old.ID != rec.ID {
		replaced = append(replaced, old.ID)
	}
	m[rec.Binary.Ino] = rec
	for ino, other := range m {
		if ino == rec.Binary.Ino {
			continue
		}
		rest := slices.DeleteFunc(other.Names(), func(n string) bool { return slices.Contains(rec.Names(), n) })
		if len(rest) == 0 {
			delete(m, ino)
			replaced = append(replaced, other.ID)
			continue
		}
		other.Program, other.Paths = rest[0], rest[1:]
		m[ino] = other
	}
	return replaced
}

func (m model) list() []Record {
	all := slices.Collect(maps.Values(m))
	sortRecords(all)
	return all
}

func (m model) where(is func(Record) bool) []Record {
	return slices.DeleteFunc(m.list(), func(r Record) bool { return !is(r) })
}

func TestModel(t *testing.T) {
	const seed = 4
	steps := 2000
	if testing.Short() {
		steps = 100
	}
	rnd := rand.New(rand.NewPCG(seed, seed))
	r, m := newRegistry(t), model{}
	path := func() string { return fmt.Sprintf("/bin/p%d", rnd.IntN(30)) }
	lib := func() string { return fmt.Sprintf("/lib/l%d", rnd.IntN(10)) }
	for step := range steps {
		switch rnd.IntN(6) {
		case 0, 1, 2:
			rec := record(step, path(), uint64(1+rnd.IntN(20)))
			for range rnd.IntN(3) {
				if p := path(); !slices.Contains(rec.Names(), p) {
					rec.Paths = append(rec.Paths, p)
				}
			}
			for range rnd.IntN(40) {
				rec.LibraryPaths = append(rec.LibraryPaths, lib())
			}
			if old, ok := m[rec.Binary.Ino]; ok && rnd.IntN(3) == 0 {
				rec.ID = old.ID
			}
			want, got := m.put(rec), ids(mustPut(t, r, rec))
			slices.Sort(want)
			slices.Sort(got)
			mustEqual(t, step, want, got)
		case 3:
			for ino, rec := range m {
				if _, err := r.Delete(rec.ID); err != nil {
					t.Fatal(step, err)
				}
				delete(m, ino)
				break
			}
		case 4:
			p := path()
			rec, err := r.ByPath(p)
			mustEqualOne(t, step, m.where(func(r Record) bool { return slices.Contains(r.Names(), p) }), rec, err)
			rec, err = r.Find(filepath.Base(p))
			mustEqualOne(t, step, m.where(func(r Record) bool { return slices.Contains(r.Names(), p) }), rec, err)
		case 5:
			l := lib()
			got, err := r.ByLibrary(only(l))
			if err != nil {
				t.Fatal(err)
			}
			mustEqual(t, step, m.where(func(r Record) bool { return slices.Contains(r.LibraryPaths, l) }), got)
		}
		if step%100 == 99 {
			mustBeSound(t, r)
			got, err := r.List()
			if err != nil {
				t.Fatal(err)
			}
			mustEqual(t, step, m.list(), got)
		}
	}
}

func mustEqual[T any](t *testing.T, step int, want, got []T) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("step %d (-want +got):\n%s", step, diff)
	}
}

func mustEqualOne(t *testing.T, step int, want []Record, got Record, err error) {
	t.Helper()
	if errors.Is(err, ErrNotFound) {
		mustEqual(t, step, want, nil)
	} else if err != nil {
		t.Fatal(step, err)
	} else {
		mustEqual(t, step, want, []Record{got})
	}
}
