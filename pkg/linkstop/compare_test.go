package linkstop

import (
	"encoding/binary"
	"reflect"
	"testing"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/plan"
)

// synthetic is a comparison of two processes that never were.
func synthetic() *comparison {
	mk := func(base uint64, pid int, argc uint64, random string, limit uint64) side {
		s := newSide(pid, linux.InitialStack{
			SP: base, Argc: argc, Argv: base + 8, Envp: base + 16 + 8*argc, Auxv: base + 0x40 + 8*argc,
			Platform: base + 0x309, Random: base + 0x2f9, Execfn: base + 0xff0, End: base + 0x1000,
		}, []byte(random), limit)
		s.stackLow = base - 0x20000
		return s
	}
	return &comparison{
		template: mk(0x7ffd00001000, 4711, 1, "abcdefghijklmnop", 0x407b000),
		twin:     mk(0x7ffcffffd000, 4712, 2, "ABCDEFGHIJKLMNOP", 0x3f0d000),
		point:    plan.StopLinked,
		rseq:     linux.PageRange{Start: 0x5000, End: 0x5020},
		linker:   linux.PageRange{Start: 0x9000, End: 0xa000},
		tscStart: 1 << 40, tscEnd: 1<<40 + 100000,
		random: []uint64{0x1234567812345678},
	}
}

func TestWord(t *testing.T) {
	c := synthetic()
	a, b := &c.template, &c.twin
	canary := func(s string) uint64 { return binary.LittleEndian.Uint64([]byte(s)) &^ 0xff }
	guard := func(s string) uint64 { return binary.LittleEndian.Uint64([]byte(s)) }
	one := func(addr uint64, kind, size uint32) []plan.Fixup {
		return []plan.Fixup{{Addr: addr, Kind: kind, Size: size}}
	}
	_, ebx, _, _ := linux.CPUID(1, 0)
	leaf := uint64(ebx &^ 0xff000000)
	tests := []struct {
		name  string
		addr  uint64
		a, b  uint64
		class wordClass
		want  []plan.Fixup
	}{
		{"stack pointer", 0x1000, a.stack.SP, b.stack.SP, wordFixup, one(0x1000, plan.FixSP, 8)},
		{"argv", 0x1000, a.stack.Argv, b.stack.Argv, wordFixup, one(0x1000, plan.FixArgv, 8)},
		{"envp", 0x1000, a.stack.Envp, b.stack.Envp, wordFixup, one(0x1000, plan.FixEnvp, 8)},
		{"auxv", 0x1000, a.stack.Auxv, b.stack.Auxv, wordFixup, one(0x1000, plan.FixAuxv, 8)},
		{"platform", 0x1000, a.stack.Platform, b.stack.Platform, wordFixup, one(0x1000, plan.FixPlatform, 8)},
		{"random", 0x1000, a.stack.Random, b.stack.Random, wordFixup, one(0x1000, plan.FixRandom, 8)},
		{"execfn", 0x1000, a.stack.Execfn, b.stack.Execfn, wordFixup, one(0x1000, plan.FixExecfn, 8)},
		{"canary", 0x1000, canary("abcdefgh"), canary("ABCDEFGH"), wordFixup, one(0x1000, plan.FixCanary, 8)},
		{"guard", 0x1000, guard("ijklmnop"), guard("IJKLMNOP"), wordFixup, one(0x1000, plan.FixGuard, 8)},
		{"stack size", 0x1000, 0x407b000, 0x3f0d000, wordFixup, one(0x1000, plan.FixStackSize, 8)},
		{"thread id, low half", 0x1000, 4711, 4712, wordFixup, one(0x1000, plan.FixTID, 4)},
		{"thread id, high half", 0x1000, 4711<<32 | 7, 4712<<32 | 7, wordFixup, one(0x1004, plan.FixTID, 4)},
		{"argc beside the thread id", 0x1000, 4711<<32 | 1, 4712<<32 | 2, wordFixup, []plan.Fixup{
			{Addr: 0x1000, Kind: plan.FixArgc, Size: 4}, {Addr: 0x1004, Kind: plan.FixTID, Size: 4}}},
		{"known half beside an unknown one", 0x1000, 4711<<32 | 5, 4712<<32 | 6, wordUnknown, nil},
		{"one side fits only", 0x1000, a.stack.SP, b.stack.Argv, wordUnknown, nil},
		{"another place on the stack", 0x1000, a.stack.SP + 0x100, b.stack.SP + 0x100, wordUnknown, nil},
		{"dead frames", 0x1000, a.stack.SP - 0x100, b.stack.SP - 0x180, wordNoise, nil},
		{"dead on one side only", 0x1000, a.stack.SP - 0x100, 5, wordUnknown, nil},
		{"from getrandom", 0x1000, 0x1234567812345678, 99, wordNoise, nil},
		{"time stamps", 0x9000, 1<<40 + 5, 1<<40 + 50000, wordNoise, nil},
		{"durations", 0x9ff8, 4000, 5000, wordNoise, nil},
		{"times, not the linker's", 0xa000, 1<<40 + 5, 1<<40 + 50000, wordUnknown, nil},
		{"a counter in the linker", 0x9000, 3, 4, wordUnknown, nil},
		{"too long", 0x9000, 100001, 5000, wordUnknown, nil},
		{"the CPU's number", 0x9000, 7<<32 | leaf | 0x2e000000, 7<<32 | leaf | 0xa1000000, wordNoise, nil},
		{"the CPU's number, high half", 0x9000, (leaf|0x2e000000)<<32 | 7, (leaf|0xa1000000)<<32 | 7, wordNoise, nil},
		{"the CPU's number, not the linker's", 0xa000, leaf | 0x2e000000, leaf | 0xa1000000, wordUnknown, nil},
		{"more than the CPU's number", 0x9000, leaf | 0x2e000000, (leaf ^ 1) | 0xa1000000, wordUnknown, nil},
		{"like the CPU's number", 0x9000, (leaf ^ 1) | 0x2e000000, (leaf ^ 1) | 0xa1000000, wordUnknown, nil},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			class, got := c.word(tc.addr, tc.a, tc.b)
			if class != tc.class || !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %d %v, want %d %v", class, got, tc.class, tc.want)
			}
		})
	}
	t.Run("musl's malloc secret stays", func(t *testing.T) {
		c := synthetic()
		c.point = plan.StopEntry
		if class, got := c.word(0x1000, guard("ijklmnop"), guard("IJKLMNOP")); class != wordNoise || got != nil {
			t.Errorf("got %d %v", class, got)
		}
	})
}

func TestScan(t *testing.T) {
	c := synthetic()
	put := func(words ...uint64) (b []byte) {
		for _, w := range words {
			b = binary.LittleEndian.AppendUint64(b, w)
		}
		return b
	}
	t.Run("fix-ups in order, rseq left out", func(t *testing.T) {
		s := scan{comparison: c}
		s.words(0x4ff8, put(c.template.stack.SP, 1, 2, 3, 4, 4711), put(c.twin.stack.SP, 9, 9, 9, 9, 4712))
		if err := s.verdict(); err != nil {
			t.Fatal(err)
		}
		want := []plan.Fixup{{Addr: 0x4ff8, Kind: plan.FixSP, Size: 8}, {Addr: 0x5020, Kind: plan.FixTID, Size: 4}}
		if !reflect.DeepEqual(s.found, want) {
			t.Errorf("got %v, want %v", s.found, want)
		}
	})
	t.Run("a pointer to the stack that did not move", func(t *testing.T) {
		s := scan{comparison: c}
		sp := c.template.stack.SP
		s.words(0x1000, put(0, sp+16, sp), put(0, sp+16, sp))
		if err := s.verdict(); problem.KindOf(err) != problem.Refused || s.unknown.addr != 0x1008 || s.unknown.more != 1 {
			t.Errorf("got %v", err)
		}
	})
	t.Run("below the stack pointer is dead", func(t *testing.T) {
		s := scan{comparison: c}
		sp := c.template.stack.SP
		s.words(0x1000, put(sp-8), put(sp-8))
		if err := s.verdict(); err != nil {
			t.Error(err)
		}
	})
	t.Run("too many CPU numbers", func(t *testing.T) {
		_, ebx, _, _ := linux.CPUID(1, 0)
		is, was := uint64(ebx&^0xff000000)|0x2e000000, uint64(ebx&^0xff000000)|0xa1000000
		for n := 1; n <= 3; n++ {
			s := scan{comparison: c}
			s.words(0x9000, put(is, is, is)[:8*n], put(was, was, was))
			if err := s.verdict(); (err != nil) != (n > 2) {
				t.Errorf("%d: %v", n, err)
			}
		}
	})
	t.Run("too many times", func(t *testing.T) {
		s := scan{comparison: c}
		s.words(0x9000, put(1000, 1001, 1002, 1003, 1004), put(2000, 2001, 2002, 2003, 2004))
		if s.verdict() == nil {
			t.Error("five times were accepted")
		}
	})
}

func TestBatches(t *testing.T) {
	in := []linux.PageRange{{Start: 0, End: 0x3000}, {Start: 0x5000, End: 0x6000}, {Start: 0x8000, End: 0x10000}}
	var out []linux.PageRange
	for batch := range batches(in, 0x4000) {
		size := uint64(0)
		for _, r := range batch {
			size += r.Len()
		}
		if size > 0x4000 {
			t.Errorf("a batch of %#x bytes", size)
		}
		out = linux.UnionRanges(out, batch)
	}
	if !reflect.DeepEqual(out, in) {
		t.Errorf("got %x, want %x", out, in)
	}
}

func TestCheckFixups(t *testing.T) {
	tid := func(addr uint64) plan.Fixup { return plan.Fixup{Addr: addr, Kind: plan.FixTID, Size: 4} }
	tests := []struct {
		name          string
		fixups        []plan.Fixup
		point         plan.StopPoint
		tidAddr, head uint64
		ok            bool
	}{
		{"glibc", []plan.Fixup{tid(0x100)}, plan.StopLinked, 0x100, 0x110, true},
		{"glibc 2.43 clears another word", []plan.Fixup{tid(0x100)}, plan.StopLinked, 0x500, 0x110, true},
		{"glibc 2.31 registers later", nil, plan.StopLinked, 0, 0, true},
		{"musl", []plan.Fixup{tid(0x100)}, plan.StopEntry, 0x900, 0x400, true},
		{"elsewhere", []plan.Fixup{tid(0x100)}, plan.StopLinked, 0x100, 0x120, false},
		{"twice", []plan.Fixup{tid(0x100), tid(0x200)}, plan.StopLinked, 0x100, 0x110, false},
		{"nowhere", nil, plan.StopLinked, 0x100, 0x110, false},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if err := checkFixups(tc.fixups, tc.point, tc.tidAddr, tc.head); (err == nil) != tc.ok {
				t.Error(err)
			}
		})
	}
}
