package linkstop

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/plan"
)

func TestDecodeEntry(t *testing.T) {
	tests := []struct {
		name, code string
		offset     uint64
		point      plan.StopPoint
	}{
		{"glibc 2.36", "4889e7 e8f80b0000 4989c4 488b1424 4889d6 4989e5 4883e4f0", 8, plan.StopLinked},
		{"glibc with endbr64", "f30f1efa 4889e7 e8f80b0000 4989c4 488b1424 4889d6 4989e5", 12, plan.StopLinked},
		{"musl 1.2.3", "4831ed 4889e7 488d35c5450300 4883e4f0 e8dca3ffff", 0, plan.StopEntry},
		{"musl, a jump", "4831ed 4889e7 488d35c5450300 4883e4f0 e9dca3ffff", 0, plan.StopEntry},
		{"call, then something else", "4889e7 e8f80b0000 90 90 90 488b1424", 0, 0},
		{"cut off", "4889e7 e8f80b00", 0, 0},
		{"only endbr64", "f30f1efa", 0, 0},
		{"nothing", "", 0, 0},
		{"zeros", "000000000000000000000000000000", 0, 0},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			code, err := hex.DecodeString(strings.ReplaceAll(tc.code, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			offset, point, err := decodeEntry(code)
			if offset != tc.offset || point != tc.point {
				t.Errorf("got %d, %v; want %d, %v", offset, point, tc.offset, tc.point)
			}
			if (tc.point == 0) != (problem.KindOf(err) == problem.Refused) || (tc.point == 0) != (err != nil) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestEnter(t *testing.T) {
	for _, tc := range []struct {
		stop     plan.Stop
		rip, r12 uint64
	}{
		{plan.Stop{Addr: 0x1008, Point: plan.StopLinked}, 0x100b, 0x42},
		{plan.Stop{Addr: 0x1000, Point: plan.StopEntry}, 0x1000, 0},
	} {
		if rip, r12 := Enter(tc.stop, 0x42); rip != tc.rip || r12 != tc.r12 {
			t.Errorf("%v: rip %#x and r12 %#x instead of %#x and %#x", tc.stop.Point, rip, r12, tc.rip, tc.r12)
		}
	}
}
