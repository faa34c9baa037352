package linkstop

import "github.com/residentctl/residentctl/internal/linux"

const (
	// tableReach is how much of the address space the page tables below one entry of
	// the fourth level describe (arch/x86/include/asm/pgtable_64_types.h, PGDIR_SIZE).
	tableReach = 512 << 30

	// layoutTries is how often the kernel is asked for another layout.
	layoutTries = 16
	// denseTables: libraries that need this many tables or more are left where they
	// are, since one more makes little difference to them.
	denseTables = 4
)

// A layoutWish is what is wanted of the addresses that the kernel chooses. It is known
// at the exec stop whether they are so.
type layoutWish struct {
	// nearStack: the libraries share page tables with the stack, which is in the last
	// 512 GiB of the address space. Half of all layouts are so with the usual 28
	// random bits (vm.mmap_rnd_bits).
	nearStack bool
	// span is how much the libraries will take, in bytes, down from the end of the
	// dynamic linker or the vDSO: they are to be in as few tables of the last level as
	// can be. 0 if that is not known yet.
	span uint64
}

func (w layoutWish) fulfilled(maps []linux.Mapping, sp uint64) bool {
	_, end := libraries(maps, sp)
	return (!w.nearStack || (end-1)/tableReach == sp/tableReach) && tables(end-w.span, end) == fewestTables(w.span)
}

// denserSpan is how much the libraries of a linked template take, if it is worth it to
// ask for another layout, in which they are in fewer tables; else 0.
func denserSpan(maps []linux.Mapping, sp uint64) uint64 {
	from, end := libraries(maps, sp)
	if span := end - from; fewestTables(span) < min(tables(from, end), denseTables) {
		return span
	}
	return 0
}

func tables(from, to uint64) uint64 {
	if from == to {
		return 0
	}
	return (to-1)/linux.TableSpan - from/linux.TableSpan + 1
}

func fewestTables(span uint64) uint64 { return (span + linux.TableSpan - 1) / linux.TableSpan }

// libraries is where everything is that the kernel places by itself, below the stack:
// the dynamic linker, the vDSO and, when it is linked, the libraries. Nothing of them is
// as far as linux.TableSpan from the next, and nothing else is so near.
func libraries(maps []linux.Mapping, sp uint64) (from, end uint64) {
	for i := len(maps) - 1; i >= 0; i-- {
		switch m := maps[i]; {
		case m.End > sp: // the stack, and what is above it
		case end == 0:
			from, end = m.Start, m.End
		case from-m.End < linux.TableSpan:
			from = m.Start
		default:
			return from, end
		}
	}
	return from, end
}
