package fingerprint

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/residentctl/residentctl/pkg/elfinfo"
)

// maxVDSO bounds how many bytes of a vDSO are looked at. It has two pages.
const maxVDSO = 1 << 20

// VDSOBuildID finds the build-id in the bytes of a vDSO, the mapping [vdso]
// from its first byte on: the offset of the id itself (after the
// note's header) and the id, 20 bytes on today's kernels. The kernel links
// the vDSO at 0 with one segment, so the offset in the file is the one in
// memory (arch/x86/entry/vdso/vdso-layout.lds.S).
func VDSOBuildID(vdso []byte) (off uint32, id []byte, err error) {
	if len(vdso) > maxVDSO {
		return 0, nil, fmt.Errorf("read the vDSO: %d bytes are too many", len(vdso))
	}
	if !bytes.HasPrefix(vdso, []byte(elf.ELFMAG)) {
		return 0, nil, errors.New("read the vDSO: it is not an ELF file")
	}
	var h elf.Header64
	if _, err := binary.Decode(vdso, binary.LittleEndian, &h); err != nil {
		return 0, nil, fmt.Errorf("read the vDSO's header: %w", err)
	}
	if h.Phoff > uint64(len(vdso)) {
		return 0, nil, errors.New("read the vDSO's program headers: they lie beyond its end")
	}
	rest := vdso[h.Phoff:]
	for range h.Phnum {
		var p elf.Prog64
		n, err := binary.Decode(rest, binary.LittleEndian, &p)
		if err != nil {
			return 0, nil, fmt.Errorf("read the vDSO's program headers: %w", err)
		}
		rest = rest[n:]
		if elf.ProgType(p.Type) != elf.PT_NOTE || p.Off > uint64(len(vdso)) || p.Filesz > uint64(len(vdso))-p.Off {
			continue
		}
		if at, id, ok := elfinfo.BuildIDNote(vdso[p.Off:p.Off+p.Filesz], p.Align); ok {
			return uint32(p.Off) + uint32(at), id, nil
		}
	}
	return 0, nil, errors.New("read the vDSO: it has no build-id")
}

// OwnVDSO reads the vDSO of the calling process. Every process of a machine
// has the same one (but for 32-bit processes).
func OwnVDSO() ([]byte, error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, fmt.Errorf("find the vDSO: %w", err)
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(line, "[vdso]\n") {
			continue
		}
		from, to, _ := strings.Cut(line[:strings.IndexByte(line, ' ')], "-")
		start, err1 := strconv.ParseUint(from, 16, 63)
		end, err2 := strconv.ParseUint(to, 16, 63)
		if err := errors.Join(err1, err2); err != nil || end <= start || end-start > maxVDSO {
			return nil, fmt.Errorf("find the vDSO: %q in /proc/self/maps", strings.TrimSpace(line))
		}
		return readSelf(start, end-start)
	}
	return nil, errors.New("find the vDSO: this kernel maps none")
}

func readSelf(addr, n uint64) ([]byte, error) {
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		return nil, fmt.Errorf("read the vDSO: %w", err)
	}
	defer mem.Close()
	b := make([]byte, n)
	if _, err := mem.ReadAt(b, int64(addr)); err != nil {
		return nil, fmt.Errorf("read the vDSO: %w", err)
	}
	return b, nil
}
