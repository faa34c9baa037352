package fingerprint

import (
	"bytes"
	"encoding/binary"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/plan"
)

const all = ^uint32(0)

// A leaf of CPUID that decides what the dynamic linker puts into an image.
// Mask leaves out what belongs to one CPU or one moment. A leaf with subleaves
// is asked for 0, 1 … while more says that another one follows.
type leaf struct {
	number uint32
	mask   [4]uint32 // EAX, EBX, ECX, EDX
	first  uint32    // subleaf
	limit  uint32    // how many subleaves at most; 0 means one
	more   func(sub uint32, r [4]uint32) bool
	tuning bool // only sizes and thresholds come from it, no choice of code
}

// leaves are what glibc reads before and while it relocates: init_cpu_features,
// update_active, get_common_indices, get_extended_indices (sysdeps/x86/
// cpu-features.c), dl_init_cacheinfo with its handlers (dl-cacheinfo.h) and the
// xsave area of _dl_runtime_resolve, in 2.31 to 2.42; and what the resolvers of
// indirect functions read by libgcc's __cpu_indicator_init (gcc
// common/config/i386/cpuinfo.h). Bits by Intel SDM volume 2A "CPUID" and AMD
// APM volume 3 appendix E.
var leaves = []leaf{
	{number: 0x0, mask: [4]uint32{all, all, all, all}},
	{number: 0x1, mask: [4]uint32{all, 0x00ffffff, all, all}},        // EBX[31:24]: initial APIC id
	{number: 0x2, mask: [4]uint32{all, all, all, all}, tuning: true}, // cache descriptors
	{number: 0x4, mask: [4]uint32{all, all, all, all}, limit: 16, more: cacheType, tuning: true},
	{number: 0x7, mask: [4]uint32{all, all, all, all}, limit: 2, more: always},
	{number: 0xb, mask: [4]uint32{0x1f, 0xffff, 0xffff, 0}, limit: 8, more: levelType, tuning: true}, // EDX: x2APIC id
	{number: 0xd, mask: [4]uint32{all, all, all, all}},
	{number: 0xd, mask: [4]uint32{all, 0, 0, 0}, first: 1}, // EBX: size of XCR0 and IA32_XSS, which the kernel changes
	{number: 0xd, mask: [4]uint32{all, all, all, 0}, first: 2, limit: 30, more: always},
	{number: 0x14, mask: [4]uint32{all, all, all, all}},
	{number: 0x19, mask: [4]uint32{all, all, all, all}},
	{number: 0x24, mask: [4]uint32{all, all, all, all}},
	{number: 0x80000000, mask: [4]uint32{all, all, all, all}},
	{number: 0x80000001, mask: [4]uint32{all, all, all, all}},
	{number: 0x80000005, mask: [4]uint32{all, all, all, all}, tuning: true},
	{number: 0x80000006, mask: [4]uint32{all, all, all, all}, tuning: true},
	{number: 0x80000007, mask: [4]uint32{all, all, all, all}},
	{number: 0x80000008, mask: [4]uint32{all, all, all, all}},
	{number: 0x8000001d, mask: [4]uint32{all, all, all, all}, limit: 16, more: cacheType, tuning: true},
	{number: 0x80000021, mask: [4]uint32{all, all, all, all}},
}

func always(uint32, [4]uint32) bool { return true }

// cacheType is EAX[4:0] of leaves 4 and 0x8000001D: 0 ends the list.
func cacheType(_ uint32, r [4]uint32) bool { return r[0]&0x1f != 0 }

// levelType is ECX[15:8] of leaf 0xB: 0 ends the list.
func levelType(_ uint32, r [4]uint32) bool { return r[2]&0xff00 != 0 }

// mixed reports whether the CPUs of the machine are of several kinds. They have
// the same instructions, but not the same caches: Intel by leaf 7, EDX bit 15
// (hybrid part), AMD by leaf 0x80000026, EAX bits 31 and 30 (asymmetric
// topology, heterogeneous cores).
func mixed(has func(leaf uint32) bool) bool {
	return has(7) && cpuid(7, 0)[3]&(1<<15) != 0 ||
		has(0x80000026) && cpuid(0x80000026, 0)[0]&(3<<30) != 0
}

// CPUTable returns what CPUID answers about everything that the dynamic linker's
// choices depend on. It is the same on every CPU of a machine and at any time:
// Mask leaves the rest out, and Value is masked. Where the CPUs are of several
// kinds, sizes of caches are left out too: the image then has the thresholds of
// the CPU on which it was made, as any process has those of the CPU on which it
// was started. Asking takes 0.5 ms in a virtual machine: the instruction traps.
func CPUTable() []plan.CPUID {
	var table []plan.CPUID
	basic, extended := cpuid(0, 0)[0], cpuid(0x80000000, 0)[0]
	has := func(number uint32) bool {
		return number <= basic || number >= 0x80000000 && number <= extended
	}
	uneven := mixed(has)
	for _, l := range leaves {
		if !has(l.number) || l.tuning && uneven {
			continue
		}
		for sub := l.first; sub < l.first+max(l.limit, 1); sub++ {
			raw := cpuid(l.number, sub)
			entry := plan.CPUID{Leaf: l.number, Subleaf: sub, Mask: l.mask}
			for i := range raw {
				entry.Value[i] = raw[i] & l.mask[i]
			}
			// An extended state that the CPU does not have is all zeros.
			if l.number != 0xd || sub < 2 || entry.Value != [4]uint32{} {
				table = append(table, entry)
			}
			if l.more == nil || !l.more(sub, raw) {
				break
			}
		}
	}
	return table
}

func cpuid(number, sub uint32) [4]uint32 {
	a, b, c, d := linux.CPUID(number, sub)
	return [4]uint32{a, b, c, d}
}

// CPUSum returns the XXH64 (seed 0) of the table's bytes as they stand in a plan:
// little-endian, 40 bytes an entry.
func CPUSum(table []plan.CPUID) uint64 {
	var b bytes.Buffer
	// Writing fixed-size structs into memory does not fail.
	_ = binary.Write(&b, binary.LittleEndian, table)
	return xxhash.Sum64(b.Bytes())
}

// cpuSum is asked once in a process, since it takes longer than everything else
// that Stale looks at.
var cpuSum = sync.OnceValue(func() uint64 { return CPUSum(CPUTable()) })
