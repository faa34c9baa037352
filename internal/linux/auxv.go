package linux

import (
	"encoding/binary"
	"fmt"
)

// Types of entries in the auxiliary vector (getauxval(3); the kernel's
// include/uapi/linux/auxvec.h and arch/x86/include/uapi/asm/auxvec.h).
const (
	ATNull            = 0
	ATPhdr            = 3
	ATPhent           = 4
	ATPhnum           = 5
	ATPageSize        = 6
	ATBase            = 7
	ATFlags           = 8
	ATEntry           = 9
	ATUID             = 11
	ATEUID            = 12
	ATGID             = 13
	ATEGID            = 14
	ATPlatform        = 15
	ATHWCap           = 16
	ATClockTick       = 17
	ATSecure          = 23
	ATBasePlatform    = 24
	ATRandom          = 25
	ATHWCap2          = 26
	ATRseqFeatureSize = 27
	ATRseqAlign       = 28
	ATExecfn          = 31
	ATSysinfoEhdr     = 33
	ATMinSigStackSize = 51
)

// AuxEntry is one pair of the auxiliary vector.
type AuxEntry struct{ Type, Value uint64 }

// Auxv is an auxiliary vector in the kernel's order, without its AT_NULL.
type Auxv []AuxEntry

// Get returns the value of the first entry of the type, and whether there is one.
func (a Auxv) Get(typ uint64) (uint64, bool) {
	for _, e := range a {
		if e.Type == typ {
			return e.Value, true
		}
	}
	return 0, false
}

// Value returns the value of the first entry of the type, or 0.
func (a Auxv) Value(typ uint64) uint64 {
	v, _ := a.Get(typ)
	return v
}

// ParseAuxv reads a vector of 64-bit pairs up to its AT_NULL, which must be
// there.
func ParseAuxv(b []byte) (Auxv, error) {
	var a Auxv
	for i := 0; i+16 <= len(b); i += 16 {
		e := AuxEntry{binary.LittleEndian.Uint64(b[i:]), binary.LittleEndian.Uint64(b[i+8:])}
		if e.Type == ATNull {
			return a, nil
		}
		a = append(a, e)
	}
	return nil, fmt.Errorf("auxiliary vector of %d bytes has no end", len(b))
}
