package ldcache

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
)

// lib is an entry of a cache that a test writes.
type lib struct {
	name string
	Entry
	flags uint32 // 0: flagsX8664
	keep  bool   // write HWCap as it is, with whatever index it has
}

// written is a cache that a test writes: in the new format, or after the old one too
// (as glibc 2.31 does by default), or in the old one alone.
type written struct {
	libs     []lib
	old, new bool
	unsorted bool
	subdirs  []string // nil: those of the libraries
}

// bytes are the cache's, as elf/cache.c, save_cache, writes them.
func (w written) bytes() []byte {
	libs := slices.Clone(w.libs)
	if !w.unsorted {
		slices.SortStableFunc(libs, func(a, b lib) int { return cmp.Compare(compare(b.name, a.name), 0) })
	}
	var strings bytes.Buffer
	text := func(s string) uint32 {
		off := strings.Len()
		strings.WriteString(s + "\x00")
		return uint32(off)
	}
	subdirs := w.subdirs
	if subdirs == nil {
		for _, l := range libs {
			if l.Subdir != "" && !slices.Contains(subdirs, l.Subdir) {
				subdirs = append(subdirs, l.Subdir)
			}
		}
		slices.Sort(subdirs)
	}
	order := binary.LittleEndian
	var head, body bytes.Buffer
	var pad uint32
	newSize := uint32(0)
	if w.new {
		newSize = newHeader + newEntry*uint32(len(libs))
	}
	if w.old {
		head.WriteString(oldMagic + "\x00")
		n := oldHeader + oldEntry*len(libs)
		if w.new {
			pad = uint32((8 - n%8) % 8)
		}
		binary.Write(&head, order, uint32(len(libs)))
	}
	if w.new {
		body.WriteString(newMagic)
		binary.Write(&body, order, [7]uint32{uint32(len(libs)), 0, endianLittle, 0, 0, 0, 0})
	}
	for _, l := range libs {
		flags := cmp.Or(l.flags, flagsX8664)
		key, value := newSize+text(l.name), newSize+text(l.Path)
		if w.old {
			binary.Write(&head, order, [3]uint32{flags, key + pad, value + pad})
		}
		if w.new {
			hwcap := l.HWCap
			if l.Subdir != "" && !l.keep {
				hwcap |= 1<<62 | uint64(slices.Index(subdirs, l.Subdir))
			}
			binary.Write(&body, order, [4]uint32{flags, key, value, l.OSVersion})
			binary.Write(&body, order, hwcap)
		}
	}
	head.Write(make([]byte, pad))
	var offsets []uint32
	for _, s := range subdirs {
		offsets = append(offsets, uint32(head.Len())+newSize+text(s))
	}
	out := slices.Concat(head.Bytes(), body.Bytes(), strings.Bytes())
	if !w.new {
		return out
	}
	out = append(out, make([]byte, (4-len(out)%4)%4)...)
	order.PutUint32(out[head.Len()+32:], uint32(len(out)))
	const generator = "a test"
	at := uint32(len(out)) + extensionHeader + 2*extensionSection
	out = order.AppendUint32(out, extensionMagic)
	out = order.AppendUint32(out, 2)
	for _, section := range [][4]uint32{{0, 0, at + 4*uint32(len(offsets)), uint32(len(generator))}, {tagHWCaps, 0, at, 4 * uint32(len(offsets))}} {
		if section[3] == 0 {
			section[0] = 7 // of no known kind
		}
		for _, word := range section {
			out = order.AppendUint32(out, word)
		}
	}
	for _, off := range offsets {
		out = order.AppendUint32(out, off)
	}
	return append(out, generator...)
}
