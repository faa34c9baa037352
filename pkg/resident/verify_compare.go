package resident

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/plural"
	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/linkstop"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/warmstop"
)

// A Difference is a class of words in which two processes may differ, and in
// how many of them they did.
type Difference struct {
	Class string `json:"class"`
	Words int    `json:"words"`
	// Fixup says that a start corrects these words, to values that were checked.
	Fixup bool `json:"fixup"`
}

// Classes of words besides linkstop's noise and the names of fix-ups. Whatever
// belongs to none is a failure.
const (
	classRseq = "the rseq area, which the kernel writes"
	// CPUID leaf 1, EBX bits 31 to 24, which glibc keeps with the rest of the
	// leaf and reads nowhere (sysdeps/x86/cpu-features.c).
	classAPIC = "the number of the CPU that the dynamic linker ran on"
	// What a start would write there at the first call.
	classBound = "functions that were looked up ahead of their first call"
)

// errLayout says that two processes cannot be compared word by word.
var errLayout = errors.New("the mappings do not correspond")

// side is one of two processes that are compared, standing still.
type side struct {
	pid    int
	maps   []linux.Mapping // all of them, in order
	values [plan.FixKinds]uint64
	anon   []linux.PageRange // pages that are no file's
}

// newSide looks at a process that is at its stop point.
func newSide(pid int, stack linux.InitialStack) (side, error) {
	s := side{pid: pid}
	var err error
	if s.maps, err = linux.ReadMaps(pid); err != nil {
		return s, err
	}
	if s.values, err = linkstop.FixupValues(pid, stack); err != nil {
		return s, err
	}
	own := slices.DeleteFunc(slices.Clone(s.maps), func(m linux.Mapping) bool { return m.Kernel() || isStack(m) })
	s.anon, err = linux.AnonPages(pid, own)
	return s, err
}

// isStack reports whether a mapping is a process's own stack. The stack of a warm image's
// template, which CRIU restores as one, is memory like any other.
func isStack(m linux.Mapping) bool { return m.Path == "[stack]" && !warmstop.Moved(m.Start) }

// stretch is a stretch of memory and what it shows.
type stretch struct {
	start, end uint64
	prot       uint32
	path       string // of a file, or ""
	off        uint64 // of start in the file
}

func (s stretch) String() string {
	return fmt.Sprintf("%s prot %d offset %#x", linux.Mapping{Start: s.start, End: s.end, Path: s.path}, s.prot, s.off)
}

// stretches are a process's mappings without those that are the process's own:
// the stack and [vsyscall]. The vDSO and its data pages are one.
func stretches(maps []linux.Mapping) []stretch {
	var all []stretch
	for _, m := range maps {
		s := stretch{start: m.Start, end: m.End, prot: uint32(m.Prot), path: m.Path, off: m.Offset}
		switch {
		case isStack(m) || m.Path == "[vsyscall]":
			continue
		case m.Kernel():
			s = stretch{start: m.Start, end: m.End, path: linux.VDSO, off: m.Start}
		case !filepath.IsAbs(m.Path): // a heap is memory like any other
			s.path, s.off = "", 0
		}
		all = append(all, s)
	}
	return joinStretches(all)
}

// imageStretches are the mappings that CRIU dumped.
func imageStretches(im *criuwrap.Image, vdso plan.VDSO) []stretch {
	all := []stretch{{start: vdso.Addr, end: vdso.Addr + vdso.Len, path: linux.VDSO, off: vdso.Addr}}
	for _, v := range im.VMAs {
		if !kernels(im.VMAs, v.Start) {
			all = append(all, stretch{v.Start, v.End, v.Prot, v.Path, v.Offset})
		}
	}
	slices.SortFunc(all, func(a, b stretch) int { return cmp.Compare(a.start, b.start) })
	return joinStretches(all)
}

// joinStretches joins what continues each other: the kernel may cut and join
// mappings in more than one way.
func joinStretches(all []stretch) []stretch {
	var out []stretch
	for _, s := range all {
		if n := len(out) - 1; n >= 0 {
			l := &out[n]
			if l.end == s.start && l.prot == s.prot && l.path == s.path && (s.path == "" || l.off+l.end-l.start == s.off) {
				l.end = s.end
				continue
			}
		}
		out = append(out, s)
	}
	return out
}

// sameStretches says in what two lists differ first.
func sameStretches(image, other []stretch) error {
	for i := range max(len(image), len(other)) {
		switch {
		case i >= len(image):
			return fmt.Errorf("%w: %s is not in the image", errLayout, other[i])
		case i >= len(other):
			return fmt.Errorf("%w: %s is only in the image", errLayout, image[i])
		case image[i] != other[i]:
			return fmt.Errorf("%w: %s in the image is %s in the other process", errLayout, image[i], other[i])
		}
	}
	return nil
}

// comparison compares a start from an image with another process that is to
// hold the same at the same addresses, word by word.
type comparison struct {
	plan        *plan.Plan
	pagesPath   string // of CRIU's pages, as /proc/PID/maps shows them
	image       []stretch
	trial, ref  side
	bound       map[uint64]uint64              // the addresses of functions that the other process has yet to bind, by slot
	noise       func(addr, word uint64) string // names words of the other process of which any value will do; may be nil
	differences map[string]int
	corrected   [plan.FixKinds]int
	pages       int
	unknown     []unknownWord
	more        int // unknown words besides
}

// unknownWord is a word that no class explains.
type unknownWord struct {
	addr, trial, ref uint64
	where            string
}

func (e unknownWord) String() string {
	if e.trial == e.ref {
		return fmt.Sprintf("the word at %#x (%s), %#x, belongs to the process and is not corrected", e.addr, e.where, e.trial)
	}
	return fmt.Sprintf("the word at %#x (%s) is %#x instead of %#x", e.addr, e.where, e.trial, e.ref)
}

// maxShown is how many unknown words are told one by one.
const maxShown = 8

// run compares everything: that the same files are mapped in the same places,
// and every page of which one of the two has a copy, or which is in CRIU's
// pages. What is left are pages of the same file on either side.
func (c *comparison) run() error {
	c.differences = map[string]int{}
	slices.SortFunc(c.plan.Fixups, func(a, b plan.Fixup) int { return cmp.Compare(a.Addr, b.Addr) })
	if err := sameStretches(c.image, stretches(c.ref.maps)); err != nil {
		return err
	}
	if err := c.sameFiles(); err != nil {
		return err
	}
	check := linux.UnionRanges(c.trial.anon, c.ref.anon)
	for _, m := range slices.Concat(c.plan.Pages().Maps, c.plan.Copies) {
		check = linux.UnionRanges(check, []linux.PageRange{{Start: m.Addr, End: m.Addr + m.Len}})
	}
	for _, r := range check {
		if err := c.compareRange(r); err != nil {
			return err
		}
	}
	return nil
}

// sameFiles holds that the resident start has the image's mappings, each with
// the file that the other process has there, unless it is CRIU's pages, which
// stand in for what another has as a copy.
func (c *comparison) sameFiles() error {
	i, covered := 0, uint64(0)
	for _, m := range stretches(c.trial.maps) {
		for at := m.start; at < m.end; {
			for i < len(c.image) && c.image[i].end <= at {
				i++
			}
			if i == len(c.image) || c.image[i].start > at {
				return fmt.Errorf("%w: %s is not in the image", errLayout, m)
			}
			in := c.image[i]
			if m.prot != in.prot {
				return fmt.Errorf("%w: %s has not the protection of %s", errLayout, m, in)
			}
			if m.path != c.pagesPath && m.path != "" && (m.path != in.path || m.off+(at-m.start) != in.off+(at-in.start)) {
				return fmt.Errorf("%w: %s shows another file than %s", errLayout, m, in)
			}
			if m.path == "" && in.path != "" {
				return fmt.Errorf("%w: %s does not show the file of %s", errLayout, m, in)
			}
			covered += min(m.end, in.end) - at
			at = min(m.end, in.end)
		}
	}
	for _, in := range c.image {
		covered -= in.end - in.start
	}
	if covered != 0 { // all of it is in the image, so something else is not there
		return fmt.Errorf("%w: not mapped of the image: %s", errLayout, plural.Count(-covered, "byte"))
	}
	return nil
}

// stretchOf is what is at addr.
func (c *comparison) stretchOf(addr uint64) stretch {
	i, _ := slices.BinarySearchFunc(c.image, addr, func(s stretch, addr uint64) int {
		if s.end <= addr {
			return -1
		}
		return 1
	})
	if i < len(c.image) && c.image[i].start <= addr {
		return c.image[i]
	}
	return stretch{}
}

// compareChunk bounds how much is read at once, in bytes.
const compareChunk = 1 << 20

func (c *comparison) compareRange(r linux.PageRange) error {
	for at := r.Start; at < r.End; {
		n := min(r.End-at, compareChunk)
		ours, theirs := make([]byte, n), make([]byte, n)
		if err := linux.ReadMem(c.trial.pid, at, ours); err != nil {
			return err
		}
		if err := linux.ReadMem(c.ref.pid, at, theirs); err != nil {
			return err
		}
		c.pages += int(n / linux.PageSize)
		for i := uint64(0); i < n; i += 8 {
			c.word(at+i, binary.LittleEndian.Uint64(ours[i:]), binary.LittleEndian.Uint64(theirs[i:]))
		}
		at += n
	}
	return nil
}

// word compares the aligned word at addr.
func (c *comparison) word(addr, trial, ref uint64) {
	if sp := c.plan.Entry.RSP; sp != 0 && addr >= sp-redZone && addr < sp {
		return // dead at the point, and where the launcher's last jump has its target
	}
	i, _ := slices.BinarySearchFunc(c.plan.Fixups, addr, func(f plan.Fixup, addr uint64) int { return cmp.Compare(f.Addr, addr) })
	if i < len(c.plan.Fixups) && c.plan.Fixups[i].Addr < addr+8 {
		c.fixup(addr, trial, ref, c.plan.Fixups[i:])
		return
	}
	if trial == ref {
		if c.belongs(ref) {
			c.fail(addr, trial, ref)
		}
		return
	}
	class := c.classify(addr, trial, ref)
	if class == "" {
		c.fail(addr, trial, ref)
		return
	}
	c.differences[class]++
	if limit, ok := maxWords[class]; ok && c.differences[class] > limit {
		c.fail(addr, trial, ref)
	}
}

// belongs reports whether a word that no start corrects is the other process's own
// by its value. CRIU's restore gives the dumped process's such words back, so
// there they are the same in both when a correction was forgotten.
func (c *comparison) belongs(word uint64) bool {
	if word == 0 || c.plan.Kind == plan.KindWarm { // of which the template's stack stays
		return false
	}
	for _, kind := range []int{
		plan.FixSP, plan.FixArgv, plan.FixEnvp, plan.FixAuxv, plan.FixPlatform, plan.FixRandom, plan.FixExecfn,
		plan.FixCanary, plan.FixGuard,
	} {
		secret := kind == plan.FixGuard && c.plan.Stop.Point.KeepsHeap() // the heap's, which stays
		if word == c.ref.values[kind] && !secret {
			return true
		}
	}
	return false
}

// fixup compares a word that was corrected, or of which a half was, with what
// it must be in either process.
func (c *comparison) fixup(addr, trial, ref uint64, fixups []plan.Fixup) {
	wantTrial, wantRef := trial, ref
	rest := ^uint64(0) // what of the word must be the same in both
	for _, f := range fixups {
		if f.Addr >= addr+8 {
			break
		}
		shift := (f.Addr - addr) * 8
		mask := ^uint64(0)
		if f.Size == 4 {
			mask = 0xffffffff << shift
		}
		rest &^= mask
		c.corrected[f.Kind]++
		answer := c.plan.Kind == plan.KindWarm && (f.Kind == plan.FixSP || f.Kind == plan.FixFlags || f.Kind == plan.FixIgnored)
		if f.Kind != plan.FixIgnored { // of which the plan's own actions have become a part
			wantTrial = wantTrial&^mask | c.trial.values[f.Kind]<<shift&mask
		}
		if !answer { // which the template has not got
			wantRef = wantRef&^mask | c.ref.values[f.Kind]<<shift&mask
		}
	}
	if trial != wantTrial || ref != wantRef || trial&rest != ref&rest {
		c.fail(addr, trial, ref)
	}
}

// classify returns the class of a word that differs, or "".
func (c *comparison) classify(addr, trial, ref uint64) string {
	k := c.plan.Kernel
	if addr+8 > k.RseqAddr && addr < k.RseqAddr+uint64(k.RseqLen) {
		return classRseq
	}
	if c.apic(trial, ref) {
		return classAPIC
	}
	if function, ok := c.bound[addr]; ok && trial == function {
		return classBound
	}
	if c.noise != nil {
		return c.noise(addr, ref)
	}
	return ""
}

// apic reports whether two words differ in nothing but the first CPU number in
// what CPUID leaf 1 leaves in EBX, in either half.
func (c *comparison) apic(trial, ref uint64) bool {
	i := slices.IndexFunc(c.plan.CPUID, func(l plan.CPUID) bool { return l.Leaf == 1 })
	if i < 0 {
		return false
	}
	mask, want := uint64(c.plan.CPUID[i].Mask[1]), uint64(c.plan.CPUID[i].Value[1])
	for _, shift := range []int{0, 32} {
		differ := (trial ^ ref) >> shift
		if differ<<shift == trial^ref && differ&^0xff000000 == 0 && trial>>shift&mask == want {
			return true
		}
	}
	return false
}

// maxWords bounds the classes that are known by their value alone: so many
// words of a process are that at most.
var maxWords = map[string]int{linkstop.NoiseTime: linkstop.MaxTimes, classAPIC: 2}

func (c *comparison) fail(addr, trial, ref uint64) {
	if len(c.unknown) == maxShown {
		c.more++
		return
	}
	in := c.stretchOf(addr)
	where := fmt.Sprintf("%s+%#x", filepath.Base(in.path), in.off+addr-in.start)
	if in.path == "" {
		where = fmt.Sprintf("anonymous memory+%#x", addr-in.start)
	}
	c.unknown = append(c.unknown, unknownWord{addr, trial, ref, where})
}

// failures are the words that nobody knows, for people.
func (c *comparison) failures() []string {
	var all []string
	for _, w := range c.unknown {
		all = append(all, w.String())
	}
	if c.more > 0 {
		all = append(all, "and "+plural.Count(c.more, "word")+" more")
	}
	return all
}

// found lists the classes in which the two differed.
func (c *comparison) found() []Difference {
	all := make([]Difference, 0, len(c.differences))
	for class, n := range c.differences {
		all = append(all, Difference{Class: class, Words: n})
	}
	for kind, n := range c.corrected {
		if n > 0 {
			all = append(all, Difference{Class: FixupName(uint32(kind)), Words: n, Fixup: true})
		}
	}
	slices.SortFunc(all, func(a, b Difference) int { return cmp.Compare(a.Class, b.Class) })
	return all
}
