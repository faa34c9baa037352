package resident

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/registry"
)

const orphan = "0123456789abcdef"

// emptyStore is a store with a registry and nothing in it; TMPDIR is its own.
func emptyStore(t *testing.T) *Manager {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	m, err := Open(filepath.Join(t.TempDir(), "store"), true)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// enter enters a record of a file, which has no image.
func enter(t *testing.T, m *Manager, path string) registry.Record {
	t.Helper()
	id, err := linux.StatID(path)
	if err != nil {
		t.Fatal(err)
	}
	rec := registry.Record{
		Wish:  registry.Wish{Program: path},
		Image: registry.Image{ID: orphan, Binary: id, Kind: "linked", Digest: strings.Repeat("a", 64), Deps: []byte("{}")},
	}
	if _, err := m.registry.Put(rec); err != nil {
		t.Fatal(err)
	}
	return rec
}

func mkdir(t *testing.T, path string) string {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func planned(t *testing.T, m *Manager) *GCPlan {
	t.Helper()
	p, err := m.PlanGC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// What was garbage when the plan was made may be none any more when it is carried
// out.
func TestGCLooksAgain(t *testing.T) {
	for _, tc := range []struct {
		name    string
		make    func(t *testing.T, m *Manager) string // something that is garbage, or will be
		between func(t *testing.T, m *Manager)
		want    int // items removed
	}{
		{"nothing happened", func(t *testing.T, m *Manager) string {
			return mkdir(t, m.store.ImageDir(orphan))
		}, func(*testing.T, *Manager) {}, 1},
		{"the image got its record", func(t *testing.T, m *Manager) string {
			return mkdir(t, m.store.ImageDir(orphan))
		}, func(t *testing.T, m *Manager) { enter(t, m, "/proc/self/exe") }, 0},
		{"another gc was quicker", func(t *testing.T, m *Manager) string {
			return mkdir(t, m.store.ImageDir(orphan))
		}, func(t *testing.T, m *Manager) {
			if r, err := m.GC(t.Context(), planned(t, m)); err != nil || len(r.Removed) != 1 {
				t.Fatalf("%v, %v", r, err)
			}
		}, 0},
		{"the entry is gone", func(t *testing.T, m *Manager) string {
			enter(t, m, "/proc/self/exe")
			return mkdir(t, m.store.ImageDir(orphan))
		}, func(t *testing.T, m *Manager) {
			if _, err := m.RemoveAll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, 0},
		{"a process works there", func(t *testing.T, m *Manager) string {
			return mkdir(t, filepath.Join(m.store.Dir(), "staging", "program-1-2"))
		}, func(t *testing.T, m *Manager) {
			unlock, err := m.store.LockProgram(t.Context(), linux.Inode{Dev: 1, Ino: 2})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(unlock)
		}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := emptyStore(t)
			path := tc.make(t, m)
			p := planned(t, m)
			if len(p.Items) != 1 {
				t.Fatalf("planned %+v", p.Items)
			}
			tc.between(t, m)
			there := exists(path)
			r, err := m.GC(t.Context(), p)
			if err != nil || len(r.Removed) != tc.want || len(r.Spared) != 1-tc.want {
				t.Fatalf("%+v, %v", r, err)
			}
			if exists(path) != (there && tc.want == 0) {
				t.Errorf("%s: it was there: %v, it is: %v", path, there, exists(path))
			}
		})
	}
}

// A file that cannot be looked at is not one that is gone.
func TestGCKeepsWhatCannotBeLookedAt(t *testing.T) {
	m := emptyStore(t)
	rec := enter(t, m, "/proc/self/exe")
	loop := filepath.Join(t.TempDir(), "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	rec.Deps = []byte(`{"program": {"path": "` + loop + `"}}`)
	if reasons, unsure := m.useless(rec, nil); len(reasons) == 0 || unsure != "" {
		t.Errorf("without an image it is useless for certain: %q, %q", reasons, unsure)
	}
	deps := &fingerprint.Dependencies{}
	if err := json.Unmarshal(rec.Deps, deps); err != nil {
		t.Fatal(err)
	}
	deps.Linker.Path = loop // even root cannot look through a loop of links
	if why := cannotLook(deps); !strings.Contains(why, loop) {
		t.Errorf("got %q", why)
	}
	deps.Program.Path = "/no/such/file"
	deps.Linker.Path = "/no/such/file"
	if why := cannotLook(deps); why != "" {
		t.Errorf("what is gone is gone, but: %q", why)
	}
}

// A registry with a fault says nothing of what should exist.
func TestGCRefusesAFaultyRegistry(t *testing.T) {
	m := emptyStore(t)
	image := mkdir(t, m.store.ImageDir(orphan))
	p := planned(t, m)
	if err := os.Truncate(m.store.RegistryPath(), 8192); err != nil {
		t.Fatal(err)
	}
	if _, err := m.PlanGC(t.Context()); !errors.Is(err, registry.ErrCorrupt) {
		t.Errorf("plan: %v", err)
	}
	if r, err := m.GC(t.Context(), p); !errors.Is(err, registry.ErrCorrupt) || len(r.Removed) > 0 {
		t.Errorf("execute: %+v, %v", r, err)
	}
	if !exists(image) {
		t.Error("the image is gone")
	}
}

// TestGCSparesWhatADamagedRecordMayHave: a record that was damaged after the plan was
// made, or even after the registry was looked at again, stops what could be its own
// from being removed. It is removed with the record, and only then.
func TestGCSparesWhatADamagedRecordMayHave(t *testing.T) {
	m := emptyStore(t)
	b := linux.Inode{Dev: 1, Ino: 2}
	image := mkdir(t, m.store.ImageDir(orphan))
	launchers := mkdir(t, m.store.LaunchersDir(b))
	p := planned(t, m) // without a record all of it is garbage
	if len(p.Items) != 2 {
		t.Fatalf("planned %+v", p.Items)
	}
	rec := registry.Record{
		Wish: registry.Wish{Program: "/no/such/program"},
		Image: registry.Image{
			ID: orphan, Binary: linux.FileID{Dev: b.Dev, Ino: b.Ino}, Kind: "linked", Digest: strings.Repeat("a", 64), Deps: []byte("{}"),
		},
	}
	if _, err := m.registry.Put(rec); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(m.store.RegistryPath())
	if err == nil {
		raw = bytes.ReplaceAll(raw, []byte(`"kind":"linked"`), []byte(`"kind":"linjed"`))
		err = os.WriteFile(m.store.RegistryPath(), raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}

	stopped := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, registry.ErrCorrupt) || len(registry.Damaged(err)) != 1 || !exists(image) || !exists(launchers) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = m.PlanGC(t.Context())
	stopped("plan", err)
	_, err = m.GC(t.Context(), p)
	stopped("execute", err)
	for _, kind := range []GCKind{GCEntry, GCLink, GCLauncher, GCLaunchers, GCImage, GCSystem} {
		_, err := m.collect(t.Context(), GCItem{Kind: kind, ID: orphan, Path: image, binary: b})
		stopped(string(kind), err)
	}
	_, err = m.RemoveAll(t.Context())
	stopped("remove all", err)

	removed, err := m.Remove(t.Context(), rec.Program)
	if err != nil || len(removed) != 1 || removed[0].ID != orphan || exists(image) || exists(launchers) {
		t.Errorf("removed %+v, %v", removed, err)
	}
	if p := planned(t, m); len(p.Items) > 0 {
		t.Errorf("left %+v", p.Items)
	}
}

func TestGCWaitsForTheStore(t *testing.T) {
	m := emptyStore(t)
	unlock, err := m.store.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.PlanGC(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	unlock()
	if p := planned(t, m); len(p.Items) != 0 {
		t.Errorf("planned %+v", p.Items)
	}
}
