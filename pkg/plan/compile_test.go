package plan

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/problem"
)

const (
	rx = unix.PROT_READ | unix.PROT_EXEC
	r  = unix.PROT_READ
	rw = unix.PROT_READ | unix.PROT_WRITE
)

// template is a source with a program (one page of text and three of data), a
// dynamic linker (one page of text, in which it stopped), and three anonymous
// pages.
func template(t *testing.T) *Source {
	dir := t.TempDir()
	file := func(name string, code ...[]byte) (path string) {
		path = filepath.Join(dir, name)
		// Shorter than its mapping: beyond the end there are zeroes.
		if err := os.WriteFile(path, bytes.Join(code, make([]byte, 16)), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	program := file("program", []byte("text"), syscallRet, sigReturn)
	linker := file("ld.so", []byte("linker"), syscallRet, sigReturn)
	return &Source{
		Plan: Plan{Kind: KindLinked, Path: program, Real: program, Entry: Entry{RIP: text}, Stop: Stop{Addr: text, Point: StopLinked}},
		Areas: []Area{
			{Start: prog, End: prog + 0x1000, Prot: rx, Path: program},
			{Start: prog + 0x1000, End: prog + 0x4000, Prot: rw, Path: program, Off: 0x1000},
			{Start: text, End: text + 0x1000, Prot: rx, Path: linker},
			{Start: bss, End: bss + 0x3000, Prot: rw},
		},
		Pages:   bytes.NewReader(nil),
		PagesAt: "images/1/pages-1.img",
	}
}

// layout is where each mapping comes from, for comparing.
func layout(p *Plan) (out []string) {
	add := func(name string, maps []Map) {
		for _, m := range maps {
			out = append(out, fmt.Sprintf("%#x %#x %s+%#x %s", m.Addr, m.Len, name, m.Off, prots[m.Prot]))
		}
	}
	for _, f := range p.Files {
		add(filepath.Base(f.Path), f.Maps)
	}
	add("anon", p.Anon)
	slices.Sort(out)
	return out
}

var prots = map[uint32]string{r: "r", rw: "rw", rx: "rx"}

// TestCompilePopulatesLittle: an image has no more than so many copies from the start.
func TestCompilePopulatesLittle(t *testing.T) {
	for flags, want := range map[uint32]uint64{0: populateCopies, FlagSlowFaults: populateCopiesSlow} {
		s := template(t)
		s.Flags = flags
		const runs = 100
		s.Areas[3] = Area{Start: bss, End: bss + runs*0x5000, Prot: rw}
		s.Pages = bytes.NewReader(make([]byte, runs*0x5000))
		s.Runs = nil
		for i := range uint64(runs) {
			s.Runs = append(s.Runs, Run{bss + i*0x5000, 0x4000, i * 0x5000})
		}
		p, err := Compile(s)
		if err != nil {
			t.Fatal(err)
		}
		var bytes uint64
		for _, m := range p.Pages().Maps {
			if m.Flags&unix.MAP_POPULATE != 0 {
				bytes += m.Len
			}
		}
		if bytes != want {
			t.Errorf("flags %#x: %d bytes are populated", flags, bytes)
		}
	}
}

// TestCompilePopulatesBSS: what is fresh after the program's data, if it is short.
func TestCompilePopulatesBSS(t *testing.T) {
	for _, tc := range []struct {
		name  string
		start uint64
		pages uint64
		runs  []Run
		want  uint64
	}{
		{"after the data", prog + 0x4000, 8, nil, 8},
		{"after CRIU's pages", prog + 0x4000, 8, []Run{{prog + 0x4000, 0x1000, 0}}, 7},
		{"around pages of CRIU's", prog + 0x4000, 4, []Run{{prog + 0x5000, 0x1000, 0}}, 3},
		{"long", prog + 0x4000, 9, nil, 0},
		{"long, in pieces", prog + 0x4000, 9, []Run{{prog + 0x8000, 0x1000, 0}}, 0},
		{"elsewhere", bss, 1, nil, 0},
	} {
		s := template(t)
		s.Areas = slices.Insert(s.Areas[:3], 2, Area{Start: tc.start, End: tc.start + tc.pages*0x1000, Prot: rw})
		s.Runs = tc.runs
		p, err := Compile(s)
		if err != nil {
			t.Fatal(err)
		}
		var got uint64
		for _, m := range p.Anon {
			if m.Flags&unix.MAP_POPULATE != 0 {
				got += m.Len / pageSize
			}
		}
		if got != tc.want {
			t.Errorf("%s: %d pages, want %d", tc.name, got, tc.want)
		}
	}
}

// TestPopulateEnds: the ends of a mapping are there from the start, as much of them as a
// page fault there would have mapped.
func TestPopulateEnds(t *testing.T) {
	const off, y = 0x3000, unix.MAP_POPULATE
	type part struct {
		pages uint64
		flags uint32
	}
	for _, tc := range []struct {
		name       string
		addr, size uint64
		both       bool
		want       []part
	}{
		{"large", 0x1234000, 0x40000, true, []part{{12, y}, {48, 0}, {4, y}}},
		{"aligned", 0x1230000, 0x50000, true, []part{{16, y}, {48, 0}, {16, y}}},
		{"short middle", 0x1230000, 0x40000, true, []part{{64, y}}},
		{"no middle", 0x1234000, 0x1c000, true, []part{{28, y}}},
		{"one block", 0x1234000, 0x1000, true, []part{{1, y}}},
		{"only the beginning", 0x1234000, 0x40000, false, []part{{12, y}, {52, 0}}},
		{"a beginning that is all", 0x1234000, 0x1000, false, []part{{1, y}}},
	} {
		at := tc.addr
		var got []part
		for _, p := range populateEnds(Map{Addr: tc.addr, Len: tc.size, Off: off, Prot: rx}, tc.both) {
			if p.Addr != at || p.Off != off+(at-tc.addr) || p.Prot != rx {
				t.Errorf("%s: %+v at %#x", tc.name, p, at)
			}
			got = append(got, part{p.Len / pageSize, p.Flags})
			at += p.Len
		}
		if at != tc.addr+tc.size || !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// TestCompilePopulatesText: where page faults are slow the text of the program, of the
// dynamic linker and of the C library is there from the start, of other text the two ends, and nothing else
// of the files but the program's beginning.
func TestCompilePopulatesText(t *testing.T) {
	for _, flags := range []uint32{0, FlagSlowFaults} {
		s := template(t)
		s.Flags, s.Linker = flags, s.Areas[2].Path
		s.Areas[2].End = text + 0x100000
		s.Areas = s.Areas[:3]
		const libc, other, large = 1 << 34, 2 << 34, 3 << 34
		s.Areas[0], s.Areas[1] = Area{Start: prog, End: prog + 0x1000, Prot: r, Path: s.Path},
			Area{Start: prog + 0x1000, End: prog + 0x2000, Prot: rx, Path: s.Path, Off: 0x1000}
		for _, l := range []struct {
			at, size uint64
			path     string
		}{{libc, 0x100000, "/lib/libc.so.6"}, {other, 0x100000, "/lib/other.so"}, {large, populateText, "/lib/libc.large"}} {
			at, size, path := l.at, l.size, l.path
			s.Areas = append(s.Areas,
				Area{Start: at, End: at + size, Prot: rx, Path: path},
				Area{Start: at + size, End: at + size + 0x1000, Prot: r, Path: path, Off: size},
				Area{Start: at + size + 0x1000, End: at + size + 0x2000, Prot: rw, Path: path, Off: size + 0x1000})
		}
		p, err := Compile(s)
		if err != nil {
			t.Fatal(err)
		}
		populated := map[string]uint64{}
		for _, f := range p.Files {
			for _, m := range f.Maps {
				if m.Flags&unix.MAP_POPULATE == 0 || f.Flags&FilePages != 0 {
					continue
				}
				populated[filepath.Base(f.Path)] += m.Len
				if m.Prot != rx && f.Path != s.Path {
					t.Errorf("flags %#x, %s: %+v", flags, f.Path, m)
				}
			}
		}
		want := map[string]uint64{}
		if flags != 0 {
			want = map[string]uint64{"program": 0x2000, "ld.so": 0x100000, "libc.so.6": 0x100000, "other.so": 2 * faultAround, "libc.large": 2 * faultAround}
		}
		if !maps.Equal(populated, want) {
			t.Errorf("flags %#x: populated are %v, want %v", flags, populated, want)
		}
	}
}

// TestCompilePopulates: short runs of CRIU's pages are there from the start, by what
// they are while the launcher works.
func TestCompilePopulates(t *testing.T) {
	for _, tc := range []struct {
		name  string
		prot  uint32
		pages uint64
		fixup bool
		want  bool
	}{
		{"short, writable", rw, 4, false, true},
		{"long, writable", rw, 5, false, false},
		{"short, read-only", r, 16, false, true},
		{"long, read-only", r, 17, false, false},
		{"short, with a word to correct", r, 4, true, true},
		{"too long to be copied for a word", r, 5, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := template(t)
			s.Areas[3] = Area{Start: bss, End: bss + 0x20000, Prot: tc.prot}
			s.Runs = []Run{{bss, tc.pages * 0x1000, 0}}
			if tc.fixup {
				s.Fixups = []Fixup{{Addr: bss, Kind: FixRandom, Size: 8}}
			}
			p, err := Compile(s)
			if err != nil {
				t.Fatal(err)
			}
			maps := p.Pages().Maps
			if len(maps) != 1 || (maps[0].Flags&unix.MAP_POPULATE != 0) != tc.want {
				t.Errorf("mapped as %+v", maps)
			}
			for _, f := range p.Files {
				for _, m := range f.Maps {
					if m.Flags&unix.MAP_POPULATE != 0 && f.Flags&FilePages == 0 {
						t.Errorf("%s: %+v", f.Path, m)
					}
				}
			}
		})
	}
}

func TestCompile(t *testing.T) {
	for _, tc := range []struct {
		name     string
		change   func(*Source)
		want     []string // layout without the text, which is the same in all
		protects []Protect
	}{
		{
			name:   "nothing dumped",
			change: func(*Source) {},
			want:   []string{"0x550000001000 0x3000 program+0x1000 rw", "0x7f0000004000 0x3000 anon+0x0 rw"},
		},
		{
			name:   "a run splits a file's area",
			change: func(s *Source) { s.Runs = []Run{{prog + 0x2000, 0x1000, 0x5000}} },
			want: []string{
				"0x550000001000 0x1000 program+0x1000 rw", "0x550000002000 0x1000 pages-1.img+0x5000 rw",
				"0x550000003000 0x1000 program+0x3000 rw", "0x7f0000004000 0x3000 anon+0x0 rw",
			},
		},
		{
			name:   "a run at the start of fresh memory",
			change: func(s *Source) { s.Runs = []Run{{bss, 0x1000, 0}} },
			want: []string{
				"0x550000001000 0x3000 program+0x1000 rw",
				"0x7f0000004000 0x1000 pages-1.img+0x0 rw", "0x7f0000005000 0x2000 anon+0x0 rw",
			},
		},
		{
			name:   "runs that follow each other are one mapping",
			change: func(s *Source) { s.Runs = []Run{{bss, 0x1000, 0}, {bss + 0x1000, 0x2000, 0x1000}} },
			want:   []string{"0x550000001000 0x3000 program+0x1000 rw", "0x7f0000004000 0x3000 pages-1.img+0x0 rw"},
		},
		{
			name:   "runs that only follow each other in memory stay two",
			change: func(s *Source) { s.Runs = []Run{{bss, 0x1000, 0}, {bss + 0x1000, 0x2000, 0x8000}} },
			want: []string{
				"0x550000001000 0x3000 program+0x1000 rw",
				"0x7f0000004000 0x1000 pages-1.img+0x0 rw", "0x7f0000005000 0x2000 pages-1.img+0x8000 rw",
			},
		},
		{
			name: "a run over two areas is cut between them",
			change: func(s *Source) {
				s.Areas = slices.Insert(s.Areas, 2, Area{Start: prog + 0x4000, End: prog + 0x5000, Prot: r})
				s.Runs = []Run{{prog + 0x3000, 0x2000, 0x1000}}
			},
			want: []string{
				"0x550000001000 0x2000 program+0x1000 rw", "0x550000003000 0x1000 pages-1.img+0x1000 rw",
				"0x550000004000 0x1000 pages-1.img+0x2000 r", "0x7f0000004000 0x3000 anon+0x0 rw",
			},
		},
		{
			name: "a dumped text page that equals the file is left out",
			change: func(s *Source) {
				page := make([]byte, 0x1000)
				b, _ := os.ReadFile(s.Areas[2].Path)
				copy(page, b)
				s.Pages = bytes.NewReader(append(make([]byte, 0x1000), page...))
				s.Runs = []Run{{text, 0x1000, 0x1000}}
			},
			want: []string{"0x550000001000 0x3000 program+0x1000 rw", "0x7f0000004000 0x3000 anon+0x0 rw"},
		},
		{
			name: "a word to correct in a read-only area",
			change: func(s *Source) {
				s.Areas[1].Prot = r
				s.Runs = []Run{{prog + 0x1000, 0x1000, 0}, {prog + 0x3000, 0x1000, 0x1000}}
				s.Fixups = []Fixup{{Addr: prog + 0x1ff8, Kind: FixRandom, Size: 8}}
			},
			want: []string{
				"0x550000001000 0x1000 pages-1.img+0x0 rw", "0x550000002000 0x1000 program+0x2000 r",
				"0x550000003000 0x1000 pages-1.img+0x1000 r", "0x7f0000004000 0x3000 anon+0x0 rw",
			},
			protects: []Protect{{Addr: prog + 0x1000, Len: 0x1000, Prot: r}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := template(t)
			tc.change(s)
			p, err := Compile(s)
			if err != nil {
				t.Fatal(err)
			}
			want := append([]string{"0x550000000000 0x1000 program+0x0 rx", "0x7f0000001000 0x1000 ld.so+0x0 rx"}, tc.want...)
			slices.Sort(want)
			if diff := cmp.Diff(want, layout(p)); diff != "" {
				t.Errorf("mappings:\n%s", diff)
			}
			if diff := cmp.Diff(tc.protects, p.Protects); diff != "" {
				t.Errorf("protections:\n%s", diff)
			}
			if p.Program().Path != s.Path || p.Program().Flags != FileProgram|FileExe {
				t.Errorf("the program is %+v", p.Program())
			}
			if pages := p.Pages(); pages.Path != s.PagesAt || pages.Flags != FilePages {
				t.Errorf("the pages are %+v", pages)
			}
			if p.Caller.MapsEnd != bss+0x3000 {
				t.Errorf("the stack must stay above %#x", p.Caller.MapsEnd)
			}
			encode(t, p)
		})
	}
}

func TestCompileRefuses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Source)
		want   string
	}{
		{"text that is not the file's", func(s *Source) {
			s.Pages, s.Runs = bytes.NewReader(make([]byte, 0x1000)), []Run{{text, 0x1000, 0}}
		}, "the text at 0x7f0000001000 is not what"},
		{"executable memory without a file", func(s *Source) {
			s.Areas[3].Prot, s.Runs = rx, []Run{{bss, 0x1000, 0}}
		}, "no file holds"},
		{"text that was writable", func(s *Source) {
			s.Areas[0].Prot, s.Runs = rx|rw, []Run{{prog, 0x1000, 0}}
		}, "no file holds"},
		{"a word to correct where nothing was dumped", func(s *Source) {
			s.Fixups = []Fixup{{Addr: bss, Size: 8}}
		}, "dumped no page"},
		{"a word to correct in text", func(s *Source) {
			page := make([]byte, 0x1000)
			b, _ := os.ReadFile(s.Areas[2].Path)
			copy(page, b)
			s.Pages, s.Runs = bytes.NewReader(page), []Run{{text, 0x1000, 0}}
			s.Fixups = []Fixup{{Addr: text, Size: 8}}
		}, "dumped no page"},
		{"pages where nothing is mapped", func(s *Source) { s.Runs = []Run{{vdso, 0x1000, 0}} }, "nothing is mapped"},
		{"pages over an area's end", func(s *Source) { s.Runs = []Run{{bss + 0x2000, 0x2000, 0}} }, "nothing is mapped"},
		{"nothing of the program mapped", func(s *Source) { s.Path = "/other" }, "nothing of /other"},
		{"no system call in the text", func(s *Source) {
			for _, a := range s.Areas[:3] {
				if err := os.WriteFile(a.Path, []byte("no code"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}, "system call"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := template(t)
			tc.change(s)
			_, err := Compile(s)
			if problem.HintOf(err) == "" || !strings.HasPrefix(err.Error(), "the image cannot be used: ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an unusable image about %q", err, tc.want)
			}
		})
	}
}

// The two cases in which the source itself is at fault end with an error, too.
func TestCompileErrors(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Source)
	}{
		{"dumped text that cannot be read", func(s *Source) { s.Runs = []Run{{text, 0x1000, 0}} }},
		{"a file that is gone", func(s *Source) { os.Remove(s.Areas[2].Path) }},
		{"runs over each other", func(s *Source) { s.Runs = []Run{{bss, 0x2000, 0}, {bss + 0x1000, 0x1000, 0}} }},
		{"runs out of order", func(s *Source) { s.Runs = []Run{{bss + 0x1000, 0x1000, 0}, {bss, 0x1000, 0}} }},
		{"a run of half a page", func(s *Source) { s.Runs = []Run{{bss, 0x800, 0}} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := template(t)
			tc.change(s)
			if p, err := Compile(s); err == nil {
				t.Errorf("compiled to %v", layout(p))
			}
		})
	}
}

func TestGadgets(t *testing.T) {
	rewrite := func(t *testing.T, a Area, code []byte) {
		if err := os.WriteFile(a.Path, code, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name              string
		change            func(*testing.T, *Source)
		gadget, sigReturn uint64
	}{
		{"the dynamic linker has both", func(*testing.T, *Source) {}, text + 22, text + 41},
		{"the C library comes before the program", func(t *testing.T, s *Source) {
			libc := filepath.Join(t.TempDir(), "libc.so.6")
			s.Areas = slices.Insert(s.Areas, 3, Area{Start: bss - 0x1000, End: bss, Prot: rx, Path: libc})
			rewrite(t, s.Areas[3], append([]byte("...."), sigReturn...))
			rewrite(t, s.Areas[2], syscallRet)
		}, text, bss - 0x1000 + 4},
		{"the program has the system call", func(t *testing.T, s *Source) { rewrite(t, s.Areas[2], nil) }, prog + 20, prog + 39},
		{"nobody returns from signals", func(t *testing.T, s *Source) { rewrite(t, s.Areas[2], syscallRet) }, text, 0},
		{"the file holds more than its area shows", func(t *testing.T, s *Source) {
			rewrite(t, s.Areas[2], append(make([]byte, 0xfff), syscallRet...))
		}, prog + 20, prog + 39},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := template(t)
			tc.change(t, s)
			p, err := Compile(s)
			if err != nil {
				t.Fatal(err)
			}
			if p.Entry.Gadget != tc.gadget || p.Entry.SigReturn != tc.sigReturn {
				t.Errorf("got %#x and %#x, want %#x and %#x", p.Entry.Gadget, p.Entry.SigReturn, tc.gadget, tc.sigReturn)
			}
		})
	}
}
