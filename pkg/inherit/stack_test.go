package inherit

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

// auxv is an auxiliary vector as CRIU has restored it, with addresses that are nowhere.
var auxv = linux.Auxv{
	{Type: linux.ATSysinfoEhdr, Value: 0x7000}, {Type: linux.ATUID, Value: 1}, {Type: linux.ATRandom, Value: 2},
	{Type: linux.ATExecfn, Value: 3}, {Type: linux.ATPlatform, Value: 4},
}

const end = uint64(0x7ffd00020000)

// texts are the strings to which the pointers from addr on lead, up to the null pointer.
func (s *stack) texts(addr uint64) (texts []string) {
	word := func(addr uint64) (w uint64) {
		for i := range uint64(8) {
			w |= uint64(s.block[addr-s.SP+i]) << (8 * i)
		}
		return w
	}
	for ; word(addr) != 0; addr += 8 {
		texts = append(texts, s.text(word(addr)))
	}
	return texts
}

func (s *stack) text(addr uint64) string {
	rest := s.block[addr-s.SP:]
	return string(rest[:bytes.IndexByte(rest, 0)])
}

func TestNewStack(t *testing.T) {
	long := strings.Repeat("x", 131071)
	many := make([]string, 100000)
	for _, tc := range []struct {
		name string
		v    vectors
		at   uint64 // of the first string, from the end
	}{
		{name: "nothing", v: vectors{}, at: 9},
		{name: "one argument", v: vectors{argv: []string{"/bin/x"}, execfn: "/bin/x"}, at: 7 + 7 + 8},
		{name: "even", v: vectors{argv: []string{"a", "b"}, env: []string{"A=1"}, execfn: "x"}, at: 4 + 4 + 2 + 8},
		{name: "empty strings", v: vectors{argv: []string{"", "", ""}, env: []string{"", "=", "A"}, execfn: ""}, at: 3 + 5 + 1 + 8},
		{name: "the same variable twice", v: vectors{env: []string{"A=1", "A=2"}, execfn: "x"}, at: 8 + 2 + 8},
		{name: "shifted", v: vectors{argv: []string{"a"}, execfn: "x", shift: 8000}, at: 2 + 2 + 8},
		{name: "long", v: vectors{argv: []string{long, long}, env: []string{long}, execfn: "x"}, at: 3*131072 + 2 + 8},
		{name: "many", v: vectors{argv: many, execfn: "x"}, at: 100000 + 2 + 8},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := tc.v
			v.auxv, v.platform, v.random = auxv, "x86_64", [16]byte{15: 7, 0: 1}
			s, err := newStack(end, v)
			if err != nil {
				t.Fatal(err)
			}
			if s.SP%16 != 0 || s.End != end || s.SP+uint64(len(s.block)) != end {
				t.Errorf("it is from %#x to %#x, with %d bytes", s.SP, s.End, len(s.block))
			}
			if s.argStart != end-tc.at {
				t.Errorf("its strings begin %d bytes before its end, not %d", end-s.argStart, tc.at)
			}
			got := [][]string{s.texts(s.Argv), s.texts(s.Envp), {s.text(s.Execfn), s.text(s.Platform)}}
			if diff := cmp.Diff([][]string{v.argv, v.env, {v.execfn, "x86_64"}}, got); diff != "" {
				t.Errorf("want (-), got (+):\n%s", diff)
			}
			if s.Argc != uint64(len(v.argv)) || [16]byte(s.block[s.Random-s.SP:]) != v.random {
				t.Errorf("argc %d, random bytes %x", s.Argc, s.block[s.Random-s.SP:][:16])
			}
			if all := string(s.block[s.argStart-s.SP:]); all != string(joined(v.argv))+string(joined(v.env))+v.execfn+strings.Repeat("\x00", 9) {
				t.Error("its strings do not follow each other")
			}
			if s.Platform >= s.argStart-v.shift {
				t.Errorf("nothing is left free below the strings")
			}
			if s.envStart != s.argEnd || s.envEnd != s.Execfn || s.envStart-s.argStart != uint64(len(joined(v.argv))) {
				t.Errorf("arguments %#x to %#x, environment %#x to %#x", s.argStart, s.argEnd, s.envStart, s.envEnd)
			}
			_, parsed, err := linux.ParseStack(s.SP, s.block)
			if err != nil || parsed.Value(linux.ATUID) != 1 || parsed.Value(linux.ATSysinfoEhdr) != 0x7000 || len(parsed) != len(auxv) {
				t.Errorf("the auxiliary vector is %v, %v", parsed, err)
			}
		})
	}
}

func TestStackIsMapped(t *testing.T) {
	const kib, none = uint64(1 << 10), ^uint64(0)
	for _, tc := range []struct {
		name        string
		args        int // of 1,000 bytes
		limit, want uint64
	}{
		{"as the kernel does", 1, 8192 * kib, 132 * kib},
		{"without a limit", 1, none, 132 * kib},
		{"a low limit", 1, 100 * kib, 100 * kib},
		{"an odd limit", 1, 100*kib + 17, 100 * kib},
		{"a limit that is used up", 100, 64 * kib, 104 * kib},
		{"many arguments", 2000, 8192 * kib, 2084 * kib},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := vectors{auxv: auxv, execfn: "x"}
			for range tc.args {
				v.argv = append(v.argv, strings.Repeat("x", 999))
			}
			s, err := newStack(end, v)
			if err != nil {
				t.Fatal(err)
			}
			low := s.low(tc.limit)
			if end-low != tc.want || low%linux.PageSize != 0 || s.SP-low < linux.PageSize {
				t.Errorf("%d KiB are mapped, want %d; %d bytes are below the stack pointer", (end-low)/kib, tc.want/kib, s.SP-low)
			}
		})
	}
}

func TestStackFits(t *testing.T) {
	s, err := newStack(end, vectors{auxv: auxv, execfn: "x"})
	if err != nil {
		t.Fatal(err)
	}
	maps := []linux.Mapping{
		{Start: 0x1000, End: 0x2000},
		{Start: end - 2<<30, End: end - 1<<30},
		{Start: end - 0x20000, End: end, Path: stackName}, // which it replaces
		{Start: end + 0x1000, End: end + 0x2000},
	}
	for limit, fits := range map[uint64]bool{
		0: true, 8 << 20: true, 1<<30 - 2<<20: true, 1<<30 - 1<<20: false, 1 << 30: false, ^uint64(0): false,
	} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			err := s.fits(maps, limit)
			if (err == nil) != fits {
				t.Errorf("%v", err)
			}
			if err != nil && problem.HintOf(err) == "" {
				t.Errorf("%v is no refusal with a hint", err)
			}
		})
	}
}

func TestCallersAuxv(t *testing.T) {
	got := callersAuxv(
		linux.Auxv{{Type: linux.ATHWCap, Value: 1}, {Type: linux.ATUID, Value: 0}, {Type: linux.ATSecure, Value: 1}, {Type: linux.ATEntry, Value: 2}},
		linux.Auxv{{Type: linux.ATEntry, Value: 9}, {Type: linux.ATHWCap, Value: 9}, {Type: linux.ATUID, Value: 1000}})
	want := linux.Auxv{{Type: linux.ATHWCap, Value: 1}, {Type: linux.ATUID, Value: 1000}, {Type: linux.ATSecure}, {Type: linux.ATEntry, Value: 2}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
}

func TestSpare(t *testing.T) {
	for _, tc := range []struct {
		fds  []int
		want uint64
	}{{nil, 3}, {[]int{0, 1, 2}, 3}, {[]int{3, 4, 255}, 5}, {[]int{4}, 3}} {
		if got := spare(tc.fds); got != tc.want {
			t.Errorf("%v: %d", tc.fds, got)
		}
	}
}
