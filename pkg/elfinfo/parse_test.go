package elfinfo

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"testing"
)

// header64 is the smallest ELF header that parse believes, changed by edit.
func header64(edit func(*elf.Header64)) []byte {
	h := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(machine),
		Version: 1, Ehsize: 64, Phentsize: 56, Phoff: 64,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS64)
	h.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	h.Ident[elf.EI_VERSION] = 1
	edit(&h)
	return pack(h)
}

func pack(parts ...any) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		binary.Write(&b, binary.LittleEndian, p)
	}
	return b.Bytes()
}

// withSegments is an ELF file of these program headers and then rest.
func withSegments(rest []byte, progs ...elf.Prog64) []byte {
	h := header64(func(h *elf.Header64) { h.Phnum = uint16(len(progs)) })
	return append(pack(h, progs), rest...)
}

func TestParseRefusesWhatContradictsItself(t *testing.T) {
	load := func(p elf.Prog64) elf.Prog64 { p.Type = uint32(elf.PT_LOAD); return p }
	for _, tc := range []struct {
		name string
		file []byte
		want error
	}{
		{"empty", nil, errNotELF},
		{"text", []byte("hello, world, this is text\n"), errNotELF},
		{"magic only", []byte(elf.ELFMAG), io.EOF},
		{"half a header", header64(func(*elf.Header64) {})[:40], io.ErrUnexpectedEOF},
		{"no program headers in the file", header64(func(h *elf.Header64) { h.Phnum = 3 }), io.ErrUnexpectedEOF},
		{"program headers far away", header64(func(h *elf.Header64) { h.Phnum, h.Phoff = 1, 1<<64-8 }), io.ErrUnexpectedEOF},
		{"too many program headers", header64(func(h *elf.Header64) { h.Phnum = maxPhdrs + 1 }), errFields},
		{"program headers of another size", header64(func(h *elf.Header64) { h.Phnum, h.Phentsize = 1, 32 }), errFields},
		{"segment wraps around", withSegments(nil, load(elf.Prog64{Vaddr: 1 << 63, Memsz: 1<<63 + 4096})), errFields},
		{"segment above user space", withSegments(nil, load(elf.Prog64{Vaddr: maxAddr, Memsz: 4096})), errFields},
		{"segment larger in the file", withSegments(nil, load(elf.Prog64{Filesz: 16, Memsz: 8})), errFields},
		{"segment beyond the file", withSegments(nil, load(elf.Prog64{Off: 64, Filesz: 4096, Memsz: 4096})), io.ErrUnexpectedEOF},
		{"interpreter too long", withSegments(nil, elf.Prog64{Type: uint32(elf.PT_INTERP), Filesz: maxInterp + 1}), errFields},
		{"interpreter without end", withSegments([]byte("/lib"), elf.Prog64{Type: uint32(elf.PT_INTERP), Off: 120, Filesz: 4}), errFields},
		{"interpreter empty", withSegments([]byte{0, 0}, elf.Prog64{Type: uint32(elf.PT_INTERP), Off: 120, Filesz: 2}), errFields},
		{"dynamic section too long", withSegments(nil, elf.Prog64{Type: uint32(elf.PT_DYNAMIC), Filesz: maxDynamic + 1}), errFields},
		{"needed without strings", withSegments(pack(elf.Dyn64{Tag: int64(elf.DT_NEEDED), Val: 7}),
			elf.Prog64{Type: uint32(elf.PT_DYNAMIC), Off: 120, Filesz: 16}), errFields},
		{"notes beyond the file", withSegments(nil, elf.Prog64{Type: uint32(elf.PT_NOTE), Off: 120, Filesz: 64}), io.ErrUnexpectedEOF},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := parse(bytes.NewReader(tc.file), int64(len(tc.file)))
			if !errors.Is(err, tc.want) {
				t.Errorf("parse = %+v, %v; want %v", f, err, tc.want)
			}
		})
	}
}

func TestParseRoundsLoadEndUp(t *testing.T) {
	b := withSegments(nil,
		elf.Prog64{Type: uint32(elf.PT_LOAD), Vaddr: 0x403000, Memsz: 0x1001},
		elf.Prog64{Type: uint32(elf.PT_LOAD), Vaddr: 0x400000, Memsz: 0x1000})
	f, err := parse(bytes.NewReader(b), int64(len(b)))
	if err != nil || f.LoadEnd != 0x405000 {
		t.Fatalf("LoadEnd = %#x, %v", f.LoadEnd, err)
	}
	if !f.ExecStack {
		t.Error("without PT_GNU_STACK the stack is taken to be executable")
	}
}

func TestBuildIDNote(t *testing.T) {
	note := func(name string, kind uint32, desc []byte) []byte {
		b := pack([3]uint32{uint32(len(name)), uint32(len(desc)), kind}, []byte(name))
		b = append(b, make([]byte, -len(b)&3)...)
		b = append(b, desc...)
		return append(b, make([]byte, -len(b)&3)...)
	}
	other := note("Linux\x00", 0, []byte{1, 2, 3})
	id := note("GNU\x00", ntGNUBuildID, []byte{0xca, 0xfe})
	for _, tc := range []struct {
		name  string
		notes []byte
		off   int
		want  []byte
	}{
		{"alone", id, 16, []byte{0xca, 0xfe}},
		{"after another", append(bytes.Clone(other), id...), len(other) + 16, []byte{0xca, 0xfe}},
		{"missing", other, 0, nil},
		{"cut off", id[:17], 0, nil},
		{"length too large", pack([3]uint32{4, 1<<32 - 1, 3}, []byte("GNU\x00")), 0, nil},
		{"empty", nil, 0, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			off, got, ok := BuildIDNote(tc.notes, 4)
			if off != tc.off || !bytes.Equal(got, tc.want) || ok != (tc.want != nil) {
				t.Errorf("BuildIDNote = %d, %x, %v; want %d, %x", off, got, ok, tc.off, tc.want)
			}
		})
	}
}

// Whatever the bytes are, parse ends, soon, and does not panic.
func FuzzOpen(f *testing.F) {
	if self, err := os.ReadFile("/bin/true"); err == nil {
		f.Add(self)
		f.Add(self[:len(self)/2])
	}
	f.Add(header64(func(h *elf.Header64) { h.Phnum = 1 }))
	f.Add(withSegments(pack(elf.Dyn64{Tag: int64(elf.DT_NEEDED), Val: 7}),
		elf.Prog64{Type: uint32(elf.PT_DYNAMIC), Off: 120, Filesz: 16}))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := parse(bytes.NewReader(b), int64(len(b)))
		if (info == nil) == (err == nil) {
			t.Errorf("parse = %v, %v", info, err)
		}
	})
}
