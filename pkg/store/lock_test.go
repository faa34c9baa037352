package store

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func TestLock(t *testing.T) {
	s, err := Create(filepath.Join(t.TempDir(), "store"))
	must(t, err)

	t.Run("one at a time", func(t *testing.T) {
		const workers, rounds = 8, 20
		held := 0 // unguarded but for the lock
		var wg sync.WaitGroup
		for range workers {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for range rounds {
					unlock, err := s.Lock(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					if held++; held != 1 {
						t.Errorf("%d hold the lock", held)
					}
					held--
					unlock()
				}
			}()
		}
		wg.Wait()
	})

	t.Run("cancelled", func(t *testing.T) {
		unlock, err := s.Lock(t.Context())
		must(t, err)
		defer unlock()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := s.Lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})

	t.Run("beside staging", func(t *testing.T) {
		unlock, err := s.Lock(t.Context())
		must(t, err)
		defer unlock()
		g, err := s.Stage()
		must(t, err)
		must(t, g.Discard())
	})
}
