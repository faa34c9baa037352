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
// internal/common, in the byte order of this machine; sizes are in bytes.
const (
	boltMagic   = 0xED0CDAED // types.go, Magic
	boltVersion = 2          // types.go, Version

	metaPages     = 2  // at the file's beginning (db.go, init)
	metaSize      = 64 // meta.go, Meta
	metaSumOffset = 56

	pageHeaderSize   = 16 // page.go, Page
	elementSize      = 16 // page.go, branchPageElement and leafPageElement
	bucketHeaderSize = 16 // bucket.go, InBucket
	pageIDSize       = 8  // page.go, Pgid

	branchFlag   = 0x01 // page.go, BranchPageFlag
	leafFlag     = 0x02 // page.go, LeafPageFlag
	freelistFlag = 0x10 // page.go, FreelistPageFlag
	bucketFlag   = 0x01 // of a leaf element: page.go, BucketLeafFlag

	noFreelist   = ^uint64(0) // types.go, PgidNoFreelist
	longFreelist = 0xFFFF     // as a count: the true one is in front of the ids (page.go, FreelistPageCount)

	maxKeySize = 32768 // bucket.go of package bbolt, MaxKeySize
	// maxDepth is far more than a tree of any size has.
	maxDepth = 32
	// maxFaults ends a scan that only finds more of the same.
	maxFaults = 100
)

var order = binary.NativeEndian

// A metaPage holds where everything starts.
type metaPage struct {
	root, freelist, end, txid uint64 // end: one after the last page in use
}

// A page is one of the file with those that it overflows into, or the page of a small
// bucket, which is in another page's element.
type page struct {
	id       uint64 // in the file: of a small bucket, the other page's
	flags    uint16
	count    int // of elements
	overflow uint64
	length   int64
	data     io.ReaderAt // all of it
	table    []byte      // its beginning, with every element
}

// pageOf decodes the header that buf begins with (page.go, Page).
func pageOf(buf []byte, data io.ReaderAt) *page {
	return &page{
		id:       order.Uint64(buf),
		flags:    order.Uint16(buf[8:]),
		count:    int(order.Uint16(buf[10:])),
		overflow: uint64(order.Uint32(buf[12:])),
		data:     data,
		table:    buf,
	}
}

// tableSize is the size of its header and elements.
func (p *page) tableSize() int64 { return pageHeaderSize + int64(p.count)*elementSize }

// element returns an element and its offset, from which the element's own offsets count.
func (p *page) element(i int) (e []byte, at int64) {
	at = pageHeaderSize + int64(i)*elementSize
	return p.table[at : at+elementSize], at
}

type pageScan struct {
	file     io.ReaderAt
	size     int64
	pageSize int64
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
	s := &pageScan{file: file, size: info.Size(), pageSize: int64(os.Getpagesize()), reached: make(map[uint64]bool)}
	meta, ok := s.meta()
	if !ok {
		s.fault("not a registry (no valid bbolt meta page)")
		return s.faults
	}
	s.end = meta.end
	if s.end < metaPages || s.end > uint64(s.size)/uint64(s.pageSize) {
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
	for id := range int64(metaPages) {
		buf := make([]byte, metaSize)
		if _, err := s.file.ReadAt(buf, id*s.pageSize+pageHeaderSize); err != nil {
			continue
		}
		m, ok := s.decodeMeta(buf)
		if ok && (!found || m.txid > newest.txid) {
			newest, found = m, true
		}
	}
	return newest, found
}

// decodeMeta decodes a meta page that is whole and of this page size (meta.go, Meta).
func (s *pageScan) decodeMeta(buf []byte) (metaPage, bool) {
	sum := fnv.New64a()
	sum.Write(buf[:metaSumOffset])
	if order.Uint32(buf) != boltMagic || order.Uint32(buf[4:]) != boltVersion ||
		order.Uint64(buf[metaSumOffset:]) != sum.Sum64() ||
		int64(order.Uint32(buf[8:])) != s.pageSize {
		return metaPage{}, false
	}
	return metaPage{
		root:     order.Uint64(buf[16:]),
		freelist: order.Uint64(buf[32:]),
		end:      order.Uint64(buf[40:]),
		txid:     order.Uint64(buf[48:]),
	}, true
}

// page reads and claims the page with this id. Its table may go on after what was read.
func (s *pageScan) page(id uint64) (*page, error) {
	if !s.inFile(id) {
		return nil, fmt.Errorf("page %d is outside the file", id)
	}
	start := make([]byte, s.pageSize) // as a rule all of it
	at := int64(id) * s.pageSize
	if _, err := s.file.ReadAt(start, at); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	p := pageOf(start, nil)
	if p.id != id || id+p.overflow >= s.end {
		return nil, fmt.Errorf("page %d calls itself %d and is %d long", id, p.id, p.overflow+1)
	}
	p.length = int64(p.overflow+1) * s.pageSize
	p.data = io.NewSectionReader(s.file, at, p.length)
	return p, s.claim(p)
}

// inFile reports whether an id is that of a page after the meta pages.
func (s *pageScan) inFile(id uint64) bool { return id >= metaPages && id < s.end }

// claim notes the pages that p has, which no other page may have.
func (s *pageScan) claim(p *page) error {
	for id := p.id; id <= p.id+p.overflow; id++ {
		if s.reached[id] {
			return fmt.Errorf("page %d is used twice", id)
		}
		s.reached[id] = true
	}
	return nil
}

// treePage is page for one with elements, which are in its table.
func (s *pageScan) treePage(id uint64) (*page, error) {
	p, err := s.page(id)
	if err != nil {
		return nil, err
	}
	size := p.tableSize()
	if size > p.length {
		return nil, fmt.Errorf("page %d has more elements than room", id)
	}
	if size > int64(len(p.table)) {
		p.table = make([]byte, size)
		if _, err := p.data.ReadAt(p.table, 0); err != nil {
			return nil, fmt.Errorf("page %d: %w", id, err)
		}
	}
	return p, nil
}

// tree walks the pages of a bucket.
func (s *pageScan) tree(id uint64, depth int) {
	switch {
	case len(s.faults) >= maxFaults:
		return
	case depth > maxDepth:
		s.fault("page %d is nested too deeply", id)
		return
	}
	p, err := s.treePage(id)
	switch {
	case err != nil:
		s.fault("%v", err)
	case p.flags == branchFlag && p.count > 0:
		s.branch(p, depth)
	case p.flags == leafFlag:
		s.leaf(p, depth)
	default:
		s.fault("page %d is of kind %#x with %s", id, p.flags, plural.Count(p.count, "element"))
	}
}

// branch walks the pages that a branch leads to (page.go, branchPageElement).
func (s *pageScan) branch(p *page, depth int) {
	for i := range p.count {
		e, at := p.element(i)
		pos, keySize, child := int64(order.Uint32(e)), int64(order.Uint32(e[4:])), order.Uint64(e[8:])
		if keySize > maxKeySize || at+pos+keySize > p.length {
			s.fault("page %d: key %d is outside of it", p.id, i)
			continue
		}
		s.tree(child, depth+1)
	}
}

// leaf checks the elements of a leaf (page.go, leafPageElement).
func (s *pageScan) leaf(p *page, depth int) {
	for i := range p.count {
		e, at := p.element(i)
		flags, pos := order.Uint32(e), int64(order.Uint32(e[4:]))
		keySize, valueSize := int64(order.Uint32(e[8:])), int64(order.Uint32(e[12:]))
		value := at + pos + keySize
		if keySize == 0 || keySize > maxKeySize || value+valueSize > p.length {
			s.fault("page %d: element %d is outside of it", p.id, i)
			continue
		}
		if flags&bucketFlag != 0 {
			s.bucket(p.id, io.NewSectionReader(p.data, value, valueSize), depth+1)
		}
	}
}

// bucket checks a value that is a bucket, in the page id (bucket.go, InBucket): it names
// a root page or, where that is 0, its own page follows.
func (s *pageScan) bucket(id uint64, value *io.SectionReader, depth int) {
	head := make([]byte, bucketHeaderSize)
	if _, err := value.ReadAt(head, 0); err != nil {
		s.fault("page %d: a bucket of %s", id, plural.Count(value.Size(), "byte"))
		return
	}
	if root := order.Uint64(head); root != 0 {
		s.tree(root, depth+1)
		return
	}
	p, err := s.smallBucket(id, value, depth)
	if err != nil {
		s.fault("page %d: %v", id, err)
		return
	}
	s.leaf(p, depth)
}

// smallBucket reads the page of a bucket that is a value in the page id: a leaf.
func (s *pageScan) smallBucket(id uint64, value *io.SectionReader, depth int) (*page, error) {
	size := value.Size()
	length := size - bucketHeaderSize
	if length < pageHeaderSize || length > s.pageSize || depth > maxDepth {
		return nil, fmt.Errorf("a bucket of %s", plural.Count(size, "byte"))
	}
	data := io.NewSectionReader(value, bucketHeaderSize, length)
	all := make([]byte, length)
	if _, err := data.ReadAt(all, 0); err != nil {
		return nil, err
	}
	p := pageOf(all, data)
	p.id, p.length = id, length
	if p.flags != leafFlag || p.tableSize() > length {
		return nil, fmt.Errorf("a bucket with %s in %s", plural.Count(p.count, "element"), plural.Count(size, "byte"))
	}
	return p, nil
}

// freelist checks the list of pages that a writer may use: none that is in use.
func (s *pageScan) freelist(id uint64) {
	p, err := s.page(id)
	switch {
	case err != nil:
		s.fault("%v", err)
		return
	case p.flags != freelistFlag:
		s.fault("page %d is of kind %#x, not the list of free pages", id, p.flags)
		return
	}
	ids, err := p.freeIDs()
	if err != nil {
		s.fault("list of free pages: %v", err)
	}
	s.freePages(ids)
}

// freeIDs are the ids in a list of free pages, one after the other (page.go,
// FreelistPageIds).
func (p *page) freeIDs() ([]byte, error) {
	count, at := uint64(p.count), int64(pageHeaderSize)
	if count == longFreelist {
		first := make([]byte, pageIDSize)
		if _, err := p.data.ReadAt(first, at); err != nil {
			return nil, err
		}
		count, at = order.Uint64(first), at+pageIDSize
	}
	if count > uint64(p.length-at)/pageIDSize {
		return nil, fmt.Errorf("%d in %s", count, plural.Count(p.length, "byte"))
	}
	if count == 0 {
		return nil, nil // at the page's end a read would be io.EOF
	}
	ids := make([]byte, count*pageIDSize)
	_, err := p.data.ReadAt(ids, at)
	return ids, err
}

func (s *pageScan) freePages(ids []byte) {
	free := make(map[uint64]bool)
	for ; len(ids) > 0; ids = ids[pageIDSize:] {
		id := order.Uint64(ids)
		switch {
		case !s.inFile(id):
			s.fault("free page %d is outside the file", id)
		case s.reached[id]:
			s.fault("page %d is in use and free", id)
		case free[id]:
			s.fault("page %d is free twice", id)
		}
		free[id] = true
	}
}
