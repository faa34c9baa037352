package linux

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
)

// PageRange is the addresses from Start up to, not including, End.
type PageRange struct{ Start, End uint64 }

// Len returns the number of bytes in r.
func (r PageRange) Len() uint64 { return r.End - r.Start }

// Bits of an entry of /proc/PID/pagemap (the kernel's
// Documentation/admin-guide/mm/pagemap.rst). They are shown to every process that
// may trace the process; only frame numbers are for root.
const (
	pagemapPresent = 1 << 63
	pagemapSwapped = 1 << 62
	pagemapFile    = 1 << 61 // of a file, or shared
)

// AnonPages finds the pages of a process that are its own: written, and not
// those of a file any more. Only the given mappings, which are in order, are
// looked at. Ranges next to each other are one.
func AnonPages(pid int, maps []Mapping) ([]PageRange, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var pages []PageRange
	var buf []byte
	for _, span := range spans(maps) {
		size := int(span.Len() / PageSize * 8)
		if cap(buf) < size {
			buf = make([]byte, size)
		}
		entries := buf[:size]
		r := io.NewSectionReader(f, int64(span.Start/PageSize*8), int64(size))
		if _, err := io.ReadFull(r, entries); err != nil {
			return nil, fmt.Errorf("read /proc/%d/pagemap at %#x: %w", pid, span.Start, err)
		}
		for i := 0; i < size; i += 8 {
			e := binary.LittleEndian.Uint64(entries[i:])
			if e&(pagemapPresent|pagemapSwapped) == 0 || e&pagemapFile != 0 {
				continue
			}
			addr := span.Start + uint64(i)/8*PageSize
			pages = appendRange(pages, PageRange{addr, addr + PageSize})
		}
	}
	return pages, nil
}

// spans joins mappings that touch, so that each needs one read only. It does
// not join so much that the answer takes more than 1 MiB.
func spans(maps []Mapping) []PageRange {
	const limit = 1 << 20 / 8 * PageSize
	var s []PageRange
	for _, m := range maps {
		for start := m.Start; start < m.End; start += min(limit, m.End-start) {
			r := PageRange{start, min(m.End, start+limit)}
			if n := len(s); n > 0 && s[n-1].End == r.Start && r.End-s[n-1].Start <= limit {
				s[n-1].End = r.End
				continue
			}
			s = append(s, r)
		}
	}
	return s
}

// UnionRanges returns every address that is in a or in b, both in order.
func UnionRanges(a, b []PageRange) []PageRange {
	var u []PageRange
	for len(a) > 0 || len(b) > 0 {
		if len(b) == 0 || len(a) > 0 && a[0].Start <= b[0].Start {
			u, a = appendRange(u, a[0]), a[1:]
		} else {
			u, b = appendRange(u, b[0]), b[1:]
		}
	}
	return u
}

// appendRange adds r, which starts at or after the last one's start, to
// ranges and joins what touches.
func appendRange(ranges []PageRange, r PageRange) []PageRange {
	if n := len(ranges); n > 0 && r.Start <= ranges[n-1].End {
		ranges[n-1].End = max(ranges[n-1].End, r.End)
		return ranges
	}
	return append(ranges, r)
}
