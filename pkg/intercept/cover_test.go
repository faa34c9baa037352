package intercept

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/residentctl/residentctl/pkg/store"
)

func TestOutdated(t *testing.T) {
	s, err := store.Create(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Outdated(s); err != nil || len(got) > 0 {
		t.Errorf("of an empty store: %q, %v", got, err)
	}
	for _, o := range []Options{{}, {Stores: []string{s.Dir()}}} {
		if _, err := Prepare(s, o); err != nil {
			t.Fatal(err)
		}
	}
	old, err := s.WriteExec([]byte("of another libc"))
	if err != nil {
		t.Fatal(err)
	}
	if all, err := s.Execs(); err != nil || len(all) != 3 {
		t.Errorf("in the store: %q, %v", all, err)
	}
	if got, err := Outdated(s); err != nil || !slices.Equal(got, []string{old.Path}) {
		t.Errorf("outdated: %q, %v, want %q", got, err, old.Path)
	}
	if err := s.RemoveExec(old.Path); err != nil {
		t.Error(err)
	}
	if err := s.RemoveExec(s.RegistryPath()); err == nil {
		t.Error("the registry was removed")
	}
	if all, err := s.Execs(); err != nil || len(all) != 2 {
		t.Errorf("left: %q, %v", all, err)
	}
}
