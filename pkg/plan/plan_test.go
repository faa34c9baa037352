package plan

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unsafe"

	"github.com/cespare/xxhash/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/pkg/ldcache"
)

const (
	text = 0x7f0000001000 // one page of the dynamic linker, r-x
	data = 0x7f0000002000 // two pages from CRIU's image, read-only at the end
	bss  = 0x7f0000004000 // one fresh page
	prog = 0x550000000000
	vdso = 0x7f0000010000

	private = 0x100002 // MAP_PRIVATE|MAP_FIXED_NOREPLACE
)

// rich is a plan with something in each of its parts.
func rich() *Plan {
	return &Plan{
		Kind: KindLinked, Flags: FlagCheckExec, Path: "/usr/bin/p", Real: "/usr/bin/p", ID: "0123abcd",
		Files: []MappedFile{
			{Path: "/usr/bin/p", Flags: FileProgram | FileExe, ID: FileID{Dev: 1, Ino: 2, Size: 3, Mtime: -4, Ctime: 5},
				Maps: []Map{{Addr: prog, Len: 0x2000, Prot: 5, Flags: private}}},
			{Path: "/lib/ld.so", ID: FileID{Ino: 7}, Maps: []Map{{Addr: text, Len: 0x1000, Off: 0x3000, Prot: 5, Flags: private}}},
			{Path: "images/0123abcd/pages-1.img", Flags: FilePages, Maps: []Map{{Addr: data, Len: 0x2000, Prot: 3, Flags: private}}},
		},
		Anon:     []Map{{Addr: bss, Len: 0x1000, Prot: 3, Flags: private | 0x20}},
		Protects: []Protect{{Addr: data, Len: 0x1000, Prot: 1}},
		Fixups:   []Fixup{{Addr: data + 8, Kind: FixRandom, Size: 8}, {Addr: data + 0x1ffc, Kind: FixTID, Size: 4}},
		Checks: []CheckedFile{{Path: "/etc/ld.so.preload"}, {Path: "/etc/ld.so.cache", ID: FileID{Ino: 9}, Answers: []CacheAnswer{
			{Name: "libz.so.1", Entries: []ldcache.Entry{
				{Path: "/v3/libz.so.1", HWCap: 1<<62 | 3<<32, Subdir: "x86-64-v3"}, {Path: "/lib/libz.so.1", OSVersion: 1}}},
			{Name: "libnone.so"},
		}}},
		Directories: []SearchedDirectory{
			{Path: "/lib", ID: FileID{Ino: 11}, Misses: []string{"/lib/a.so", "/lib/b.so"}},
			{Path: "/opt", Misses: []string{"/opt/a.so"}},
			{Path: "/none"},
		},
		Layouts: []string{"images/0123abcd/1/plan", "images/0123abcd/2/plan"},
		CPUID:   []CPUID{{Leaf: 7, Subleaf: 1, Mask: [4]uint32{1, 2, 3, 4}, Value: [4]uint32{1, 0, 3, 0}}},
		Caller:  Caller{HWCap: 1, PageSize: 4096, MapsEnd: vdso + 0x6000, BootID: [40]byte{'b'}, MachineSum: 77},
		VDSO: VDSO{Addr: vdso, Code: vdso + 0x4000, Len: 0x6000, Parts: [4]uint64{0x4000, 0x2000},
			BuildID: [32]byte{0xbb}, BuildOff: 0x200, BuildLen: 20},
		MM:     MM{StartCode: prog, EndCode: prog + 0x1000, BrkBase: prog + 0x2000},
		Kernel: Kernel{FSBase: data, TIDAddr: data + 16, RobustHead: data + 32, RobustLen: 24, RseqSig: 0x53053053},
		Entry:  Entry{RIP: text + 0x10, R12: prog, Gadget: text + 0x20, SigReturn: text + 0x30, Phnum: 13},
		Stop:   Stop{Addr: text + 0xd, Point: StopLinked},
	}
}

// small is the shortest plan there is.
func small() *Plan {
	return &Plan{
		Kind: KindLinked, Path: "/p", Real: "/p",
		Files:  []MappedFile{{Path: "/p", Flags: FileProgram | FileExe, Maps: []Map{{Addr: text, Len: 0x1000, Prot: 5}}}},
		Caller: Caller{MapsEnd: text + 0x1000},
		Entry:  Entry{RIP: text, Gadget: text},
		Stop:   Stop{Addr: text, Point: StopEntry},
	}
}

func encode(t testing.TB, p *Plan) []byte {
	t.Helper()
	raw, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// resum makes the checksum right again after bytes have been changed.
func resum(raw []byte) {
	binary.LittleEndian.PutUint64(raw[summedFrom-8:], xxhash.Sum64(raw[summedFrom:]))
}

func TestRoundTrip(t *testing.T) {
	for name, p := range map[string]*Plan{"rich": rich(), "small": small(), "warm": warm()} {
		t.Run(name, func(t *testing.T) {
			raw := encode(t, p)
			if len(raw)%8 != 0 {
				t.Errorf("%d bytes: the launcher sums words", len(raw))
			}
			got, err := Decode(raw)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(p, got); diff != "" {
				t.Errorf("written and read plan differ:\n%s", diff)
			}
			if !bytes.Equal(encode(t, got), raw) {
				t.Error("the same plan is written as other bytes")
			}
		})
	}
}

func TestSumCoversTheRest(t *testing.T) {
	f, _ := reflect.TypeFor[Header]().FieldByName("Sum")
	if f.Offset+8 != summedFrom {
		t.Errorf("Sum ends at %d, what it covers begins at %d", f.Offset+8, summedFrom)
	}
}

// encoding/binary knows no padding, C does: a struct must need none.
func TestFormatHasNoPadding(t *testing.T) {
	for _, tc := range []struct {
		name string
		v    any
		size uintptr
	}{
		{"Table", Table{}, unsafe.Sizeof(Table{})},
		{"Header", Header{}, unsafe.Sizeof(Header{})},
		{"Caller", Caller{}, unsafe.Sizeof(Caller{})},
		{"VDSO", VDSO{}, unsafe.Sizeof(VDSO{})},
		{"MM", MM{}, unsafe.Sizeof(MM{})},
		{"Kernel", Kernel{}, unsafe.Sizeof(Kernel{})},
		{"Entry", Entry{}, unsafe.Sizeof(Entry{})},
		{"FileID", FileID{}, unsafe.Sizeof(FileID{})},
		{"File", File{}, unsafe.Sizeof(File{})},
		{"Map", Map{}, unsafe.Sizeof(Map{})},
		{"Protect", Protect{}, unsafe.Sizeof(Protect{})},
		{"Fixup", Fixup{}, unsafe.Sizeof(Fixup{})},
		{"Check", Check{}, unsafe.Sizeof(Check{})},
		{"Answer", Answer{}, unsafe.Sizeof(Answer{})},
		{"CacheEntry", CacheEntry{}, unsafe.Sizeof(CacheEntry{})},
		{"Directory", Directory{}, unsafe.Sizeof(Directory{})},
		{"CPUID", CPUID{}, unsafe.Sizeof(CPUID{})},
		{"Variable", Variable{}, unsafe.Sizeof(Variable{})},
		{"SignalAction", SignalAction{}, unsafe.Sizeof(SignalAction{})},
		{"Warm", Warm{}, unsafe.Sizeof(Warm{})},
	} {
		if got := binary.Size(tc.v); got != int(tc.size) {
			t.Errorf("%s is written as %d bytes, in C it has %d", tc.name, got, tc.size)
		}
	}
}

// refused reports whether the error is one of the two that Decode promises.
func refused(err error) bool {
	var d *DamagedError
	return errors.As(err, &d) || err != nil && strings.HasPrefix(err.Error(), "the plan is of version ")
}

func TestDecodeDamaged(t *testing.T) {
	raw := encode(t, small())
	for n := range raw {
		if _, err := Decode(raw[:n]); !refused(err) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
		bad := bytes.Clone(raw)
		bad[n] ^= 0x41
		if _, err := Decode(bad); !refused(err) {
			t.Errorf("byte %d is another one: %v", n, err)
		}
	}
	if _, err := Decode(append(bytes.Clone(raw), make([]byte, 8)...)); !refused(err) {
		t.Errorf("eight bytes more: %v", err)
	}
}

func TestDecodeOtherVersion(t *testing.T) {
	raw := encode(t, small())
	binary.LittleEndian.PutUint32(raw[8:], Version+1)
	want := fmt.Sprintf("the plan is of version %d, this residentctl reads version %d", Version+1, Version)
	if _, err := Decode(raw); err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
}

// A plan whose checksum is right can still lead outside itself.
func TestDecodeOutOfBounds(t *testing.T) {
	head := reflect.TypeFor[Header]()
	table := func(name string, off, count uint32) func([]byte) {
		f, _ := head.FieldByName(name)
		return func(raw []byte) {
			binary.LittleEndian.PutUint32(raw[f.Offset:], off)
			binary.LittleEndian.PutUint32(raw[f.Offset+4:], count)
		}
	}
	type tc struct {
		name   string
		damage func(raw []byte)
	}
	cases := []tc{
		{"program's path beyond the strings", func(raw []byte) { binary.LittleEndian.PutUint32(raw[summedFrom:], 1<<20) }},
		{"strings without an end", func(raw []byte) {
			h := header(raw)
			for i := range h.Strings.Count {
				raw[h.Strings.Off+i] = '/'
			}
		}},
		{"file's mappings beyond the table", func(raw []byte) {
			binary.LittleEndian.PutUint32(raw[header(raw).Files.Off+8:], 1<<31)
		}},
		{"number of a file's mappings", func(raw []byte) {
			binary.LittleEndian.PutUint32(raw[header(raw).Files.Off+12:], 1<<32-1)
		}},
		{"number of a check's answers", func(raw []byte) {
			binary.LittleEndian.PutUint32(raw[header(raw).Checks.Off+uint32(unsafe.Sizeof(Check{}))+4:], 1)
		}},
		{"answers of two checks", func(raw []byte) {
			binary.LittleEndian.PutUint32(raw[header(raw).Checks.Off+4:], 2)
		}},
		{"answers of no check", func(raw []byte) {
			binary.LittleEndian.PutUint32(raw[header(raw).Checks.Off+uint32(unsafe.Sizeof(Check{}))+4:], 0)
		}},
		{"number of an answer's entries", func(raw []byte) {
			binary.LittleEndian.PutUint32(raw[header(raw).Answers.Off+8:], 3)
		}},
		{"two answers with the same entries", func(raw []byte) {
			binary.LittleEndian.PutUint32(raw[header(raw).Answers.Off+uint32(unsafe.Sizeof(Answer{}))+4:], 0)
		}},
		{"two directories with the same misses", func(raw []byte) {
			binary.LittleEndian.PutUint32(raw[header(raw).Directories.Off+uint32(unsafe.Sizeof(Directory{}))+4:], 0)
		}},
	}
	for i := range head.NumField() {
		if f := head.Field(i); f.Type == reflect.TypeFor[Table]() {
			cases = append(cases,
				tc{f.Name + " at the end of 32 bits", table(f.Name, 1<<32-1, 1)},
				tc{f.Name + " with 2^32-1 elements", table(f.Name, 0, 1<<32-1)})
		}
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			raw := encode(t, warm())
			tc.damage(raw)
			resum(raw)
			var d *DamagedError
			if _, err := Decode(raw); !errors.As(err, &d) {
				t.Errorf("got %v, want a DamagedError", err)
			}
		})
	}
}

func header(raw []byte) (h Header) {
	_ = binary.Read(bytes.NewReader(raw), binary.LittleEndian, &h)
	return h
}

func TestCheck(t *testing.T) {
	place := func(addr, size uint64) func(*Plan) {
		return func(p *Plan) {
			p.Anon = append(p.Anon, Map{Addr: addr, Len: size})
			p.Caller.MapsEnd = addressEnd
		}
	}
	for _, tc := range []struct {
		name   string
		change func(p *Plan)
		want   string
	}{
		{"other kind", func(p *Plan) { p.Kind = 3 }, "kind 3"},
		{"no file", func(p *Plan) { p.Files = nil }, "not the program"},
		{"program not first", func(p *Plan) { p.Files[0], p.Files[1] = p.Files[1], p.Files[0] }, "not the program"},
		{"relative program", func(p *Plan) { p.Path = "bin/p" }, "absolute"},
		{"absolute pages", func(p *Plan) { p.Pages().Path = "/store/pages-1.img" }, "in a store"},
		{"pages outside of the store", func(p *Plan) { p.Pages().Path = "images/../../pages-1.img" }, "in a store"},
		{"absolute layout", func(p *Plan) { p.Layouts[0] = "/store/images/0123abcd/1/plan" }, "in a store"},
		{"NUL in a layout", func(p *Plan) { p.Layouts[0] = "a\x00b" }, "in a store"},
		{"relative library", func(p *Plan) { p.Files[1].Path = "ld.so" }, "absolute"},
		{"relative check", func(p *Plan) { p.Checks[0].Path = "x" }, "absolute"},
		{"relative miss", func(p *Plan) { p.Directories[0].Misses[1] = "x" }, "absolute"},
		{"NUL in a path", func(p *Plan) { p.Directories[0].Path = "/a\x00b" }, "absolute"},
		{"path too long", func(p *Plan) { p.Checks[0].Path = "/" + strings.Repeat("x", 4095) }, "absolute"},
		{"NUL in an answer's name", func(p *Plan) { p.Checks[1].Answers[1].Name = "a\x00b" }, "answer"},
		{"an answer's path too long", func(p *Plan) { p.Checks[1].Answers[0].Entries[1].Path = strings.Repeat("x", 4096) }, "answer"},
		{"NUL in an answer's subdirectory", func(p *Plan) { p.Checks[1].Answers[0].Entries[0].Subdir = "\x00" }, "answer"},
		{"answers of two files", func(p *Plan) { p.Checks[0].Answers = p.Checks[1].Answers }, "answers of 2 files"},
		{"NUL in the id", func(p *Plan) { p.ID = "a\x00b" }, "id"},
		{"id too long", func(p *Plan) { p.ID = strings.Repeat("x", 4096) }, "id"},
		{"overlapping maps", place(data+0x1000, 0x1000), "meet at"},
		{"one map around another", place(text-0x1000, 0x10000), "meet at"},
		{"map on the vDSO", place(vdso+0x5000, 0x1000), "meet at"},
		{"unaligned address", place(bss+0x1800, 0x1000), "pages"},
		{"unaligned length", place(bss+0x1000, 0x10), "pages"},
		{"empty map", place(bss+0x1000, 0), "pages"},
		{"unaligned offset", func(p *Plan) { p.Files[1].Maps[0].Off++ }, "pages"},
		{"kernel address", place(1<<63, 0x1000), "outside"},
		{"length over the end", place(bss+0x1000, 1<<64-0x1000), "outside"},
		{"in the launcher", place(LauncherBase+0x2000, 0x1000), "launcher"},
		{"where the plan stands", place(LauncherBase-(16<<20), 0x1000), "launcher"},
		{"around the launcher", place(LauncherBase-(1<<40), 1<<41), "launcher"},
		{"in the front door", place(FrontDoorBase+0x1000, 0x1000), "launcher"},
		{"below the front door", place(FrontDoorBase-0x1000, 0x1000), "launcher"},
		{"vDSO at the launcher's place", func(p *Plan) { p.VDSO.Addr, p.VDSO.Code = LauncherBase, LauncherBase+0x4000 }, "launcher"},
		{"stack may grow into the image", func(p *Plan) { p.Caller.MapsEnd = bss }, "stack"},
		{"stack may grow into the vDSO", func(p *Plan) { p.Caller.MapsEnd = bss + 0x1000 }, "stack"},
		{"fix-up outside", func(p *Plan) { p.Fixups[0].Addr = bss + 0x1000 }, "fix-up"},
		{"fix-up in read-only memory", func(p *Plan) { p.Fixups[0].Addr = text + 8 }, "fix-up"},
		{"fix-up over the end", func(p *Plan) { p.Fixups[0] = Fixup{Addr: bss + 0xffc, Size: 8} }, "fix-up"},
		{"unaligned fix-up", func(p *Plan) { p.Fixups[0].Addr++ }, "fix-up"},
		{"fix-up of no size", func(p *Plan) { p.Fixups[0].Size = 0 }, "fix-up"},
		{"fix-up of no kind", func(p *Plan) { p.Fixups[0].Kind = FixKinds }, "fix-up"},
		{"protection outside", func(p *Plan) { p.Protects[0].Addr = bss + 0x1000 }, "protection"},
		{"protection over the end", func(p *Plan) { p.Protects[0].Len = 0x3000 }, "protection"},
		{"unaligned protection", func(p *Plan) { p.Protects[0].Addr++ }, "protection"},
		{"no stop point", func(p *Plan) { p.Stop = Stop{} }, "the stop point StopPoint(0) at 0x0"},
		{"stop point in data", func(p *Plan) { p.Stop.Addr = data }, "the stop point linked"},
		{"entry outside", func(p *Plan) { p.Entry.RIP = 0 }, "jump"},
		{"gadget outside", func(p *Plan) { p.Entry.Gadget = bss + 0x1000 }, "jump"},
		{"entry in data", func(p *Plan) { p.Entry.RIP = data }, "jump"},
		{"way back from signals outside", func(p *Plan) { p.Entry.SigReturn = 1 }, "jump"},
		{"build-id too long", func(p *Plan) { p.VDSO.BuildLen = 33 }, "vDSO"},
		{"build-id outside", func(p *Plan) { p.VDSO.BuildOff = 1<<32 - 1 }, "vDSO"},
		{"vDSO's code outside", func(p *Plan) { p.VDSO.Code = vdso + 0x7000 }, "vDSO"},
		{"vDSO unaligned", func(p *Plan) { p.VDSO.Addr++ }, "pages"},
		{"vDSO's parts are not the whole", func(p *Plan) { p.VDSO.Parts[1] = 0x1000 }, "vDSO"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := rich()
			tc.change(p)
			_, err := p.Encode()
			var d *DamagedError
			if !errors.As(err, &d) || !strings.Contains(d.What, tc.want) {
				t.Errorf("got %v, want a DamagedError about %q", err, tc.want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, rich()))
	f.Add(encode(f, small()))
	f.Add(encode(f, warm()))
	f.Add([]byte(Magic))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) >= summedFrom { // a wrong sum would end every try at once
			raw = bytes.Clone(raw)
			binary.LittleEndian.PutUint64(raw[16:], uint64(len(raw)))
			resum(raw)
		}
		p, err := Decode(raw)
		if err != nil {
			if !refused(err) {
				t.Fatalf("neither damaged nor of another version: %v", err)
			}
			return
		}
		again, err := Decode(encode(t, p))
		if err != nil {
			t.Fatalf("read, written and not readable any more: %v", err)
		}
		if diff := cmp.Diff(p, again); diff != "" {
			t.Errorf("read, written, read:\n%s", diff)
		}
	})
}

// TestReadVersion: it is read of plans of every version, and of nothing else.
func TestReadVersion(t *testing.T) {
	for _, test := range []struct {
		name, raw string
		want      uint32
		ok        bool
	}{
		{"a plan", Magic + "\x03\x00\x00\x00 and so on", 3, true},
		{"cut", Magic + "\x03", 0, false},
		{"another file", "\x7fELF\x00\x00\x00\x00\x03\x00\x00\x00", 0, false},
	} {
		path := filepath.Join(t.TempDir(), "plan")
		if err := os.WriteFile(path, []byte(test.raw), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadVersion(path); got != test.want || (err == nil) != test.ok {
			t.Errorf("%s: %d, %v", test.name, got, err)
		}
	}
}
