package store

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestLockProgram(t *testing.T) {
	s, err := Create(t.TempDir() + "/store")
	if err != nil {
		t.Fatal(err)
	}
	var inside atomic.Int32
	var all sync.WaitGroup
	for range 20 {
		all.Add(1)
		go func() {
			defer all.Done()
			unlock, err := s.LockProgram(context.Background(), inode(1, 2))
			if err != nil {
				t.Error(err)
				return
			}
			if n := inside.Add(1); n != 1 {
				t.Errorf("%d at once", n)
			}
			time.Sleep(time.Millisecond)
			inside.Add(-1)
			unlock()
		}()
	}
	all.Wait()

	// Another binary is not in the way, and who waits can be told to stop.
	unlock, err := s.LockProgram(context.Background(), inode(1, 2))
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.LockProgram(context.Background(), inode(1, 3))
	if err != nil {
		t.Fatal(err)
	}
	other()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.LockProgram(ctx, inode(1, 2)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked twice: %v", err)
	}
	unlock()
	left, err := os.ReadDir(s.in(stagingName))
	if err != nil || len(left) != 0 {
		t.Errorf("left in staging/: %v, %v", left, err)
	}
}
