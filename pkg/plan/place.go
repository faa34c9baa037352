package plan

import (
	"sort"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

const (
	// stacksFrom is the lowest address at which a new process can have its stack:
	// below the end of the address space by the randomisation, 16 GiB, the most that
	// arguments take, 6 MiB, and something to spare (arch/x86/mm/mmap.c,
	// stack_maxrandom_size; fs/exec.c, bprm_stack_limits).
	stacksFrom = addressEnd - 16<<30 - 128<<20

	// LauncherSpan is what a launcher file may take, from where it is linked. Above
	// it another mapping may stand.
	LauncherSpan = 64 << 10
	// planGap is kept free below the launcher, and below that is the plan
	// (pkg/launcher/src/caller.c, PLAN_GAP).
	planGap = 144 << 10
	// shadowed is how much memory a hypervisor that keeps shadow page tables maps at
	// a fault, if all of it from its aligned beginning can be read and is in the
	// guest's page table (arch/x86/kvm/mmu/mmu.c, PTE_PREFETCH_NUM, 8 pages).
	shadowed = 32 << 10
)

// LauncherPlace returns where a launcher file is linked best, if its image has these
// layouts, the first of which is the most important, and plans of at most planSize
// bytes: beside the image, so that the launcher and the plan share the page tables
// that the program needs anyway. Page tables of their own cost more than everything
// else that the launcher touches, most of all where a hypervisor has to follow each
// change of them. Where there is no such place it is LauncherBase.
//
// The kernel maps an executable at its place or kills the process, so it is none
// where a stack can be, the only mapping that is there before.
func LauncherPlace(planSize int, layouts ...*Plan) uint64 {
	below := planGap + roundUp(uint64(planSize), pageSize)
	maps := layouts[0].allMaps()
	written := writtenTables(maps)
	place := uint64(LauncherBase)
	for _, g := range gapsBeside(maps) {
		at, ok := g.highest(below)
		switch {
		case !ok || meets(layouts[1:], at-below, at+LauncherSpan):
		case written[(at-below)/linux.TableSpan]:
			return at
		case place == LauncherBase:
			place = at
		}
	}
	return place
}

// writtenTables are the page tables of the last level, by number, that a start needs for
// certain: those of what is written.
func writtenTables(maps []Map) map[uint64]bool {
	tables := map[uint64]bool{}
	for _, m := range maps {
		if m.Prot&unix.PROT_WRITE != 0 {
			tables[m.Addr/linux.TableSpan] = true
		}
	}
	return tables
}

// A gap is where nothing is mapped, between two addresses.
type gap struct {
	from, to uint64
}

// gapsBeside are for each mapping, in the order of their addresses, the gaps below and
// above it, as far as the page tables of its own beginning and end reach.
func gapsBeside(maps []Map) []gap {
	var gaps []gap
	for i, m := range maps {
		end := m.Addr + m.Len
		below, above := gap{0, m.Addr}, gap{end, stacksFrom}
		if i > 0 {
			below.from = maps[i-1].Addr + maps[i-1].Len
		}
		if i < len(maps)-1 {
			above.to = maps[i+1].Addr
		}
		below.from = max(below.from, roundDown(m.Addr, linux.TableSpan))
		above.to = min(above.to, roundUp(end, linux.TableSpan))
		gaps = append(gaps, below, above)
	}
	return gaps
}

// highest is the highest address in the gap at which a launcher file can be linked,
// with below bytes free below it.
func (g gap) highest(below uint64) (at uint64, ok bool) {
	if g.from == 0 || g.to > stacksFrom || g.to < g.from+below+LauncherSpan {
		return 0, false
	}
	at = roundDown(g.to-LauncherSpan, shadowed)
	return at, at >= g.from+below
}

// meets reports whether one of the layouts maps something between two addresses.
func meets(layouts []*Plan, from, to uint64) bool {
	for _, p := range layouts {
		for _, m := range p.allMaps() {
			if m.Addr < to && m.Addr+m.Len > from {
				return true
			}
		}
	}
	return false
}

func roundDown(n, to uint64) uint64 { return n / to * to }

func roundUp(n, to uint64) uint64 { return (n + to - 1) / to * to }

// allMaps are the mappings of an image and the vDSO's place, in the order of their
// addresses.
func (p *Plan) allMaps() []Map {
	maps := append([]Map(nil), p.Anon...)
	for _, f := range p.Files {
		maps = append(maps, f.Maps...)
	}
	if p.VDSO.Len != 0 { // it is moved to its place, over whatever is there
		maps = append(maps, Map{Addr: p.VDSO.Addr, Len: p.VDSO.Len})
	}
	sort.Slice(maps, func(i, j int) bool { return maps[i].Addr < maps[j].Addr })
	return maps
}
