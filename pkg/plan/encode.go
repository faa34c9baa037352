package plan

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// summedFrom is the offset of the first byte that Header.Sum covers.
const summedFrom = 32

// versionAt is the offset of Header.Version, in every version.
const versionAt = 8

// encoder lays the tables out one after the other, each at a multiple of 8.
type encoder struct {
	tables  bytes.Buffer
	base    uint32 // where the first table will stand
	strings bytes.Buffer
	known   map[string]uint32
}

func (e *encoder) string(s string) uint32 {
	if off, ok := e.known[s]; ok {
		return off
	}
	off := uint32(e.strings.Len())
	e.strings.WriteString(s)
	e.strings.WriteByte(0)
	e.known[s] = off
	return off
}

func (e *encoder) all(texts []string) (offs []uint32) {
	for _, s := range texts {
		offs = append(offs, e.string(s))
	}
	return offs
}

// nameOf is the name in an answer: nearly always the end of a path that is there.
func (e *encoder) nameOf(a CacheAnswer) uint32 {
	for _, l := range a.Entries {
		if strings.HasSuffix(l.Path, a.Name) {
			return e.string(l.Path) + uint32(len(l.Path)-len(a.Name))
		}
	}
	return e.string(a.Name)
}

func table[T any](e *encoder, elements []T) Table {
	t := Table{Off: e.base + uint32(e.tables.Len()), Count: uint32(len(elements))}
	// Fixed-size structs into memory: Write has nothing to fail on.
	_ = binary.Write(&e.tables, binary.LittleEndian, elements)
	pad(&e.tables)
	return t
}

func pad(b *bytes.Buffer) {
	for b.Len()%8 != 0 {
		b.WriteByte(0)
	}
}

// Encode returns the bytes that the launcher maps. Its errors name what makes
// the plan impossible to carry out.
func (p *Plan) Encode() ([]byte, error) { return p.encode(p.Entry) }

// Nowhere is an address at which nothing is ever mapped in a program that was
// started from an image: near a launcher file's place, where check allows no
// mapping, and not where it maps its plan.
const Nowhere = LauncherBase - launcherRoom/2

// EncodeToNowhere is Encode, but the last jump of a start leads to Nowhere, where
// it ends with SIGSEGV before any of the program's instructions. It is for timing.
func (p *Plan) EncodeToNowhere() ([]byte, error) {
	entry := p.Entry
	entry.RIP = Nowhere
	return p.encode(entry)
}

func (p *Plan) encode(entry Entry) ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	h := Header{
		Version: Version, Kind: p.Kind, Flags: p.Flags,
		Caller: p.Caller, VDSO: p.VDSO, MM: p.MM, Kernel: p.Kernel, Entry: entry, Stop: p.Stop, Warm: p.Warm,
	}
	copy(h.Magic[:], Magic)
	e := &encoder{base: uint32(binary.Size(h)), known: map[string]uint32{}}
	h.Program, h.Real, h.ID = e.string(p.Path), e.string(p.Real), e.string(p.ID)
	if p.Executed != "" {
		h.Warm.Executed = e.string(p.Executed)
	}

	var files []File
	var maps []Map
	for _, f := range p.Files {
		files = append(files, File{
			Path: e.string(f.Path), Flags: f.Flags, ID: f.ID,
			FirstMap: uint32(len(maps)), Maps: uint32(len(f.Maps)),
		})
		maps = append(maps, f.Maps...)
	}
	var checks []Check
	var answers []Answer
	var entries []CacheEntry
	for _, c := range p.Checks {
		checks = append(checks, Check{Path: e.string(c.Path), Answers: uint32(len(c.Answers)), ID: c.ID})
		for _, a := range c.Answers {
			answer := Answer{FirstEntry: uint32(len(entries)), Entries: uint32(len(a.Entries))}
			for _, l := range a.Entries {
				entries = append(entries, CacheEntry{
					Path: e.string(l.Path), Subdir: e.string(l.Subdir), OSVersion: l.OSVersion, HWCap: l.HWCap,
				})
			}
			answer.Name = e.nameOf(a)
			answers = append(answers, answer)
		}
	}
	var directories []Directory
	var misses []uint32
	for _, f := range p.Directories {
		directory := Directory{
			Path: e.string(f.Path), ID: f.ID,
			FirstMiss: uint32(len(misses)), Misses: uint32(len(f.Misses)),
		}
		if f.Exact {
			directory.Flags = DirectoryExact
		}
		directories = append(directories, directory)
		for _, m := range f.Misses {
			misses = append(misses, e.string(m))
		}
	}
	h.Files, h.Maps, h.Anon = table(e, files), table(e, maps), table(e, p.Anon)
	h.Protects, h.Fixups = table(e, p.Protects), table(e, p.Fixups)
	h.Checks, h.Directories, h.Misses = table(e, checks), table(e, directories), table(e, misses)
	h.Answers, h.Entries = table(e, answers), table(e, entries)
	h.CPUID, h.Layouts = table(e, p.CPUID), table(e, e.all(p.Layouts))
	var variables []Variable
	for _, v := range p.Env {
		variables = append(variables, Variable{Text: e.string(v.Text), Kind: v.Kind})
	}
	h.Args, h.Env, h.Copies = table(e, e.all(p.Args)), table(e, variables), table(e, p.Copies)
	h.Signals, h.Populate = table(e, p.Signals), table(e, p.Populate)
	pad(&e.strings)
	h.Strings = table(e, e.strings.Bytes())

	var out bytes.Buffer
	h.Size = uint64(e.base) + uint64(e.tables.Len())
	if h.Size > maxSize {
		return nil, damaged("%d bytes, more than a launcher maps", h.Size)
	}
	_ = binary.Write(&out, binary.LittleEndian, &h)
	out.Write(e.tables.Bytes())
	raw := out.Bytes()
	binary.LittleEndian.PutUint64(raw[summedFrom-8:], xxhash.Sum64(raw[summedFrom:]))
	return raw, nil
}
