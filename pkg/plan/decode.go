package plan

import (
	"bytes"
	"fmt"
	"syscall"
	"unsafe"

	"github.com/cespare/xxhash/v2"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/plural"
	"github.com/residentctl/residentctl/pkg/ldcache"
)

// Read reads the plan in the file. Its errors are the file's and Decode's.
func Read(path string) (*Plan, error) {
	p, _, _, err := ReadWhole(path)
	return p, err
}

// ReadWhole is Read. It also returns the file's state, nil if it cannot be opened, and Sum also of
// a plan that is damaged.
func ReadWhole(path string) (p *Plan, sum uint64, file *syscall.Stat_t, err error) {
	raw, file, err := linux.ReadFile(path, maxSize+1)
	if err != nil {
		return nil, 0, file, fmt.Errorf("read the plan: %w", err)
	}
	if p, err = Decode(raw); err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return p, Sum(raw), file, err
}

// decoder reads tables out of raw; the first fault stays in err.
type decoder struct {
	raw     []byte
	strings []byte
	err     error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = damaged(format, args...)
	}
}

// elements reads a table. Nothing is allocated before its bounds are known to
// lie within raw.
func elements[T any](d *decoder, name string, t Table) []T {
	var one T
	size := uint64(unsafe.Sizeof(one))
	if uint64(t.Off)+uint64(t.Count)*size > uint64(len(d.raw)) {
		d.fail("the %s lie outside", name)
	}
	if d.err != nil || t.Count == 0 {
		return nil
	}
	out := make([]T, t.Count)
	copy(bytesOf(out), d.raw[t.Off:])
	return out
}

// bytesOf are the bytes of elements of the format, which are in memory as they are in the file:
// the launcher reads them there.
func bytesOf[T any](elements []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&elements[0])), uintptr(len(elements))*unsafe.Sizeof(elements[0]))
}

func (d *decoder) string(off uint32) string {
	if uint64(off) >= uint64(len(d.strings)) {
		d.fail("a path lies outside")
		return ""
	}
	s := d.strings[off:]
	end := bytes.IndexByte(s[:min(len(s), 4096)], 0)
	if end < 0 {
		d.fail("a path has no end")
		return ""
	}
	return string(s[:end])
}

// all reads a table of strings.
func (d *decoder) all(name string, t Table) (texts []string) {
	for _, off := range elements[uint32](d, name, t) {
		texts = append(texts, d.string(off))
	}
	return texts
}

// part takes the run [first, first+n) of a table off its rest. The runs follow
// one another, so that no few bytes can stand for many elements.
func part[T any](d *decoder, all []T, rest *[]T, first, n uint32) []T {
	if int(first) != len(all)-len(*rest) || uint64(n) > uint64(len(*rest)) {
		d.fail("a run of elements is not at its place in the table")
	}
	if d.err != nil || n == 0 {
		return nil
	}
	run := (*rest)[:n:n]
	*rest = (*rest)[n:]
	return run
}

// answers reads what ld.so.cache has to answer.
func (d *decoder) answers(h *Header) (answers []CacheAnswer) {
	entries := elements[CacheEntry](d, "entries of ld.so.cache", h.Entries)
	rest := entries
	for _, a := range elements[Answer](d, "answers of ld.so.cache", h.Answers) {
		answer := CacheAnswer{Name: d.string(a.Name)}
		for _, l := range part(d, entries, &rest, a.FirstEntry, a.Entries) {
			answer.Entries = append(answer.Entries, ldcache.Entry{
				Path: d.string(l.Path), Subdir: d.string(l.Subdir), OSVersion: l.OSVersion, HWCap: l.HWCap,
			})
		}
		answers = append(answers, answer)
	}
	return answers
}

// Decode reads a plan back. Whatever the bytes are, it ends with a plan whose
// every part is within bounds, with a *DamagedError, or with an error that names the
// other version that it is of.
func Decode(raw []byte) (*Plan, error) {
	headers := make([]Header, 1)
	header := bytesOf(headers)
	if copy(header, raw) < len(header) {
		return nil, damaged("only %s", plural.Count(len(raw), "byte"))
	}
	h := headers[0]
	switch {
	case string(h.Magic[:]) != Magic:
		return nil, damaged("it does not begin like a plan")
	case h.Version != Version || (h.Kind != KindLinked && h.Kind != KindWarm):
		return nil, fmt.Errorf("the plan is of version %d, this residentctl reads version %d", h.Version, Version)
	case h.Size != uint64(len(raw)) || h.Size > maxSize || h.Size%8 != 0:
		return nil, damaged("%s instead of %d", plural.Count(len(raw), "byte"), h.Size)
	case h.Sum != xxhash.Sum64(raw[summedFrom:]):
		return nil, damaged("the checksum is wrong")
	}
	d := &decoder{raw: raw}
	d.strings = elements[byte](d, "paths", h.Strings)
	p := &Plan{
		Kind: h.Kind, Flags: h.Flags, Path: d.string(h.Program), Real: d.string(h.Real), ID: d.string(h.ID),
		Anon: elements[Map](d, "anonymous mappings", h.Anon), Protects: elements[Protect](d, "protections", h.Protects),
		Fixups: elements[Fixup](d, "fix-ups", h.Fixups), CPUID: elements[CPUID](d, "CPU facts", h.CPUID),
		Caller: h.Caller, VDSO: h.VDSO, MM: h.MM, Kernel: h.Kernel, Entry: h.Entry, Stop: h.Stop, Warm: h.Warm,
		Copies: elements[Map](d, "copies", h.Copies), Populate: elements[Map](d, "ranges to populate", h.Populate),
		Signals: elements[SignalAction](d, "signals", h.Signals),
		Layouts: d.all("layouts", h.Layouts), Args: d.all("arguments", h.Args),
	}
	if h.Warm.Executed != 0 {
		p.Executed, p.Warm.Executed = d.string(h.Warm.Executed), 0
	}
	maps := elements[Map](d, "mappings", h.Maps)
	restOfMaps := maps
	for _, f := range elements[File](d, "files", h.Files) {
		p.Files = append(p.Files, MappedFile{
			Path: d.string(f.Path), Flags: f.Flags, ID: f.ID, Maps: part(d, maps, &restOfMaps, f.FirstMap, f.Maps),
		})
	}
	answers := d.answers(&h)
	for _, c := range elements[Check](d, "checks", h.Checks) {
		check := CheckedFile{Path: d.string(c.Path), ID: c.ID}
		if c.Answers > 0 {
			if int(c.Answers) != len(answers) {
				d.fail("%s of %d", plural.Count(c.Answers, "answer"), len(answers))
			}
			check.Answers, answers = answers, nil
		}
		p.Checks = append(p.Checks, check)
	}
	if len(answers) > 0 {
		d.fail("answers of no file")
	}
	misses := elements[uint32](d, "misses", h.Misses)
	restOfMisses := misses
	for _, f := range elements[Directory](d, "directories", h.Directories) {
		directory := SearchedDirectory{Path: d.string(f.Path), ID: f.ID, Exact: f.Flags&DirectoryExact != 0}
		for _, m := range part(d, misses, &restOfMisses, f.FirstMiss, f.Misses) {
			directory.Misses = append(directory.Misses, d.string(m))
		}
		p.Directories = append(p.Directories, directory)
	}
	for _, v := range elements[Variable](d, "variables", h.Env) {
		p.Env = append(p.Env, EnvCheck{Text: d.string(v.Text), Kind: v.Kind})
	}
	if d.err != nil {
		return nil, d.err
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	return p, nil
}
