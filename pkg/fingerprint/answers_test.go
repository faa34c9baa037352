package fingerprint

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/internal/fixture"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/ldcache"
)

// cacheWith is a cache of libc.so.6, libz.so.1 and whatever else is listed.
func cacheWith(libs ...fixture.CacheLib) []byte {
	libs = append(libs,
		fixture.CacheLib{Name: "libz.so.1", Path: "/v3/libz.so.1", Subdir: "x86-64-v3"},
		fixture.CacheLib{Name: "libz.so.1", Path: "/lib/libz.so.1"},
		fixture.CacheLib{Name: "libc.so.6", Path: "/lib/libc.so.6"})
	return fixture.Cache{New: true, Libs: libs}.Bytes()
}

// replace puts another file at a path, as ldconfig does.
func replace(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+"~", content, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		t.Fatal(err)
	}
}

func TestStaleComparesAnswersOfTheCache(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(path string)
		want   string // PATH stands for the cache's
	}{
		{"the same again", func(path string) { replace(t, path, cacheWith()) }, ""},
		{"an unrelated library", func(path string) {
			replace(t, path, cacheWith(fixture.CacheLib{Name: "libzz.so", Path: "/lib/libzz.so"}))
		}, ""},
		{"an unrelated library in a subdirectory that comes first", func(path string) {
			replace(t, path, cacheWith(fixture.CacheLib{Name: "libzz.so", Path: "/v2/libzz.so", Subdir: "x86-64-v2"}))
		}, ""},
		{"the same library for another machine", func(path string) {
			replace(t, path, cacheWith(fixture.CacheLib{Name: "libz.so.1", Path: "/lib32/libz.so.1", Flags: 3}))
		}, ""},
		{"the same after the old format", func(path string) {
			replace(t, path, fixture.Cache{Old: true, New: true, Libs: []fixture.CacheLib{
				{Name: "libz.so.1", Path: "/v3/libz.so.1", Subdir: "x86-64-v3"},
				{Name: "libz.so.1", Path: "/lib/libz.so.1"}, {Name: "libc.so.6", Path: "/lib/libc.so.6"}}}.Bytes())
		}, ""},
		{"another library comes first", func(path string) {
			replace(t, path, cacheWith(fixture.CacheLib{Name: "libz.so.1", Path: "/local/libz.so.1"}))
		}, "the answer of PATH for libz.so.1 is another: /local/libz.so.1 instead of /v3/libz.so.1, /lib/libz.so.1"},
		{"a subdirectory is added", func(path string) {
			replace(t, path, cacheWith(fixture.CacheLib{Name: "libz.so.1", Path: "/v2/libz.so.1", Subdir: "x86-64-v2"}))
		}, "the answer of PATH for libz.so.1 is another: /v2/libz.so.1, /v3/libz.so.1, /lib/libz.so.1 instead of /v3/libz.so.1, /lib/libz.so.1"},
		{"a library is listed that was not", func(path string) {
			replace(t, path, cacheWith(fixture.CacheLib{Name: "libzzz.so", Path: "/lib/libzzz.so"}))
		}, "the answer of PATH for libzzz.so is another: /lib/libzzz.so instead of nothing"},
		{"nothing is listed any more", func(path string) {
			replace(t, path, fixture.Cache{New: true, Libs: []fixture.CacheLib{{Name: "a", Path: "/a"}}}.Bytes())
		},
			"the answer of PATH for libz.so.1 is another: nothing instead of /v3/libz.so.1, /lib/libz.so.1"},
		{"garbage", func(path string) { replace(t, path, []byte("garbage")) },
			"the answers of PATH cannot be compared: it is not a cache of a known format"},
		{"cut off", func(path string) { replace(t, path, cacheWith()[:100]) },
			"the answers of PATH cannot be compared: it is damaged: something lies outside it"},
		{"a FIFO", func(path string) {
			os.Remove(path)
			if err := syscall.Mkfifo(path, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "the answers of PATH cannot be compared: it is not a regular file"},
		{"gone", func(path string) { os.Remove(path) }, "PATH is gone (no such file or directory)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cache")
			replace(t, path, cacheWith())
			cache, id, err := readCache(path)
			if err != nil {
				t.Fatal(err)
			}
			c := Checked{Path: path, ID: id}
			if c.Answers, err = answersOf(cache, []string{"libz.so.1", "libc.so.6", "libzzz.so"}); err != nil {
				t.Fatal(err)
			}
			tc.change(path)
			if diff := cmp.Diff(strings.ReplaceAll(tc.want, "PATH", path), staleCheck(c, nil)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A change that leaves the times as they were is noticed before anything is published.
func TestSettleReadsTheCacheAgain(t *testing.T) {
	tr := newTree(t)
	path := tr.path("etc/cache")
	tr.file("etc/cache", string(cacheWith()))
	cache, id, err := readCache(path)
	if err != nil {
		t.Fatal(err)
	}
	answers, err := answersOf(cache, []string{"libz.so.1"})
	if err != nil {
		t.Fatal(err)
	}
	answers[0].Entries = answers[0].Entries[1:] // as if it had been read before that
	if err := confirm(nil, []Checked{{Path: path, ID: id, Answers: answers}}, nil); !errors.Is(err, ErrChanged) {
		t.Errorf("confirm = %v", err)
	}
}

// libraries are built in a directory: lib/ and private/. Values are the arguments of gcc
// beyond -shared and the soname; TOP stands for the directory.
func buildLibraries(t *testing.T, top string, libraries [][]string) {
	t.Helper()
	for _, args := range libraries {
		path := filepath.Join(top, args[0])
		flags := []string{"-shared", "-nostdlib", "-Wl,-soname," + filepath.Base(path), "-L" + top + "/lib", "-L" + top + "/private", "-Wl,--no-as-needed"}
		for _, a := range args[1:] {
			flags = append(flags, strings.ReplaceAll(a, "TOP", top))
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(fixture.Build(t, "", flags...), path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLookedUp(t *testing.T) {
	for _, tc := range []struct {
		name      string
		libraries [][]string // as buildLibraries; the program's last, in the order of loading before it
		program   []string
		loaded    []string
		want      []string
		unknown   bool
	}{
		{name: "what the program and its libraries need",
			libraries: [][]string{{"lib/libb.so"}, {"lib/liba.so", "-lb"}},
			program:   []string{"-la", "-lb"}, loaded: []string{"lib/liba.so", "lib/libb.so"},
			want: []string{"liba.so", "libb.so", "libc.so.6"}},
		{name: "not those found in a directory of DT_RUNPATH",
			libraries: [][]string{{"private/libb.so"}, {"lib/liba.so"}},
			program:   []string{"-la", "-lb", "-Wl,-rpath,TOP/private/"}, loaded: []string{"lib/liba.so", "private/libb.so"},
			want: []string{"liba.so", "libc.so.6"}},
		{name: "nor of DT_RPATH that libraries share",
			libraries: [][]string{{"private/libb.so"}, {"private/liba.so", "-lb"}},
			program:   []string{"-la", "-Wl,-rpath,$ORIGIN/private,--disable-new-dtags"}, loaded: []string{"private/liba.so", "private/libb.so"},
			want: []string{"libc.so.6"}},
		{name: "but what a library needs that has no DT_RUNPATH",
			libraries: [][]string{{"private/libb.so"}, {"lib/liba.so", "-lb"}},
			program:   []string{"-la", "-Wl,-rpath-link,TOP/private,-rpath,TOP/private"}, loaded: []string{"lib/liba.so", "private/libb.so"},
			want: []string{"liba.so", "libc.so.6", "libb.so"}},
		{name: "nor below a directory of DT_RUNPATH",
			libraries: [][]string{{"private/libb.so"}},
			program:   []string{"-lb", "-Wl,-rpath,TOP"}, loaded: []string{"private/libb.so"},
			want: []string{"libb.so", "libc.so.6"}},
		{name: "filters and auxiliaries that may be missing",
			libraries: [][]string{{"private/liba.so", "-Wl,--auxiliary=libaux.so", "-Wl,--filter=libfilter.so"}},
			program:   []string{"-la", "-Wl,-rpath,TOP/private"}, loaded: []string{"private/liba.so"},
			want: []string{"liba.so", "libc.so.6", "libfilter.so", "libaux.so"}},
		{name: "no paths",
			libraries: [][]string{{"lib/liba.so", "-Wl,--auxiliary=/opt/libaux.so"}},
			program:   []string{"-la"}, loaded: []string{"lib/liba.so"},
			want: []string{"liba.so", "libc.so.6"}},
		{name: "a dynamic string token", unknown: true,
			libraries: [][]string{{"lib/liba.so", "-Wl,--auxiliary=lib$PLATFORM.so"}},
			program:   []string{"-la"}, loaded: []string{"lib/liba.so"}},
		{name: "a library that cannot be read", unknown: true, loaded: []string{"lib/gone.so"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			top, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			buildLibraries(t, top, tc.libraries)
			flags := []string{"-L" + top + "/lib", "-L" + top + "/private", "-Wl,--no-as-needed,--allow-shlib-undefined"}
			for _, a := range tc.program {
				flags = append(flags, strings.ReplaceAll(a, "TOP", top))
			}
			program := filepath.Join(top, "program")
			if err := os.Rename(fixture.Build(t, "int main(void) { return 0; }", flags...), program); err != nil {
				t.Fatal(err)
			}
			d := dependenciesOn(t, program)
			for _, l := range tc.loaded {
				d.Libraries = append(d.Libraries, File{Path: filepath.Join(top, l)})
			}
			got, ok := d.lookedUp()
			if diff := cmp.Diff(tc.want, got); diff != "" || ok == tc.unknown {
				t.Errorf("known: %v\n%s", ok, diff)
			}
		})
	}
}

func dependenciesOn(t *testing.T, program string) *Dependencies {
	t.Helper()
	file, err := elfinfo.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	return &Dependencies{Program: File{Path: program}, Linker: File{Path: file.Interp}}
}

// A program's own dependencies, as they would be recorded, on this machine.
func TestRecordAnswers(t *testing.T) {
	program := fixture.Build(t, fixture.Hello)
	tr := newTree(t)
	d := dependenciesOn(t, program)
	d.Checks = []Checked{{Path: "/etc/ld.so.preload"}, {Path: ldcache.Path, ID: tr.id("etc/cache")}}
	if err := d.recordAnswers(); !errors.Is(err, ErrChanged) {
		t.Skipf("no cache that can be read: %v", err)
	}
	_, d.Checks[1].ID, _ = look(ldcache.Path)
	if err := d.recordAnswers(); err != nil {
		t.Fatal(err)
	}
	answers := d.Checks[1].Answers
	i := slices.IndexFunc(answers, func(a Answer) bool { return a.Name == "libc.so.6" })
	if i < 0 || len(answers[i].Entries) == 0 || !strings.HasSuffix(answers[i].Entries[0].Path, "/libc.so.6") {
		t.Errorf("%+v", answers)
	}
	if reason := staleAnswers(d.Checks[1]); reason != "" {
		t.Error(reason)
	}
}
