package linkstop

import (
	"slices"

	"github.com/residentctl/residentctl/pkg/plan"
)

// Kinds of noise.
const (
	NoiseTime   = "the dynamic linker's time stamps"
	NoiseRandom = "random numbers from the kernel"
	NoiseDead   = "addresses in dead stack frames"
	NoiseSecret = "musl's heap secret"
)

// MaxTimes is how many words of a process can be NoiseTime.
const MaxTimes = maxTimes

// Noise recognises by its value in the process that the word at addr is another one
// in each process, although it is no fix-up and any value will do: it is one of
// the kinds above, or else "".
func (r *Relinked) Noise(addr, word uint64) string {
	c := &r.known
	switch {
	case c.template.dead(word):
		return NoiseDead
	case slices.Contains(c.random, word):
		return NoiseRandom
	case c.point.KeepsHeap() && word == c.template.values[plan.FixGuard]:
		return NoiseSecret
	case addr >= c.linker.Start && addr < c.linker.End && c.plausible(word):
		return NoiseTime
	}
	return ""
}
