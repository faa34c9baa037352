package launcher

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/residentctl/residentctl/internal/fixture"
	"github.com/residentctl/residentctl/internal/seeded"
	"github.com/residentctl/residentctl/pkg/ldcache"
	"github.com/residentctl/residentctl/pkg/plan"
)

// cacheAsker builds the program that asks caches as the launcher does.
func cacheAsker(t testing.TB, dir string) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("gcc is not installed")
	}
	bin := filepath.Join(dir, "cache-asker")
	out, err := exec.Command("gcc", "-Os", "-ffreestanding", "-fno-builtin", "-ffunction-sections", "-Wl,--gc-sections",
		"-fno-strict-aliasing", "-mgeneral-regs-only", "-I", "src", "-o", bin, "testdata/cache.c").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// askNames are the names that the plans of these tests have answers for.
var askNames = []string{"libz.so.1", "libold.so.1", "lib9.so", "lib010.so", "libc.so.6", "libnone.so", "libforeign.so", ""}

// askedCache has each kind of entry.
func askedCache() fixture.Cache {
	return fixture.Cache{New: true, Libs: []fixture.CacheLib{
		{Name: "libz.so.1", Path: "/v2/libz.so.1", Subdir: "x86-64-v2"},
		{Name: "libz.so.1", Path: "/v3/libz.so.1", Subdir: "x86-64-v3", HWCap: 3 << 32},
		{Name: "libz.so.1", Path: "/lib/libz.so.1"},
		{Name: "libz.so.1", Path: "/second/libz.so.1"},
		{Name: "libold.so.1", Path: "/lib/tls/libold.so.1", HWCap: 1 << 63},
		{Name: "libold.so.1", Path: "/lib/libold-3.so.1", OSVersion: 0x30200},
		{Name: "libold.so.1", Path: "/lib/libold.so.1"},
		{Name: "libforeign.so", Path: "/lib32/libforeign.so", Flags: 3},
		{Name: "libc.so.6", Path: "/lib32/libc.so.6", Flags: 3},
		{Name: "libc.so.6", Path: "/lib/libc.so.6"},
		{Name: "lib10.so", Path: "/lib/lib10.so"},
		{Name: "lib9.so", Path: "/lib/lib9.so"},
	}}
}

// inFormats are the bytes of a cache in the new format, and in that after the old one.
func inFormats(c fixture.Cache) [][]byte {
	var all [][]byte
	for _, old := range []bool{false, true} {
		c.Old, c.New = old, true
		all = append(all, c.Bytes())
	}
	return all
}

// lookUp is what a cache answers for names; nil if it is damaged where they are.
func lookUp(raw []byte, names []string) []plan.CacheAnswer {
	c, err := ldcache.Parse(raw)
	if err != nil {
		return nil
	}
	var answers []plan.CacheAnswer
	for _, name := range names {
		entries, err := c.Lookup(name)
		if err != nil {
			return nil
		}
		answers = append(answers, plan.CacheAnswer{Name: name, Entries: entries})
	}
	return answers
}

// planFor writes a plan that has answers, and is otherwise the shortest there is.
func planFor(t testing.TB, path string, answers []plan.CacheAnswer) {
	t.Helper()
	const text = 0x7f0000001000
	p := &plan.Plan{
		Kind: plan.KindLinked, Path: "/p", Real: "/p",
		Files:  []plan.MappedFile{{Path: "/p", Flags: plan.FileProgram | plan.FileExe, Maps: []plan.Map{{Addr: text, Len: 0x1000, Prot: 5}}}},
		Checks: []plan.CheckedFile{{Path: ldcache.Path, ID: plan.FileID{Ino: 1}, Answers: answers}},
		Caller: plan.Caller{MapsEnd: text + 0x1000},
		Entry:  plan.Entry{RIP: text, Gadget: text},
		Stop:   plan.Stop{Addr: text, Point: plan.StopEntry},
	}
	raw, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

// The launcher finds a cache's answers to be those of a plan exactly where Go does,
// whatever the bytes of the cache are.
func TestCacheIsReadAsGoReadsIt(t *testing.T) {
	dir := t.TempDir()
	asker := cacheAsker(t, dir)
	random := seeded.Rand(t)
	var caches [][]byte
	for _, raw := range inFormats(askedCache()) {
		caches = append(caches, raw)
		for n := range raw {
			caches = append(caches, raw[:n], changed(raw, n, byte(1+random.IntN(255))))
		}
		for range 1000 {
			bad := bytes.Clone(raw)
			for range 1 + random.IntN(4) {
				bad[random.IntN(len(bad))] = byte(random.Uint32())
			}
			caches = append(caches, bad)
		}
	}
	for range 300 {
		caches = append(caches, inFormats(shuffled(random, askedCache()))...)
	}
	caches = append(caches, large(askedCache()), unended(askedCache()))
	files := []string{filepath.Join(dir, "plan")}
	for i, raw := range caches {
		file := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(file, raw, 0o644); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	answers := lookUp(caches[0], askNames)
	planFor(t, files[0], answers)
	same := compareAnswers(t, asker, files, caches, answers)
	if same < 10 || same > len(caches)*9/10 {
		t.Errorf("%d of %d caches have the same answers: this test shows little", same, len(caches))
	}
}

// compareAnswers returns how many caches give the answers.
func compareAnswers(t *testing.T, asker string, files []string, caches [][]byte, answers []plan.CacheAnswer) (same int) {
	t.Helper()
	out, err := exec.Command(asker, files...).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != len(caches) {
		t.Fatalf("%d answers to %d caches", len(lines), len(caches))
	}
	for i, got := range lines {
		var other []string
		now := lookUp(caches[i], askNames)
		for k := range now {
			if !slices.Equal(now[k].Entries, answers[k].Entries) {
				other = append(other, now[k].Name)
			}
		}
		want := "same"
		switch {
		case len(other) > 0:
			want = "ld.so.cache has another answer for " + other[0]
		case now == nil:
			want = "" // a reason
		default:
			same++
		}
		if got != want && (want != "" || got == "same") {
			t.Errorf("cache %d: %q, want %q\n%q", i, got, want, caches[i])
		}
	}
	return same
}

func changed(raw []byte, at int, by byte) []byte {
	raw = bytes.Clone(raw)
	raw[at] ^= by
	return raw
}

// shuffled is a cache out of order, or with some libraries more or less.
func shuffled(random *rand.Rand, c fixture.Cache) fixture.Cache {
	c.Libs = slices.Clone(c.Libs)
	for range 1 + random.IntN(3) {
		i, k := random.IntN(len(c.Libs)), random.IntN(len(c.Libs))
		switch random.IntN(4) {
		case 0:
			c.Libs[i], c.Libs[k] = c.Libs[k], c.Libs[i]
		case 1:
			c.Libs = slices.Insert(c.Libs, i, c.Libs[k])
		case 2:
			c.Libs = slices.Delete(c.Libs, i, i+1)
		case 3:
			c.Libs[i].Path += "x"
		}
	}
	return c
}

// large is a cache for which there is no room after a plan.
func large(c fixture.Cache) []byte {
	for i := range 3000 {
		c.Libs = append(c.Libs, fixture.CacheLib{Name: "lib.so", Path: fmt.Sprintf("/lib/number/%d/lib.so", i)})
	}
	return c.Bytes()
}

// unended is a cache of whole pages in which a path that is asked for has no end.
func unended(c fixture.Cache) []byte {
	raw := c.Bytes()
	raw = append(raw, bytes.Repeat([]byte("x"), 4096-len(raw)%4096)...)
	binary.LittleEndian.PutUint32(raw[48+8:], uint32(len(raw)-1)) // the first entry's value
	return raw
}

// A cache that is no file of a cache's size is not opened, or not read, and never waited for.
func TestCacheThatIsNone(t *testing.T) {
	dir := t.TempDir()
	asker := cacheAsker(t, dir)
	raw := inFormats(askedCache())[0]
	planFor(t, filepath.Join(dir, "plan"), lookUp(raw, askNames))
	path := filepath.Join(dir, "cache")
	for _, tc := range []struct {
		name string
		make func() error
	}{
		{"nothing", func() error { return nil }},
		{"a directory", func() error { return os.Mkdir(path, 0o755) }},
		{"a FIFO", func() error { return syscall.Mkfifo(path, 0o644) }},
		{"a device", func() error { return os.Symlink("/dev/zero", path) }},
		{"empty", func() error { return os.WriteFile(path, nil, 0o644) }},
		{"sparse and huge", func() error {
			return errors.Join(os.WriteFile(path, raw, 0o644), os.Truncate(path, 1<<40))
		}},
	} {
		if err := tc.make(); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(asker, filepath.Join(dir, "plan"), path).CombinedOutput()
		if err != nil || string(out) != "this has changed "+path+"\n" {
			t.Errorf("%s: %v, %q", tc.name, err, out)
		}
		os.Remove(path)
	}
}
