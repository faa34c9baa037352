package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// leadSize is what stands before the signature's header (rpm's docs/manual/format_lead.md).
const leadSize = 96

// Tags of the main header and of the signature's, and values in them (rpm 4.18,
// include/rpm/rpmtag.h, rpmds.h; build/parseScript.c).
const (
	tagScripts        = 5076 // RPMTAG_TRANSFILETRIGGERSCRIPTS
	tagScriptProg     = 5077
	tagName           = 5079
	tagIndex          = 5080
	tagVersion        = 5081
	tagFlags          = 5082
	tagPriorities     = 5085
	tagSignatures     = 62 // RPMTAG_HEADERSIGNATURES
	tagImmutable      = 63 // RPMTAG_HEADERIMMUTABLE
	sigTagSHA256      = 273
	sigTagSize        = 1000
	sigTagPayloadSize = 1007

	triggerIn       = 1 << 16 // RPMSENSE_TRIGGERIN
	triggerPostun   = 1 << 18 // RPMSENSE_TRIGGERPOSTUN
	defaultPriority = 1000000 // RPMTRIGGER_DEFAULT_PRIORITY
)

// Types of entries (rpmTagType).
const (
	typeInt16   = 3
	typeInt32   = 4
	typeString  = 6
	typeBinary  = 7
	typeStrings = 8
	typeI18N    = 9
)

// An entry is one of a header's, with its data.
type entry struct {
	tag, kind, count uint32
	data             []byte
}

func stringsEntry(tag uint32, values ...string) entry {
	e := entry{tag: tag, kind: typeStrings, count: uint32(len(values))}
	for _, v := range values {
		e.data = append(append(e.data, v...), 0)
	}
	return e
}

func numbersEntry(tag uint32, values ...uint32) entry {
	e := entry{tag: tag, kind: typeInt32, count: uint32(len(values))}
	for _, v := range values {
		e.data = binary.BigEndian.AppendUint32(e.data, v)
	}
	return e
}

var magic = []byte{0x8e, 0xad, 0xe8, 0x01, 0, 0, 0, 0}

const (
	introSize = 16 // magic, number of entries, bytes of data
	indexSize = 16 // tag, type, offset, count
)

// readHeader returns the entries at the beginning of b but for the region that they make
// up, and how many bytes they take.
func readHeader(b []byte) (entries []entry, size int, err error) {
	if len(b) < introSize || !bytes.HasPrefix(b, magic) {
		return nil, 0, errors.New("it is no header")
	}
	count, dataSize := uint64(binary.BigEndian.Uint32(b[8:])), uint64(binary.BigEndian.Uint32(b[12:]))
	total := introSize + count*indexSize + dataSize
	if total > uint64(len(b)) {
		return nil, 0, errors.New("it is cut off")
	}
	data := b[total-dataSize : total]
	for i := range count {
		index := b[introSize+i*indexSize:]
		e := entry{binary.BigEndian.Uint32(index), binary.BigEndian.Uint32(index[4:]), binary.BigEndian.Uint32(index[12:]), nil}
		if e.tag == tagImmutable || e.tag == tagSignatures {
			continue
		}
		offset := uint64(binary.BigEndian.Uint32(index[8:]))
		if offset > dataSize {
			return nil, 0, fmt.Errorf("tag %d lies outside", e.tag)
		}
		if e.data, err = e.within(data[offset:]); err != nil {
			return nil, 0, fmt.Errorf("tag %d: %w", e.tag, err)
		}
		entries = append(entries, e)
	}
	return entries, int(total), nil
}

// within returns the data of an entry that begin with data.
func (e entry) within(data []byte) ([]byte, error) {
	size := uint64(0)
	switch e.kind {
	case typeInt16:
		size = 2 * uint64(e.count)
	case typeInt32:
		size = 4 * uint64(e.count)
	case typeBinary:
		size = uint64(e.count)
	case typeString, typeStrings, typeI18N:
		for range e.count {
			end := bytes.IndexByte(data[size:], 0)
			if end < 0 {
				return nil, errors.New("a string has no end")
			}
			size += uint64(end) + 1
		}
	default:
		return nil, fmt.Errorf("type %d is not known", e.kind)
	}
	if size > uint64(len(data)) {
		return nil, errors.New("it is cut off")
	}
	return data[:size], nil
}

// writeHeader returns a header with these entries, in a region with this tag. The region's
// own entry comes first and its data last: an entry with the negative size of the index
// (rpm's lib/header.c, headerExport).
func writeHeader(region uint32, entries []entry) []byte {
	entries = slices.SortedFunc(slices.Values(entries), func(a, b entry) int { return int(a.tag) - int(b.tag) })
	var index, data []byte
	for _, e := range entries {
		switch e.kind {
		case typeInt16:
			data = pad(data, 2)
		case typeInt32:
			data = pad(data, 4)
		}
		index = appendIndex(index, e.tag, e.kind, len(data), e.count)
		data = append(data, e.data...)
	}
	first := appendIndex(nil, region, typeBinary, len(data), indexSize)
	data = appendIndex(data, region, typeBinary, -(len(entries)+1)*indexSize, indexSize)
	header := binary.BigEndian.AppendUint32(slices.Clone(magic), uint32(len(entries)+1))
	header = binary.BigEndian.AppendUint32(header, uint32(len(data)))
	return slices.Concat(header, first, index, data)
}

func appendIndex(b []byte, tag, kind uint32, offset int, count uint32) []byte {
	for _, v := range []uint32{tag, kind, uint32(int32(offset)), count} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// pad returns b with zeros up to a multiple of size.
func pad(b []byte, size int) []byte { return append(b, make([]byte, (size-len(b)%size)%size)...) }
