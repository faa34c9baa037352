package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTwoStagings(t *testing.T) {
	s := newStore(t)
	a, err := s.Stage()
	must(t, err)
	b, err := s.Stage()
	must(t, err)
	if a.Dir == b.Dir {
		t.Fatal("the same directory")
	}
	if left, err := s.Abandoned(); len(left) > 0 || err != nil {
		t.Errorf("abandoned: %v, %v", left, err)
	}
	must(t, a.Publish(idA))
	must(t, a.Discard()) // nothing to do any more
	must(t, b.Discard())
	must(t, b.Discard())
	wantContents(t, s, []string{idA}, nil)
}

// Of two that publish the same id one wins whole.
func TestPublishSameID(t *testing.T) {
	s := newStore(t)
	var group sync.WaitGroup
	errs := make(chan error, 8)
	for range cap(errs) {
		group.Go(func() { errs <- publish(s, idA) })
	}
	group.Wait()
	close(errs)
	won := 0
	for err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, fs.ErrExist) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d published", won)
	}
	wantContents(t, s, []string{idA}, nil)
}

func TestAbandoned(t *testing.T) {
	s := newStore(t)
	busy, err := s.Stage()
	must(t, err)
	stale, err := s.Stage()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(stale.Dir, "core-1.img"), []byte("x"), 0o600))
	must(t, stale.lock.Close()) // as when its process is gone
	must(t, os.WriteFile(s.in(stagingName, "file"), nil, 0o600))
	must(t, os.Symlink("/", s.in(stagingName, "link")))

	left, err := s.Abandoned()
	must(t, err)
	want := []string{s.in(stagingName, "file"), s.in(stagingName, "link"), stale.Dir}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Error(diff)
	}
	for _, path := range left {
		must(t, s.RemoveAbandoned(path))
		must(t, s.RemoveAbandoned(path))
	}
	if err := s.RemoveAbandoned(busy.Dir); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("busy: %v", err)
	}
	if err := s.RemoveAbandoned(s.Dir()); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("the store itself: %v", err)
	}
	must(t, busy.Publish(idA))
	wantContents(t, s, []string{idA}, nil)
}

// A gc that runs beside publishing processes takes nothing from them.
func TestSweepBesidePublish(t *testing.T) {
	s := newStore(t)
	rounds := 40
	if testing.Short() {
		rounds = 5
	}
	stop := make(chan bool)
	var gc, work sync.WaitGroup
	for range 2 {
		gc.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				left, err := s.Abandoned()
				if err != nil {
					t.Error(err)
					return
				}
				for _, path := range left {
					if err := s.RemoveAbandoned(path); err != nil && !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, fs.ErrNotExist) {
						t.Error(err)
					}
				}
			}
		})
	}
	for _, id := range []string{idA, idB} {
		work.Go(func() {
			for range rounds {
				if err := errors.Join(publish(s, id), s.Link(inode(1, 2), id), s.RemoveImage(id)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
	close(stop)
	gc.Wait()
	must(t, s.Unlink(inode(1, 2)))
	for range 2 {
		left, err := s.Abandoned()
		must(t, err)
		for _, path := range left {
			must(t, s.RemoveAbandoned(path))
		}
	}
	wantContents(t, s, nil, nil)
}

// TestReplace: files of images are replaced after commit, of those that it leaves, or none.
func TestReplace(t *testing.T) {
	s := newStore(t)
	for _, id := range []string{idA, idB} {
		if err := publish(s, id); err != nil {
			t.Fatal(err)
		}
	}
	replace := func(commit func(map[string][]string) error) error {
		g, err := s.Stage()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = g.Discard() }()
		images := map[string][]string{idA: {"plan"}, idB: {"plan"}}
		for id := range images {
			if err := os.Mkdir(filepath.Join(g.Dir, id), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(g.Dir, id, "plan"), []byte("new"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return g.Replace(func() error { return commit(images) }, images)
	}
	planOf := func(id string) string {
		raw, err := os.ReadFile(s.PlanPath(id))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	refused := errors.New("refused")
	if err := replace(func(map[string][]string) error { return refused }); !errors.Is(err, refused) || planOf(idA) == "new" {
		t.Errorf("Replace = %v, plan %q", err, planOf(idA))
	}
	if err := replace(func(images map[string][]string) error { delete(images, idB); return nil }); err != nil {
		t.Fatal(err)
	}
	if planOf(idA) != "new" || planOf(idB) == "new" {
		t.Errorf("plans %q and %q", planOf(idA), planOf(idB))
	}
}
