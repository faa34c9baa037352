// Package front is residentctl's front door: the launcher as part of the
// program's own text, behind an entry symbol that runs before the Go runtime.
// A `residentctl run PROGRAM …` then costs one exec and no Go.
//
// It takes effect when the program is linked with
//
//	-E _residentctl_start -T 0x70101000
//
// (scripts/build). Linked otherwise, the code is left out and `run` takes the
// way through Go, which works the same and is slower. The text address keeps
// residentctl away from where programs that are not position-independent
// stand; see plan.FrontDoorBase.
package front

// closed has bit n set if descriptor n was closed when the process began; only
// for 0, 1 and 2, and written before there is a Go runtime.
var closed uint32

// Closed tells which of the descriptors 0, 1 and 2 were closed when this process
// was executed. By now the Go runtime has opened /dev/null in their place
// (runtime.checkfds). Without the front door as the entry it gives none.
func Closed() (fds []int) {
	for fd := range 3 {
		if closed>>fd&1 != 0 {
			fds = append(fds, fd)
		}
	}
	return fds
}
