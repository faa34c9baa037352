package resident

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/ldcache"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/readers"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// BenchmarkLargeStore measures what is called for every package or by a monitor in a store with
// 10,000 programs, each with four of 400 libraries and a small image. Each operation is to take
// less than a second. The processor time is reported too, which other processes disturb less.
func BenchmarkLargeStore(b *testing.B) {
	const programs = 10_000
	s := newLargeStore(b, programs)
	b.Run("list", func(b *testing.B) {
		defer reportProcessorTime(b)()
		for b.Loop() {
			m, err := OpenToRead(s.m.Dir())
			if err != nil {
				b.Fatal(err)
			}
			entries, err := m.List(b.Context())
			if err != nil || len(entries) != programs || entries[0].State != StateCurrent {
				b.Fatalf("%d entries, %v, first %+v", len(entries), err, entries[0])
			}
		}
	})
	b.Run("refresh of the users of one library", func(b *testing.B) {
		defer reportProcessorTime(b)()
		for b.Loop() {
			m, err := Open(s.m.Dir(), false)
			if err != nil {
				b.Fatal(err)
			}
			served := 0
			err = m.Refresh(b.Context(), RefreshOptions{Changed: &[]string{s.libraries[7]}}, func(r Refreshed) {
				served++
				if !r.Current {
					b.Fatalf("%s: %v", r.Program, r.Err)
				}
			})
			if err != nil || served != programs*3/len(s.libraries) {
				b.Fatalf("%d served, %v", served, err)
			}
		}
	})
	b.Run("plan of gc", func(b *testing.B) {
		defer reportProcessorTime(b)()
		for b.Loop() {
			m, err := Open(s.m.Dir(), false)
			if err != nil {
				b.Fatal(err)
			}
			p, err := m.PlanGC(b.Context())
			if err != nil || len(p.Items)+len(p.Kept) > 0 {
				b.Fatalf("%+v, %v", p, err)
			}
		}
	})
}

// reportProcessorTime reports what all threads of this process use until the result is called.
func reportProcessorTime(b *testing.B) func() {
	used := func() float64 {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return float64(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric((used()-before)/float64(b.N)/1e6, "cpu-ms/op") }
}

// A largeStore has programs that were never linked: records, plans and launcher files as add
// makes them, and files that nobody executes.
type largeStore struct {
	m         *Manager
	dir       string
	libraries []string
	ids       map[string]linux.FileID // of libraries
	template  fingerprint.Dependencies
}

func newLargeStore(tb testing.TB, programs int) *largeStore {
	tb.Helper()
	dir, err := os.MkdirTemp("/tmp", "r") // names as short as in /usr/bin
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	tb.Setenv("TMPDIR", tb.TempDir())
	m, err := Open(filepath.Join(dir, "store"), true)
	if err != nil {
		tb.Fatal(err)
	}
	s := &largeStore{m: m, dir: dir, ids: map[string]linux.FileID{}}
	if err := s.template.Machine(); err != nil {
		tb.Fatal(err)
	}
	for n := range 400 {
		s.libraries = append(s.libraries, s.file(tb, fmt.Sprintf("lib/lib%03d.so.1", n)))
	}
	linker := s.file(tb, "lib/ld.so")
	s.template.Linker = fingerprint.File{Path: linker, ID: s.ids[linker], SHA256: strings.Repeat("1", 64)}
	cache, err := linux.StatID(ldcache.Path)
	if err != nil {
		tb.Fatal(err)
	}
	libc := fingerprint.Answer{Name: "libc.so.6", Entries: []ldcache.Entry{{Path: "/lib/x86_64-linux-gnu/libc.so.6"}}}
	s.template.Checks = []fingerprint.Checked{
		{Path: ldcache.Path, ID: cache, Answers: []fingerprint.Answer{libc}}, {Path: "/etc/ld.so.preload"},
	}
	var records []registry.Record
	for n := range programs {
		records = append(records, s.program(tb, n))
	}
	if _, err := m.registry.PutAll(records); err != nil {
		tb.Fatal(err)
	}
	return s
}

// file makes a file, and returns its path.
func (s *largeStore) file(tb testing.TB, name string) string {
	tb.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(name), 0o755); err != nil {
		tb.Fatal(err)
	}
	id, err := linux.StatID(path)
	if err != nil {
		tb.Fatal(err)
	}
	s.ids[path] = id
	return path
}

// program makes the program with this number, all that a start of it reads, and its record.
func (s *largeStore) program(tb testing.TB, n int) registry.Record {
	tb.Helper()
	path := s.file(tb, fmt.Sprintf("program%05d", n)) // two directories deep, as in /usr/bin
	deps := s.template
	deps.Program = fingerprint.File{Path: path, ID: s.ids[path], SHA256: fmt.Sprintf("%064x", n)}
	for k := range 3 {
		library := s.libraries[(n*3+k)%len(s.libraries)]
		deps.Libraries = append(deps.Libraries, fingerprint.File{Path: library, ID: s.ids[library], SHA256: strings.Repeat("2", 64)})
	}
	raw, err := json.Marshal(&deps)
	if err != nil {
		tb.Fatal(err)
	}
	rec := registry.Record{
		Wish: registry.Wish{Program: path},
		Image: registry.Image{
			ID: fmt.Sprintf("%016x", n), Binary: deps.Program.ID, Digest: deps.Digest(), Deps: raw, Lookups: deps.Lookups(),
			Kind: "linked", Created: time.Now(), CRIU: "4.1", Kernel: deps.Kernel, Libraries: 4, Mappings: 20, ImageBytes: 8192,
		},
	}
	for _, f := range append([]fingerprint.File{deps.Linker}, deps.Libraries...) {
		rec.LibraryPaths = append(rec.LibraryPaths, f.Path)
	}
	s.image(tb, &rec)
	// What is there already is not brought to the disk, which would take minutes in all.
	file := s.m.store.LauncherPath(rec.Binary.Inode(), path)
	text, err := s.m.launcherFile(rec, path)
	err = errors.Join(err, os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, text, 0o700), s.m.writeLaunchers(rec),
		os.Symlink(filepath.Join("../images", rec.ID, planName(s.m.store)), s.m.store.IndexPath(rec.Binary.Inode())))
	if err != nil {
		tb.Fatal(err)
	}
	return rec
}

// image makes an image with one page, and enters its plan's checksum.
func (s *largeStore) image(tb testing.TB, rec *registry.Record) {
	tb.Helper()
	var deps fingerprint.Dependencies
	if err := json.Unmarshal(rec.Deps, &deps); err != nil {
		tb.Fatal(err)
	}
	readers, err := readers.Of(rec.Program, &deps)
	if err != nil {
		tb.Fatal(err)
	}
	file, directory := store.Exposed(readers.Mode, readers.GID)
	dir := s.m.store.ImageDir(rec.ID)
	pages := filepath.Join(dir, "pages-1.img")
	write := func(path string, raw []byte) {
		if err := os.WriteFile(path, raw, 0o644); err != nil {
			tb.Fatal(err)
		}
		if err := os.Chmod(path, 0o600|file.Mode); err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.Mkdir(dir, 0o700|directory.Mode); err != nil {
		tb.Fatal(err)
	}
	write(pages, make([]byte, 4096))
	id, err := linux.StatID(pages)
	if err != nil {
		tb.Fatal(err)
	}
	name, err := s.m.store.NameOf(pages)
	if err != nil {
		tb.Fatal(err)
	}
	const text, data, private = 0x7f0000001000, 0x7f0000002000, 0x100002 // MAP_PRIVATE|MAP_FIXED_NOREPLACE
	p := plan.Plan{
		Kind: plan.KindLinked, Path: rec.Program, Real: rec.Program, ID: rec.ID,
		Files: []plan.MappedFile{
			{Path: rec.Program, Flags: plan.FileProgram | plan.FileExe, ID: rec.Binary, Maps: []plan.Map{{Addr: text, Len: 0x1000, Prot: 5, Flags: private}}},
			{Path: name, Flags: plan.FilePages, ID: id, Maps: []plan.Map{{Addr: data, Len: 0x1000, Prot: 3, Flags: private}}},
		},
		Caller: plan.Caller{MapsEnd: data + 0x1000},
		Entry:  plan.Entry{RIP: text, Gadget: text},
		Stop:   plan.Stop{Addr: text, Point: plan.StopEntry},
	}
	raw, err := p.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	rec.PlanSums = []string{planSum(raw)}
	write(s.m.store.PlanPath(rec.ID), raw)
	about, err := json.Marshal(rec)
	if err != nil {
		tb.Fatal(err)
	}
	write(s.m.store.AboutPath(rec.ID), about)
}

// Files that many entries share are looked at once in a command, and what has happened to one
// is still found for each of them, and for no other.
func TestManyEntriesShareWhatIsSeen(t *testing.T) {
	s := newLargeStore(t, 150)
	s.want(t, "of a new store")

	// Programs 2 and 135 have library 7: (135*3 + 2) % 400.
	s.file(t, "lib/lib007.so.1.new")
	if err := os.Rename(s.libraries[7]+".new", s.libraries[7]); err != nil {
		t.Fatal(err)
	}
	s.want(t, "of a replaced library", 2, 135)

	linker := s.template.Linker.Path
	if err := os.Remove(linker); err != nil {
		t.Fatal(err)
	}
	all := make([]int, 150)
	for n := range all {
		all[n] = n
	}
	s.want(t, "of the dynamic linker that is gone", all...)
}

// want holds that list and gc have the entries of these programs for stale, and no others.
func (s *largeStore) want(t *testing.T, what string, programs ...int) {
	t.Helper()
	want := map[string]bool{}
	for _, n := range programs {
		want[fmt.Sprintf("%016x", n)] = true
	}
	entries, err := s.m.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if stale := e.State == StateStale; stale != want[e.ID] {
			t.Errorf("%s, list: %s is %s: %q", what, e.Program, e.State, e.Reasons)
		}
	}
	p, err := s.m.PlanGC(t.Context())
	if err != nil || len(p.Items) != len(want) {
		t.Fatalf("%s, gc: %d items instead of %d, %v", what, len(p.Items), len(want), err)
	}
	for _, item := range p.Items {
		if item.Kind != GCEntry || !want[item.ID] {
			t.Errorf("%s, gc: %+v", what, item)
		}
	}
}

// That a check is interrupted is nothing wrong with the store.
func TestInterruptedCheckFindsNoFault(t *testing.T) {
	s := newLargeStore(t, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := CheckStore(ctx, s.m.Dir(), func(f Finding) {
		if f.Status == StatusFault {
			t.Errorf("%+v", f)
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// What a link in the place of an entry's launcher files leads to is none of gc's.
func TestGCFollowsNoLinkOutOfTheStore(t *testing.T) {
	s := newLargeStore(t, 2)
	entries, err := s.m.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	launchers, outside := s.m.store.LaunchersDir(entries[1].Binary.Inode()), filepath.Join(t.TempDir(), "outside")
	err = errors.Join(os.Rename(launchers, outside), os.Symlink(outside, launchers), os.WriteFile(filepath.Join(outside, "precious"), nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.m.PlanGC(t.Context())
	if err != nil || len(p.Items) > 0 {
		t.Errorf("%+v, %v", p, err)
	}
}

// A launcher file under a name that its entry does not have is found among many.
func TestSurplusLauncherIsFoundAmongMany(t *testing.T) {
	s := newLargeStore(t, 20)
	entries, err := s.m.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	extra := s.m.Launcher(entries[11].Record) + "-old"
	if err := os.WriteFile(extra, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := s.m.PlanGC(t.Context())
	if err != nil || len(p.Items) != 1 || p.Items[0].Kind != GCLauncher || p.Items[0].Path != extra {
		t.Errorf("%+v, %v", p, err)
	}
}
