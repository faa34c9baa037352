package elfinfo

import (
	"bytes"
	"encoding/binary"
)

// ntGNUBuildID is NT_GNU_BUILD_ID of <elf.h>.
const ntGNUBuildID = 3

// BuildIDNote looks for the build-id among the notes that fill b, whose
// entries are aligned to align bytes (8, else 4). It returns the offset of the
// id in b and the id itself.
func BuildIDNote(b []byte, align uint64) (off int, id []byte, ok bool) {
	if align != 8 {
		align = 4
	}
	for pos := uint64(0); pos+12 <= uint64(len(b)); {
		nameLen := uint64(binary.LittleEndian.Uint32(b[pos:]))
		descLen := uint64(binary.LittleEndian.Uint32(b[pos+4:]))
		kind := binary.LittleEndian.Uint32(b[pos+8:])
		name := pos + 12
		desc := alignUp(name+nameLen, align)
		end := desc + descLen // 32-bit lengths: no overflow
		if end > uint64(len(b)) {
			return 0, nil, false
		}
		if kind == ntGNUBuildID && bytes.Equal(b[name:name+nameLen], []byte("GNU\x00")) {
			return int(desc), b[desc:end], descLen > 0
		}
		pos = alignUp(end, align)
	}
	return 0, nil, false
}

func alignUp(n, align uint64) uint64 { return (n + align - 1) &^ (align - 1) }
