package linkstop

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// bindSeconds is how long a binder may take. ffmpeg's needs 0.1.
var bindSeconds uint64 = 10

// makeBinder clones a process that has not executed an instruction yet, as
// makeTwin does, with LD_BIND_NOW in the clone's environment: its dynamic linker
// looks up at once what it otherwise binds lazily, at the first call (ld.so(8)).
func (t *tracer) makeBinder(pid int, insn uint64, s InitialStack, auxv linux.Auxv, block []byte, limit uint64) (int, error) {
	stack, moved, err := anotherStack(s, auxv, block, "", "LD_BIND_NOW=1")
	if err != nil {
		return 0, err
	}
	return t.makeTwin(pid, insn, moved.SP, stack, limit)
}

// A Call is the slot of a function that is bound lazily (a word of .got.plt that
// an R_X86_64_JUMP_SLOT relocation names), and the function's address.
type Call struct {
	Slot, Function uint64
}

// runBinder lets the binder of a process at its stop point run there too, by run, and
// tells which calls can be bound ahead. One that does not get there, or has other
// mappings, tells of none: with LD_BIND_NOW a function that is nowhere ends a program,
// though it may never be called. SIGALRM ends a binder that takes too long, since it
// calls resolvers of any library's; insn is the address of a SYSCALL instruction.
func (t *tracer) runBinder(pid, binder int, insn uint64, maps []linux.Mapping, run func() error) ([]Call, error) {
	b := newBinding(maps)
	if len(b.tables) > 0 {
		_, err := t.inject(binder, insn, unix.SYS_ALARM, bindSeconds)
		if err == nil {
			err = run()
		}
		var ended *EndedError
		if errors.As(err, &ended) {
			return nil, nil // and reaped
		}
		if err != nil {
			b.tables = nil
		}
	}
	defer t.discard(binder)
	if len(b.tables) == 0 {
		return nil, nil
	}
	theirs, err := linux.ReadMaps(binder)
	if err != nil {
		return nil, err
	}
	if _, same := sameMaps(maps, theirs); !same {
		return nil, nil
	}
	return b.calls(pid, binder)
}

// A binding is the objects that are mapped in a process, by path, and where their
// lazily bound functions' slots are.
type binding struct {
	maps    []linux.Mapping
	objects map[string]*object
	tables  []table
}

// A table is the slots of one object (.got.plt), all of which stand in [low, high).
type table struct {
	path      string
	slots     []slot
	low, high uint64
}

// A slot is that of a function, by name.
type slot struct {
	addr uint64
	name string
}

// newBinding reads the files that are mapped. What cannot be read stays lazily bound.
func newBinding(maps []linux.Mapping) *binding {
	b := &binding{objects: map[string]*object{}, maps: maps}
	for _, m := range maps {
		if !filepath.IsAbs(m.Path) || b.objects[m.Path] != nil {
			continue
		}
		t := table{path: m.Path, slots: b.object(m.Path).slots()}
		if len(t.slots) == 0 {
			continue
		}
		t.low = slices.MinFunc(t.slots, bySlot).addr
		t.high = slices.MaxFunc(t.slots, bySlot).addr + 8
		if t.high-t.low <= maxTable {
			b.tables = append(b.tables, t)
		}
	}
	return b
}

func bySlot(x, y slot) int { return cmp.Compare(x.addr, y.addr) }

// calls compares the slots of a process that was linked as usual with those of its
// binder, and returns, by address, those that can be filled in ahead of the first
// call without anybody seeing more of it than that the search does not take place.
// They lead from a stub of the object's own to a function that the object which holds
// it defines by that very name. What is not taken: a function that was not found,
// since dlopen(3) may bring it yet, and one that a library's IFUNC resolver chose,
// since what that does it is to do when it would have been called. glibc's own
// resolvers only look at the CPU features, which are in the image already
// (sysdeps/x86_64/multiarch/ifunc-*.h).
func (b *binding) calls(pid, binder int) ([]Call, error) {
	var calls []Call
	for _, t := range b.tables {
		lazy, bound := make([]byte, t.high-t.low), make([]byte, t.high-t.low)
		if err := linux.ReadMem(pid, t.low, lazy); err != nil {
			return nil, err
		}
		if err := linux.ReadMem(binder, t.low, bound); err != nil {
			return nil, err
		}
		for _, s := range t.slots {
			stub, function := binary.LittleEndian.Uint64(lazy[s.addr-t.low:]), binary.LittleEndian.Uint64(bound[s.addr-t.low:])
			if stub != function && b.text(stub) == t.path && b.defines(function, s.name) {
				calls = append(calls, Call{Slot: s.addr, Function: function})
			}
		}
	}
	slices.SortFunc(calls, func(x, y Call) int { return cmp.Compare(x.Slot, y.Slot) })
	return calls, nil
}

// writeCalls fills in the slots, neighbours at once.
func writeCalls(pid int, calls []Call) error {
	for len(calls) > 0 {
		n, words := 0, []byte(nil)
		for ; n < len(calls) && calls[n].Slot == calls[0].Slot+uint64(n)*8; n++ {
			words = binary.LittleEndian.AppendUint64(words, calls[n].Function)
		}
		if err := linux.WriteMem(pid, calls[0].Slot, words); err != nil {
			return err
		}
		calls = calls[n:]
	}
	return nil
}

// maxTable bounds a table of slots, in bytes. LibreOffice's largest has 100 KiB.
const maxTable = 4 << 20

// text is the path of the file whose text addr is in, or "".
func (b *binding) text(addr uint64) string {
	i, _ := slices.BinarySearchFunc(b.maps, addr, func(m linux.Mapping, addr uint64) int {
		if m.End <= addr {
			return -1
		}
		return 1
	})
	if i < len(b.maps) && b.maps[i].Contains(addr) && executable(b.maps[i]) && filepath.IsAbs(b.maps[i].Path) {
		return b.maps[i].Path
	}
	return ""
}

// defines tells whether the object whose text addr is in defines the function so
// named there, or is glibc's and chose that address for it.
func (b *binding) defines(addr uint64, name string) bool {
	path := b.text(addr)
	return path != "" && b.object(path).defines(addr, name)
}

// object is what the file at path, which is mapped, tells; of one that cannot be
// read, nothing.
func (b *binding) object(path string) *object {
	if o := b.objects[path]; o != nil {
		return o
	}
	o := &object{}
	i := slices.IndexFunc(b.maps, func(m linux.Mapping) bool { return m.Path == path && m.Offset == 0 })
	if i >= 0 && o.open(path, b.maps[i].Start) != nil {
		o = &object{}
	}
	b.objects[path] = o
	return o
}

// open reads the file at path.
func (o *object) open(path string, start uint64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return o.read(f, start)
}

// An object is the part of an ELF file that dynamic linking goes by.
type object struct {
	bias    uint64 // what is added to the file's addresses
	symbols []byte // .dynsym: Elf64_Sym
	names   []byte // .dynstr
	lazy    []byte // DT_JMPREL: Elf64_Rela; none if all is bound at once
	glibc   bool

	defined   []uint32        // the numbers of the functions that it defines, by value
	resolvers map[string]bool // IFUNCs
}

const (
	symSize  = 24 // sizeof(Elf64_Sym)
	relaSize = 24 // sizeof(Elf64_Rela)
)

// read reads a file whose first byte is mapped at start. Package elf is not made for
// files that are not sound, but the dynamic linker has taken this one; should it be so
// bad all the same, it is left alone.
func (o *object) read(r io.ReaderAt, start uint64) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("read an object: %v", r)
		}
	}()
	f, err := elf.NewFile(r)
	if err != nil {
		return err
	}
	if f.Class != elf.ELFCLASS64 || f.Machine != elf.EM_X86_64 {
		return errors.New("not of this machine")
	}
	first := slices.IndexFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_LOAD })
	if first < 0 {
		return errors.New("nothing is loaded")
	}
	o.bias = start - f.Progs[first].Vaddr&^(linux.PageSize-1)
	table := f.SectionByType(elf.SHT_DYNSYM)
	if table == nil || int(table.Link) >= len(f.Sections) {
		return nil // nothing to look up, nothing to find
	}
	if o.symbols, err = loaded(table); err != nil {
		return err
	}
	if o.names, err = loaded(f.Sections[table.Link]); err != nil {
		return err
	}
	if sonames, err := f.DynString(elf.DT_SONAME); err == nil && len(sonames) == 1 {
		o.glibc = sonames[0] == "libc.so.6" || sonames[0] == "libm.so.6"
	}
	return o.readLazy(f)
}

// loaded is the content of a section that the dynamic linker reads, which is never a
// compressed one.
func loaded(s *elf.Section) ([]byte, error) {
	if s.ReaderAt == nil || s.Type == elf.SHT_NOBITS {
		return nil, errors.New("a symbol table is not in the file")
	}
	return io.ReadAll(io.NewSectionReader(s.ReaderAt, 0, int64(s.FileSize)))
}

// readLazy reads the relocations of what is bound lazily.
func (o *object) readLazy(f *elf.File) error {
	one := func(tag elf.DynTag) uint64 {
		if v, err := f.DynValue(tag); err == nil && len(v) > 0 {
			return v[0]
		}
		return 0
	}
	now, err := f.DynValue(elf.DT_BIND_NOW)
	if err != nil {
		return err
	}
	at, size := one(elf.DT_JMPREL), one(elf.DT_PLTRELSZ)
	if len(now) > 0 || elf.DynFlag(one(elf.DT_FLAGS))&elf.DF_BIND_NOW != 0 || elf.DynFlag1(one(elf.DT_FLAGS_1))&elf.DF_1_NOW != 0 ||
		elf.DynTag(one(elf.DT_PLTREL)) != elf.DT_RELA || size == 0 || size > maxTable/8*relaSize {
		return nil
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && at >= p.Vaddr && at-p.Vaddr < p.Filesz && p.Filesz-(at-p.Vaddr) >= size {
			o.lazy = make([]byte, size)
			_, err := p.ReadAt(o.lazy, int64(at-p.Vaddr))
			return err
		}
	}
	return errors.New("DT_JMPREL is not in the file")
}

// slots are those of the functions that the object binds lazily.
func (o *object) slots() []slot {
	var all []slot
	for rela := o.lazy; len(rela) >= relaSize; rela = rela[relaSize:] {
		info := binary.LittleEndian.Uint64(rela[8:])
		if elf.R_X86_64(elf.R_TYPE64(info)) != elf.R_X86_64_JMP_SLOT {
			continue // R_X86_64_IRELATIVE is bound at once, R_X86_64_TLSDESC is another matter
		}
		if name := o.name(elf.R_SYM64(info)); name != "" {
			all = append(all, slot{addr: o.bias + binary.LittleEndian.Uint64(rela), name: name})
		}
	}
	return all
}

// name is that of a symbol, or "".
func (o *object) name(n uint32) string {
	if uint64(n) >= uint64(len(o.symbols)/symSize) {
		return ""
	}
	at := uint64(binary.LittleEndian.Uint32(o.symbols[uint64(n)*symSize:]))
	if at >= uint64(len(o.names)) {
		return ""
	}
	name, _, _ := bytes.Cut(o.names[at:], []byte{0})
	return string(name)
}

func (o *object) value(n uint32) uint64 {
	return binary.LittleEndian.Uint64(o.symbols[uint64(n)*symSize+8:])
}

// index sorts what the object defines.
func (o *object) index() {
	o.resolvers = map[string]bool{}
	for n := range uint32(len(o.symbols) / symSize) {
		info, section := o.symbols[n*symSize+4], binary.LittleEndian.Uint16(o.symbols[n*symSize+6:])
		if elf.SectionIndex(section) == elf.SHN_UNDEF {
			continue
		}
		switch elf.ST_TYPE(info) {
		case elf.STT_GNU_IFUNC:
			if o.glibc {
				o.resolvers[o.name(n)] = true
			}
		case elf.STT_FUNC, elf.STT_NOTYPE:
			o.defined = append(o.defined, n)
		}
	}
	slices.SortFunc(o.defined, func(x, y uint32) int { return cmp.Compare(o.value(x), o.value(y)) })
}

// defines tells whether the object has the function so named at addr.
func (o *object) defines(addr uint64, name string) bool {
	if o.resolvers == nil {
		o.index()
	}
	i, _ := slices.BinarySearchFunc(o.defined, addr-o.bias, func(n uint32, value uint64) int {
		return cmp.Compare(o.value(n), value)
	})
	for ; i < len(o.defined) && o.value(o.defined[i]) == addr-o.bias; i++ {
		if o.name(o.defined[i]) == name {
			return true
		}
	}
	return o.resolvers[name]
}
