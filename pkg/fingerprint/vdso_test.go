package fingerprint

import (
	"bytes"
	"testing"
)

func TestOwnVDSO(t *testing.T) {
	vdso, err := OwnVDSO()
	if err != nil {
		t.Fatal(err)
	}
	off, id, err := VDSOBuildID(vdso)
	if err != nil {
		t.Fatal(err)
	}
	if len(id) < 8 || len(id) > 32 || !bytes.Equal(vdso[off:int(off)+len(id)], id) {
		t.Errorf("build-id %x at %#x", id, off)
	}
}

func TestVDSOBuildIDOfDamagedOnes(t *testing.T) {
	vdso, err := OwnVDSO()
	if err != nil {
		t.Skip(err)
	}
	far := bytes.Clone(vdso)
	copy(far[32:], bytes.Repeat([]byte{0xff}, 8)) // e_phoff
	for _, tc := range []struct {
		name  string
		bytes []byte
	}{
		{"empty", nil},
		{"no ELF", make([]byte, 4096)},
		{"half a header", vdso[:40]},
		{"no program headers", vdso[:64]},
		{"program headers far away", far},
		{"huge", make([]byte, maxVDSO+1)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if off, id, err := VDSOBuildID(tc.bytes); err == nil {
				t.Errorf("found %x at %#x", id, off)
			}
		})
	}
}

func FuzzVDSOBuildID(f *testing.F) {
	if vdso, err := OwnVDSO(); err == nil {
		f.Add(vdso)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		off, id, err := VDSOBuildID(b)
		if err == nil && !bytes.Equal(b[off:int(off)+len(id)], id) {
			t.Errorf("build-id %x is not at %#x", id, off)
		}
	})
}
