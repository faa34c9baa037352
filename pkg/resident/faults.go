package resident

import (
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// slowFaults reports whether it pays to have the kernel map text before it is touched
// (MAP_POPULATE): where a page fault is so slow that two of three faults take longer
// than mapping all. That is so under hypervisors which keep shadow page tables (13 µs
// a fault, 3 µs to map the 64 KiB around it; elsewhere about 1 µs either way), and
// there each page of a page table has its price too. It is measured once, in a few
// milliseconds, with residentctl's own text. False if it cannot be.
var slowFaults = sync.OnceValue(func() bool {
	const (
		// The kernel maps so much around a fault (mm/memory.c, fault_around_pages).
		window  = 64 << 10
		windows = 32
		rounds  = 5
	)
	text, err := os.Open("/proc/self/exe")
	if err != nil {
		return false
	}
	defer text.Close()
	if info, err := text.Stat(); err != nil || info.Size() < windows*window {
		return false
	}
	start := func(flags int, touch bool) (time.Duration, error) {
		begun := time.Now()
		m, err := unix.Mmap(int(text.Fd()), 0, windows*window, unix.PROT_READ, unix.MAP_PRIVATE|flags)
		if err != nil {
			return 0, err
		}
		var sum byte
		for i := 0; touch && i < len(m); i += window {
			sum += m[i]
		}
		runtime.KeepAlive(sum)
		if err := unix.Munmap(m); err != nil {
			return 0, err
		}
		return time.Since(begun), nil
	}
	// The fastest of each, so that what else the machine does does not count; one
	// round before them reads the file.
	var faulted, populated, untouched time.Duration
	for round := range rounds + 1 {
		for _, way := range []struct {
			flags int
			touch bool
			best  *time.Duration
		}{
			{0, true, &faulted}, {unix.MAP_POPULATE, true, &populated}, {unix.MAP_POPULATE, false, &untouched},
		} {
			took, err := start(way.flags, way.touch)
			if err != nil {
				return false
			}
			if round <= 1 || took < *way.best {
				*way.best = took
			}
		}
	}
	// What a touch still takes where the page is mapped, a hypervisor's own fault for
	// instance, is in both.
	return 2*(faulted-(populated-untouched)) > 3*untouched
})

// fewTables reports whether layouts that need few page tables are to be taken: where page
// faults are slow, and so many layouts are near the stack that one is found soon and
// little randomness is lost.
func fewTables() bool {
	bits, err := os.ReadFile("/proc/sys/vm/mmap_rnd_bits") // Documentation/admin-guide/sysctl/vm.rst
	return err == nil && strings.TrimSpace(string(bits)) == "28" && slowFaults()
}
