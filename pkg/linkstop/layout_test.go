package linkstop

import (
	"testing"

	"github.com/residentctl/residentctl/internal/linux"
)

func TestLayoutWish(t *testing.T) {
	const (
		stack = 0x7ffd00000000
		near  = 0x7fb200000000 // a table of the last level begins here
		far   = 0x7f3200000000
	)
	at := func(pairs ...uint64) (maps []linux.Mapping) {
		for i := 0; i < len(pairs); i += 2 {
			maps = append(maps, linux.Mapping{Start: pairs[i], End: pairs[i+1]})
		}
		return append(maps, linux.Mapping{Start: stack, End: stack + 0x21000, Path: "[stack]"}, linux.Mapping{Start: 0xffffffffff600000, End: 0xffffffffff601000})
	}
	program := uint64(0x555555554000)
	for _, tc := range []struct {
		name      string
		maps      []linux.Mapping
		wish      layoutWish
		fulfilled bool
		denser    bool
	}{
		{name: "nothing is wished", maps: at(far, far+0x1000), fulfilled: true},
		{name: "far", maps: at(far, far+0x1000), wish: layoutWish{nearStack: true}},
		{name: "near", maps: at(near, near+0x1000), wish: layoutWish{nearStack: true}, fulfilled: true},
		{name: "in one table", maps: at(program, program+0x1000, near+0x100000, near+linux.TableSpan), wish: layoutWish{true, 0x100000}, fulfilled: true},
		{name: "in two tables instead of one", maps: at(program, program+0x1000, near-0x80000, near, near+0x10000, near+0x80000), wish: layoutWish{true, 0x100000}, denser: true},
		{name: "in two tables, and they are needed", maps: at(near-linux.TableSpan, near, near, near+0x1000), wish: layoutWish{true, linux.TableSpan + 0x1000}, fulfilled: true},
		{name: "of many tables one more", maps: at(near-8*linux.TableSpan+0x1000, near+0x1000), wish: layoutWish{true, 8 * linux.TableSpan}},
		{name: "dense, but far", maps: at(far, far+0x1000), wish: layoutWish{true, 0x1000}},
		{name: "nothing there", maps: at(), fulfilled: true},
	} {
		if got := tc.wish.fulfilled(tc.maps, stack+0x20000); got != tc.fulfilled {
			t.Errorf("%s: fulfilled: %v", tc.name, got)
		}
		if got := denserSpan(tc.maps, stack+0x20000) != 0; got != tc.denser {
			t.Errorf("%s: could be denser: %v", tc.name, got)
		}
	}
	if from, end := libraries(at(program, program+0x1000, near-0x1000, near, near+0x1000, near+0x2000), stack+0x20000); from != near-0x1000 || end != near+0x2000 {
		t.Errorf("the libraries are at %#x to %#x", from, end)
	}
}
