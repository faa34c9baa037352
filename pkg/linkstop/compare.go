package linkstop

import (
	"encoding/binary"
	"slices"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/plan"
)

// A side is one of the two processes, with the values by which a word of it is
// recognized.
type side struct {
	pid      int
	maps     []linux.Mapping
	stack    linux.InitialStack
	stackLow uint64 // where the stack's mapping starts
	values   [plan.FixKinds]uint64
}

// newSide describes a process; random are its AT_RANDOM bytes, limit its soft
// RLIMIT_STACK.
func newSide(pid int, stack linux.InitialStack, random []byte, limit uint64) side {
	return side{pid: pid, stack: stack, values: fixupValues(pid, stack, random, limit)}
}

// dead reports whether addr lies on s's stack below the stack pointer: frames
// that have returned.
func (s *side) dead(addr uint64) bool { return addr >= s.stackLow && addr < s.stack.SP }

// A comparison finds out what the words are in which the twin differs.
type comparison struct {
	template, twin side
	point          plan.StopPoint
	// rseq is the thread's rseq area, which the kernel writes (cpu_id).
	rseq linux.PageRange
	// linker is where the dynamic linker itself is mapped. Its RDTSC times for
	// LD_DEBUG=statistics (elf/rtld.c: start_time, load_time, relocate_time)
	// lie there, taken not before tscStart and not after tscEnd.
	linker           linux.PageRange
	tscStart, tscEnd uint64
	// random are words that getrandom(2) gave the template: malloc's key
	// against double frees (tcache_key, glibc 2.42 and later).
	random []uint64
}

// wordClass is what a word turned out to be.
type wordClass int

const (
	wordFixup   wordClass = iota // it is to be corrected
	wordNoise                    // it differs, and any value will do
	wordUnknown                  // nobody knows
)

// word classifies an aligned word that is a in the template and b in the twin.
// With wordFixup the result holds its fix-ups: one for the word or one for
// either half.
func (c *comparison) word(addr, a, b uint64) (wordClass, []plan.Fixup) {
	for _, kind := range []uint32{plan.FixSP, plan.FixArgv, plan.FixEnvp, plan.FixAuxv, plan.FixPlatform,
		plan.FixRandom, plan.FixExecfn, plan.FixCanary, plan.FixGuard, plan.FixStackSize} {
		if a != c.template.values[kind] || b != c.twin.values[kind] || a == 0 || b == 0 {
			continue
		}
		if kind == plan.FixGuard && c.point.KeepsHeap() {
			return wordNoise, nil // the heap's secret
		}
		return wordFixup, []plan.Fixup{{Addr: addr, Kind: kind, Size: 8}}
	}
	if fixups := c.halves(addr, a, b); fixups != nil {
		return wordFixup, fixups
	}
	switch {
	case c.template.dead(a) && c.twin.dead(b),
		slices.Contains(c.random, a),
		c.time(addr, a, b),
		c.cpuNumber(addr, a, b):
		return wordNoise, nil
	}
	return wordUnknown, nil
}

// halves is word for the kinds that are 32 bits wide. Each half that differs
// must be one of them.
func (c *comparison) halves(addr, a, b uint64) []plan.Fixup {
	var fixups []plan.Fixup
	for _, shift := range []uint64{0, 32} {
		la, lb := a>>shift&0xffffffff, b>>shift&0xffffffff
		switch {
		case la == lb:
		case la == c.template.values[plan.FixTID] && lb == c.twin.values[plan.FixTID]:
			fixups = append(fixups, plan.Fixup{Addr: addr + shift/8, Kind: plan.FixTID, Size: 4})
		case la == c.template.values[plan.FixArgc] && lb == c.twin.values[plan.FixArgc]:
			fixups = append(fixups, plan.Fixup{Addr: addr + shift/8, Kind: plan.FixArgc, Size: 4})
		default:
			return nil
		}
	}
	return fixups
}

// time reports whether a word is one of the dynamic linker's times: stamps
// between start and end, or durations that are shorter than that.
func (c *comparison) time(addr, a, b uint64) bool {
	return addr >= c.linker.Start && addr < c.linker.End && c.plausible(a) && c.plausible(b)
}

// plausible reports whether v can be a time that was taken meanwhile.
func (c *comparison) plausible(v uint64) bool {
	return v >= c.tscStart && v <= c.tscEnd || v >= minDuration && v <= c.tscEnd-c.tscStart
}

// cpuNumber reports whether two words of the dynamic linker's differ in nothing but the
// initial APIC id in what CPUID's leaf 1 leaves in EBX (bits 31 to 24), in either half:
// cpu_features keeps the register (sysdeps/x86/cpu-features.c, update_usable). Both
// processes run on one CPU, but some hypervisors tell the number of their own under
// it, which changes.
func (c *comparison) cpuNumber(addr, a, b uint64) bool {
	const id = 0xff000000
	if addr < c.linker.Start || addr >= c.linker.End {
		return false
	}
	for _, shift := range []int{0, 32} {
		if half := (a ^ b) >> shift; half<<shift == a^b && half&^id == 0 {
			_, ebx, _, _ := linux.CPUID(1, 0)
			return uint32(a>>shift)&^id == ebx&^id
		}
	}
	return false
}

// minDuration is less than any work takes between two RDTSC: what differs by
// less, a counter or a flag, is no time.
const minDuration = 64

// maxTimes is how many words of the dynamic linker may be times. glibc has
// three, so more are something else.
const maxTimes = 4

// maxNumbers is how many words of the dynamic linker may hold the number of the CPU.
const maxNumbers = 2

// fixups compares all memory that the two processes have written and returns
// the fix-ups by address, and the template's own pages.
func (c *comparison) fixups() ([]plan.Fixup, []linux.PageRange, error) {
	maps := imageMaps(c.template.maps)
	own, err := linux.AnonPages(c.template.pid, maps)
	if err != nil {
		return nil, nil, err
	}
	twins, err := linux.AnonPages(c.twin.pid, maps)
	if err != nil {
		return nil, nil, err
	}
	s := scan{comparison: c}
	a, b := make([]byte, scanChunk), make([]byte, scanChunk)
	for batch := range batches(linux.UnionRanges(own, twins), scanChunk) {
		size := uint64(0)
		for _, r := range batch {
			size += r.Len()
		}
		if err := linux.ReadRanges(c.template.pid, batch, a[:size]); err != nil {
			return nil, nil, err
		}
		if err := linux.ReadRanges(c.twin.pid, batch, b[:size]); err != nil {
			return nil, nil, err
		}
		offset := uint64(0)
		for _, r := range batch {
			s.words(r.Start, a[offset:offset+r.Len()], b[offset:])
			offset += r.Len()
		}
	}
	if err := s.verdict(); err != nil {
		return nil, nil, err
	}
	return s.found, own, nil
}

// imageMaps is what of maps goes into an image: not the stack, and not what
// the kernel gives every process.
func imageMaps(maps []linux.Mapping) []linux.Mapping {
	var image []linux.Mapping
	for _, m := range maps {
		if m.Path != "[stack]" && !m.Kernel() {
			image = append(image, m)
		}
	}
	return image
}

// scanChunk is how much memory is read at once: it stays in the CPU's cache.
const scanChunk = 256 << 10

// batches cuts ranges into groups of at most size bytes.
func batches(ranges []linux.PageRange, size uint64) func(func([]linux.PageRange) bool) {
	return func(yield func([]linux.PageRange) bool) {
		var batch []linux.PageRange
		room := size
		for _, r := range ranges {
			for r.Len() > 0 {
				part := linux.PageRange{Start: r.Start, End: r.Start + min(r.Len(), room)}
				batch, room, r.Start = append(batch, part), room-part.Len(), part.End
				if room > 0 {
					continue
				}
				if !yield(batch) {
					return
				}
				batch, room = batch[:0], size
			}
		}
		if len(batch) > 0 {
			yield(batch)
		}
	}
}

// A scan collects what a comparison finds.
type scan struct {
	*comparison
	found   []plan.Fixup
	times   int
	numbers int
	unknown *processWord
}

// words looks at memory that starts at addr, a in the template and b in the
// twin.
func (s *scan) words(addr uint64, a, b []byte) {
	low, used := s.template.stack.SP, s.template.stack.End-s.template.stack.SP
	for i := 0; i < len(a); i += 8 {
		x, y := binary.LittleEndian.Uint64(a[i:]), binary.LittleEndian.Uint64(b[i:])
		if x == y && x-low >= used {
			continue
		}
		at := addr + uint64(i)
		if at >= s.rseq.Start && at < s.rseq.End {
			continue
		}
		class, fixups := wordUnknown, []plan.Fixup(nil)
		if x != y { // else it points to the stack but did not move with it
			class, fixups = s.word(at, x, y)
		}
		switch class {
		case wordFixup:
			s.found = append(s.found, fixups...)
		case wordNoise:
			if s.time(at, x, y) {
				s.times++
			} else if s.cpuNumber(at, x, y) {
				s.numbers++
			}
		case wordUnknown:
			s.addUnknown(at, x, y)
		}
	}
}

func (s *scan) addUnknown(addr, a, b uint64) {
	if s.unknown != nil {
		s.unknown.more++
		return
	}
	m, _ := linux.FindMapping(s.template.maps, addr)
	s.unknown = &processWord{addr: addr, template: a, twin: b, mapping: m}
}

// verdict refuses the image if there is a word that nobody knows.
func (s *scan) verdict() error {
	if s.unknown != nil {
		return problem.Refusef("its memory holds something that belongs to the process: %v", s.unknown)
	}
	if s.times > maxTimes {
		return problem.Refusef("%d words of its dynamic linker look like times, more than any known one has", s.times)
	}
	if s.numbers > maxNumbers {
		return problem.Refusef("%d words of its dynamic linker look like the number of the CPU, more than any known one has", s.numbers)
	}
	return nil
}
