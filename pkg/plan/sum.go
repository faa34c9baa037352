package plan

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
)

// Sum is the checksum (Header.Sum) that stands in an encoded plan, 0 if it has none.
func Sum(raw []byte) uint64 {
	if len(raw) < summedFrom {
		return 0
	}
	return binary.LittleEndian.Uint64(raw[summedFrom-8:])
}

// ReadSum is Sum of the plan in a file, of which nothing else is read.
func ReadSum(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("read the plan: %w", err)
	}
	defer f.Close()
	raw := make([]byte, summedFrom)
	if _, err := io.ReadFull(f, raw); err != nil {
		return 0, fmt.Errorf("read the plan %s: %w", path, err)
	}
	return Sum(raw), nil
}
