package linux

import (
	"bytes"
	"os"
	"reflect"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pages maps n pages for a test, outside what the garbage collector knows.
func pages(t *testing.T, n int) ([]byte, uint64) {
	t.Helper()
	mem, err := unix.Mmap(-1, 0, n*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	return mem, uint64(uintptr(unsafe.Pointer(&mem[0])))
}

func TestMem(t *testing.T) {
	mem, addr := pages(t, 3)
	pid := os.Getpid()
	copy(mem, "first")
	copy(mem[2*PageSize:], "third")
	if err := unix.Mprotect(mem[2*PageSize:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}

	buf := make([]byte, 10)
	// The second range is not readable for the process itself.
	err := ReadRanges(pid, []PageRange{{addr, addr + 5}, {addr + 2*PageSize, addr + 2*PageSize + 5}}, buf)
	if err != nil || string(buf) != "firstthird" {
		t.Errorf("got %q, %v", buf, err)
	}
	if err := WriteMem(pid, addr, []byte("wrote")); err != nil || !bytes.HasPrefix(mem, []byte("wrote")) {
		t.Errorf("got %q, %v", mem[:5], err)
	}
	if err := ReadMem(pid, 16, buf); err == nil {
		t.Error("read the first page")
	}
	if err := ReadMem(pid, addr, nil); err != nil {
		t.Error(err)
	}
}

func TestReadString(t *testing.T) {
	mem, addr := pages(t, 2)
	pid := os.Getpid()
	if err := unix.Mprotect(mem[PageSize:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	// It ends right before what cannot be read.
	copy(mem[PageSize-5:], "last\x00")
	if s, err := ReadString(pid, addr+PageSize-5, 100); s != "last" || err != nil {
		t.Errorf("got %q, %v", s, err)
	}
	copy(mem, bytes.Repeat([]byte{'x'}, 1000))
	if s, err := ReadString(pid, addr, 4096); len(s) != 1000 || err != nil {
		t.Errorf("got %d bytes, %v", len(s), err)
	}
	if _, err := ReadString(pid, addr, 1000); err == nil {
		t.Error("a string without end was accepted")
	}
}

func TestAnonPages(t *testing.T) {
	mem, addr := pages(t, 8)
	for _, i := range []int{1, 2, 5} {
		mem[i*PageSize] = 1
	}
	got, err := AnonPages(os.Getpid(), []Mapping{{Start: addr, End: addr + 3*PageSize}, {Start: addr + 3*PageSize, End: addr + 8*PageSize}})
	want := []PageRange{{addr + PageSize, addr + 3*PageSize}, {addr + 5*PageSize, addr + 6*PageSize}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %x, %v; want %x", got, err, want)
	}
}

func TestUnionRanges(t *testing.T) {
	a := []PageRange{{1, 3}, {5, 6}, {9, 12}}
	b := []PageRange{{0, 1}, {2, 4}, {6, 7}, {10, 11}}
	want := []PageRange{{0, 4}, {5, 7}, {9, 12}}
	if got := UnionRanges(a, b); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := UnionRanges(nil, b); !reflect.DeepEqual(got, []PageRange{{0, 1}, {2, 4}, {6, 7}, {10, 11}}) {
		t.Errorf("with nothing: %v", got)
	}
}

func TestParseAuxv(t *testing.T) {
	pair := func(words ...uint64) (b []byte) {
		for _, w := range words {
			for i := range 8 {
				b = append(b, byte(w>>(8*i)))
			}
		}
		return b
	}
	auxv, err := ParseAuxv(pair(ATPageSize, 4096, ATEntry, 0x1234, ATNull, 0, 77, 88))
	if err != nil || len(auxv) != 2 || auxv.Value(ATEntry) != 0x1234 || auxv.Value(ATSecure) != 0 {
		t.Errorf("got %v, %v", auxv, err)
	}
	if _, ok := auxv.Get(77); ok {
		t.Error("found an entry beyond the end")
	}
	for _, bad := range [][]byte{nil, pair(ATPageSize, 4096), pair(ATNull)} {
		if auxv, err := ParseAuxv(bad); err == nil {
			t.Errorf("%x gave %v", bad, auxv)
		}
	}
}

func TestTSC(t *testing.T) {
	if a, b := TSC(), TSC(); a == 0 || b < a {
		t.Errorf("%d, then %d", a, b)
	}
}
