package resident

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// newFile makes a file of its own.
func newFile(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(path), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestAsWished: what was asked for before goes on counting, for the same path and for
// other names of the same file, but not for a program that has the inode of another that
// is gone.
func TestAsWished(t *testing.T) {
	wished := AddOptions{Layouts: 3, MemoryLimit: 1 << 30, TrustOwner: true, EvenIfSlower: true}
	for _, tc := range []struct {
		name  string
		given AddOptions
		path  func(t *testing.T, program string) string // that is added
		want  AddOptions
	}{
		{"the same again", AddOptions{}, func(_ *testing.T, program string) string { return program }, wished},
		{"another file at the path", AddOptions{}, func(t *testing.T, program string) string {
			if err := os.Rename(newFile(t, program+".new"), program); err != nil {
				t.Fatal(err)
			}
			return program
		}, wished},
		{"more", AddOptions{Layouts: 4, MemoryLimit: 1 << 20}, func(_ *testing.T, program string) string { return program },
			AddOptions{Layouts: 4, MemoryLimit: 1 << 20, TrustOwner: true, EvenIfSlower: true}},
		{"less", AddOptions{Layouts: 2}, func(_ *testing.T, program string) string { return program }, wished},
		{"another name", AddOptions{}, func(t *testing.T, program string) string {
			if err := os.Link(program, program+".link"); err != nil {
				t.Fatal(err)
			}
			return program + ".link"
		}, wished},
		{"the inode of another", AddOptions{}, func(t *testing.T, program string) string {
			if err := os.Rename(program, program+".other"); err != nil {
				t.Fatal(err)
			}
			return program + ".other"
		}, AddOptions{Layouts: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := emptyStore(t)
			rec := enter(t, m, newFile(t, filepath.Join(t.TempDir(), "program")))
			rec.Layouts, rec.MemoryLimit, rec.TrustOwner, rec.EvenIfSlower = 3, 1<<30, true, true
			if _, err := m.registry.Put(rec); err != nil {
				t.Fatal(err)
			}
			got, err := m.asWished(tc.path(t, rec.Program), tc.given)
			if diff := cmp.Diff(tc.want, got); diff != "" || err != nil {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

// TestReclaim: an image goes with all that leads to it, and the wish stays, with ways in
// that no wish has had yet.
func TestReclaim(t *testing.T) {
	m := emptyStore(t)
	rec := enter(t, m, newFile(t, filepath.Join(t.TempDir(), "program")))
	image := mkdir(t, m.store.ImageDir(rec.ID))
	if err := m.store.WriteShim(rec.Binary.Inode(), rec.Program); err != nil {
		t.Fatal(err)
	}
	p := planned(t, m)
	if len(p.Items) != 1 || p.Items[0].Kind != GCEntry {
		t.Fatalf("planned %+v", p.Items)
	}
	if _, err := m.GC(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if shims, _, err := m.store.Shims(); err != nil || len(shims) > 0 || exists(image) {
		t.Errorf("left: %v, %v", shims, err)
	}
	wish, err := m.registry.ByPath(rec.Program)
	if err != nil || wish.HasImage() || wish.Reason == "" || !slices.Equal(wish.Shims, []string{rec.Program}) {
		t.Errorf("the wish is %+v, %v", wish, err)
	}
	if p := planned(t, m); len(p.Items) > 0 {
		t.Errorf("then planned %+v", p.Items)
	}

	if _, err := m.Disable(t.Context(), "program"); err != nil {
		t.Error(err)
	}
	if wish, err := m.registry.ByPath(rec.Program); err != nil || len(wish.Shims) > 0 {
		t.Errorf("after disable it is %+v, %v", wish, err)
	}
	if removed, err := m.Remove(t.Context(), "program"); err != nil || len(removed) != 1 {
		t.Errorf("removed %v, %v", removed, err)
	}
}

// TestOneShimPerName: of two programs with one name the one that was enabled last has the
// shim, whatever becomes of their images.
func TestOneShimPerName(t *testing.T) {
	m := emptyStore(t)
	first := registry.Record{Wish: registry.Wish{Program: "/a/program", Shims: []string{"/a/program"}, Reason: "gone"}}
	if _, err := m.registry.Put(first); err != nil {
		t.Fatal(err)
	}
	second := enter(t, m, newFile(t, filepath.Join(t.TempDir(), "program")))
	if err := m.wishShim(second, second.Program); err != nil {
		t.Fatal(err)
	}
	all, err := m.registry.List()
	if err != nil {
		t.Fatal(err)
	}
	var enabled []string
	for _, rec := range all {
		enabled = append(enabled, rec.Shims...)
	}
	if !slices.Equal(enabled, []string{second.Program}) {
		t.Errorf("enabled %v", enabled)
	}
	if got := waitingShims(all, []store.Shim{}); len(got) != 1 {
		t.Errorf("waiting %v", got)
	}
}
