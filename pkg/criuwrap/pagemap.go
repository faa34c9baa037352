package criuwrap

import (
	"fmt"
	"io/fs"
	"math"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/residentctl/residentctl/internal/plural"
)

// The PE_* bits of criu/include/pagemap.h. PE_LAZY only says that the page could
// be sent later; its content is there all the same.
const (
	pageParent  = 1 << 0 // the content is in another image
	pageLazy    = 1 << 1
	pagePresent = 1 << 2
)

// fieldPages is images/pagemap.proto's nr_pages, u64, since CRIU 4.2; field 2,
// which had that name, is then compat_nr_pages and 0. go-criu v7 only knows the
// latter.
const fieldPages = 5

// readPagemap reads pagemap-PID.img and compares it with the pages file.
func (im *Image) readPagemap(fsys fs.FS) error {
	name := fmt.Sprintf("pagemap-%d.img", im.PID)
	total := uint64(0) // pages with content so far
	end := uint64(0)   // of the entry before
	err := readFile(fsys, name, magicPagemap, func(i int, record []byte) error {
		if i == 0 {
			var head pagemap.PagemapHead
			if err := unmarshal(record, &head); err != nil {
				return err
			}
			im.PagesPath = fmt.Sprintf("pages-%d.img", head.GetPagesId())
			return nil
		}
		run, present, err := decodePagemap(record)
		if err != nil {
			return err
		}
		if run.Addr < end {
			return fmt.Errorf("%w: address %#x overlaps the entry before", ErrFormat, run.Addr)
		}
		end = run.End()
		if !present {
			return nil
		}
		// Neither can overflow: entries do not overlap, so there are at
		// most 2^52 pages.
		run.FileOff = total * PageSize
		total += run.Pages
		im.Pages = append(im.Pages, run)
		return nil
	})
	if err != nil {
		return err
	}
	if im.PagesPath == "" {
		return fmt.Errorf("%s: %w: no record", name, ErrTruncated)
	}
	size, err := regularSize(fsys, im.PagesPath)
	if err != nil {
		return err
	}
	if total*PageSize != uint64(size) {
		return fmt.Errorf("%s: %w: %s, and the pagemap has %s", im.PagesPath, ErrTruncated, plural.Count(size, "byte"), plural.Count(total, "page"))
	}
	return im.pagesInVMAs(name)
}

// decodePagemap decodes one entry. present is false for pages whose content is
// nowhere, because they are zero.
func decodePagemap(record []byte) (run PageRun, present bool, err error) {
	// Partial, because a writer may leave the old page count out.
	var m pagemap.PagemapEntry
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(record, &m); err != nil {
		return run, false, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	run = PageRun{Addr: m.GetVaddr(), Pages: uint64(m.GetNrPages())}
	if m.Vaddr == nil {
		return run, false, fmt.Errorf("%w: no address", ErrFormat)
	}
	for rest := []byte(m.ProtoReflect().GetUnknown()); len(rest) > 0; {
		num, typ, n := protowire.ConsumeTag(rest)
		if n < 0 || num != fieldPages || typ != protowire.VarintType {
			return run, false, fmt.Errorf("%w: field %d of a pagemap entry", ErrUnsupported, num)
		}
		rest = rest[n:]
		if run.Pages, n = protowire.ConsumeVarint(rest); n < 0 {
			return run, false, fmt.Errorf("%w: page count", ErrFormat)
		}
		rest = rest[n:]
	}

	// An entry without flags is from before there were any: in the parent, or
	// present (criu/pagemap.c, init_compat_pagemap_entry).
	flags := m.GetFlags()
	if m.Flags == nil {
		flags = pagePresent
	}
	switch {
	case m.GetInParent() || flags&pageParent != 0:
		return run, false, fmt.Errorf("%w: pages at %#x are in a parent image", ErrUnsupported, run.Addr)
	case flags&^(pageLazy|pagePresent) != 0:
		return run, false, fmt.Errorf("%w: pages at %#x have flags %#x", ErrUnsupported, run.Addr, flags)
	case run.Addr%PageSize != 0, run.Pages == 0, run.Pages > (math.MaxUint64-run.Addr)/PageSize:
		return run, false, fmt.Errorf("%w: %s at %#x", ErrFormat, plural.Count(run.Pages, "page"), run.Addr)
	}
	return run, flags&pagePresent != 0, nil
}

// pagesInVMAs checks that each page of each run is in some mapping.
func (im *Image) pagesInVMAs(name string) error {
	v := 0
	for _, run := range im.Pages {
		for at := run.Addr; at < run.End(); at = im.VMAs[v].End {
			for v < len(im.VMAs) && im.VMAs[v].End <= at {
				v++
			}
			if v == len(im.VMAs) || im.VMAs[v].Start > at {
				return fmt.Errorf("%s: %w: page %#x is in no mapping", name, ErrFormat, at)
			}
		}
	}
	return nil
}
