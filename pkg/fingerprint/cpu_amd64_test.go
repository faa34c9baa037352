package fingerprint

import (
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/pkg/plan"
)

// onCPU runs f while only the CPU of that number may run it.
func onCPU(t *testing.T, cpu int, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var old, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &old); err != nil {
		t.Fatal(err)
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Skipf("CPU %d is not for us: %v", cpu, err)
	}
	defer unix.SchedSetaffinity(0, &old)
	f()
}

func TestCPUTableIsTheSameOnEveryCPU(t *testing.T) {
	want := CPUTable()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	for cpu := range len(set) * 64 {
		if !set.IsSet(cpu) {
			continue
		}
		onCPU(t, cpu, func() {
			for range 20 {
				if diff := cmp.Diff(want, CPUTable()); diff != "" {
					t.Fatalf("on CPU %d:\n%s", cpu, diff)
				}
			}
		})
	}
}

func TestCPUTableMasks(t *testing.T) {
	seen := map[[2]uint32]bool{}
	for _, c := range CPUTable() {
		key := [2]uint32{c.Leaf, c.Subleaf}
		if seen[key] {
			t.Errorf("leaf %#x, %d stands twice", c.Leaf, c.Subleaf)
		}
		seen[key] = true
		for i := range c.Value {
			if c.Value[i]&^c.Mask[i] != 0 {
				t.Errorf("leaf %#x, %d: a value outside its mask", c.Leaf, c.Subleaf)
			}
		}
		if c.Leaf == 1 && c.Mask[1]>>24 != 0 {
			t.Error("the APIC id counts")
		}
	}
	for _, l := range []uint32{0, 1, 7, 0x80000001} {
		if !seen[[2]uint32{l, 0}] {
			t.Errorf("leaf %#x is missing", l)
		}
	}
}

func TestCPUSum(t *testing.T) {
	if size := binary.Size(plan.CPUID{}); size != 40 {
		t.Fatalf("an entry has %d bytes", size)
	}
	table := []plan.CPUID{{Leaf: 1, Subleaf: 2, Mask: [4]uint32{3, 4, 5, 6}, Value: [4]uint32{7, 8, 9, 0x0a000000}}}
	raw := make([]byte, 40)
	for i := range 9 {
		raw[4*i] = byte(i + 1)
	}
	raw[39] = 0x0a
	if got, want := CPUSum(table), xxhash.Sum64(raw); got != want {
		t.Errorf("CPUSum = %#x, want %#x", got, want)
	}
	// XXH64 of nothing with seed 0, by its specification's test vectors.
	if got, want := CPUSum(nil), uint64(0xef46db3751d8e999); got != want {
		t.Errorf("CPUSum of nothing = %#x, want %#x", got, want)
	}
}

func BenchmarkCPUTable(b *testing.B) {
	for b.Loop() {
		CPUTable()
	}
}
