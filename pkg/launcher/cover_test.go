package launcher

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"slices"
	"testing"
)

const systemLinker = "/lib64/ld-linux-x86-64.so.2"

// A covered linker is the same linker with one more segment and another entry.
func TestCover(t *testing.T) {
	linker, err := os.ReadFile(systemLinker)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := Cover(linker, CoverOptions{Original: "/real", Stores: []Store{storeOf("/store", 1, 2)}})
	if err != nil {
		t.Fatal(err)
	}
	was, err := elf.NewFile(bytes.NewReader(linker))
	if err != nil {
		t.Fatal(err)
	}
	is, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	var end uint64
	var added *elf.Prog
	for _, p := range is.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		if p.Vaddr < end {
			t.Errorf("the segment at %#x begins before the one in front of it ends", p.Vaddr)
		}
		if p.Filesz != p.Memsz {
			t.Errorf("the segment at %#x has a .bss that an old kernel would not clear", p.Vaddr)
		}
		if (p.Vaddr-p.Off)%4096 != 0 {
			t.Errorf("the segment at %#x cannot be mapped from %#x", p.Vaddr, p.Off)
		}
		end, added = p.Vaddr+p.Memsz, p
	}
	if added.Flags != elf.PF_R|elf.PF_X || is.Entry != added.Vaddr+interpOffset {
		t.Errorf("the entry is %#x, the last segment %+v", is.Entry, added.ProgHeader)
	}
	if _, err := Cover(raw, CoverOptions{Original: "/real"}); !errors.Is(err, ErrCovered) {
		t.Errorf("covered twice: %v", err)
	}
	if code := raw[added.Off:]; !bytes.HasPrefix(code, Code) {
		t.Error("the last segment is not the launcher")
	}
	for _, p := range was.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		want := make([]byte, p.Memsz)
		if _, err := p.ReadAt(want[:p.Filesz], 0); err != nil {
			t.Fatal(err)
		}
		if got := loaded(t, is, p.Vaddr, p.Memsz); !bytes.Equal(got, want) && p.Off != 0 { // the first holds the headers
			t.Errorf("the segment at %#x has changed", p.Vaddr)
		}
	}
	for _, p := range was.Progs {
		if p.Type != elf.PT_LOAD && p.Type != elf.PT_GNU_STACK &&
			!slices.ContainsFunc(is.Progs, func(q *elf.Prog) bool { return q.ProgHeader == p.ProgHeader }) {
			t.Errorf("the header %+v is missing", p.ProgHeader)
		}
	}
	for i, s := range was.Sections {
		got, want := is.Sections[i].SectionHeader, s.SectionHeader
		if want.Flags&elf.SHF_ALLOC == 0 {
			got.Offset, want.Offset = 0, 0 // what is not loaded may stand elsewhere
		}
		if got != want {
			t.Errorf("section %s has changed: %+v instead of %+v", s.Name, got, want)
		}
		if s.Type == elf.SHT_NOBITS {
			continue
		}
		had, err1 := s.Data()
		has, err2 := is.Sections[i].Data()
		if err1 != nil || err2 != nil || !bytes.Equal(had, has) {
			t.Errorf("section %s holds something else (%v, %v)", s.Name, err1, err2)
		}
	}
}

// loaded reads what is mapped at an address.
func loaded(t *testing.T, f *elf.File, addr, size uint64) []byte {
	t.Helper()
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Vaddr <= addr && addr+size <= p.Vaddr+p.Memsz {
			b := make([]byte, size)
			if _, err := p.ReadAt(b, int64(addr-p.Vaddr)); err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	t.Fatalf("nothing is mapped at %#x", addr)
	return nil
}

func TestCoverRefuses(t *testing.T) {
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for name, linker := range map[string][]byte{
		"nothing": nil, "text": []byte("#!/bin/sh\n"), "a static program": program, "half a header": program[:40],
	} {
		if _, err := Cover(linker, CoverOptions{Original: "/real", Stores: []Store{storeOf("/store", 1, 2)}}); err == nil {
			t.Errorf("%s is covered", name)
		}
	}
}

func FuzzCover(f *testing.F) {
	linker, err := os.ReadFile(systemLinker)
	if err != nil {
		f.Skip(systemLinker, "is not there:", err)
	}
	f.Add(linker[:4096])
	f.Fuzz(func(t *testing.T, b []byte) {
		if raw, err := Cover(b, CoverOptions{Original: "/real"}); err == nil && len(raw) <= len(b) {
			t.Error("a covered linker is no longer than the linker")
		}
	})
}

func TestCoverIsOf(t *testing.T) {
	linker, err := os.ReadFile(systemLinker)
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Clone(linker)
	other[len(other)/2] ^= 1
	for _, o := range []CoverOptions{
		{Original: "/real"},
		{Original: "/real", Stores: []Store{storeOf("/a", 1, 2), storeOf("/b", 3, 4), storeOf("/c", 5, 6), storeOf("/d", 7, 8)}, Root: 65534, Log: "/log"},
	} {
		covered, err := Cover(linker, o)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Replace(covered, Code[:64], make([]byte, 64), 1) // another residentctl's
		for _, test := range []struct {
			name            string
			covered, linker []byte
			want            bool
			err             error
		}{
			{"its own", covered, linker, true, nil},
			{"another linker's", covered, other, false, nil},
			{"another launcher", changed, linker, false, nil},
			{"no copy", linker, linker, false, nil},
			{"nothing", nil, linker, false, nil},
			{"cut", covered[:len(covered)-3], linker, false, nil},
			{"of a copy", covered, covered, false, ErrCovered},
		} {
			if got, err := CoverIsOf(test.covered, test.linker); got != test.want || !errors.Is(err, test.err) {
				t.Errorf("%s: %v, %v", test.name, got, err)
			}
		}
	}
}
