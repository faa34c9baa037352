package plan

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
)

// Sum returns the checksum (Header.Sum) of an encoded plan, 0 if it has none.
func Sum(raw []byte) uint64 {
	if len(raw) < summedFrom {
		return 0
	}
	return binary.LittleEndian.Uint64(raw[summedFrom-8:])
}

// ReadVersion returns the version of the format that the plan in a file is of. Nothing
// else in it is looked at but its magic.
func ReadVersion(path string) (uint32, error) {
	raw, err := readStart(path, versionAt+4)
	if err == nil && string(raw[:len(Magic)]) != Magic {
		err = fmt.Errorf("read the plan %s: it is none", path)
	}
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(raw[versionAt:]), nil
}

// readStart reads the first bytes of the plan in a file.
func readStart(path string, size int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	defer f.Close()
	raw := make([]byte, size)
	if _, err := io.ReadFull(f, raw); err != nil {
		return nil, fmt.Errorf("read the plan %s: %w", path, err)
	}
	return raw, nil
}
