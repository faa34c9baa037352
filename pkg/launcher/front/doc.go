// Package front is residentctl's front door: the launcher as part of the program's own
// text, with an entry symbol that runs before the Go runtime. A `residentctl run
// PROGRAM …` then costs one exec and no Go.
//
// It takes effect when the program is linked with
//
//	-E _residentctl_start -T 0x70101000
//
// (scripts/build). In any other build the code is left out. Then `run` goes through Go,
// which is slower and loses the signals that its caller blocks or ignores. The text
// address keeps residentctl away from where programs that are not position-independent
// are linked; see plan.FrontDoorBase.
package front

// What start_amd64.s has written before there was a Go runtime; all 0 without the
// front door as the entry.
var (
	entered uint32
	closed  uint32 // bit n: descriptor n was closed; only 0, 1 and 2
	ignored uint64 // bit n-1: signal n was ignored
	blocked uint64 // and blocked
)

// Entered reports whether this process began at the front door.
func Entered() bool { return entered != 0 }

// Closed returns which of the descriptors 0, 1 and 2 were closed when this process
// was executed. By now the Go runtime has opened /dev/null in their place
// (runtime.checkfds). Without the front door as the entry it returns none.
func Closed() (fds []int) {
	for fd := range 3 {
		if closed>>fd&1 != 0 {
			fds = append(fds, fd)
		}
	}
	return fds
}

// Signals returns the signals that this process was executed to ignore, and its mask at
// that time: bit n-1 is for signal n. By now the Go runtime has changed both (runtime.initsig,
// minitSignalMask). Without the front door as the entry ok is false.
func Signals() (ignoring, mask uint64, ok bool) { return ignored, blocked, entered != 0 }
