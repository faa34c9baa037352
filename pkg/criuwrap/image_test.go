package criuwrap

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// testdata/image is the dump of a static program that does nothing but
// pause(2), with CRIU 4.1.1: pid 28953, four pages.
const imageDir = "testdata/image"

func testImage(t testing.TB) fstest.MapFS {
	fsys := fstest.MapFS{}
	entries, err := os.ReadDir(imageDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(imageDir + "/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		fsys[e.Name()] = &fstest.MapFile{Data: data}
	}
	return fsys
}

func TestOpen(t *testing.T) {
	im, err := Open(imageDir)
	if err != nil {
		t.Fatal(err)
	}
	if im.PID != 28953 || im.MM.ExeFile != "/tmp/cw/tiny/tiny" || im.Dir != imageDir ||
		im.PagesPath != imageDir+"/pages-1.img" {
		t.Errorf("image %+v", im)
	}
	if im.Regs.OrigAX != 34 || im.Regs.CS != 0x33 { // pause, user_64 code
		t.Errorf("registers %+v", im.Regs)
	}
	total := uint64(0)
	for _, run := range im.Pages {
		if run.FileOff != total*PageSize {
			t.Errorf("run at %#x has offset %#x", run.Addr, run.FileOff)
		}
		total += run.Pages
	}
	if total != 4 {
		t.Errorf("%d pages", total)
	}
	var text, stack, vdso int
	for _, v := range im.VMAs {
		if v.Path == im.MM.ExeFile && v.Prot == 5 && v.Start <= im.Regs.IP && im.Regs.IP < v.End {
			text++
		}
		if v.Stack && v.Start <= im.Regs.SP && im.Regs.SP < v.End {
			stack++
		}
		if v.VDSO {
			vdso++
		}
	}
	if text != 1 || stack != 1 || vdso != 1 {
		t.Errorf("mappings %+v", im.VMAs)
	}
}

// testdata/image42 is the dump of such a program with CRIU 4.2.1: pid 4582, six
// pages, whose counts stand where only 4.2 and newer have them.
func TestOpenOf42(t *testing.T) {
	const dir = "testdata/image42"
	im, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if im.PID != 4582 || im.MM.ExeFile != "/tmp/cw/tiny/tiny" || im.Regs.OrigAX != 34 { // pause
		t.Errorf("image %+v", im)
	}
	text := im.Regs.IP &^ (PageSize - 1)
	if len(im.Pages) != 3 || im.Pages[0] != (PageRun{text, 2, 0}) ||
		im.Pages[1].Pages != 2 || im.Pages[1].FileOff != 2*PageSize ||
		im.Pages[2].Pages != 2 || im.Pages[2].FileOff != 4*PageSize {
		t.Errorf("pages %+v", im.Pages)
	}

	// The trap: to who only knows the older format there are no pages.
	old := 0
	err = readFile(os.DirFS(dir), "pagemap-4582.img", magicPagemap, func(i int, record []byte) error {
		var entry pagemap.PagemapEntry
		if i == 0 {
			return nil
		}
		err := proto.Unmarshal(record, &entry)
		old += int(entry.GetNrPages())
		return err
	})
	if err != nil || old != 0 {
		t.Errorf("%d pages in the older field, %v", old, err)
	}
}

// file is a CRIU file with those records.
func file(magic uint32, records ...[]byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, magicCommon)
	b = binary.LittleEndian.AppendUint32(b, magic)
	for _, r := range records {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(r)))
		b = append(b, r...)
	}
	return b
}

func marshal(t testing.TB, m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// entry41 is a pagemap entry as CRIU writes it up to 4.1.
func entry41(t testing.TB, addr uint64, pages, flags uint32) []byte {
	return marshal(t, &pagemap.PagemapEntry{
		Vaddr: &addr, NrPages: &pages, Flags: &flags,
	})
}

// entry42 is one as CRIU writes it from 4.2 on: field 2 is 0, 5 has the count.
func entry42(addr, pages uint64, flags uint32) []byte {
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), addr)
	b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), 0)
	b = protowire.AppendVarint(protowire.AppendTag(b, 4, protowire.VarintType), uint64(flags))
	return protowire.AppendVarint(protowire.AppendTag(b, fieldPages, protowire.VarintType), pages)
}

// entry42Only leaves out the old count.
func entry42Only(addr, pages uint64) []byte {
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), addr)
	return protowire.AppendVarint(protowire.AppendTag(b, fieldPages, protowire.VarintType), pages)
}

func TestReadPagemap(t *testing.T) {
	head := marshal(t, &pagemap.PagemapHead{PagesId: proto.Uint32(3)})
	want := []PageRun{{0x10000, 2, 0}, {0x14000, 1, 2 * PageSize}}
	for _, tc := range []struct {
		name    string
		entries [][]byte
		pages   int // in the pages file
		want    []PageRun
		err     error
	}{
		{"4.1", [][]byte{entry41(t, 0x10000, 2, 4), entry41(t, 0x14000, 1, 6)}, 3, want, nil},
		{"4.2", [][]byte{entry42(0x10000, 2, 4), entry42(0x14000, 1, 6)}, 3, want, nil},
		{"4.2 without field 2", [][]byte{entry42Only(0x10000, 2), entry42Only(0x14000, 1)}, 3, want, nil},
		{"zero pages", [][]byte{entry41(t, 0x10000, 2, 4), entry41(t, 0x12000, 2, 0), entry41(t, 0x14000, 1, 4)}, 3, want, nil},
		{"across mappings", [][]byte{entry41(t, 0x17000, 2, 4)}, 2, []PageRun{{0x17000, 2, 0}}, nil},
		{"no pages", nil, 0, nil, nil},

		{"pages file too short", [][]byte{entry41(t, 0x10000, 2, 4)}, 1, nil, ErrTruncated},
		{"pages file too long", [][]byte{entry41(t, 0x10000, 2, 4)}, 3, nil, ErrTruncated},
		{"parent", [][]byte{entry42(0x10000, 2, 1)}, 0, nil, ErrUnsupported},
		{"unknown flag", [][]byte{entry42(0x10000, 2, 12)}, 2, nil, ErrUnsupported},
		{"unknown field", [][]byte{append(entry42(0x10000, 1, 4), 0x30, 1)}, 1, nil, ErrUnsupported},
		{"no count", [][]byte{entry41(t, 0x10000, 0, 4)}, 0, nil, ErrFormat},
		{"no address", [][]byte{{0x28, 1}}, 1, nil, ErrFormat},
		{"between pages", [][]byte{entry41(t, 0x10001, 1, 4)}, 1, nil, ErrFormat},
		{"overflow", [][]byte{entry42(0x10000, 1<<52, 4)}, 0, nil, ErrFormat},
		{"overlap", [][]byte{entry41(t, 0x10000, 2, 4), entry41(t, 0x11000, 1, 4)}, 3, nil, ErrFormat},
		{"in no mapping", [][]byte{entry41(t, 0x1f000, 2, 4)}, 2, nil, ErrFormat},
		{"before all mappings", [][]byte{entry41(t, 0x1000, 1, 4)}, 1, nil, ErrFormat},
		{"not protobuf", [][]byte{{0xff}}, 1, nil, ErrFormat},
	} {
		t.Run(tc.name, func(t *testing.T) {
			im := &Image{PID: 7, VMAs: []VMA{{Start: 0x10000, End: 0x18000}, {Start: 0x18000, End: 0x20000}}}
			err := im.readPagemap(fstest.MapFS{
				"pagemap-7.img": {Data: file(magicPagemap, append([][]byte{head}, tc.entries...)...)},
				"pages-3.img":   {Data: make([]byte, tc.pages*PageSize)},
			})
			if !errors.Is(err, tc.err) || (err == nil) != (tc.err == nil) {
				t.Fatalf("err = %v, want %v", err, tc.err)
			}
			if err == nil && !slices.Equal(im.Pages, tc.want) {
				t.Errorf("pages %+v, want %+v", im.Pages, tc.want)
			}
		})
	}
}

func TestDecodeVMA(t *testing.T) {
	files := map[uint32]string{5: "/lib/x"}
	entry := func(start, end, pgoff, shmid uint64, flags, status uint32) *vma.VmaEntry {
		return &vma.VmaEntry{Start: &start, End: &end, Pgoff: &pgoff, Shmid: &shmid, Flags: &flags, Status: &status}
	}
	for _, tc := range []struct {
		name  string
		entry *vma.VmaEntry
		want  VMA
		err   error
	}{
		{"file", entry(0x1000, 0x3000, 0x2000, 5, 2, vmaRegular|vmaFilePrivate),
			VMA{Start: 0x1000, End: 0x3000, Flags: 2, Path: "/lib/x", Offset: 0x2000, File: true}, nil},
		{"shared file", entry(0x1000, 0x3000, 0, 5, 1, vmaRegular|vmaFileShared),
			VMA{Start: 0x1000, End: 0x3000, Flags: 1, Path: "/lib/x", File: true, Shared: true}, nil},
		{"stack", entry(0x1000, 0x3000, 0, 0, 0x122, vmaRegular|vmaAnonPrivate),
			VMA{Start: 0x1000, End: 0x3000, Flags: 0x122, Anon: true, Stack: true}, nil},
		{"memfd", entry(0x1000, 0x3000, 0, 9, 1, vmaRegular|vmaFileShared|1<<14),
			VMA{Start: 0x1000, End: 0x3000, Flags: 1, File: true, Shared: true, Special: true}, nil},
		{"empty", entry(0x1000, 0x1000, 0, 0, 2, vmaAnonPrivate), VMA{}, ErrFormat},
		{"backwards", entry(0x3000, 0x1000, 0, 0, 2, vmaAnonPrivate), VMA{}, ErrFormat},
		{"between pages", entry(0x1001, 0x3000, 0, 0, 2, vmaAnonPrivate), VMA{}, ErrFormat},
		{"no such file", entry(0x1000, 0x3000, 0, 6, 2, vmaFilePrivate), VMA{}, ErrFormat},
		{"file id too large", entry(0x1000, 0x3000, 0, 1<<32|5, 2, vmaFilePrivate), VMA{}, ErrFormat},
		{"file and anonymous", entry(0x1000, 0x3000, 0, 5, 2, vmaFilePrivate|vmaAnonPrivate), VMA{}, ErrFormat},
		{"offset overflows", entry(0x1000, 0x3000, 1<<64-0x1000, 5, 2, vmaFilePrivate), VMA{}, ErrFormat},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := decodeVMA(tc.entry, files)
			if got != tc.want || !errors.Is(err, tc.err) || (err == nil) != (tc.err == nil) {
				t.Errorf("got %+v, %v\nwant %+v, %v", got, err, tc.want, tc.err)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	const core, mm, pm = "core-28953.img", "mm-28953.img", "pagemap-28953.img"
	cut := func(name string, by int) func(fstest.MapFS) {
		return func(f fstest.MapFS) { f[name].Data = f[name].Data[:len(f[name].Data)-by] }
	}
	put := func(name string, off int, word uint32) func(fstest.MapFS) {
		return func(f fstest.MapFS) { binary.LittleEndian.PutUint32(f[name].Data[off:], word) }
	}
	twice := func(name string, header int) func(fstest.MapFS) {
		return func(f fstest.MapFS) { f[name].Data = append(f[name].Data, f[name].Data[header:]...) }
	}
	for _, tc := range []struct {
		name string
		do   func(fstest.MapFS)
		want error
	}{
		{"core missing", func(f fstest.MapFS) { delete(f, core) }, fs.ErrNotExist},
		{"pages missing", func(f fstest.MapFS) { delete(f, "pages-1.img") }, fs.ErrNotExist},
		{"core is a directory", func(f fstest.MapFS) { f[core].Mode = fs.ModeDir }, ErrFormat},
		{"core cut", cut(core, 1), ErrTruncated},
		{"mm cut", cut(mm, 100), ErrTruncated},
		{"pagemap cut in a length", func(f fstest.MapFS) { f[pm].Data = append(f[pm].Data, 1, 0) }, ErrTruncated},
		{"pagemap cut after a record", cut(pm, 14), ErrTruncated},
		{"pages cut", cut("pages-1.img", 1), ErrTruncated},
		{"core empty", func(f fstest.MapFS) { f[core].Data = nil }, ErrTruncated},
		{"core without record", func(f fstest.MapFS) { f[core].Data = f[core].Data[:8] }, ErrTruncated},
		{"wrong magic", put(core, 4, magicMM), ErrFormat},
		{"no common magic", put(core, 0, magicCore), ErrFormat},
		{"huge length", put(mm, 8, 0xffffffff), ErrFormat},
		{"length beyond the file", put(mm, 8, maxRecord), ErrTruncated},
		{"not protobuf", put(core, 12, 0xffffffff), ErrFormat},
		{"two cores", twice(core, 8), ErrFormat},
		{"two processes", twice("pstree.img", 8), ErrUnsupported},
		{"files twice", twice("files.img", 8), ErrFormat},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fsys := testImage(t)
			tc.do(fsys)
			if _, err := read(fsys); !errors.Is(err, tc.want) {
				t.Errorf("err = %v, want %v", err, tc.want)
			}
		})
	}
}

func TestEveryPrefixIsRefused(t *testing.T) {
	for name, whole := range testImage(t) {
		for n := range whole.Data {
			if name == "pages-1.img" && n > 100 {
				break
			}
			if name == "files.img" {
				continue // an image may have any number of files
			}
			fsys := testImage(t)
			fsys[name] = &fstest.MapFile{Data: whole.Data[:n]}
			if _, err := read(fsys); err == nil {
				t.Errorf("%s with %d bytes is accepted", name, n)
			}
		}
	}
}

// Run it with -fuzzminimizetime=10x: shrinking one input of several files takes
// the default 60 s whole.
func FuzzReadImage(f *testing.F) {
	seed := testImage(f)
	f.Add(seed["inventory.img"].Data, seed["pstree.img"].Data, seed["files.img"].Data,
		seed["core-28953.img"].Data, seed["mm-28953.img"].Data, seed["pagemap-28953.img"].Data, uint8(4))
	head := marshal(f, &pagemap.PagemapHead{PagesId: proto.Uint32(1)})
	f.Add(seed["inventory.img"].Data, seed["pstree.img"].Data, seed["files.img"].Data,
		seed["core-28953.img"].Data, seed["mm-28953.img"].Data,
		file(magicPagemap, head, entry42(0x400000, 1, 4)), uint8(1))
	f.Fuzz(func(t *testing.T, inventory, pstree, files, core, mm, pm []byte, pages uint8) {
		fsys := fstest.MapFS{
			"inventory.img":     {Data: inventory},
			"pstree.img":        {Data: pstree},
			"files.img":         {Data: files},
			"core-28953.img":    {Data: core},
			"mm-28953.img":      {Data: mm},
			"pagemap-28953.img": {Data: pm},
			"pages-1.img":       {Data: make([]byte, int(pages)*PageSize)},
		}
		im, err := read(fsys)
		if err != nil {
			// Nothing stops at the first bad file.
			im = &Image{PID: 28953}
			names, _ := readFiles(fsys)
			im.readCore(fsys)
			im.readMM(fsys, names)
			im.readPagemap(fsys)
			readPstree(fsys)
			return
		}
		end := uint64(0)
		for _, run := range im.Pages {
			if run.Pages == 0 || run.Addr < end || run.End() <= run.Addr ||
				run.FileOff+run.Pages*PageSize > uint64(pages)*PageSize {
				t.Fatalf("run %+v", run)
			}
			end = run.End()
		}
	})
}
