package plan

import (
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	pageSize = 4096
	// addressEnd is the address after the last byte of user space with four-level page
	// tables (arch/x86/include/asm/page_64_types.h, TASK_SIZE_MAX).
	addressEnd = 1<<47 - pageSize

	// LauncherBase is where a launcher file is linked that no better place is known
	// for (see LauncherPlace): an odd place, far from the program, which stands low
	// or at 0x55…, and from the libraries at 0x7f….
	LauncherBase = 0x200000000000
	// launcherRoom is kept free on both sides of a place where a launcher
	// works: its plan, of at most 16 MiB, stands below it, and residentctl itself,
	// around the front door, has 41 MiB (32 of them are one buffer of Go's
	// crypto/rand that is never touched).
	launcherRoom = 64 << 20
)

// FrontDoorBase is where residentctl itself is linked (scripts/build): above
// the programs that are not position-independent and below 2 GiB, as Go's
// linker needs it; and 1 MiB above where a page table begins, which then describes
// the plan below it too.
const FrontDoorBase = 0x70100000

// check finds what would make a plan impossible or dangerous to carry out.
func (p *Plan) check() error {
	if len(p.Files) == 0 || p.Program().Flags&FileProgram == 0 {
		return damaged("the first file is not the program")
	}
	if n := countFiles(p.Files, FileExe); n != 1 {
		return damaged("%d files for /proc/self/exe", n)
	}
	if err := p.checkKind(); err != nil {
		return err
	}
	if err := p.checkShared(); err != nil {
		return err
	}
	for _, s := range p.paths() {
		if !strings.HasPrefix(s, "/") || strings.Contains(s, "\x00") || len(s) > 4095 {
			return damaged("%q is not an absolute path", s)
		}
	}
	for _, s := range p.names() {
		if !filepath.IsLocal(s) || strings.Contains(s, "\x00") || len(s) > 4095 {
			return damaged("%q is not the name of a file in a store", s)
		}
	}
	for _, c := range p.Checks {
		if p.isHere(c) && (!filepath.IsLocal(c.Path) || strings.Contains(c.Path, "\x00") || len(c.Path) > 4095) {
			return damaged("%q is not the name of a file below the working directory", c.Path)
		}
	}
	if len(p.ID) > 4095 || strings.Contains(p.ID, "\x00") {
		return damaged("the id %q", p.ID)
	}
	if err := p.checkAnswers(); err != nil {
		return err
	}
	maps := p.allMaps()
	var end uint64
	for _, m := range maps {
		switch {
		case m.Addr%pageSize != 0 || m.Len%pageSize != 0 || m.Off%pageSize != 0 || m.Len == 0:
			return damaged("the mapping at %#x is not made of pages", m.Addr)
		case m.Addr >= addressEnd || m.Len > addressEnd-m.Addr:
			return damaged("the mapping at %#x ends outside the address space", m.Addr)
		case m.Addr < end:
			return damaged("two mappings meet at %#x", m.Addr)
		}
		end = m.Addr + m.Len
		for _, base := range []uint64{LauncherBase, FrontDoorBase} {
			if m.Addr < base+launcherRoom && end > base-launcherRoom {
				return damaged("the mapping at %#x stands where the launcher works", m.Addr)
			}
		}
	}
	if end > p.Caller.MapsEnd {
		return damaged("mappings end at %#x, beyond the end that the stack is checked against", end)
	}
	return p.checkWords(maps)
}

func countFiles(files []MappedFile, flag uint32) (n int) {
	for _, f := range files {
		if f.Flags&flag != 0 {
			n++
		}
	}
	return n
}

// checkAnswers holds that one file at most has answers, and that they are strings.
func (p *Plan) checkAnswers() error {
	files := 0
	for _, c := range p.Checks {
		if len(c.Answers) > 0 {
			files++
		}
		for _, a := range c.Answers {
			texts := []string{a.Name}
			for _, l := range a.Entries {
				texts = append(texts, l.Path, l.Subdir)
			}
			for _, s := range texts {
				if len(s) > 4095 || strings.Contains(s, "\x00") {
					return damaged("the answer %q of %s", s, c.Path)
				}
			}
		}
	}
	if files > 1 {
		return damaged("answers of %d files", files)
	}
	return nil
}

// checkWords holds that every corrected word lies within a writable mapping and
// every protection within a mapping, and that the stop point and the jumps are in text.
func (p *Plan) checkWords(sorted []Map) error {
	within := contains(func(addr, size uint64, prot uint32) bool {
		i := sort.Search(len(sorted), func(i int) bool { return sorted[i].Addr+sorted[i].Len > addr })
		return i < len(sorted) && addr >= sorted[i].Addr && size <= sorted[i].Addr+sorted[i].Len-addr &&
			sorted[i].Prot&prot == prot
	})
	for _, f := range p.Fixups {
		if f.Kind >= FixKinds || (f.Size != 4 && f.Size != 8) || f.Addr%uint64(f.Size) != 0 ||
			!within(f.Addr, uint64(f.Size), unix.PROT_WRITE) {
			return damaged("the fix-up at %#x", f.Addr)
		}
	}
	for _, pr := range p.Protects {
		if pr.Addr%pageSize != 0 || pr.Len%pageSize != 0 || !within(pr.Addr, pr.Len, 0) {
			return damaged("the protection at %#x", pr.Addr)
		}
	}
	if p.Stop.Point < StopLinked || p.Stop.Point > StopWarm || !within(p.Stop.Addr, 1, unix.PROT_EXEC) {
		return damaged("the stop point %v at %#x", p.Stop.Point, p.Stop.Addr)
	}
	jumps := []uint64{p.Entry.RIP, p.Entry.Gadget}
	if p.Entry.SigReturn != 0 {
		jumps = append(jumps, p.Entry.SigReturn)
	}
	for _, ip := range jumps {
		if !within(ip, 1, unix.PROT_EXEC) {
			return damaged("the jump to %#x", ip)
		}
	}
	if err := p.checkSignals(within); err != nil {
		return err
	}
	return p.VDSO.check()
}

// check holds that the vDSO's parts make up the whole and that its build-id
// is in the first page of its code.
func (v *VDSO) check() error {
	var parts uint64
	for _, n := range v.Parts {
		if n%pageSize != 0 || n > v.Len-parts {
			return damaged("the vDSO's parts")
		}
		parts += n
	}
	if parts != v.Len || int(v.BuildLen) > len(v.BuildID) || uint64(v.BuildOff)+uint64(v.BuildLen) > pageSize ||
		v.Code < v.Addr || v.Code-v.Addr > v.Len || v.Len > 1<<20 || v.Addr%pageSize != 0 {
		return damaged("the vDSO's place")
	}
	return nil
}

// isHere reports whether a check is of what must not be in the working directory.
func (p *Plan) isHere(c CheckedFile) bool {
	return p.Kind == KindWarm && c.ID.Ino == 0 && !strings.HasPrefix(c.Path, "/")
}

// names are those that are named from the store's directory.
func (p *Plan) names() []string {
	names := slices.Clone(p.Layouts)
	for _, f := range p.Files {
		if f.Flags&FilePages != 0 {
			names = append(names, f.Path)
		}
	}
	return names
}

// paths are all others.
func (p *Plan) paths() []string {
	out := []string{p.Path, p.Real}
	if p.Executed != "" {
		out = append(out, p.Executed)
	}
	for _, f := range p.Files {
		if f.Flags&FilePages == 0 {
			out = append(out, f.Path)
		}
	}
	for _, c := range p.Checks {
		if !p.isHere(c) {
			out = append(out, c.Path)
		}
	}
	for _, f := range p.Directories {
		out = append(out, f.Path)
		out = append(out, f.Misses...)
	}
	return out
}
