package plan

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/problem"
)

// Source is what a plan is compiled from.
type Source struct {
	Plan // everything that is known already: names, checks, kernel, entry without its gadgets

	Exe       string // the path of the executable that is mapped; empty if it is Path
	ProgramID FileID // with Exe: of Path, of which nothing is mapped

	Linker  string // the path of the dynamic linker
	Areas   []Area // the image's mappings in address order, without the kernel's stack, vDSO and vsyscall
	Runs    []Run  // where CRIU's pages are, in address order
	Pages   io.ReaderAt
	PagesAt string // the name, from the store's directory, that CRIU's pages will have when the plan is carried out
	PagesID FileID
}

// Area is a mapping of the template, as CRIU saw it.
type Area struct {
	Start, End uint64
	Prot       uint32 // PROT_*
	Path       string // the path to open; empty for an anonymous mapping
	Off        uint64 // in the file, bytes
	ID         FileID
	Shared     bool // MAP_SHARED
	Grows      bool // MAP_GROWSDOWN: the template's stack
}

// Run is a run of pages that CRIU's pages-*.img holds: Len bytes of memory at
// Addr stand at the offset Off.
type Run struct {
	Addr, Len, Off uint64
}

// exe is the path of the executable that is mapped.
func (src *Source) exe() string {
	if src.Exe != "" {
		return src.Exe
	}
	return src.Path
}

func (r Run) end() uint64 { return r.Addr + r.Len }

// Unusable says why an image cannot be started by the launcher.
func Unusable(format string, args ...any) error {
	return problem.Errorf("the image cannot be used: "+format, args...).
		WithHint("leave it as it is: it starts normally, as before")
}

// Compile makes the plan: each area is put together from the file that it
// shows, from CRIU's pages where they differ from it, and from fresh memory.
// Pages of CRIU's are never mapped executable: one in a text area must equal
// the file (CRIU's own injection copies it) and is left out.
func Compile(src *Source) (*Plan, error) {
	c := compiler{src: src, files: map[string]int{}}
	p := src.Plan
	for _, a := range src.Areas {
		if err := c.area(a); err != nil {
			return nil, err
		}
	}
	for _, f := range src.Fixups {
		if !c.held(f.Addr) {
			return nil, Unusable("the word at %#x belongs to the process, but CRIU dumped no page there", f.Addr)
		}
	}
	if n := slices.IndexFunc(src.Runs, func(r Run) bool { return !c.inArea(r) }); n >= 0 {
		return nil, Unusable("CRIU dumped pages at %#x, where nothing is mapped", src.Runs[n].Addr)
	}
	if p.Flags&FlagSlowFaults != 0 {
		c.populateFiles()
	}
	p.Anon, p.Protects, p.Copies = c.anon, c.protects, c.copied
	p.Files = append(c.mapped, MappedFile{Path: src.PagesAt, Flags: FilePages, ID: src.PagesID, Maps: c.pages})
	if err := src.programFirst(&p); err != nil {
		return nil, err
	}
	for _, a := range src.Areas {
		p.Caller.MapsEnd = max(p.Caller.MapsEnd, a.End)
	}
	p.Caller.MapsEnd = max(p.Caller.MapsEnd, p.VDSO.Addr+p.VDSO.Len)
	if err := findGadgets(&p.Entry, src.Areas); err != nil {
		return nil, err
	}
	var damaged *DamagedError
	if err := p.check(); errors.As(err, &damaged) {
		return nil, Unusable("%s", damaged.What)
	} else if err != nil {
		return nil, err
	}
	return &p, nil
}

type compiler struct {
	src      *Source
	mapped   []MappedFile
	files    map[string]int // path: index in mapped
	pages    []Map
	anon     []Map
	protects []Protect
	copied   []Map  // what a growing stack holds
	copies   uint64 // bytes of writable pages that are populated
}

// area puts one mapping together.
func (c *compiler) area(a Area) error {
	runs := overlap(c.src.Runs, a)
	if a.Prot&unix.PROT_EXEC != 0 && len(runs) > 0 {
		if a.Path == "" || a.Prot&unix.PROT_WRITE != 0 {
			return Unusable("there is executable memory at %#x that no file holds", a.Start)
		}
		for _, r := range runs {
			if err := c.sameAsFile(a, r); err != nil {
				return err
			}
		}
		runs = nil
	}
	if a.Shared && len(runs) > 0 {
		return Unusable("the shared mapping at %#x is not what its file holds", a.Start)
	}
	if a.Grows {
		c.stack(a, runs)
		return nil
	}
	at := a.Start
	for _, r := range runs {
		c.base(a, at, r.Addr)
		c.image(a, r)
		at = r.end()
	}
	c.base(a, at, a.End)
	return nil
}

// stack maps a stack, which a file cannot back where it has to grow: pages are copied to it.
func (c *compiler) stack(a Area, runs []Run) {
	c.anon = append(c.anon, Map{Addr: a.Start, Len: a.End - a.Start, Prot: a.Prot,
		Flags: unix.MAP_PRIVATE | unix.MAP_FIXED_NOREPLACE | unix.MAP_ANONYMOUS | unix.MAP_GROWSDOWN | unix.MAP_STACK | unix.MAP_NORESERVE})
	for _, r := range runs {
		c.copied = append(c.copied, Map{Addr: r.Addr, Len: r.Len, Off: r.Off})
	}
}

// base maps [from, to) of the area from its file, or fresh.
func (c *compiler) base(a Area, from, to uint64) {
	if from == to {
		return
	}
	m := Map{Addr: from, Len: to - from, Prot: a.Prot, Flags: unix.MAP_PRIVATE | unix.MAP_FIXED_NOREPLACE}
	if a.Path == "" {
		m.Flags |= unix.MAP_ANONYMOUS
		if c.src.Kind == KindLinked && a.End-a.Start <= populateFresh && c.isProgramBSS(a) {
			m.Flags |= unix.MAP_POPULATE
		}
		c.anon = append(c.anon, m)
		return
	}
	if a.Shared {
		m.Flags = unix.MAP_SHARED | unix.MAP_FIXED_NOREPLACE
	}
	m.Off = a.Off + (from - a.Start)
	i, ok := c.files[a.Path]
	if !ok {
		i = len(c.mapped)
		c.files[a.Path] = i
		c.mapped = append(c.mapped, MappedFile{Path: a.Path, ID: a.ID})
		if a.Path == c.src.Linker {
			c.mapped[i].Flags |= FileLinker
		}
	}
	c.mapped[i].Maps = append(c.mapped[i].Maps, m)
}

// isProgramBSS reports whether an anonymous area is the program's .bss, which the kernel
// maps right after its data (fs/binfmt_elf.c, elf_load).
func (c *compiler) isProgramBSS(a Area) bool {
	return slices.ContainsFunc(c.src.Areas, func(data Area) bool {
		return data.Path == c.src.exe() && data.Prot&unix.PROT_WRITE != 0 && data.End == a.Start
	})
}

// How long a run of CRIU's pages may be, in bytes, to be there from the start
// (MAP_POPULATE) instead of coming page by page: of those that short a program
// touches nearly all anyway. Counted over an empty C program, perl, bash, git, curl
// and ffmpeg at their end, 87 of 100 pages of writable runs up to this length had
// been written, of longer ones 39; of read-only ones 99 had been read, of longer
// ones 48. A page fault costs 0.5 µs, in some virtual machines 15; this is done in
// calls that are made in any case.
//
// It holds for linked images. How much of a warm one's memory a program touches is not
// known by the length of its runs.
//
// Written pages are copies: an image has at most populateCopies bytes of them, since
// of a program of many libraries a good part is written only at its end. Where page
// faults are slow (FlagSlowFaults) it has three times as many: a page that is read
// first and written then takes two of them.
const (
	populateWritten    = 4 * pageSize
	populateRead       = 16 * pageSize
	populateCopies     = 128 * pageSize
	populateCopiesSlow = 3 * populateCopies
)

// populateFresh is how long the program's .bss may be for its fresh memory to be there
// from the start: perl, gcc, make, ls, tar, find and ssh have 18 such pages, of which they
// write 16. Of longer ones, and of the libraries', fewer than half are written.
const populateFresh = 8 * pageSize

// populateText is how many bytes of text are wholly there from the start where page
// faults are slow.
const populateText = 2048 * pageSize

// faultAround is the memory around a page fault that the kernel maps with it, if the
// file is in the page cache (mm/memory.c, fault_around_pages; aligned).
const faultAround = 64 << 10

// populateMiddle is how much between the two ends of a text is populated with them.
const populateMiddle = 2 * faultAround

// image maps a run from CRIU's pages. Where a word in it has to be corrected
// it is writable until that is done.
func (c *compiler) image(a Area, r Run) {
	m := Map{Addr: r.Addr, Len: r.Len, Off: r.Off, Prot: a.Prot, Flags: unix.MAP_PRIVATE | unix.MAP_FIXED_NOREPLACE}
	if a.Prot&unix.PROT_WRITE == 0 && slices.ContainsFunc(c.src.Fixups, func(f Fixup) bool {
		return f.Addr >= r.Addr && f.Addr < r.end()
	}) {
		m.Prot |= unix.PROT_READ | unix.PROT_WRITE
		c.protects = append(c.protects, Protect{Addr: r.Addr, Len: r.Len, Prot: a.Prot})
	}
	copies := uint64(populateCopies)
	if c.src.Flags&FlagSlowFaults != 0 {
		copies = populateCopiesSlow
	}
	switch writable := m.Prot&unix.PROT_WRITE != 0; {
	case c.src.Kind != KindLinked:
	case writable && m.Len <= populateWritten && c.copies+m.Len <= copies:
		c.copies += m.Len
		m.Flags |= unix.MAP_POPULATE
	case !writable && m.Len <= populateRead:
		m.Flags |= unix.MAP_POPULATE
	}
	c.pages = append(c.pages, m)
}

// populateFiles lets the text of the program, of the dynamic linker and of the C library
// be there from the start, the smaller first, as far as populateText goes; of all other
// text the two ends, where the code stands that each library executes when it is
// initialised and at the program's end (.init and the PLT, .fini). Of ffmpeg's 340 faults
// in such text 247 were there. Of constants too few are read to pay for it, and symbols
// and relocations are not needed any more; only the beginning of the program, its
// headers, is read in each start, by the dynamic linker after the stop point.
func (c *compiler) populateFiles() {
	var maps []*Map
	for i := range c.mapped {
		if path := c.mapped[i].Path; path != c.src.exe() && path != c.src.Linker && !isLibC(path) {
			continue
		}
		for k := range c.mapped[i].Maps {
			if m := &c.mapped[i].Maps[k]; m.Prot&unix.PROT_EXEC != 0 {
				maps = append(maps, m)
			}
		}
	}
	slices.SortStableFunc(maps, func(a, b *Map) int { return cmp.Compare(a.Len, b.Len) })
	total := uint64(0)
	for _, m := range maps {
		if total += m.Len; total > populateText {
			break
		}
		m.Flags |= unix.MAP_POPULATE
	}
	for i := range c.mapped {
		var cut []Map
		for _, m := range c.mapped[i].Maps {
			switch {
			case m.Flags&unix.MAP_POPULATE != 0:
				cut = append(cut, m)
			case m.Prot&unix.PROT_EXEC != 0:
				cut = append(cut, populateEnds(m, true)...)
			case c.mapped[i].Path == c.src.exe() && m.Off == 0 && m.Prot&unix.PROT_WRITE == 0:
				cut = append(cut, populateEnds(m, false)...)
			default:
				cut = append(cut, m)
			}
		}
		c.mapped[i].Maps = cut
	}
}

// populateEnds cuts a mapping into its beginning and its end, which are there from the
// start, as much of them as a page fault would map, and the rest. The kernel joins them
// again. A short rest is not left out: two more calls take longer.
func populateEnds(m Map, both bool) []Map {
	end := m.Addr + m.Len
	head, tail := min(m.Addr/faultAround*faultAround+faultAround, end), end
	if both {
		tail = max(head, (end-1)/faultAround*faultAround)
	}
	if both && tail-head <= populateMiddle {
		head, tail = end, end
	}
	var parts []Map
	for _, p := range []struct {
		from, to uint64
		flags    uint32
	}{{m.Addr, head, unix.MAP_POPULATE}, {head, tail, 0}, {tail, end, unix.MAP_POPULATE}} {
		if p.from < p.to {
			parts = append(parts, Map{Addr: p.from, Len: p.to - p.from, Off: m.Off + (p.from - m.Addr), Prot: m.Prot, Flags: m.Flags | p.flags})
		}
	}
	return parts
}

// sameAsFile compares dumped text with the file that it was mapped from.
func (c *compiler) sameAsFile(a Area, r Run) error {
	dumped, want := make([]byte, r.Len), make([]byte, r.Len)
	if _, err := c.src.Pages.ReadAt(dumped, int64(r.Off)); err != nil {
		return fmt.Errorf("read the dumped text at %#x: %w", r.Addr, err)
	}
	if err := readText(a, r.Addr-a.Start, want); err != nil {
		return err
	}
	if !bytes.Equal(dumped, want) {
		return Unusable("the text at %#x is not what %s holds", r.Addr, a.Path)
	}
	return nil
}

// held reports whether a dumped page holds the word.
func (c *compiler) held(addr uint64) bool {
	in := func(m Map) bool { return addr >= m.Addr && addr < m.Addr+m.Len }
	return slices.ContainsFunc(c.pages, in) || slices.ContainsFunc(c.copied, in)
}

func (c *compiler) inArea(r Run) bool {
	at := r.Addr
	for _, a := range c.src.Areas {
		if a.Start <= at && at < a.End {
			at = min(a.End, r.end())
		}
	}
	return at == r.end()
}

// overlap cuts the runs to the area; runs that follow each other in memory and
// in the file become one.
func overlap(runs []Run, a Area) []Run {
	var out []Run
	for _, r := range runs {
		from, to := max(r.Addr, a.Start), min(r.end(), a.End)
		if from >= to {
			continue
		}
		cut := Run{Addr: from, Len: to - from, Off: r.Off + (from - r.Addr)}
		if n := len(out); n > 0 && out[n-1].end() == cut.Addr && out[n-1].Off+out[n-1].Len == cut.Off {
			out[n-1].Len += cut.Len
			continue
		}
		out = append(out, cut)
	}
	return out
}

// programFirst moves the program to where the launcher expects it. A script comes before
// its interpreter.
func (src *Source) programFirst(p *Plan) error {
	i := slices.IndexFunc(p.Files, func(f MappedFile) bool { return f.Path == src.exe() })
	if i < 0 {
		return Unusable("nothing of %s is mapped", src.exe())
	}
	exe := p.Files[i]
	exe.Flags |= FileExe
	first := []MappedFile{exe}
	if exe.Path == p.Path {
		first[0].Flags |= FileProgram
	} else {
		first = slices.Insert(first, 0, MappedFile{Path: p.Path, Flags: FileProgram, ID: src.ProgramID})
	}
	p.Files = slices.Insert(slices.Delete(p.Files, i, i+1), 0, first...)
	return nil
}

// Machine code that the launcher borrows from the image's own text.
var (
	syscallRet = []byte{0x0f, 0x05, 0xc3} // syscall; ret
	// sigReturn is how C libraries return from a signal handler: glibc
	// sysdeps/unix/sysv/linux/x86_64/libc_sigaction.c (restore_rt), musl
	// src/signal/x86_64/restore.s: mov $15, %rax; syscall.
	sigReturn = []byte{0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05}
)

// findGadgets looks in the dynamic linker first and then in the C library,
// which between them have both in every release seen. Without a way to return
// from signals only /proc/self/exe cannot be set.
func findGadgets(e *Entry, areas []Area) error {
	text := slices.DeleteFunc(slices.Clone(areas), func(a Area) bool {
		return a.Prot&unix.PROT_EXEC == 0 || a.Path == ""
	})
	rank := func(a Area) int {
		switch {
		case a.Start <= e.RIP && e.RIP < a.End:
			return 0
		case isLibC(a.Path):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(text, func(a, b Area) int { return rank(a) - rank(b) })
	for _, a := range text {
		if e.Gadget != 0 && (e.SigReturn != 0 || rank(a) == 2) {
			break
		}
		code := make([]byte, a.End-a.Start)
		if err := readText(a, 0, code); err != nil {
			return err
		}
		if i := bytes.Index(code, syscallRet); i >= 0 && e.Gadget == 0 {
			e.Gadget = a.Start + uint64(i)
		}
		if i := bytes.Index(code, sigReturn); i >= 0 && e.SigReturn == 0 {
			e.SigReturn = a.Start + uint64(i)
		}
	}
	if e.Gadget == 0 {
		return Unusable("no text in it has a system call that returns")
	}
	return nil
}

// isLibC reports whether a library is the C library, by its name.
func isLibC(path string) bool {
	name := filepath.Base(path)
	return strings.HasPrefix(name, "libc.") || strings.HasPrefix(name, "ld-musl")
}

// readText reads what the area shows of its file, from skip bytes after its
// start; beyond the file's end there are zeroes, as in the mapping.
func readText(a Area, skip uint64, into []byte) error {
	f, err := os.Open(a.Path)
	if err != nil {
		return fmt.Errorf("read the text of the image: %w", err)
	}
	defer f.Close()
	if _, err := f.ReadAt(into, int64(a.Off+skip)); err != nil && err != io.EOF {
		return fmt.Errorf("read the text of the image: %s: %w", a.Path, err)
	}
	return nil
}
