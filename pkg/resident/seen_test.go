package resident

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/store"
)

// linked is a file of which a store has a record, as of an image that is not current, and an
// index link.
func linked(t *testing.T, m *Manager, id string) linux.Inode {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	rec := enter(t, m, path)
	rec.ID = strings.Repeat(id, 16)
	if _, err := m.registry.Put(rec); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../images/"+rec.ID+"/plan", m.store.IndexPath(rec.Binary.Inode())); err != nil {
		t.Fatal(err)
	}
	return rec.Binary.Inode()
}

func noted(t *testing.T, m *Manager) *seen {
	t.Helper()
	data, err := m.store.ReadNote(store.NoteSeen)
	if err != nil {
		t.Fatal(err)
	}
	s := &seen{}
	if err := json.Unmarshal(data, s); err != nil {
		t.Fatalf("%v: %q", err, data)
	}
	return s
}

// Without any time a program is left to refresh after some calls, the most used first. When
// all are done nothing is looked at any more, until a file of the system or the registry is
// another.
func TestRenewWithinTakesMostUsedFirst(t *testing.T) {
	m := emptyStore(t)
	a, b, c := linked(t, m, "a"), linked(t, m, "b"), linked(t, m, "c")
	err := intercept.ChangeHistory(m.store, func(h intercept.History) {
		h.Add(map[linux.Inode]*intercept.Starts{b: {Path: "/b", Normal: 2}, c: {Path: "/c", Resident: 5}, a: {Path: "/a", Normal: 1}})
	})
	if err != nil {
		t.Fatal(err)
	}
	call := func(times int, all bool, want ...linux.Inode) {
		t.Helper()
		for range times {
			if err := RenewWithin(m.Dir(), 0); err != nil {
				t.Fatal(err)
			}
		}
		var names []string
		for _, b := range want {
			names = append(names, b.String())
		}
		got := noted(t, m)
		if diff := cmp.Diff(names, got.Done); diff != "" || got.All != all {
			t.Errorf("all: %v %s", got.All, diff)
		}
	}
	call(maxLate-1, false)
	call(1, false, c)
	call(maxLate, false, c, b)
	call(maxLate, true, c, b, a)

	before, err := linux.StatID(m.store.NotePath(store.NoteSeen))
	if err != nil {
		t.Fatal(err)
	}
	call(1, true, c, b, a)
	if after, err := linux.StatID(m.store.NotePath(store.NoteSeen)); after != before {
		t.Errorf("it is written although nothing has changed: %v", err)
	}

	d := linked(t, m, "d") // the registry is another
	call(1, false, c, b, a)
	call(maxLate-1, true, c, b, a, d)

	changed := noted(t, m)
	id := changed.Files[alwaysSeen]
	id.Ctime--
	changed.Files[alwaysSeen] = id
	data, err := json.Marshal(changed)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.store.WriteNote(store.NoteSeen, data); err != nil {
		t.Fatal(err)
	}
	call(1, false)
}

// Where there is no store none is made.
func TestRenewWithinMakesNoStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	if err := RenewWithin(dir, RenewBudget); err != nil || exists(dir) {
		t.Errorf("%v", err)
	}
}

// Notes that cannot be read count as empty. check reports them, and gc removes them.
func TestDamagedNotes(t *testing.T) {
	m := emptyStore(t)
	enter(t, m, "/bin/sh") // or there is no registry
	if _, err := m.registry.Delete(orphan); err != nil {
		t.Fatal(err)
	}
	for _, n := range store.Notes {
		if err := os.WriteFile(m.store.NotePath(n), []byte("{\x00"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if len(damagedNotes(m.store)) != 2 {
		t.Errorf("%q", damagedNotes(m.store))
	}
	p := planned(t, m)
	for _, item := range p.Items {
		if item.Kind != GCNote {
			t.Errorf("%+v", item)
		}
	}
	if r, err := m.GC(t.Context(), p); err != nil || len(r.Removed) != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, n := range store.Notes {
		if exists(m.store.NotePath(n)) {
			t.Errorf("%s is still there", n)
		}
	}
}
