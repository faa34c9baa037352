package criuwrap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/residentctl/residentctl/internal/plural"
)

// Why an image is refused. Each is wrapped in an error that says where.
var (
	// ErrTruncated: a file is shorter, or longer, than the image says.
	ErrTruncated = errors.New("truncated")
	// ErrFormat: bytes that CRIU does not write.
	ErrFormat = errors.New("not a CRIU image")
	// ErrUnsupported: a sound image of something that is not read here.
	ErrUnsupported = errors.New("unsupported image")
)

// The magic numbers that open CRIU's files: criu/include/magic.h. Each file but
// the inventory has the common one first.
const (
	magicCommon    = 0x54564319
	magicInventory = 0x58313116
	magicPstree    = 0x50273030
	magicCore      = 0x55053847
	magicMM        = 0x57492820
	magicPagemap   = 0x56084025
	magicFiles     = 0x56303138
)

// Bounds on what is read into memory. The largest file is the mm with its up to
// 65530 mappings (vm.max_map_count) of some 50 bytes each.
const (
	maxRecord = 16 << 20 // bytes
	maxFile   = 64 << 20
)

// readFile calls each for every record of a file: the bytes of one protobuf
// message, valid until each returns.
func readFile(fsys fs.FS, name string, magic uint32, each func(i int, record []byte) error) error {
	size, err := regularSize(fsys, name)
	if err != nil {
		return err
	}
	if size > maxFile {
		return fmt.Errorf("%s: %w: %d bytes", name, ErrFormat, size)
	}
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := readRecords(f, size, magic, each); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// regularSize is the size of a regular file, in bytes. Opening another kind may
// wait for ever.
func regularSize(fsys fs.FS, name string) (int64, error) {
	st, err := fs.Stat(fsys, name)
	if err != nil {
		return 0, err
	}
	if !st.Mode().IsRegular() {
		return 0, fmt.Errorf("%s: %w: not a regular file", name, ErrFormat)
	}
	return st.Size(), nil
}

// readRecords reads the frame of CRIU's files: the magic numbers, then records
// of a length and that many bytes; all numbers are little-endian u32.
func readRecords(r io.Reader, size int64, magic uint32, each func(i int, record []byte) error) error {
	word := func() (uint32, error) {
		var b [4]byte
		if size < int64(len(b)) {
			return 0, ErrTruncated
		}
		size -= int64(len(b))
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return 0, shorter(err)
		}
		return binary.LittleEndian.Uint32(b[:]), nil
	}

	magics := []uint32{magicCommon, magic}
	if magic == magicInventory {
		magics = magics[1:]
	}
	for _, want := range magics {
		got, err := word()
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%w: magic %#x where %#x is expected", ErrFormat, got, want)
		}
	}

	var buf []byte
	for i := 0; size > 0; i++ {
		n, err := word()
		if err != nil {
			return fmt.Errorf("record %d: %w", i, err)
		}
		if n > maxRecord {
			return fmt.Errorf("record %d: %w: length %d", i, ErrFormat, n)
		}
		if int64(n) > size {
			return fmt.Errorf("record %d: %w: %s of %d present", i, ErrTruncated, plural.Count(size, "byte"), n)
		}
		size -= int64(n)
		if cap(buf) < int(n) {
			buf = make([]byte, n)
		}
		buf = buf[:n]
		if _, err := io.ReadFull(r, buf); err != nil {
			return fmt.Errorf("record %d: %w", i, shorter(err))
		}
		if err := each(i, buf); err != nil {
			return fmt.Errorf("record %d: %w", i, err)
		}
	}
	return nil
}

// shorter turns the end of a file that its size promised more of into
// ErrTruncated.
func shorter(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return ErrTruncated
	}
	return err
}
