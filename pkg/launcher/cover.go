package launcher

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/residentctl/residentctl/internal/linux"
)

// interpOffset is where in Code a dynamic linker's new entry is
// (src/start_amd64.S, _interp).
const interpOffset = 32

const pageSize = 4096

// CoverOptions are what the launcher has to know as a part of a dynamic linker.
type CoverOptions struct {
	Original string  // the path under which the linker itself can still be opened
	Stores   []Store // to look in, at most MaxStores
	// Root is whom stat(2) shows as the owner of root's files: 0, or in a user
	// namespace without root the overflow uid (user_namespaces(7)). It is that
	// of all users whom the namespace does not know, so the stores' directories
	// must have been found to be root's alone before; where the copy runs outside
	// of such a namespace it counts for nothing.
	Root uint32
	// Log is the path of a file to which each start adds a line: + (from an
	// image) or - (normal), device-inode of the program, a space, its path.
	// Empty is none.
	Log string
}

// ErrCovered says that a dynamic linker is covered already.
var ErrCovered = errors.New("the dynamic linker is covered already")

// Cover returns a copy of a dynamic linker with the launcher added to it: mapped
// over the linker's path, each exec of a dynamic program enters the launcher
// first, which becomes the program if one of the stores has an
// image of it, and else enters the linker as the kernel would have. Link
// editors and debuggers find the same linker as before: sections and symbols
// stay, also the build-id by which debuggers and valgrind find others in another file.
// Only PT_GNU_STACK has become a PT_LOAD: the kernel looks for it in the program
// (fs/binfmt_elf.c, load_elf_binary), and glibc in what it has loaded itself. Where the
// linker is executed as a program it is missing, for which the stack of a 64-bit process
// is not executable either (since Linux 5.8, arch/x86/include/asm/elf.h,
// elf_read_implies_exec).
func Cover(linker []byte, o CoverOptions) ([]byte, error) {
	head, progs, err := readLinker(linker)
	if err != nil {
		return nil, err
	}
	spare, end := -1, uint64(0)
	for i, p := range progs {
		switch elf.ProgType(p.Type) {
		case elf.PT_GNU_STACK:
			spare = i
		case elf.PT_LOAD:
			if p.Vaddr < end || spare >= 0 {
				return nil, errors.New("its segments are not in the order that the kernel wants")
			}
			end = (p.Vaddr + p.Memsz + pageSize - 1) &^ (pageSize - 1)
		}
	}
	if bytes.Contains(linker, []byte(configMark)) {
		return nil, ErrCovered
	}
	if spare < 0 {
		return nil, errors.New("it has no header whose place the launcher could take")
	}

	// With room for what is usually added, so that it is not copied again and again: the
	// launcher, its configuration, and what clearBSS moves.
	raw := append(make([]byte, 0, len(linker)+len(Code)+64<<10), linker...)
	for i := range progs {
		if raw, err = clearBSS(raw, &head, &progs[i]); err != nil {
			return nil, err
		}
	}
	out := bytes.NewBuffer(raw)
	padTo(out, pageSize)

	w := wrapper{}
	w.stores(o.Stores)
	w.config.Root = o.Root
	if o.Log != "" {
		w.config.Log = w.path(o.Log)
	}
	w.config.Linker = w.path(o.Original) // at the end, where launcher files read it
	w.config.Entry = int64(head.Entry) - int64(end)
	w.config.Base = -int64(end)
	size := uint64(len(Code) + binary.Size(w.config) + len(w.strings))
	w.config.Span = (end + size + pageSize - 1) &^ (pageSize - 1)
	if w.err != nil {
		return nil, w.err
	}
	progs[spare] = elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X),
		Off: uint64(out.Len()), Vaddr: end, Paddr: end, Filesz: size, Memsz: size, Align: pageSize,
	}
	out.Write(w.bytes())
	head.Entry = end + interpOffset

	raw = out.Bytes()
	if _, err := binary.Encode(raw, binary.LittleEndian, head); err != nil {
		return nil, err
	}
	if _, err := binary.Encode(raw[head.Phoff:], binary.LittleEndian, progs); err != nil {
		return nil, err
	}
	return raw, nil
}

// CoverIsOf reports whether Cover, with whatever options, made that copy of this
// linker; ErrCovered says that the linker is a copy itself.
func CoverIsOf(covered, linker []byte) (bool, error) {
	o, ok := coverOptions(covered)
	if !ok {
		return false, nil
	}
	again, err := Cover(linker, o)
	if err != nil {
		return false, err
	}
	return bytes.Equal(again, covered), nil
}

// coverOptions reads back what Cover was given.
func coverOptions(covered []byte) (o CoverOptions, ok bool) {
	at := bytes.LastIndex(covered, []byte(configMagic))
	if at < 0 {
		return o, false
	}
	var c config
	behind := covered[at:]
	if _, err := binary.Decode(behind, binary.LittleEndian, &c); err != nil {
		return o, false
	}
	ok = true
	path := func(off uint32) string {
		if uint64(off) >= uint64(len(behind)) {
			ok = false
			return ""
		}
		s, _, ended := bytes.Cut(behind[off:], []byte{0})
		ok = ok && ended
		return string(s)
	}
	o.Root, o.Original = c.Root, path(c.Linker)
	for _, s := range c.Stores {
		if s.Path != 0 {
			o.Stores = append(o.Stores, Store{path(s.Path), linux.Inode{Dev: s.Dev, Ino: s.Ino}})
		}
	}
	if c.Log != 0 {
		o.Log = path(c.Log)
	}
	return o, ok
}

// readLinker reads what of a dynamic linker's headers is to be changed.
func readLinker(linker []byte) (head elf.Header64, progs []elf.Prog64, err error) {
	if _, err := binary.Decode(linker, binary.LittleEndian, &head); err != nil {
		return head, nil, fmt.Errorf("read the dynamic linker's header: %w", err)
	}
	switch {
	case !bytes.HasPrefix(linker, []byte(elf.ELFMAG)), head.Ident[elf.EI_CLASS] != byte(elf.ELFCLASS64),
		elf.Machine(head.Machine) != elf.EM_X86_64, elf.Type(head.Type) != elf.ET_DYN:
		return head, nil, errors.New("it is no dynamic linker for x86-64")
	case head.Phentsize != 56, head.Phnum > 64, head.Phoff > uint64(len(linker)),
		uint64(head.Phnum)*56 > uint64(len(linker))-head.Phoff:
		return head, nil, errors.New("its program headers cannot be read")
	}
	progs = make([]elf.Prog64, head.Phnum)
	if _, err := binary.Decode(linker[head.Phoff:], binary.LittleEndian, progs); err != nil {
		return head, nil, fmt.Errorf("read the dynamic linker's program headers: %w", err)
	}
	for _, p := range progs {
		if p.Off > uint64(len(linker)) || p.Filesz > uint64(len(linker))-p.Off || p.Memsz > 1<<28 || p.Vaddr > 1<<28 {
			return head, nil, errors.New("its segments lie outside of it")
		}
	}
	return head, progs, nil
}

// clearBSS makes the .bss of a segment zeroes of the file. Kernels before 6.6
// clear the rest of a page only after the segment that ends last
// (fs/binfmt_elf.c, load_elf_interp), which is now the launcher's. The segment
// stays where it is in the file, since debuggers find its sections by that; what
// follows it, sections that are not loaded and their headers, goes to the
// end.
func clearBSS(raw []byte, head *elf.Header64, p *elf.Prog64) ([]byte, error) {
	if elf.ProgType(p.Type) != elf.PT_LOAD || p.Memsz <= p.Filesz {
		return raw, nil
	}
	// To the page's end: the dynamic linker's own malloc takes what is left of
	// it for zeroes (glibc elf/dl-minimal-malloc.c).
	from, to := p.Off+p.Filesz, (p.Off+p.Memsz+pageSize-1)&^(pageSize-1)
	inBSS := func(off, size uint64) bool { return size > 0 && off < to && off+size > from }

	count := uint64(head.Shnum)
	if head.Shoff > uint64(len(raw)) || head.Shentsize != 64 || count*64 > uint64(len(raw))-head.Shoff {
		return nil, errors.New("its section headers cannot be read")
	}
	sections := make([]elf.Section64, count)
	if _, err := binary.Decode(raw[head.Shoff:], binary.LittleEndian, sections); err != nil {
		return nil, fmt.Errorf("read the dynamic linker's section headers: %w", err)
	}
	out := bytes.NewBuffer(raw)
	padTo(out, pageSize)
	for i := range sections {
		s := &sections[i]
		if elf.SectionType(s.Type) == elf.SHT_NOBITS || !inBSS(s.Off, s.Size) {
			continue
		}
		if elf.SectionFlag(s.Flags)&elf.SHF_ALLOC != 0 || s.Size > uint64(len(raw))-s.Off {
			return nil, errors.New("its sections overlap")
		}
		content := raw[s.Off : s.Off+s.Size]
		s.Off = uint64(out.Len())
		out.Write(content)
		padTo(out, 64)
	}
	head.Shoff = uint64(out.Len())
	_ = binary.Write(out, binary.LittleEndian, sections) // into memory
	padTo(out, pageSize)
	for uint64(out.Len()) < to {
		out.Write(make([]byte, pageSize))
	}
	raw = out.Bytes()
	clear(raw[from:to])
	p.Filesz = p.Memsz
	return raw, nil
}

func padTo(b *bytes.Buffer, size int) {
	if n := b.Len() % size; n != 0 {
		b.Write(make([]byte, size-n))
	}
}
