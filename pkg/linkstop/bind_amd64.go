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
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// bindTimeout is how long a binder may take. ffmpeg's needs 0.2 s. It is a variable
// for the tests.
var bindTimeout = 5 * time.Second

// makeBinder clones a process that has not executed an instruction yet, as
// makeTwin does, with LD_BIND_NOW in the clone's environment: its dynamic linker
// looks up at once what it otherwise binds lazily, at the first call (ld.so(8)).
// Where there can be no such process it is 0.
func makeBinder(t *ptrace.Tracer, pid int, insn uint64, s linux.InitialStack, auxv linux.Auxv, block []byte, limit uint64) (int, error) {
	stack, moved, err := anotherStack(s, auxv, block, "", "LD_BIND_NOW=1")
	if err != nil {
		return 0, err
	}
	binder, err := makeTwin(t, pid, insn, moved.SP, stack, limit)
	var ended *ptrace.EndedError
	if err != nil && !errors.As(err, &ended) {
		return 0, nil
	}
	return binder, err
}

// A Call is the slot of a function that is bound lazily (a word of .got.plt that
// an R_X86_64_JUMP_SLOT relocation names), and the function's address.
type Call struct {
	Slot, Function uint64
}

// runBinder lets the binder of a process at its stop point run there too and returns
// which calls can be bound ahead. One that does not get there, or has other mappings,
// returns none: with LD_BIND_NOW a function that is nowhere ends a program, though it
// may never be called. The recorder sees to it that a resolver of a library's, which
// the program itself may never call, does nothing that lasts: at the first call of the
// kernel that is not a dynamic linker's the binder is given up.
func runBinder(t *ptrace.Tracer, pid, binder int, stop uint64, soft bool, maps []linux.Mapping, p *placer) []Call {
	b := newBinding(maps)
	if len(b.tables) == 0 {
		t.Discard(binder)
		return nil
	}
	// A crash of it is nobody's business (core(5): with 1 neither a file nor a pipe gets
	// a dump).
	_ = unix.Prlimit(binder, unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}, nil)
	defer t.KillAfter(binder, bindTimeout)()
	at, err := ptrace.SetBreakpoint(binder, stop, soft)
	if err == nil {
		err = (&recorder{pid: binder, placer: p}).run(t, at)
	}
	var ended *ptrace.EndedError
	if errors.As(err, &ended) {
		return nil // and reaped
	}
	defer t.Discard(binder)
	if err != nil {
		return nil
	}
	theirs, err := linux.ReadMaps(binder)
	if err != nil {
		return nil
	}
	if _, same := sameMaps(maps, theirs); !same {
		return nil
	}
	return b.calls(pid, binder)
}

// A binding is the objects that are mapped in a process, by path, and where their
// lazily bound functions' slots are.
type binding struct {
	maps    []linux.Mapping
	objects map[string]*object
	tables  []table
	// chosen are the functions that a resolver chooses, and whether any object other
	// than the C library has one.
	chosen map[string]bool
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

// newBinding reads the files that are mapped. If one cannot be read nothing is bound
// ahead, since it may have resolvers.
func newBinding(maps []linux.Mapping) *binding {
	b := &binding{objects: map[string]*object{}, maps: maps, chosen: map[string]bool{}}
	for _, m := range maps {
		if !filepath.IsAbs(m.Path) || b.objects[m.Path] != nil {
			continue
		}
		o := &object{}
		if err := o.open(m.Path, maps); err != nil {
			b.tables = nil
			return b
		}
		b.objects[m.Path] = o
		for _, name := range o.resolvers {
			b.chosen[name] = b.chosen[name] || !o.glibc
		}
		t := table{path: m.Path, slots: o.slots()}
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
// since dlopen(3) may bring it yet, and one that a library's IFUNC resolver chooses,
// since what that does it is to do when it would have been called. The C library's own
// resolvers look at the CPU features, which are in the image already (glibc,
// sysdeps/x86_64/multiarch/ifunc-*.h), or for time and gettimeofday in the vDSO, which
// is the image's too (sysdeps/unix/sysv/linux/x86/time.c).
func (b *binding) calls(pid, binder int) []Call {
	var calls []Call
	for _, t := range b.tables {
		lazy, bound := make([]byte, t.high-t.low), make([]byte, t.high-t.low)
		if linux.ReadMem(pid, t.low, lazy) != nil || linux.ReadMem(binder, t.low, bound) != nil {
			continue // not one table, or the binder has gone
		}
		for _, s := range t.slots {
			stub, function := binary.LittleEndian.Uint64(lazy[s.addr-t.low:]), binary.LittleEndian.Uint64(bound[s.addr-t.low:])
			if stub != function && b.text(stub) == t.path && b.defines(function, s.name) {
				calls = append(calls, Call{Slot: s.addr, Function: function})
			}
		}
	}
	slices.SortFunc(calls, func(x, y Call) int { return cmp.Compare(x.Slot, y.Slot) })
	return calls
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

// text is the path of the file whose text addr is in, or linux.VDSO, or "".
func (b *binding) text(addr uint64) string {
	i, _ := slices.BinarySearchFunc(b.maps, addr, func(m linux.Mapping, addr uint64) int {
		if m.End <= addr {
			return -1
		}
		return 1
	})
	if i < len(b.maps) && b.maps[i].Contains(addr) && executable(b.maps[i]) && (filepath.IsAbs(b.maps[i].Path) || b.maps[i].Path == linux.VDSO) {
		return b.maps[i].Path
	}
	return ""
}

// defines reports whether the object whose text addr is in defines the function so
// named there, or is the C library and has a resolver for it; it may have led to the
// vDSO.
func (b *binding) defines(addr uint64, name string) bool {
	elsewhere, chosen := b.chosen[name]
	if elsewhere {
		return false
	}
	path := b.text(addr)
	if path == linux.VDSO {
		return chosen
	}
	o := b.objects[path]
	return o != nil && (o.defines(addr, name) || o.glibc && chosen && slices.Contains(o.resolvers, name))
}

// An object is the part of an ELF file that dynamic linking goes by.
type object struct {
	bias    uint64 // what is added to the file's addresses
	symbols []byte // .dynsym: Elf64_Sym
	names   []byte // .dynstr
	lazy    []byte // DT_JMPREL: Elf64_Rela; none if all is bound at once
	glibc   bool

	defined   []uint32 // the numbers of the functions that it defines, by value
	resolvers []string // the names of its IFUNCs
}

const (
	symSize  = 24 // sizeof(Elf64_Sym)
	relaSize = 24 // sizeof(Elf64_Rela)
)

// open reads the file at path, which is mapped.
func (o *object) open(path string, maps []linux.Mapping) error {
	i := slices.IndexFunc(maps, func(m linux.Mapping) bool { return m.Path == path && m.Offset == 0 })
	if i < 0 {
		return errors.New("its beginning is not mapped")
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("no regular file any more")
	}
	return o.read(f, maps[i].Start)
}

// read reads a file whose first byte is mapped at start. Package elf is not made for
// files that are not sound, but the dynamic linker has taken this one; should it be so
// bad all the same, that is an error.
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
	first := slices.IndexFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_LOAD && p.Off < linux.PageSize })
	if first < 0 {
		return errors.New("its beginning is not loaded")
	}
	o.bias = start - f.Progs[first].Vaddr&^(linux.PageSize-1)
	table := f.SectionByType(elf.SHT_DYNSYM)
	if table == nil || int(table.Link) >= len(f.Sections) {
		return errors.New("it has no symbols")
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
	o.index()
	return o.readLazy(f)
}

// maxSymbols bounds a symbol table or its strings, in bytes. Chromium's have 1 MiB.
const maxSymbols = 64 << 20

// loaded is the content of a section that the dynamic linker reads, which is never a
// compressed one.
func loaded(s *elf.Section) ([]byte, error) {
	if s.ReaderAt == nil || s.Type == elf.SHT_NOBITS || s.FileSize > maxSymbols {
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
	for n := range uint32(len(o.symbols) / symSize) {
		at := uint64(n) * symSize
		if elf.SectionIndex(binary.LittleEndian.Uint16(o.symbols[at+6:])) == elf.SHN_UNDEF {
			continue
		}
		switch elf.ST_TYPE(o.symbols[at+4]) {
		case elf.STT_GNU_IFUNC:
			o.resolvers = append(o.resolvers, o.name(n))
		case elf.STT_FUNC, elf.STT_NOTYPE:
			o.defined = append(o.defined, n)
		}
	}
	slices.SortFunc(o.defined, func(x, y uint32) int { return cmp.Compare(o.value(x), o.value(y)) })
}

// defines reports whether the object has the function so named at addr.
func (o *object) defines(addr uint64, name string) bool {
	i, _ := slices.BinarySearchFunc(o.defined, addr-o.bias, func(n uint32, value uint64) int {
		return cmp.Compare(o.value(n), value)
	})
	for ; i < len(o.defined) && o.value(o.defined[i]) == addr-o.bias; i++ {
		if o.name(o.defined[i]) == name {
			return true
		}
	}
	return false
}
