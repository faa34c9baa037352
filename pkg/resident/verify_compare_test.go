package resident

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/linkstop"
	"github.com/residentctl/residentctl/pkg/plan"
)

func testComparison() *comparison {
	c := &comparison{
		plan: &plan.Plan{
			Fixups: []plan.Fixup{{Addr: 0x1010, Kind: plan.FixCanary, Size: 8}, {Addr: 0x1024, Kind: plan.FixTID, Size: 4}},
			Kernel: plan.Kernel{RseqAddr: 0x1040, RseqLen: 32},
			CPUID:  []plan.CPUID{{Leaf: 1, Mask: [4]uint32{0, 0x00ffffff}, Value: [4]uint32{0, 0x020800}}},
		},
		image:       []stretch{{start: 0x1000, end: 0x3000, path: "/lib/libx.so", off: 0x5000}, {start: 0x4000, end: 0x5000}},
		differences: map[string]int{},
		noise: func(_, word uint64) string {
			if word>>32 == 0x7157 {
				return linkstop.NoiseTime
			}
			return ""
		},
	}
	c.trial.values[plan.FixCanary], c.ref.values[plan.FixCanary] = 0xaa00, 0xbb00
	c.trial.values[plan.FixTID], c.ref.values[plan.FixTID] = 77, 88
	return c
}

func TestCompareWord(t *testing.T) {
	for _, tc := range []struct {
		name             string
		addr, trial, ref uint64
		class            string // "" for a failure, "same" for none
	}{
		{"same", 0x1000, 5, 5, "same"},
		{"unknown", 0x1000, 5, 6, ""},
		{"one bit", 0x2ff8, 1 << 63, 0, ""},
		{"corrected", 0x1010, 0xaa00, 0xbb00, "canary"},
		{"not corrected", 0x1010, 0xbb00, 0xbb00, ""},
		{"the reference is wrong", 0x1010, 0xaa00, 0xaa00, ""},
		{"corrected half", 0x1020, 77<<32 | 9, 88<<32 | 9, "thread id"},
		{"the other half", 0x1020, 77<<32 | 9, 88<<32 | 8, ""},
		{"wrong half", 0x1020, 78<<32 | 9, 88<<32 | 9, ""},
		{"a forgotten correction", 0x2000, 0xbb00, 0xbb00, ""},
		{"rseq", 0x1058, 1, 2, classRseq},
		{"after rseq", 0x1060, 1, 2, ""},
		{"CPU number", 0x2000, 0x11<<32 | 0x01020800, 0x11<<32 | 0x03020800, classAPIC},
		{"CPU number above", 0x2000, 0x01020800<<32 | 4, 0x03020800<<32 | 4, classAPIC},
		{"CPU number and more", 0x2000, 0x11<<32 | 0x01020801, 0x11<<32 | 0x03020800, ""},
		{"like a CPU number", 0x2000, 0x01020801, 0x03020801, ""},
		{"noise", 0x2000, 3, 0x7157 << 32, linkstop.NoiseTime},
		{"noise is known by the reference", 0x2000, 0x7157 << 32, 3, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := testComparison()
			c.word(tc.addr, tc.trial, tc.ref)
			if failed := len(c.failures()) > 0; failed != (tc.class == "") {
				t.Fatalf("failures %q", c.failures())
			}
			var want []string
			if tc.class != "" && tc.class != "same" {
				want = []string{tc.class}
			}
			var got []string
			if tc.class != "" {
				for _, d := range c.found() {
					got = append(got, d.Class)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A class that is known by its value alone is one only in a few words.
func TestCompareWordLimit(t *testing.T) {
	c := testComparison()
	for i := range uint64(linkstop.MaxTimes) {
		c.word(0x2000+8*i, i, 0x7157<<32)
	}
	if f := c.failures(); len(f) > 0 {
		t.Errorf("failures %q", f)
	}
	c.word(0x2100, 1, 0x7157<<32)
	if len(c.failures()) != 1 {
		t.Error("any number of words may be times")
	}
}

func TestCompareFailures(t *testing.T) {
	c := testComparison()
	for i := range uint64(maxShown + 3) {
		c.word(0x2000+8*i, 1, 2)
	}
	c.word(0x4008, 1, 2)
	f := c.failures()
	if len(f) != maxShown+1 || !strings.Contains(f[maxShown], "4 words more") {
		t.Errorf("failures %q", f)
	}
	if want := "the word at 0x2000 (libx.so+0x6000) is 0x1 instead of 0x2"; f[0] != want {
		t.Errorf("%q, want %q", f[0], want)
	}
}

func TestStretches(t *testing.T) {
	maps := []linux.Mapping{
		{Start: 0x1000, End: 0x2000, Prot: 1, Path: "/lib/libx.so", Ino: 5},
		{Start: 0x2000, End: 0x3000, Prot: 1, Path: "/lib/libx.so", Ino: 5, Offset: 0x1000},
		{Start: 0x3000, End: 0x4000, Prot: 3, Path: "[heap]"},
		{Start: 0x4000, End: 0x5000, Prot: 3},
		{Start: 0x6000, End: 0x7000, Prot: 1, Path: "[vvar]"},
		{Start: 0x7000, End: 0x8000, Prot: 5, Path: "[vdso]"},
		{Start: 0x9000, End: 0xa000, Prot: 3, Path: "[stack]"},
	}
	want := []stretch{
		{start: 0x1000, end: 0x3000, prot: 1, path: "/lib/libx.so"},
		{start: 0x3000, end: 0x5000, prot: 3},
		{start: 0x6000, end: 0x8000, path: "[vdso]", off: 0x6000},
	}
	got := stretches(maps)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(stretch{})); diff != "" {
		t.Fatal(diff)
	}
	if err := sameStretches(want, got); err != nil {
		t.Error(err)
	}
	for _, tc := range []struct {
		name   string
		change func(s []stretch) []stretch
		want   string
	}{
		{"moved", func(s []stretch) []stretch { s[1].end += 0x1000; return s }, "in the image is"},
		{"another file", func(s []stretch) []stretch { s[0].path = "/lib/liby.so"; return s }, "liby.so"},
		{"another offset", func(s []stretch) []stretch { s[0].off = 0x1000; return s }, "offset 0x1000"},
		{"protection", func(s []stretch) []stretch { s[0].prot = 3; return s }, "prot 3"},
		{"one more", func(s []stretch) []stretch { return append(s, stretch{start: 0xb000, end: 0xc000}) }, "not in the image"},
		{"one less", func(s []stretch) []stretch { return s[:2] }, "only in the image"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := sameStretches(want, tc.change(stretches(maps)))
			if !errors.Is(err, errLayout) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}
