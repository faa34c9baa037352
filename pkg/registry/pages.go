package registry

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"

	"github.com/residentctl/residentctl/internal/plural"
)

// bbolt follows offsets in a memory-mapped file without looking at them: a
// damaged one ends in a fault or, where a page leads back to itself, in an
// endless descent, and neither can be caught in every goroutine. So the pages
// are checked before bbolt opens the file. The layout is that of bbolt's
// internal/common (meta.go, page.go, inode.go, bucket.go), in the byte order of
// this machine.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageHeader    = 16 // id 8, flags 2, count 2, overflow 4
	elementSize   = 16 // leaf: flags, pos, ksize, vsize; branch: pos, ksize, page 8
	bucketHeader  = 16 // root page 8, sequence 8
	metaSize      = 64
	metaSumOffset = 56

	branchFlag   = 0x01
	leafFlag     = 0x02
	freelistFlag = 0x10
	bucketFlag   = 0x01 // of a leaf element

	noFreelist = ^uint64(0)

	maxKeySize = 32768
	// maxDepth is far more than a tree of any size has.
	maxDepth = 32
	// maxFaults ends a scan that only finds more of the same.
	maxFaults = 100
)

var order = binary.NativeEndian

// A meta page holds where everything starts.
type metaPage struct {
	root, freelist, end, txid uint64 // end: one behind the last page in use
}

type pageScan struct {
	file     io.ReaderAt
	size     int64
	pageSize int
	end      uint64
	reached  map[uint64]bool
	faults   []string
}

// scanPages reads every page header of a bbolt file and says what is wrong:
// nothing, if bbolt can be trusted with it.
func scanPages(file *os.File) []string {
	info, err := file.Stat()
	if err != nil {
		return []string{err.Error()}
	}
	s := &pageScan{file: file, size: info.Size(), pageSize: os.Getpagesize(), reached: make(map[uint64]bool)}
	meta, ok := s.meta()
	if !ok {
		s.fault("not a registry (no valid bbolt meta page)")
		return s.faults
	}
	s.end = meta.end
	if s.end < 2 || s.end > uint64(s.size)/uint64(s.pageSize) {
		s.fault("%s expected, the file has %s", plural.Count(s.end, "page"), plural.Count(s.size, "byte"))
		return s.faults
	}
	s.tree(meta.root, 0)
	if meta.freelist != noFreelist {
		s.freelist(meta.freelist)
	}
	return s.faults
}

func (s *pageScan) fault(format string, args ...any) {
	if len(s.faults) < maxFaults {
		s.faults = append(s.faults, fmt.Sprintf(format, args...))
	}
}

func summary(faults []string) string {
	if len(faults) == 1 {
		return faults[0]
	}
	return fmt.Sprintf("%s, and %s more", faults[0], plural.Count(len(faults)-1, "fault"))
}

// meta is the meta page that bbolt would use: of the valid ones the newer.
func (s *pageScan) meta() (newest metaPage, found bool) {
	for id := range int64(2) {
		buf := make([]byte, metaSize)
		if _, err := s.file.ReadAt(buf, id*int64(s.pageSize)+pageHeader); err != nil {
			continue
		}
		m, ok := s.decodeMeta(buf)
		if ok && (!found || m.txid > newest.txid) {
			newest, found = m, true
		}
	}
	return newest, found
}

func (s *pageScan) decodeMeta(buf []byte) (metaPage, bool) {
	sum := fnv.New64a()
	sum.Write(buf[:metaSumOffset])
	if order.Uint32(buf) != boltMagic || order.Uint32(buf[4:]) != boltVersion ||
		order.Uint64(buf[metaSumOffset:]) != sum.Sum64() ||
		int64(order.Uint32(buf[8:])) != int64(s.pageSize) {
		return metaPage{}, false
	}
	return metaPage{
		root:     order.Uint64(buf[16:]),
		freelist: order.Uint64(buf[32:]),
		end:      order.Uint64(buf[40:]),
		txid:     order.Uint64(buf[48:]),
	}, true
}

// page claims the page id and those that it overflows into, and reads its
// header and its table of elements.
func (s *pageScan) page(id uint64, element int) (buf []byte, flags uint16, count int, length int64, ok bool) {
	if len(s.faults) >= maxFaults {
		return nil, 0, 0, 0, false
	}
	if id < 2 || id >= s.end {
		s.fault("page %d is outside of the file", id)
		return nil, 0, 0, 0, false
	}
	head := make([]byte, s.pageSize)
	if _, err := s.file.ReadAt(head, int64(id)*int64(s.pageSize)); err != nil {
		s.fault("page %d: %v", id, err)
		return nil, 0, 0, 0, false
	}
	flags, count = order.Uint16(head[8:]), int(order.Uint16(head[10:]))
	overflow := uint64(order.Uint32(head[12:]))
	if order.Uint64(head) != id || id+overflow >= s.end {
		s.fault("page %d calls itself %d and is %d long", id, order.Uint64(head), overflow+1)
		return nil, 0, 0, 0, false
	}
	for p := id; p <= id+overflow; p++ {
		if s.reached[p] {
			s.fault("page %d is used twice", p)
			return nil, 0, 0, 0, false
		}
		s.reached[p] = true
	}
	length = int64(overflow+1) * int64(s.pageSize)
	table := int64(pageHeader + count*element)
	if table > length {
		s.fault("page %d has more elements than room", id)
		return nil, 0, 0, 0, false
	}
	if table > int64(len(head)) {
		head = make([]byte, table)
		if _, err := s.file.ReadAt(head, int64(id)*int64(s.pageSize)); err != nil {
			s.fault("page %d: %v", id, err)
			return nil, 0, 0, 0, false
		}
	}
	return head, flags, count, length, true
}

// tree walks the pages of a bucket.
func (s *pageScan) tree(id uint64, depth int) {
	if depth > maxDepth {
		s.fault("page %d is nested too deeply", id)
		return
	}
	buf, flags, count, length, ok := s.page(id, elementSize)
	switch {
	case !ok:
	case flags == branchFlag && count > 0:
		s.branch(id, buf, count, length, depth)
	case flags == leafFlag:
		at := int64(id) * int64(s.pageSize)
		s.leaf(id, io.NewSectionReader(s.file, at, length), buf, count, length, depth)
	default:
		s.fault("page %d is of kind %#x with %s", id, flags, plural.Count(count, "element"))
	}
}

func (s *pageScan) branch(id uint64, buf []byte, count int, length int64, depth int) {
	for i := range count {
		at := int64(pageHeader + i*elementSize)
		e := buf[at:]
		pos, ksize := int64(order.Uint32(e)), int64(order.Uint32(e[4:]))
		if ksize > maxKeySize || at+pos+ksize > length {
			s.fault("page %d: key %d is outside of it", id, i)
			continue
		}
		s.tree(order.Uint64(e[8:]), depth+1)
	}
}

// leaf checks the elements of a leaf: of a page, or of a bucket small enough to
// stand in its parent's page. data is all of it, table its beginning.
func (s *pageScan) leaf(id uint64, data io.ReaderAt, table []byte, count int, length int64, depth int) {
	for i := range count {
		at := int64(pageHeader + i*elementSize)
		e := table[at:]
		pos, ksize, vsize := int64(order.Uint32(e[4:])), int64(order.Uint32(e[8:])), int64(order.Uint32(e[12:]))
		if ksize == 0 || ksize > maxKeySize || at+pos+ksize+vsize > length {
			s.fault("page %d: element %d is outside of it", id, i)
			continue
		}
		if order.Uint32(e)&bucketFlag != 0 {
			s.bucket(id, io.NewSectionReader(data, at+pos+ksize, vsize), vsize, depth+1)
		}
	}
}

// bucket checks a value that is a bucket: it names a root page, or with root 0
// holds a leaf itself.
func (s *pageScan) bucket(id uint64, value io.ReaderAt, size int64, depth int) {
	head := make([]byte, bucketHeader)
	if _, err := value.ReadAt(head, 0); err != nil {
		s.fault("page %d: a bucket of %s", id, plural.Count(size, "byte"))
		return
	}
	if root := order.Uint64(head); root != 0 {
		s.tree(root, depth+1)
		return
	}
	inline := io.NewSectionReader(value, bucketHeader, size-bucketHeader)
	length := inline.Size()
	if length < pageHeader || length > int64(s.pageSize) || depth > maxDepth {
		s.fault("page %d: a bucket of %s", id, plural.Count(size, "byte"))
		return
	}
	table := make([]byte, length)
	if _, err := inline.ReadAt(table, 0); err != nil {
		s.fault("page %d: %v", id, err)
		return
	}
	count := int(order.Uint16(table[10:]))
	if order.Uint16(table[8:]) != leafFlag || int64(pageHeader+count*elementSize) > length {
		s.fault("page %d: a bucket with %s in %s", id, plural.Count(count, "element"), plural.Count(size, "byte"))
		return
	}
	s.leaf(id, inline, table, count, length, depth)
}

// freelist checks the list of pages that a writer may use: none that is in use.
func (s *pageScan) freelist(id uint64) {
	_, flags, count, length, ok := s.page(id, 0)
	if !ok {
		return
	}
	if flags != freelistFlag {
		s.fault("page %d is of kind %#x, not the list of free pages", id, flags)
		return
	}
	ids := io.NewSectionReader(s.file, int64(id)*int64(s.pageSize)+pageHeader, length-pageHeader)
	n, skip := uint64(count), int64(0)
	if count == 0xFFFF { // the true count comes first
		first := make([]byte, 8)
		if _, err := ids.ReadAt(first, 0); err != nil {
			s.fault("list of free pages: %v", err)
			return
		}
		n, skip = order.Uint64(first), 8
	}
	if n > uint64(length-pageHeader-skip)/8 {
		s.fault("list of free pages: %d in %s", n, plural.Count(length, "byte"))
		return
	}
	buf := make([]byte, 8*n)
	if _, err := ids.ReadAt(buf, skip); err != nil && n > 0 {
		s.fault("list of free pages: %v", err)
		return
	}
	s.freePages(buf)
}

func (s *pageScan) freePages(buf []byte) {
	free := make(map[uint64]bool)
	for ; len(buf) > 0; buf = buf[8:] {
		p := order.Uint64(buf)
		switch {
		case p < 2 || p >= s.end:
			s.fault("free page %d is outside of the file", p)
		case s.reached[p]:
			s.fault("page %d is in use and free", p)
		case free[p]:
			s.fault("page %d is free twice", p)
		}
		free[p] = true
	}
}
