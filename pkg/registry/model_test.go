package registry

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// model is what a registry should do, with nothing but a list.
type model struct{ all []Record }

func (m *model) put(rec Record) (replaced []string) {
	var left []Record
	for _, old := range m.all {
		taken := func(name string) bool { return slices.Contains(rec.Names(), name) }
		rest, ok := old.Wish.Without(taken)
		sameBinary := rec.HasImage() && old.HasImage() && old.Binary.Ino == rec.Binary.Ino
		switch {
		case sameBinary && old.ID != rec.ID, !sameBinary && !ok:
			replaced = append(replaced, old.ID)
		}
		if !ok {
			continue
		}
		if sameBinary {
			rest.Reason = fmt.Sprintf("%s is not the same file as %s any more", rest.Program, rec.Program)
			old.Image = Image{}
		}
		old.Wish = rest
		left = append(left, old)
	}
	m.all = append(left, rec)
	return replaced
}

func (m *model) delete(i int) { m.all = slices.Delete(m.all, i, i+1) }

func (m *model) list() []Record {
	all := slices.Clone(m.all)
	slices.SortFunc(all, func(a, b Record) int {
		return cmp.Or(cmp.Compare(a.Program, b.Program), cmp.Compare(a.ID, b.ID))
	})
	return all
}

func (m *model) where(is func(Record) bool) []Record {
	return slices.DeleteFunc(m.list(), func(r Record) bool { return !is(r) })
}

func TestModel(t *testing.T) {
	const seed = 4
	steps := 600
	if testing.Short() {
		steps = 100
	}
	rnd := rand.New(rand.NewPCG(seed, seed))
	r, m := newRegistry(t), &model{}
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
			rec.Shims = slices.Clone(rec.Names()[rnd.IntN(len(rec.Names())):])
			rec.SetSystemFor([]string{"", "1-2"}[rnd.IntN(2)], []string{rec.Program})
			for range rnd.IntN(40) {
				rec.LibraryPaths = append(rec.LibraryPaths, lib())
			}
			old := m.where(func(r Record) bool { return r.Binary.Ino == rec.Binary.Ino })
			switch {
			case len(old) > 0 && rnd.IntN(3) == 0:
				rec.ID = old[0].ID
			case rnd.IntN(3) == 0:
				rec.Image, rec.Reason = Image{}, "it is gone"
			}
			want, got := m.put(rec), ids(mustPut(t, r, rec))
			slices.Sort(want)
			slices.Sort(got)
			mustEqual(t, step, want, got)
		case 3:
			if len(m.all) == 0 {
				break
			}
			i := rnd.IntN(len(m.all))
			if deleted, err := r.Delete(cmp.Or(m.all[i].ID, m.all[i].Program)); err != nil || deleted.Program != m.all[i].Program {
				t.Fatal(step, deleted, err)
			}
			m.delete(i)
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
	if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
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
