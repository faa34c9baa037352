package linkstop

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/internal/fixture"
	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

func TestTwinStack(t *testing.T) {
	const end = 0x7ffd00002000
	for variables := range 3 {
		sp, block := fixture.Stack(end, variables)
		s, auxv, err := linux.ParseStack(sp, block)
		if err != nil {
			t.Fatal(err)
		}
		twinBlock, twin, err := twinStack(s, auxv, block)
		if err != nil {
			t.Fatal(err)
		}
		if twin.SP%16 != 0 || twin.End != end-twinShift || twin.SP+uint64(len(twinBlock)) != twin.End {
			t.Errorf("twin's stack is %#x to %#x with %#x bytes", twin.SP, twin.End, len(twinBlock))
		}
		if twin.Argc != s.Argc+1 || twin.Envp-twin.Argv != s.Envp-s.Argv+8 || twin.Auxv-twin.Envp != s.Auxv-s.Envp+8 {
			t.Errorf("vectors: %+v of %+v", twin, s)
		}
		str := func(block []byte, sp, addr uint64) string {
			rest := block[addr-sp:]
			return string(rest[:bytes.IndexByte(rest, 0)])
		}
		for _, p := range [][2]uint64{{s.Platform, twin.Platform}, {s.Execfn, twin.Execfn}} {
			if a, b := str(block, sp, p[0]), str(twinBlock, twin.SP, p[1]); a != b || p[0]-p[1] != twinShift {
				t.Errorf("%q at %#x became %q at %#x", a, p[0], b, p[1])
			}
		}
		for i := range uint64(16) {
			if block[s.Random-sp+i] == twinBlock[twin.Random-twin.SP+i] {
				t.Errorf("byte %d of AT_RANDOM is the same", i)
			}
		}
		added := binary.LittleEndian.Uint64(twinBlock[twin.Auxv-16-twin.SP:])
		if v := str(twinBlock, twin.SP, added); v != "RESIDENTCTL_TWIN=1" {
			t.Errorf("added variable %q", v)
		}
	}
}

func TestStackLimits(t *testing.T) {
	for _, hard := range []uint64{^uint64(0), 64 << 20, 8 << 20, 8<<20 + 4096, 1 << 20, 300 << 10} {
		a, b, err := stackLimits(hard)
		if err != nil || a == b || a > hard || b > hard || a/4096%2 != 1 || b/4096%2 != 1 || a%4096 != 0 || b%4096 != 0 {
			t.Errorf("hard limit %d: %d, %d, %v", hard, a, b, err)
		}
	}
	if _, _, err := stackLimits(4096); problem.KindOf(err) != problem.Refused || !strings.Contains(problem.HintOf(err), "ulimit -Hs") {
		t.Errorf("a stack of one page: %v", err)
	}
}
