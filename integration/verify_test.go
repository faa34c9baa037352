package integration

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/plan"
)

// knownDifferences are all classes in which two processes may differ that no
// start corrects.
var knownDifferences = map[string][]string{
	"link": {
		"the dynamic linker's time stamps", "the rseq area, which the kernel writes",
		"the number of the CPU that the dynamic linker ran on", "random numbers from the kernel",
		"addresses in dead stack frames", "functions that were looked up ahead of their first call",
	},
	"criu": {"the rseq area, which the kernel writes"},
}

// TestVerify holds the two restorers, CRIU's and the launcher's, and the
// dynamic linker against each other.
func TestVerify(t *testing.T) {
	s := kit.SharedStore(t)
	programs := []string{kit.Fixture(t, "c-main"), kit.Fixture(t, "cxx-exceptions"), kit.Fixture(t, "tls")}
	for _, name := range []string{"perl", "bash", "git", "ffmpeg"} {
		if path, err := exec.LookPath(name); err == nil {
			programs = append(programs, path)
		}
	}
	for _, program := range programs {
		s.Do(t, "add", program)
		for engine, known := range knownDifferences {
			t.Run(filepath.Base(program)+" "+engine, func(t *testing.T) {
				r := s.Verify(t, program, engine)
				if !r.OK || r.Pages == 0 {
					t.Fatalf("ok %v, %d pages, failures:\n%s", r.OK, r.Pages, strings.Join(r.Failures, "\n"))
				}
				fixups := 0
				for _, d := range r.Differences {
					if d.Fixup {
						fixups += d.Words
					} else if !contains(known, d.Class) {
						t.Errorf("%d words differ: %s", d.Words, d.Class)
					}
				}
				if fixups < 5 {
					t.Errorf("only %d words belong to the process", fixups)
				}
			})
		}
	}
}

func contains(all []string, s string) bool {
	for _, a := range all {
		if a == s {
			return true
		}
	}
	return false
}

// TestVerifyFindsDamage plants damage of which a start knows nothing: the plan
// is always whole and agrees with the files.
func TestVerifyFindsDamage(t *testing.T) {
	kit.RequireCRIU(t)
	s := kit.NewStore(t, kit.Dir(t))
	program := kit.Fixture(t, "c-main")
	s.Do(t, "add", program)
	file := s.Plan(t, program)
	original, err := plan.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	pages := original.Pages()
	pagesPath := filepath.Join(s.Dir, pages.Path)

	// A byte that changed in CRIU's pages, in each mapping of them. The middle
	// of a page is neither a correction nor a time stamp in any of them.
	for _, m := range pages.Maps {
		for _, in := range []uint64{0x10, m.Len/2 + 1, m.Len - 0x21} {
			if known(original, m.Addr+in) {
				continue
			}
			flip(t, pagesPath, int64(m.Off+in))
			writePlan(t, file, original)
			r := s.Verify(t, program, "link")
			want := "the word at " + hex((m.Addr+in)&^7) + " "
			if r.OK || !strings.HasPrefix(strings.Join(r.Failures, "\n"), want) {
				t.Errorf("a flipped byte at %#x: ok %v, failures %q", m.Addr+in, r.OK, r.Failures)
			}
			flip(t, pagesPath, int64(m.Off+in))
		}
	}
	writePlan(t, file, original)
	if r := s.Verify(t, program, "link"); !r.OK {
		t.Errorf("when the damage is repaired: %q", r.Failures)
	}

	// What the launcher would do wrong.
	for _, tc := range []struct {
		name   string
		change func(p *plan.Plan)
	}{
		{"a word is not corrected", func(p *plan.Plan) { p.Fixups = p.Fixups[1:] }},
		{"a word is corrected wrongly", func(p *plan.Plan) { p.Fixups[0].Kind = plan.FixSP }},
		{"one more word is corrected", func(p *plan.Plan) {
			p.Fixups = append(p.Fixups, plan.Fixup{Addr: p.Fixups[0].Addr &^ 0xfff, Kind: plan.FixRandom, Size: 8})
		}},
		{"other pages are mapped", func(p *plan.Plan) {
			maps := p.Pages().Maps
			maps[0].Off, maps[len(maps)-1].Off = maps[len(maps)-1].Off, maps[0].Off
		}},
		{"fresh memory is missing", func(p *plan.Plan) { p.Anon = p.Anon[1:] }},
		{"a protection is missing", func(p *plan.Plan) { p.Protects = p.Protects[1:] }},
		{"another kernel registration", func(p *plan.Plan) { p.Kernel.RobustHead -= 8 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := plan.Read(file)
			if err != nil {
				t.Fatal(err)
			}
			tc.change(p)
			writePlan(t, file, p)
			defer writePlan(t, file, original)
			for _, engine := range []string{"link", "criu"} {
				if r := s.Verify(t, program, engine); r.OK {
					t.Errorf("verify --engine %s finds nothing", engine)
				} else {
					t.Logf("%s: %s", engine, r.Failures[0])
				}
			}
		})
	}
	if r := s.Verify(t, program, "criu"); !r.OK {
		t.Errorf("when the damage is repaired: %q", r.Failures)
	}

	// What it would not ask for any more, or ask for wrongly, so that it started where
	// it must not, and what only some starts need.
	for _, tc := range []struct {
		field  string
		change func(p *plan.Plan)
	}{
		{"VDSO.BuildLen", func(p *plan.Plan) { p.VDSO.BuildLen = 0 }},
		{"VDSO.BuildID", func(p *plan.Plan) { p.VDSO.BuildID[3] ^= 1 }},
		{"VDSO.Parts", func(p *plan.Plan) { p.VDSO.Parts[0] += 0x1000; p.VDSO.Parts[1] -= 0x1000 }},
		{"Caller.MachineSum", func(p *plan.Plan) { p.Caller.MachineSum ^= 1 }},
		{"Caller.XCR0", func(p *plan.Plan) { p.Caller.XCR0 = 0 }},
		{"Caller.MapsEnd", func(p *plan.Plan) { p.Caller.MapsEnd += 1 << 20 }},
		{"Caller.HWCap2", func(p *plan.Plan) { p.Caller.HWCap2 ^= 1 }},
		{"CPUID[1].Value", func(p *plan.Plan) { p.CPUID[1].Value[0]++ }},
		{"number of CPUID", func(p *plan.Plan) { p.CPUID = p.CPUID[1:] }},
		{"Flags", func(p *plan.Plan) { p.Flags ^= plan.FlagNeedsExe }},
		{"Flags", func(p *plan.Plan) { p.Flags ^= plan.FlagOwnPath }},
		{"Flags", func(p *plan.Plan) { p.Flags ^= plan.FlagCheckExec }},
		{"Flags", func(p *plan.Plan) { p.Flags ^= plan.FlagKeepBrk }},
		{"Files[0].ID.Ctime", func(p *plan.Plan) { p.Program().ID.Ctime++ }},
		{fmt.Sprintf("Files[%d].Flags", len(original.Files)-1), func(p *plan.Plan) { p.Pages().Flags, p.Pages().Path = 0, pagesPath }},
		{"Maps.Flags", func(p *plan.Plan) { p.Pages().Maps[0].Flags ^= unix.MAP_NORESERVE }},
		{"number of Checks", func(p *plan.Plan) { p.Checks = p.Checks[1:] }},
		{"Checks[0].ID.Mtime", func(p *plan.Plan) { p.Checks[0].ID.Mtime++ }},
		{"number of Directories", func(p *plan.Plan) { p.Directories = append(p.Directories, p.Directories...) }},
		{"MM.BrkBase", func(p *plan.Plan) { p.MM.BrkBase = p.MM.StartCode }},
		{"MM.EndData", func(p *plan.Plan) { p.MM.EndData += 8 }},
		{"Kernel.RobustLen", func(p *plan.Plan) { p.Kernel.RobustLen = 0 }},
		{"Entry.SigReturn", func(p *plan.Plan) { p.Entry.SigReturn = 0 }},
		{"Entry.RBX", func(p *plan.Plan) { p.Entry.RBX = 1 }},
		{"Stop.Addr", func(p *plan.Plan) { p.Stop.Addr++ }},
		{"Stop.Point", func(p *plan.Plan) { p.Stop.Point = plan.StopEntry }},
		{"Real", func(p *plan.Plan) { p.Real = "/bin/c-main" }},
		{"number of Layouts", func(p *plan.Plan) { p.Layouts = []string{"images/x/plan"} }},
	} {
		t.Run(tc.field, func(t *testing.T) {
			p, err := plan.Read(file)
			if err != nil {
				t.Fatal(err)
			}
			tc.change(p)
			writePlan(t, file, p)
			defer writePlan(t, file, original)
			r := s.Verify(t, program, "link")
			want := "the plan's " + tc.field + " "
			switch tc.field { // what list and check find as well
			case "Files[0].ID.Ctime":
				want = "its plan is of another state of the program"
			case fmt.Sprintf("Files[%d].Flags", len(original.Files)-1):
				want = "its plan maps pages from outside of the image"
			case "number of Layouts":
				want = "its plan has 1 other layout instead of 0"
			}
			if said := strings.Join(r.Failures, "\n"); r.OK || !strings.Contains(said, want) {
				t.Errorf("ok %v, failures %q", r.OK, said)
			}
		})
	}

	// And without a plan that agrees a start is a normal one, which verify says.
	flip(t, pagesPath, 0)
	if r := s.Verify(t, program, "link"); r.OK || !strings.Contains(strings.Join(r.Failures, "\n"), "was changed") {
		t.Errorf("changed pages: %q", r.Failures)
	}
}

// known reports whether a word is corrected or the kernel's.
func known(p *plan.Plan, addr uint64) bool {
	for _, f := range p.Fixups {
		if f.Addr&^7 == addr&^7 {
			return true
		}
	}
	return addr >= p.Kernel.RseqAddr && addr < p.Kernel.RseqAddr+uint64(p.Kernel.RseqLen)
}

func hex(n uint64) string {
	const digits = "0123456789abcdef"
	s := ""
	for ; n > 0; n /= 16 {
		s = string(digits[n%16]) + s
	}
	return "0x" + s
}

// TestVerifyBoundCalls has an image in which calls are bound ahead of their first time:
// verify knows them, and finds one that leads elsewhere.
func TestVerifyBoundCalls(t *testing.T) {
	kit.RequireCRIU(t)
	s := kit.NewStore(t, kit.Dir(t))
	program := kit.BuildLazy(t, false)
	s.Do(t, "add", program)
	words := 0
	r := s.Verify(t, program, "link")
	for _, d := range r.Differences {
		if d.Class == "functions that were looked up ahead of their first call" {
			words = d.Words
		}
	}
	if !r.OK || words < 5 {
		t.Errorf("ok %v, %d calls are bound ahead; failures %q", r.OK, words, r.Failures)
	}

	file := s.Plan(t, program)
	p, err := plan.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	pages := p.Pages()
	at := func(name string) int64 {
		addr := lazySlot(t, program, name) + p.Entry.ProgramEntry
		for _, m := range pages.Maps {
			if addr >= m.Addr && addr < m.Addr+m.Len {
				return int64(m.Off + addr - m.Addr)
			}
		}
		t.Fatalf("the slot of %s is not in CRIU's pages", name)
		return 0
	}
	var one, other [8]byte
	f, err := os.OpenFile(filepath.Join(s.Dir, pages.Path), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, b := at("library_plain"), at("library_interposed")
	for _, err := range []error{readAt(f, one[:], a), readAt(f, other[:], b), writeAt(f, other[:], a), writeAt(f, one[:], b)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	writePlan(t, file, p)
	if r := s.Verify(t, program, "link"); r.OK || len(r.Failures) != 2 {
		t.Errorf("two calls lead to each other's function: ok %v, failures %q", r.OK, r.Failures)
	}
}

func readAt(f *os.File, b []byte, off int64) error {
	_, err := f.ReadAt(b, off)
	return err
}

func writeAt(f *os.File, b []byte, off int64) error {
	_, err := f.WriteAt(b, off)
	return err
}

// lazySlot is where a position-independent program has the slot of a function, as a
// distance from its entry.
func lazySlot(t *testing.T, program, name string) uint64 {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := f.Section(".rela.plt").Data()
	if err != nil {
		t.Fatal(err)
	}
	relocations := make([]elf.Rela64, len(raw)/24)
	if _, err := binary.Decode(raw, binary.LittleEndian, relocations); err != nil {
		t.Fatal(err)
	}
	for _, r := range relocations {
		if n := elf.R_SYM64(r.Info); n > 0 && symbols[n-1].Name == name {
			return r.Off - f.Entry
		}
	}
	t.Fatalf("%s has no slot of %s", program, name)
	return 0
}

// flip turns over a byte of a file in place.
func flip(t *testing.T, path string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x81
	if _, err := f.WriteAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
}

// writePlan writes a plan in place, with the identity that CRIU's pages have
// now.
func writePlan(t *testing.T, file string, p *plan.Plan) {
	t.Helper()
	last := p.Pages()
	// Of a plan in images/<id>.
	id, err := linux.StatID(filepath.Join(filepath.Dir(file), filepath.Base(last.Path)))
	if err != nil {
		t.Fatal(err)
	}
	last.ID = id
	raw, err := p.Encode()
	if err == nil {
		err = os.WriteFile(file, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
