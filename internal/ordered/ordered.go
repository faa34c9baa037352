// Package ordered does several things at once and reports them in their order.
package ordered

import "sync"

// Do calls do for the indexes below n, so many jobs of them at a time, each beginning in
// their order, and done for each in their order, one at a time, as soon as do has returned
// for it and for all before it. After a do that returned false no other begins; those under
// way come to their end. It returns how many have begun: the first ones.
func Do(jobs, n int, do func(i int) (goOn bool), done func(i int)) (begun int) {
	r := &run{n: n, do: do, done: done, ended: make([]bool, n)}
	if jobs <= 1 { // on the caller's own thread
		r.work()
		return r.next
	}
	var workers sync.WaitGroup
	for range min(jobs, n) {
		workers.Go(r.work)
	}
	workers.Wait()
	return r.next
}

type run struct {
	n    int
	do   func(i int) bool
	done func(i int)

	mu      sync.Mutex
	next    int // to begin
	told    int // for so many done has been called
	ended   []bool
	stop    bool
	telling bool // done is being called
}

// work does one thing after the other.
func (r *run) work() {
	for i, ok := r.begin(); ok; i, ok = r.begin() {
		r.end(i, r.do(i))
	}
}

func (r *run) begin() (i int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop || r.next == r.n {
		return 0, false
	}
	r.next++
	return r.next - 1, true
}

// end reports what has ended, unless another worker is doing so and will.
func (r *run) end(i int, goOn bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended[i] = true
	r.stop = r.stop || !goOn
	if r.telling {
		return
	}
	r.telling = true
	for r.told < r.next && r.ended[r.told] {
		r.mu.Unlock()
		r.done(r.told)
		r.mu.Lock()
		r.told++
	}
	r.telling = false
}
