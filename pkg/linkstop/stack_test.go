package linkstop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/internal/linux"
)

// kernelStack is an initial stack as the kernel lays it out, ending at end.
func kernelStack(end uint64, variables int) (sp uint64, block []byte) {
	strings := []byte("0123456789abcdefx86_64\x00/bin/prog\x00")
	for range variables {
		strings = append(strings, "A=1\x00"...)
	}
	strings = append(strings, make([]byte, 64-len(strings)%16)...)
	at := end - uint64(len(strings))
	words := []uint64{1, at + 23, 0}
	for i := range variables {
		words = append(words, at+34+4*uint64(i))
	}
	words = append(words, 0,
		linux.ATPageSize, 4096, linux.ATRandom, at, linux.ATPlatform, at+16, linux.ATExecfn, at+23, 0, 0)
	if len(words)%2 == 1 {
		words = append(words, 0xdead) // padding, as the kernel's random gap
	}
	for _, w := range words {
		block = binary.LittleEndian.AppendUint64(block, w)
	}
	block = append(block, strings...)
	return end - uint64(len(block)), block
}

func TestTwinStack(t *testing.T) {
	const end = 0x7ffd00002000
	for variables := range 3 {
		sp, block := kernelStack(end, variables)
		s, auxv, err := parseStack(sp, block)
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

func TestParseStackDamaged(t *testing.T) {
	sp, block := kernelStack(0x7ffd00002000, 1)
	whole, _, err := parseStack(sp, block)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole.Random - sp + 16 {
		// Whatever is missing, no panic; without AT_RANDOM, an error.
		if _, _, err := parseStack(sp, block[:n&^7]); err == nil {
			t.Errorf("the first %d bytes were accepted", n&^7)
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
	var refusal *Refusal
	if _, _, err := stackLimits(4096); !errors.As(err, &refusal) || !strings.Contains(refusal.Hint, "ulimit -Hs") {
		t.Errorf("a stack of one page: %v", err)
	}
}
