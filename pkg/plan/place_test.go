package plan

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

func TestLauncherPlace(t *testing.T) {
	const (
		program = 0x555555400000 // a table begins here
		library = 0x7f0000000000
		planLen = 3*pageSize + 8
		below   = planGap + 4*pageSize
		// The first aligned place after a program of one page and the plan.
		between = program + (0x1000+below+shadowed-1)/shadowed*shadowed
	)
	image := func(maps ...Map) *Plan { return &Plan{Files: []MappedFile{{Maps: maps}}} }
	text := func(at, length uint64) Map { return Map{Addr: at, Len: length, Prot: unix.PROT_READ | unix.PROT_EXEC} }
	data := func(at, length uint64) Map { return Map{Addr: at, Len: length, Prot: unix.PROT_READ | unix.PROT_WRITE} }
	tests := []struct {
		name    string
		layouts []*Plan
		want    uint64
	}{
		{"below the program", []*Plan{image(data(program+0x100000, 0x1000))}, program + 0x100000 - LauncherSpan},
		{"after it, for want of room below", []*Plan{image(data(program+0x1000, 0x1000))}, program + linux.TableSpan - LauncherSpan},
		{"where the tables are needed for certain",
			[]*Plan{image(text(program+0x100000, 0x1000), data(library, 0x1000))}, library + linux.TableSpan - LauncherSpan},
		{"beside text, where nothing is written", []*Plan{image(text(program+0x100000, 0x1000))}, program + 0x100000 - LauncherSpan},
		{"between two mappings",
			[]*Plan{image(data(program, 0x1000), data(between+LauncherSpan, linux.TableSpan))}, between},
		{"the gap is a page too narrow",
			[]*Plan{image(data(program, 0x1000), data(between+LauncherSpan-0x1000, linux.TableSpan))},
			program + 2*linux.TableSpan - LauncherSpan},
		{"not over another layout", []*Plan{image(data(program+0x100000, 0x1000)), image(text(program+0xf0000, 0x1000))},
			program + linux.TableSpan - LauncherSpan},
		{"beside the vDSO's place",
			[]*Plan{{Files: []MappedFile{{Maps: []Map{data(program+0x100000, 0x1000)}}}, VDSO: VDSO{Addr: program + 0xf0000, Len: 0x6000}}},
			program + 0xf0000 - LauncherSpan},
		{"not where a stack can be", []*Plan{image(data(stacksFrom+0x100000, 0x1000))}, LauncherBase},
		{"nowhere", []*Plan{image(data(program, linux.TableSpan))}, LauncherBase},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got := LauncherPlace(planLen, tc.layouts...)
			if got != tc.want {
				t.Errorf("%#x, want %#x", got, tc.want)
			}
			for _, p := range tc.layouts {
				for _, m := range p.allMaps() {
					if m.Addr < got+LauncherSpan && m.Addr+m.Len > got-below {
						t.Errorf("%#x is in the mapping at %#x", got, m.Addr)
					}
				}
			}
		})
	}
}

// TestPlanGap: the launcher's own number.
func TestPlanGap(t *testing.T) {
	source, err := os.ReadFile("../launcher/src/caller.c")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^#define PLAN_GAP\s+(\d+)UL$`).FindSubmatch(source)
	if found == nil || string(found[1]) != strconv.Itoa(planGap) {
		t.Errorf("PLAN_GAP is %q, planGap %d", found, planGap)
	}
}
