package linux

// CPUID executes the instruction of that name for a leaf (EAX) and a subleaf
// (ECX). In a virtual machine it traps to the hypervisor, which takes 5
// to 8 µs, so it is not for the path of an invocation. What it answers for a leaf
// that the CPU does not have is undefined: ask leaf 0 or 0x80000000 first.
//
//go:noescape
func CPUID(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32)

//go:noescape
func xgetbv0() (eax, edx uint32)

// osxsave is bit 27 of ECX in CPUID's leaf 1: the kernel has enabled XGETBV
// (Intel SDM volume 2A, "CPUID", table "Feature Information Returned in ECX").
const osxsave = 1 << 27

// XCR0 is XGETBV(0): the register states that the kernel saves for a process.
// It is 0 where the instruction is not enabled.
func XCR0() uint64 {
	if _, _, ecx, _ := CPUID(1, 0); ecx&osxsave == 0 {
		return 0
	}
	eax, edx := xgetbv0()
	return uint64(edx)<<32 | uint64(eax)
}
