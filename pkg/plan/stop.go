package plan

import "fmt"

// Stop is the stop point: where the template was stopped and dumped. The launcher does
// not look at it; it jumps to Entry.RIP.
type Stop struct {
	Addr  uint64
	Point StopPoint
	_     uint32
}

// A StopPoint is a kind of stop point, which depends on the C library.
type StopPoint uint32

const (
	// StopLinked is the return address of the first call in glibc's entry code, which
	// is that of the dynamic linker.
	StopLinked StopPoint = iota + 1
	// StopEntry is the program's entry (AT_ENTRY), for musl.
	StopEntry
	// StopWarm is the instruction after the system call by which a program says that it
	// has done its start-up.
	StopWarm
)

func (p StopPoint) String() string {
	switch p {
	case StopLinked:
		return "linked"
	case StopEntry:
		return "entry"
	case StopWarm:
		return "warm"
	}
	return fmt.Sprintf("StopPoint(%d)", uint32(p))
}

// BindsLazily reports whether calls are bound at their first time, after the stop
// point. musl binds everything while it links.
func (p StopPoint) BindsLazily() bool { return p == StopLinked }

// KeepsHeap reports whether there is a heap before the stop point, which becomes part
// of the image. The secret of musl's is the second word of AT_RANDOM and is in the header
// of every allocation (mallocng, glue.h), so this word stays as it is in the image. For
// glibc it is the pointer guard (FixGuard).
func (p StopPoint) KeepsHeap() bool { return p == StopEntry || p == StopWarm }
