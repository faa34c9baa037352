package ordered

import (
	"slices"
	"sync/atomic"
	"testing"
)

// Whatever order things end in, they are told in their own.
func TestDoTellsInOrder(t *testing.T) {
	for _, jobs := range []int{0, 1, 2, 5, 100} {
		const n = 20
		ends := make([]chan struct{}, n+1) // each but the last of a round waits for the next one
		for i := range ends {
			ends[i] = make(chan struct{})
		}
		var told []int
		begun := Do(jobs, n, func(i int) bool {
			if last := n - 1; jobs >= n && i < last {
				<-ends[i+1] // all are under way, and end backwards
			}
			close(ends[i])
			return true
		}, func(i int) { told = append(told, i) })
		want := make([]int, n)
		for i := range want {
			want[i] = i
		}
		if begun != n || !slices.Equal(told, want) {
			t.Errorf("%d jobs: %d begun, told %v", jobs, begun, told)
		}
	}
}

// Not more are under way than may be.
func TestDoBounds(t *testing.T) {
	var now, most atomic.Int64
	Do(3, 50, func(int) bool {
		for n := now.Add(1); n > most.Load(); {
			most.Store(n)
		}
		now.Add(-1)
		return true
	}, func(int) {})
	if most.Load() > 3 {
		t.Errorf("%d at once", most.Load())
	}
}

// After the one that says so none begins, and those under way are told of.
func TestDoStops(t *testing.T) {
	for _, jobs := range []int{1, 3} {
		under := make(chan struct{})
		var told []int
		begun := Do(jobs, 10, func(i int) bool {
			switch {
			case jobs == 1:
				return i < 2
			case i == 2: // the others wait until it is under way
				close(under)
			default:
				<-under
			}
			return false
		}, func(i int) { told = append(told, i) })
		if begun != 3 || !slices.Equal(told, []int{0, 1, 2}) {
			t.Errorf("%d jobs: %d begun, told %v", jobs, begun, told)
		}
	}
}
