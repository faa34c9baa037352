package elfinfo

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/residentctl/residentctl/internal/plural"
)

// The bounds within which a file is believed. Those that have a source are the
// kernel's own.
const (
	maxPhdrs   = 65536 / 56   // fs/binfmt_elf.c, load_elf_phdrs: 64 KiB of them
	maxInterp  = 4096         // fs/binfmt_elf.c, load_elf_binary: PATH_MAX
	maxDynamic = 64 << 10     // bytes; a program with 200 libraries has 4 KiB
	maxString  = 64 << 10     // bytes of one string; Nix has long search paths
	maxNotes   = 64 << 10     // bytes of one PT_NOTE
	maxAddr    = 1<<47 - 4096 // TASK_SIZE of x86-64 with 4-level page tables
	pageSize   = 4096
)

var (
	errNotELF = errors.New("not an ELF file")
	errFields = errors.New("its headers contradict each other")
)

// image is what the bytes of an ELF file tell.
type image struct {
	File
	r     io.ReaderAt
	size  int64
	progs []elf.Prog64
	// The dynamic string table: its address and its size in bytes.
	strTab, strSize uint64
}

// parse reads an ELF file of size bytes. Of a foreign one (another machine or
// word size) only Class, Machine and Type are filled in. Errors other than
// errNotELF mean that the file is damaged.
func parse(r io.ReaderAt, size int64) (*File, error) {
	im := &image{r: r, size: size}
	for _, step := range []func() error{
		im.header, im.segments, im.interp, im.dynamic, im.notes,
	} {
		if err := step(); err != nil {
			return nil, err
		}
		if im.foreign() {
			break
		}
	}
	return &im.File, nil
}

func (im *image) header() error {
	var ident [elf.EI_NIDENT]byte
	if im.size < int64(len(elf.ELFMAG)) {
		return errNotELF
	}
	n, err := im.r.ReadAt(ident[:], 0)
	if !bytes.HasPrefix(ident[:n], []byte(elf.ELFMAG)) {
		return errNotELF
	}
	if n < len(ident) {
		return fmt.Errorf("read its ELF header: %w", err)
	}
	im.Class = elf.Class(ident[elf.EI_CLASS])
	im.data = elf.Data(ident[elf.EI_DATA])

	var order binary.ByteOrder = binary.LittleEndian
	if im.data == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	// Type and Machine stand at the same place for every word size.
	var kind struct{ Type, Machine uint16 }
	if err := im.read(&kind, order, elf.EI_NIDENT); err != nil {
		return fmt.Errorf("read its ELF header: %w", err)
	}
	im.Type, im.Machine = elf.Type(kind.Type), elf.Machine(kind.Machine)
	return nil
}

func (im *image) segments() error {
	var h elf.Header64
	if err := im.read(&h, binary.LittleEndian, 0); err != nil {
		return fmt.Errorf("read its ELF header: %w", err)
	}
	im.Entry = h.Entry
	if h.Phnum == 0 {
		return nil // an object file
	}
	if int(h.Phentsize) != binary.Size(elf.Prog64{}) || h.Phnum > maxPhdrs {
		return fmt.Errorf("read its program headers: %d of %d bytes: %w", h.Phnum, h.Phentsize, errFields)
	}
	im.progs = make([]elf.Prog64, h.Phnum)
	if err := im.read(im.progs, binary.LittleEndian, h.Phoff); err != nil {
		return fmt.Errorf("read its program headers: %w", err)
	}
	stack := false
	for _, p := range im.progs {
		switch elf.ProgType(p.Type) {
		case elf.PT_LOAD:
			if err := im.load(p); err != nil {
				return err
			}
		case elf.PT_GNU_STACK:
			stack = true
			im.ExecStack = elf.ProgFlag(p.Flags)&elf.PF_X != 0
		}
	}
	if !stack {
		im.ExecStack = true // glibc sysdeps/x86_64/stackinfo.h: DEFAULT_STACK_PERMS
	}
	return nil
}

func (im *image) load(p elf.Prog64) error {
	end := p.Vaddr + p.Memsz
	if end < p.Vaddr || end > maxAddr || p.Filesz > p.Memsz {
		return fmt.Errorf("read its program headers: a segment at %#x of %#x bytes: %w", p.Vaddr, p.Memsz, errFields)
	}
	if p.Filesz > 0 && !im.holds(p.Off, p.Filesz) {
		return fmt.Errorf("read its program headers: a segment ends beyond the file: %w", io.ErrUnexpectedEOF)
	}
	im.LoadEnd = max(im.LoadEnd, (end+pageSize-1)&^(pageSize-1))
	return nil
}

func (im *image) interp() error {
	p, ok := im.prog(elf.PT_INTERP)
	if !ok {
		return nil
	}
	if p.Filesz < 2 || p.Filesz > maxInterp {
		return fmt.Errorf("read the dynamic linker's name: %s: %w", plural.Count(p.Filesz, "byte"), errFields)
	}
	b, err := im.bytes(p.Off, p.Filesz)
	if err != nil {
		return fmt.Errorf("read the dynamic linker's name: %w", err)
	}
	name, _, ended := bytes.Cut(b, []byte{0})
	if !ended || len(name) == 0 {
		return fmt.Errorf("read the dynamic linker's name: %w", errFields)
	}
	im.Interp = string(name)
	return nil
}

func (im *image) dynamic() error {
	p, ok := im.prog(elf.PT_DYNAMIC)
	im.Dynamic = ok
	if !ok {
		return nil
	}
	const entry = 16 // sizeof(Elf64_Dyn)
	if p.Filesz > maxDynamic {
		return fmt.Errorf("read its dynamic section: %d bytes: %w", p.Filesz, errFields)
	}
	if !im.holds(p.Off, p.Filesz) {
		return fmt.Errorf("read its dynamic section: %w", io.ErrUnexpectedEOF)
	}
	dyn := make([]elf.Dyn64, p.Filesz/entry)
	if err := im.read(dyn, binary.LittleEndian, p.Off); err != nil {
		return fmt.Errorf("read its dynamic section: %w", err)
	}
	if i := slices.IndexFunc(dyn, func(d elf.Dyn64) bool { return d.Tag == int64(elf.DT_NULL) }); i >= 0 {
		dyn = dyn[:i]
	}
	// The strings' place may come after their first use.
	for _, d := range dyn {
		switch elf.DynTag(d.Tag) {
		case elf.DT_STRTAB:
			im.strTab = d.Val
		case elf.DT_STRSZ:
			im.strSize = d.Val
		}
	}
	for _, d := range dyn {
		if err := im.tag(elf.DynTag(d.Tag), d.Val); err != nil {
			return fmt.Errorf("read its dynamic section: %w", err)
		}
	}
	return nil
}

func (im *image) tag(tag elf.DynTag, val uint64) (err error) {
	switch tag {
	case elf.DT_NEEDED:
		var name string
		name, err = im.str(val)
		im.Needed = append(im.Needed, name)
	case elf.DT_FILTER, elf.DT_AUXILIARY:
		var name string
		name, err = im.str(val)
		im.Filters = append(im.Filters, name)
	case elf.DT_SONAME:
		im.SOName, err = im.str(val)
	case elf.DT_RPATH:
		im.RPath, err = im.str(val)
	case elf.DT_RUNPATH:
		im.RunPath, err = im.str(val)
	case elf.DT_TEXTREL:
		im.TextRel = true
	case elf.DT_FLAGS:
		im.TextRel = im.TextRel || elf.DynFlag(val)&elf.DF_TEXTREL != 0
	case elf.DT_FLAGS_1:
		im.PIE = elf.DynFlag1(val)&elf.DF_1_PIE != 0
	case elf.DT_AUDIT, elf.DT_DEPAUDIT:
		im.Audit = true
	}
	return err
}

// str is the string at offset off of the dynamic string table.
func (im *image) str(off uint64) (string, error) {
	if off >= im.strSize {
		return "", fmt.Errorf("a string at %d of %s: %w", off, plural.Count(im.strSize, "byte"), errFields)
	}
	at, ok := im.fileOffset(im.strTab, off)
	if !ok {
		return "", fmt.Errorf("the string table at %#x: %w", im.strTab, errFields)
	}
	// Most strings are short: one small read is enough for them.
	for _, n := range []uint64{256, maxString} {
		b, err := im.bytes(at, min(im.strSize-off, n, uint64(im.size)-at))
		if err != nil {
			return "", err
		}
		if s, _, ended := bytes.Cut(b, []byte{0}); ended {
			return string(s), nil
		}
	}
	return "", fmt.Errorf("a string without end: %w", errFields)
}

// fileOffset is where the byte at addr+off, mapped by a PT_LOAD, stands.
func (im *image) fileOffset(addr, off uint64) (uint64, bool) {
	if off > maxAddr || addr > maxAddr {
		return 0, false
	}
	for _, p := range im.progs {
		in := addr + off - p.Vaddr
		if elf.ProgType(p.Type) == elf.PT_LOAD && addr+off >= p.Vaddr && in < p.Filesz {
			return p.Off + in, true // load() has checked Off+Filesz
		}
	}
	return 0, false
}

func (im *image) notes() error {
	for _, p := range im.progs {
		if elf.ProgType(p.Type) != elf.PT_NOTE || p.Filesz > maxNotes || im.BuildID != "" {
			continue
		}
		b, err := im.bytes(p.Off, p.Filesz)
		if err != nil {
			return fmt.Errorf("read its notes: %w", err)
		}
		if _, id, ok := BuildIDNote(b, p.Align); ok {
			im.BuildID = fmt.Sprintf("%x", id)
		}
	}
	return nil
}

func (im *image) prog(t elf.ProgType) (elf.Prog64, bool) {
	for _, p := range im.progs {
		if elf.ProgType(p.Type) == t {
			return p, true
		}
	}
	return elf.Prog64{}, false
}

// holds reports whether the file has n bytes at off.
func (im *image) holds(off, n uint64) bool {
	return off <= uint64(im.size) && n <= uint64(im.size)-off
}

// bytes reads n bytes, which the caller has bounded, at off.
func (im *image) bytes(off, n uint64) ([]byte, error) {
	if !im.holds(off, n) {
		return nil, io.ErrUnexpectedEOF
	}
	b := make([]byte, n)
	_, err := io.ReadFull(io.NewSectionReader(im.r, int64(off), int64(n)), b)
	return b, err
}

// read fills v, whose size the caller has bounded, from the bytes at off.
func (im *image) read(v any, order binary.ByteOrder, off uint64) error {
	n := uint64(binary.Size(v))
	b, err := im.bytes(off, n)
	if err != nil {
		return err
	}
	_, err = binary.Decode(b, order, v)
	return err
}
