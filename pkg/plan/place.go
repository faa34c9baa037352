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

// LauncherPlace is where a launcher file is linked best, if its image has these
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
	need := below + LauncherSpan
	free := func(from uint64) bool {
		for _, p := range layouts[1:] {
			for _, m := range p.allMaps() {
				if m.Addr < from+need && m.Addr+m.Len > from {
					return false
				}
			}
		}
		return true
	}
	maps := layouts[0].allMaps()
	written := map[uint64]bool{} // the tables that a start needs for certain
	for _, m := range maps {
		if m.Prot&unix.PROT_WRITE != 0 {
			written[m.Addr/linux.TableSpan] = true
		}
	}
	var second uint64
	for i, m := range maps {
		var from, to uint64 = 0, stacksFrom // of the gaps below and above it
		if i > 0 {
			from = maps[i-1].Addr + maps[i-1].Len
		}
		if i < len(maps)-1 {
			to = maps[i+1].Addr
		}
		end := m.Addr + m.Len
		for _, gap := range [][2]uint64{
			{max(from, m.Addr/linux.TableSpan*linux.TableSpan), m.Addr},
			{end, min(to, roundUp(end, linux.TableSpan))},
		} {
			at := (gap[1]-LauncherSpan)/shadowed*shadowed - below
			switch {
			case gap[1] < gap[0] || gap[1]-gap[0] < need || at < gap[0] || gap[1] > stacksFrom || gap[0] == 0 || !free(at):
			case written[at/linux.TableSpan]:
				return at + below
			case second == 0:
				second = at + below
			}
		}
	}
	if second != 0 {
		return second
	}
	return LauncherBase
}

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
