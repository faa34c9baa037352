package ldcache

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/internal/fixture"
)

func mustParse(t testing.TB, raw []byte) *Cache {
	t.Helper()
	c, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// some is a cache with each kind of entry.
func some() fixture.Cache {
	libs := []fixture.CacheLib{
		{Name: "libc.so.6", Path: "/lib/libc.so.6"},
		{Name: "libz.so.1", Path: "/v2/libz.so.1", Subdir: "x86-64-v2"},
		{Name: "libz.so.1", Path: "/v3/libz.so.1", Subdir: "x86-64-v3", HWCap: 3 << 32},
		{Name: "libz.so.1", Path: "/lib/libz.so.1"},
		{Name: "libz.so.1", Path: "/second/libz.so.1"},
		{Name: "libz.so.1", Path: "/lib32/libz.so.1", Flags: 3},
		{Name: "libold.so.1", Path: "/lib/tls/libold.so.1", HWCap: 1 << 63},
		{Name: "libold.so.1", Path: "/lib/libold-3.so.1", OSVersion: 0x30200},
		{Name: "libold.so.1", Path: "/lib/libold.so.1"},
		{Name: "lib10.so", Path: "/lib/lib10.so"},
		{Name: "lib9.so", Path: "/lib/lib9.so"},
		{Name: "libforeign.so", Path: "/lib32/libforeign.so", Flags: 3},
		{Name: "libé.so", Path: "/lib/libé.so"},
	}
	slices.SortStableFunc(libs, func(a, b fixture.CacheLib) int { return compare(b.Name, a.Name) })
	return fixture.Cache{Libs: libs, New: true}
}

// formats are the cache in each format: ldconfig's since glibc 2.32, and before that.
func formats(c fixture.Cache) map[string][]byte {
	all := map[string][]byte{}
	for name, old := range map[string]bool{"new": false, "compat": true} {
		c.Old, c.New = old, true
		all[name] = c.Bytes()
	}
	return all
}

func TestLookup(t *testing.T) {
	subdir := func(isa uint64) uint64 { return 1<<62 | isa<<32 }
	for _, tc := range []struct {
		name string
		want []Entry
	}{
		{"libc.so.6", []Entry{{Path: "/lib/libc.so.6"}}},
		{"libz.so.1", []Entry{
			{Path: "/v2/libz.so.1", HWCap: subdir(0), Subdir: "x86-64-v2"},
			{Path: "/v3/libz.so.1", HWCap: subdir(3), Subdir: "x86-64-v3"},
			{Path: "/lib/libz.so.1"},
		}},
		{"libold.so.1", []Entry{
			{Path: "/lib/tls/libold.so.1", HWCap: 1 << 63},
			{Path: "/lib/libold-3.so.1", OSVersion: 0x30200},
			{Path: "/lib/libold.so.1"},
		}},
		{"lib9.so", []Entry{{Path: "/lib/lib9.so"}}},
		{"lib10.so", []Entry{{Path: "/lib/lib10.so"}}},
		{"lib010.so", []Entry{{Path: "/lib/lib10.so"}}}, // the same number
		{"libé.so", []Entry{{Path: "/lib/libé.so"}}},
		{"libforeign.so", nil},
		{"libnone.so", nil},
		{"", nil},
	} {
		for format, raw := range formats(some()) {
			got, err := mustParse(t, raw).Lookup(tc.name)
			if err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s, format %s:\n%s", tc.name, format, diff)
			}
		}
	}
}

// The index of a subdirectory is relative to a list that another package makes longer.
func TestLookupNamesSubdirectories(t *testing.T) {
	c := fixture.Cache{New: true, Libs: []fixture.CacheLib{{Name: "libz.so.1", Path: "/v3/libz.so.1", Subdir: "x86-64-v3"}}}
	before, err := mustParse(t, c.Bytes()).Lookup("libz.so.1")
	if err != nil {
		t.Fatal(err)
	}
	c.Libs = append(c.Libs, fixture.CacheLib{Name: "liba.so", Path: "/v2/liba.so", Subdir: "x86-64-v2"})
	after, err := mustParse(t, c.Bytes()).Lookup("libz.so.1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" || before[0].Subdir != "x86-64-v3" {
		t.Errorf("%+v, and with one more library:\n%s", before, diff)
	}
}

func TestCompare(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "a", 0}, {"a", "b", -1}, {"b", "a", 1}, {"a", "", 1}, {"", "a", -1}, {"ab", "a", 1},
		{"9", "10", -1}, {"10", "9", 1}, {"010", "10", 0}, {"a1", "ab", 1}, {"ab", "a1", -1},
		{"lib1.so", "lib1.so.1", -1}, {"é", "z", -1}, // char is signed
		{"4294967297", "1", 0}, // the value has 32 bits
	} {
		if got := compare(tc.a, tc.b); sign(got) != tc.want {
			t.Errorf("compare(%q, %q) = %d, want the sign %d", tc.a, tc.b, got, tc.want)
		}
	}
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

func TestParseDamaged(t *testing.T) {
	good, both := formats(some())["new"], formats(some())["compat"]
	subdirs := func(names ...string) []byte {
		c := some()
		c.Subdirs = names
		return c.Bytes()
	}
	put := func(raw []byte, at int, b ...byte) []byte {
		raw = bytes.Clone(raw)
		copy(raw[at:], b)
		return raw
	}
	extensions := int(uint64(good[32]) | uint64(good[33])<<8)
	for _, tc := range []struct {
		name string
		raw  []byte
	}{
		{"empty", nil},
		{"text", []byte("# nothing is cached\n")},
		{"half a magic", []byte("glibc-ld.so")},
		{"a header alone", good[:newHeader]},
		{"half the entries", good[:newHeader+newEntry*3]},
		{"too many entries", put(good, 20, 0xff, 0xff, 0xff, 0xff)},
		{"big-endian", put(good, 28, 3)},
		{"invalid endianness", put(good, 28, 1)},
		{"extensions beyond the end", put(good, 32, 0xfc, 0xff, 0xff, 0xff)},
		{"extensions at no multiple of four", put(good, 32, 1)},
		{"extensions of another magic", put(good, extensions, 1)},
		{"too many extensions", put(good, extensions+4, 0xff, 0xff, 0xff, 0xff)},
		{"an extension beyond the end", put(good, extensions+8+8, 0xff, 0xff, 0xff, 0xff)},
		{"subdirectories of odd length", put(good, extensions+8+16+12, 5)},
		{"a subdirectory's name beyond the end", put(good, extensions+8+32, 0xff, 0xff, 0xff, 0xff)},
		{"subdirectories out of order", subdirs("x86-64-v3", "x86-64-v2")},
		{"the same subdirectory twice", subdirs("x86-64-v2", "x86-64-v2", "x86-64-v3")},
		{"the old format alone", fixture.Cache{Libs: some().Libs, Old: true}.Bytes()},
		{"half an old header", both[:14]},
		{"too many old entries", put(both, 12, 0xff, 0xff, 0xff, 0xff)},
		{"huge", append(bytes.Clone(good), make([]byte, MaxSize)...)},
	} {
		if _, err := Parse(tc.raw); err == nil {
			t.Errorf("%s: it is read", tc.name)
		}
	}
}

func TestLookupDamaged(t *testing.T) {
	one := func(hwcap uint64, at int, word uint32) []byte {
		raw := fixture.Cache{New: true, Libs: []fixture.CacheLib{{Name: "liba.so", Path: "/lib/liba.so", HWCap: hwcap}}}.Bytes()
		if at > 0 {
			binary.LittleEndian.PutUint32(raw[newHeader+at:], word)
		}
		return raw
	}
	for _, tc := range []struct {
		name string
		raw  []byte
	}{
		{"a name beyond the end", one(0, 4, 1<<28)},
		{"a path beyond the end", one(0, 8, 1<<32-1)},
		{"a subdirectory of no name", one(1<<62|7, 0, 0)},
	} {
		if entries, err := mustParse(t, tc.raw).Lookup("liba.so"); err == nil {
			t.Errorf("%s: %+v", tc.name, entries)
		}
	}
}

// Each byte of a cache is changed, and each of its beginnings read.
func TestNothingPanics(t *testing.T) {
	for _, raw := range formats(some()) {
		for n := range raw {
			bad := bytes.Clone(raw)
			bad[n] ^= 0x81
			lookUpAll(bad)
			lookUpAll(raw[:n])
		}
	}
}

func lookUpAll(raw []byte) {
	c, err := Parse(raw)
	if err != nil {
		return
	}
	for _, l := range some().Libs {
		c.Lookup(l.Name)
	}
}

func FuzzLookup(f *testing.F) {
	for _, raw := range formats(some()) {
		f.Add(raw, "libz.so.1")
		f.Add(raw, "libold.so.1")
	}
	f.Fuzz(func(t *testing.T, raw []byte, name string) {
		c, err := Parse(raw)
		if err != nil {
			return
		}
		entries, err := c.Lookup(name)
		for i, e := range entries {
			if err == nil && e.unconditional() != (i == len(entries)-1) && e.unconditional() {
				t.Errorf("%+v goes on after an entry that is always taken", entries)
			}
		}
	})
}

// What ldconfig(8) itself writes, in a root directory of its own, and prints.
func TestLookupInWhatLdconfigWrites(t *testing.T) {
	ldconfig, err := exec.LookPath("ldconfig")
	if err != nil {
		ldconfig = "/sbin/ldconfig"
	}
	if _, err := exec.LookPath(ldconfig); err != nil {
		t.Skip(err)
	}
	for _, tc := range []struct {
		format  string
		subdirs bool
	}{{"new", true}, {"new", false}, {"compat", false}} {
		t.Run(fmt.Sprintf("%s, subdirectories %v", tc.format, tc.subdirs), func(t *testing.T) {
			raw, printed := ldconfigWrites(t, ldconfig, tc.format, tc.subdirs)
			compareWithPrinted(t, mustParse(t, raw), printed)
		})
	}
	// Here ldconfig counts the names of subdirectories from where the new format begins,
	// the dynamic linker from the file's first byte (elf/cache.c, write_extensions;
	// elf/dl-cache.c, glibc_hwcaps_compare).
	raw, _ := ldconfigWrites(t, ldconfig, "compat", true)
	if _, err := Parse(raw); err == nil {
		t.Error("a cache in whose subdirectories the dynamic linker sees other names is read")
	}
}

// ldconfigWrites returns a cache and what `ldconfig -p` prints of it.
func ldconfigWrites(t *testing.T, ldconfig, format string, subdirs bool) ([]byte, string) {
	t.Helper()
	root := ldconfigRoot(t, subdirs)
	out, err := exec.Command(ldconfig, "-r", root, "-f", "/conf", "-C", "/cache", "-c", format, "-i", "-X").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	raw, err := os.ReadFile(filepath.Join(root, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	printed, err := exec.Command(ldconfig, "-r", root, "-C", "/cache", "-p").Output()
	if err != nil {
		t.Fatal(err)
	}
	return raw, string(printed)
}

// ldconfigRoot is a root directory with libraries for ldconfig to list.
func ldconfigRoot(t *testing.T, subdirs bool) string {
	t.Helper()
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "conf"), []byte("/first\n/second\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, dirs := range map[string][]string{
		"libz.so.1":    {"first", "second", "first/glibc-hwcaps/x86-64-v2", "first/glibc-hwcaps/x86-64-v3"},
		"lib9.so.9":    {"first", "first/glibc-hwcaps/x86-64-v3"},
		"lib10.so.10":  {"first"},
		"libonly.so.2": {"second"},
	} {
		library := fixture.Build(t, "int f(void) { return 0; }\n", "-shared", "-nostdlib", "-Wl,-soname,"+name)
		for _, dir := range dirs {
			if strings.Contains(dir, "glibc-hwcaps") && !subdirs {
				continue
			}
			if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Link(library, filepath.Join(root, dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

var printedEntry = regexp.MustCompile(`^\t(\S+) \(libc6,x86-64(, hwcap: "(\S+)")?\) => (\S+)$`)

// compareWithPrinted holds that the first entry of each name and each of a subdirectory
// that `ldconfig -p` prints is what Lookup returns, in the same order.
func compareWithPrinted(t *testing.T, c *Cache, printed string) {
	want, done := map[string][]string{}, map[string]bool{}
	for line := range strings.Lines(printed) {
		m := printedEntry.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil || done[m[1]] {
			continue
		}
		want[m[1]] = append(want[m[1]], fmt.Sprintf("%s %q", m[4], m[3]))
		done[m[1]] = m[3] == ""
	}
	if len(want) < 4 {
		t.Fatalf("ldconfig prints %q", printed)
	}
	for name, want := range want {
		entries, err := c.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, fmt.Sprintf("%s %q", e.Path, e.Subdir))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: printed (-) and found (+):\n%s", name, diff)
		}
	}
}

// The machine's own cache has each of its names.
func TestLookupInTheMachinesCache(t *testing.T) {
	raw, err := os.ReadFile(Path)
	if err != nil {
		t.Skip(err)
	}
	c := mustParse(t, raw)
	for i := range c.count {
		name, ok := c.key(i)
		first, end, err := c.find(name)
		if !ok || err != nil || i < first || i >= end {
			t.Errorf("entry %d, %s, is not among %d to %d: %v", i, name, first, end, err)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	raw, err := os.ReadFile(Path)
	if err != nil {
		b.Skip(err)
	}
	c := mustParse(b, raw)
	for b.Loop() {
		c.Lookup("libc.so.6")
	}
}
