package ldcache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Path is where glibc's dynamic linker looks for the cache.
const Path = "/etc/ld.so.cache"

// MaxSize is how many bytes of a cache are read. One with 2,500 libraries has 200 KiB.
const MaxSize = 4 << 20

// The formats, from glibc's sysdeps/generic/dl-cache.h. All numbers are little-endian here.
const (
	oldMagic  = "ld.so-1.7.0"          // CACHEMAGIC
	newMagic  = "glibc-ld.so.cache1.1" // CACHEMAGIC_VERSION_NEW
	oldHeader = 16                     // struct cache_file: magic, padding, nlibs at 12
	oldEntry  = 12                     // struct file_entry
	newHeader = 48                     // struct cache_file_new: nlibs at 20, flags at 28, extension_offset at 32
	newEntry  = 24                     // struct file_entry_new

	extensionMagic   = 0xeaa42174 // cache_extension_magic
	extensionHeader  = 8          // struct cache_extension
	extensionSection = 16         // struct cache_extension_section
	tagHWCaps        = 1          // cache_extension_tag_glibc_hwcaps

	endianMask   = 3 // cache_file_new_flags_endian_mask
	endianLittle = 2 // cache_file_new_flags_endian_little
)

// flagsX8664 is what the dynamic linker of x86-64 takes entries of, and of no others
// (glibc sysdeps/x86_64/dl-cache.h, _dl_cache_check_flags).
const flagsX8664 = 0x303

// An Entry is a library that the cache lists for a name.
type Entry struct {
	Path      string `json:"path"`
	OSVersion uint32 `json:"os_version,omitempty"` // the kernel that it needs; read up to glibc 2.35
	// HWCap is what the CPU must have for it. In an entry of a glibc-hwcaps subdirectory
	// the lower half, an index which other libraries change, is 0 and Subdir has its name.
	HWCap  uint64 `json:"hwcap,omitempty,string"`
	Subdir string `json:"subdir,omitempty"`
}

// unconditional reports whether every dynamic linker that comes to the entry takes it.
func (e Entry) unconditional() bool { return e.HWCap == 0 && e.OSVersion == 0 }

// A Cache is the content of a cache file.
type Cache struct {
	raw     []byte
	text    string // the same up to the last NUL, of which strings are parts
	libs    []byte // the entries
	count   int
	base    uint64   // the offset from which keys and values count
	subdirs []string // the names of the glibc-hwcaps subdirectories
}

var (
	errFormat  = errors.New("it is not a cache of a known format")
	errBounds  = errors.New("it is damaged: something lies outside it")
	errSubdirs = errors.New("it is damaged: its glibc-hwcaps subdirectories are not in order")
)

// Parse reads a cache, as glibc's elf/dl-cache.c, _dl_load_cache_lookup. What the
// dynamic linker would put up with in a damaged one is an error here. The cache keeps raw.
func Parse(raw []byte) (*Cache, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(raw), MaxSize)
	}
	c := &Cache{raw: raw, text: string(raw[:bytes.LastIndexByte(raw, 0)+1])}
	switch {
	case bytes.HasPrefix(raw, []byte(newMagic)):
		return c, c.parseNew(0)
	case bytes.HasPrefix(raw, []byte(oldMagic)) && len(raw) > oldHeader:
		return c, c.parseOld()
	}
	return nil, errFormat
}

func (c *Cache) parseOld() error {
	// The new format is at the first place after it that is aligned to its 64-bit words
	// (ALIGN_CACHE).
	at := (oldHeader + uint64(c.word(12))*oldEntry + 7) &^ 7
	if at >= uint64(len(c.raw)) || !bytes.HasPrefix(c.raw[at:], []byte(newMagic)) {
		return errFormat
	}
	return c.parseNew(at)
}

// parseNew reads the new format, which begins at an offset that is within the file.
// Keys and values count from there.
func (c *Cache) parseNew(at uint64) error {
	if uint64(len(c.raw))-at <= newHeader {
		return errBounds
	}
	n, flags := uint64(c.word(at+20)), c.raw[at+28]
	if n > (uint64(len(c.raw))-at-newHeader)/newEntry {
		return errBounds
	}
	if flags != 0 && flags&endianMask != endianLittle {
		return errFormat
	}
	from := at + newHeader
	c.libs, c.count, c.base = c.raw[from:from+n*newEntry], int(n), at
	return c.parseExtensions(uint64(c.word(at + 32)))
}

// parseExtensions finds the names of the glibc-hwcaps subdirectories, which are there
// since glibc 2.33 (sysdeps/generic/dl-cache.h, cache_extension_load). All offsets count
// from the file's first byte. So the dynamic linker reads them; after the old format
// `ldconfig -c compat` writes others, and what they lead to is hardly ever in order.
func (c *Cache) parseExtensions(at uint64) error {
	if at == 0 {
		return nil
	}
	size := uint64(len(c.raw))
	if at%4 != 0 || at+extensionHeader > size || c.word(at) != extensionMagic {
		return errBounds
	}
	n := uint64(c.word(at + 4))
	at += extensionHeader
	if n > (size-at)/extensionSection {
		return errBounds
	}
	for ; n > 0; n, at = n-1, at+extensionSection {
		from, length := uint64(c.word(at+8)), uint64(c.word(at+12))
		if from+length > size {
			return errBounds
		}
		if c.word(at) != tagHWCaps {
			continue
		}
		if c.subdirs != nil || length == 0 || from%4 != 0 || length%4 != 0 {
			return errBounds
		}
		if err := c.parseSubdirs(from, length/4); err != nil {
			return err
		}
	}
	return nil
}

// parseSubdirs holds that the names ascend: the dynamic linker matches them with its own
// in one pass, so in another order a name could count for nothing
// (elf/dl-cache.c, glibc_hwcaps_priorities_init).
func (c *Cache) parseSubdirs(from, n uint64) error {
	last := ""
	for i := range n {
		name, ok := c.string(uint64(c.word(from + 4*i)))
		if !ok {
			return errBounds
		}
		if name <= last {
			return errSubdirs
		}
		last, c.subdirs = name, append(c.subdirs, name)
	}
	return nil
}

// word reads the word at an offset that is known to be within the file.
func (c *Cache) word(off uint64) uint32 { return binary.LittleEndian.Uint32(c.raw[off:]) }

// string returns the string at an offset, or false if that lies outside or the string has
// no end.
func (c *Cache) string(off uint64) (string, bool) {
	if off >= uint64(len(c.text)) {
		return "", false
	}
	s, _, _ := strings.Cut(c.text[off:], "\x00")
	return s, true
}

// key is the name of entry i, or false if it lies outside the file.
func (c *Cache) key(i int) (string, bool) {
	return c.stringOf(c.libs[i*newEntry+4:])
}

// stringOf is the string whose number, a key or a value, is the first word of b.
func (c *Cache) stringOf(b []byte) (string, bool) {
	return c.string(c.base + uint64(binary.LittleEndian.Uint32(b)))
}

// Lookup returns the entries of a name that the dynamic linker considers, in its order:
// those of x86-64, up to the first that it takes in any case. It finds them by the dynamic
// linker's own search (elf/dl-cache.c, search_cache). The error says that the cache is
// damaged there.
func (c *Cache) Lookup(name string) ([]Entry, error) {
	first, end, err := c.find(name)
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for i := first; i < end; i++ {
		b := c.libs[i*newEntry:][:newEntry]
		if binary.LittleEndian.Uint32(b) != flagsX8664 {
			continue
		}
		e, err := c.entry(b)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
		if e.unconditional() {
			break
		}
	}
	return entries, nil
}

// find returns the range of the entries with a name; an empty one if there are none.
func (c *Cache) find(name string) (first, end int, err error) {
	left, right := 0, c.count-1
	for left <= right {
		middle := (left + right) / 2
		key, ok := c.key(middle)
		if !ok {
			return 0, 0, errBounds
		}
		switch order := compare(name, key); {
		case order < 0:
			left = middle + 1
		case order > 0:
			right = middle - 1
		default:
			return c.span(name, middle, right)
		}
	}
	return 0, 0, nil
}

// span widens the place of one entry with the name to all of them, which end at right.
func (c *Cache) span(name string, at, right int) (first, end int, err error) {
	for first = at; first > 0; first-- {
		key, ok := c.key(first - 1)
		if !ok {
			return 0, 0, errBounds
		}
		if compare(name, key) != 0 {
			break
		}
	}
	for end = at + 1; end <= right; end++ {
		key, ok := c.key(end)
		if !ok {
			return 0, 0, errBounds
		}
		if compare(name, key) != 0 {
			break
		}
	}
	return first, end, nil
}

func (c *Cache) entry(b []byte) (e Entry, err error) {
	path, ok := c.stringOf(b[8:])
	if !ok {
		return e, errBounds
	}
	e.Path = path
	e.OSVersion, e.HWCap = binary.LittleEndian.Uint32(b[12:]), binary.LittleEndian.Uint64(b[16:])
	if !isSubdir(e.HWCap) {
		return e, nil
	}
	index := uint32(e.HWCap)
	if uint64(index) >= uint64(len(c.subdirs)) {
		return e, errBounds
	}
	e.HWCap &^= 1<<32 - 1
	e.Subdir = c.subdirs[index]
	return e, nil
}

// isSubdir reports whether the lower half of hwcap is the index of a glibc-hwcaps
// subdirectory: bit 62 is set, and above the 10 bits of an ISA level nothing else
// (sysdeps/generic/dl-cache.h, dl_cache_hwcap_extension).
func isSubdir(hwcap uint64) bool { return hwcap>>32&^0x3ff == 1<<30 }

// compare orders names as the cache does, from high to low: runs of digits by their
// value, in 32 bits (elf/dl-cache.c, _dl_cache_libcmp).
func compare(a, b string) int {
	for a != "" {
		switch {
		case isDigit(a) && isDigit(b):
			var x, y int32
			x, a = number(a)
			y, b = number(b)
			if x != y {
				return int(x - y)
			}
		case isDigit(a):
			return 1
		case isDigit(b):
			return -1
		case b == "" || a[0] != b[0]:
			return char(a) - char(b)
		default:
			a, b = a[1:], b[1:]
		}
	}
	return -char(b)
}

func isDigit(s string) bool { return s != "" && '0' <= s[0] && s[0] <= '9' }

// number takes the digits off s. Of too many the upper bits are lost.
func number(s string) (n int32, rest string) {
	for ; isDigit(s); s = s[1:] {
		n = n*10 + int32(s[0]-'0')
	}
	return n, s
}

// char is the first character as C has it on x86-64, signed; 0 at the end.
func char(s string) int {
	if s == "" {
		return 0
	}
	return int(int8(s[0]))
}
