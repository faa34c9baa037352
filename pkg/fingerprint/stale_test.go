package fingerprint

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// record makes Dependencies of a tree: one library, one check, one directory with
// misses (empty), one file that must not exist.
func record(t *testing.T, tr tree) *Dependencies {
	t.Helper()
	d, err := Record(t.Context(), tr.path("bin/prog"), tr.path("lib/ld.so"),
		tr.probes("etc/preload", "etc/cache", "empty/liba.so", "empty/v3/liba.so", "lib/liba.so"),
		tr.paths("bin/prog", "lib/ld.so", "lib/liba.so"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestStale(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(tr tree, d *Dependencies)
		want   []string // TOP stands for the tree
	}{
		{"nothing", func(tree, *Dependencies) {}, nil},
		{"read", func(tr tree, _ *Dependencies) { os.ReadFile(tr.path("lib/liba.so")) }, nil},
		{"library written to", func(tr tree, _ *Dependencies) { tr.file("lib/liba.so", "content of lib/libx.so") },
			[]string{"TOP/lib/liba.so has changed since it was made resident"}},
		{"library replaced", func(tr tree, _ *Dependencies) {
			os.Rename(tr.path("lib/libb.so"), tr.path("lib/liba.so"))
		}, []string{"TOP/lib/liba.so has changed since it was made resident"}},
		{"library gone", func(tr tree, _ *Dependencies) { tr.remove("lib/liba.so") },
			[]string{"TOP/lib/liba.so is gone (no such file or directory)"}},
		{"mtime set back", func(tr tree, d *Dependencies) {
			id := tr.id("bin/prog")
			tr.file("bin/prog", "CONTENT of bin/prog")
			os.Chtimes(tr.path("bin/prog"), time.Time{}, time.Unix(0, id.Mtime))
		}, []string{"TOP/bin/prog has changed since it was made resident"}},
		{"linker gone", func(tr tree, _ *Dependencies) { tr.remove("lib/ld.so") },
			[]string{"TOP/lib/ld.so is gone (no such file or directory)"}},
		{"check changed", func(tr tree, _ *Dependencies) { tr.file("etc/cache", "x") },
			[]string{"TOP/etc/cache has changed since it was made resident"}},
		{"check gone", func(tr tree, _ *Dependencies) { tr.remove("etc/cache") },
			[]string{"TOP/etc/cache is gone (no such file or directory)"}},
		{"must not exist", func(tr tree, _ *Dependencies) { tr.file("etc/preload", "x") },
			[]string{"TOP/etc/preload now exists and comes first in the search"}},
		{"miss exists", func(tr tree, _ *Dependencies) { tr.file("empty/liba.so", "x") },
			[]string{"TOP/empty/liba.so now exists and comes first in the search"}},
		{"miss exists in a new directory", func(tr tree, _ *Dependencies) { tr.file("empty/v3/liba.so", "x") },
			[]string{"TOP/empty/v3/liba.so now exists and comes first in the search"}},
		{"directory has something else", func(tr tree, _ *Dependencies) { tr.file("empty/other", "x") }, nil},
		{"directory gone", func(tr tree, _ *Dependencies) { tr.remove("empty") }, nil},
		{"kernel", func(_ tree, d *Dependencies) { d.Kernel = "5.4 #1" }, []string{"the kernel is another one: KERNEL instead of 5.4 #1"}},
		{"vDSO", func(_ tree, d *Dependencies) { d.VDSOBuildID = "00" }, []string{"the kernel's vDSO is another one"}},
		{"CPU", func(_ tree, d *Dependencies) { d.CPUSum++ }, []string{"the CPU, or what the kernel enables of it, is another one"}},
		{"XCR0", func(_ tree, d *Dependencies) { d.XCR0++ }, []string{"the CPU, or what the kernel enables of it, is another one"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tr := newTree(t)
			d := record(t, tr)
			tc.change(tr, d)
			kernel, _ := Kernel()
			var got []string
			for _, reason := range d.Stale() {
				got = append(got, strings.ReplaceAll(strings.ReplaceAll(reason, tr.top, "TOP"), kernel, "KERNEL"))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			verified, err := d.Verify(t.Context())
			if err != nil || len(verified) != len(got) {
				t.Errorf("Verify = %q, %v; Stale = %q", verified, err, got)
			}
		})
	}
}

func TestStaleSaysWhatWasRebuilt(t *testing.T) {
	id, err := linux.StatID("/etc/ld.so.cache")
	if err != nil {
		t.Skip(err)
	}
	id.Ino++
	got := staleCheck(Checked{Path: "/etc/ld.so.cache", ID: id}, nil)
	if got != "/etc/ld.so.cache was rebuilt" {
		t.Error(got)
	}
}

// Beyond a dangling link, the creation of the target is noticed, although
// the link's own directory stays as it was.
func TestStaleBeyondDanglingLink(t *testing.T) {
	tr := newTree(t)
	tr.link("../empty/v1", "opt/current")
	d, err := tr.sort(tr.probes("opt/current/x", "opt/current/y"))
	if err != nil {
		t.Fatal(err)
	}
	tr.file("empty/v1/y", "")
	if got := strings.Join(d.Stale(), "; "); !strings.Contains(got, "opt/current/y now exists") {
		t.Errorf("Stale = %q", got)
	}
}

// A link that is pointed elsewhere is noticed, although no directory on the way
// to the old target changed.
func TestStaleBeyondRepointedLink(t *testing.T) {
	tr := newTree(t)
	tr.file("v2/lib/x", "")
	tr.directory("v1/lib")
	tr.link("v1", "current")
	d, err := tr.sort(tr.probes("current/lib/x", "current/lib/y"))
	if err != nil {
		t.Fatal(err)
	}
	tr.remove("current")
	tr.link("v2", "current")
	if got := strings.Join(d.Stale(), "; "); !strings.Contains(got, "current/lib/x now exists") {
		t.Errorf("Stale = %q", got)
	}
}

// Content that changes under unchanged times (a disk's fault, a rewritten file
// system) is Verify's to find.
func TestVerifyReadsContent(t *testing.T) {
	tr := newTree(t)
	d := record(t, tr)
	d.Libraries[0].SHA256 = strings.Repeat("0", 64)
	reasons, err := d.Verify(t.Context())
	if err != nil || len(reasons) != 1 || !strings.Contains(reasons[0], "lib/liba.so is not what was made resident") {
		t.Errorf("Verify = %q, %v", reasons, err)
	}
}

func TestDependenciesAsJSON(t *testing.T) {
	d := record(t, newTree(t))
	d.CPUSum |= 1 << 63 // more than a float holds
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var back Dependencies
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*d, back); diff != "" {
		t.Error(diff)
	}
}

func TestDigest(t *testing.T) {
	d := Dependencies{Program: File{SHA256: "aa"}, Linker: File{SHA256: "bb"}, Libraries: []File{{SHA256: "cc"}}}
	// printf 'aa\nbb\ncc\n' | sha256sum
	const want = "97d220e0067d22e8cf1371e1cd782e421614e0c08956f1866c9b40f7a35b1aaa"
	first := d.Digest()
	if first != want {
		t.Fatalf("Digest = %q, want %q", first, want)
	}
	d.Linker.SHA256, d.Libraries[0].SHA256 = "cc", "bb"
	if d.Digest() == first {
		t.Error("the order does not count")
	}
	d.Libraries[0].SHA256 = ""
	if d.Digest() != "" {
		t.Error("a missing hash does not count")
	}
}

func TestChangedSince(t *testing.T) {
	tr := newTree(t)
	d := record(t, tr) // Settle has waited: what is older than now is older than this tick
	now, err := linux.CoarseNow()
	if err != nil {
		t.Fatal(err)
	}
	if got := d.ChangedSince(now); got != nil {
		t.Errorf("before: %q", got)
	}
	tr.file("lib/liba.so", "x")
	tr.file("etc/cache", "x")
	d = record(t, tr)
	if diff := cmp.Diff(tr.paths("lib/liba.so", "etc/cache"), d.ChangedSince(now)); diff != "" {
		t.Error(diff)
	}
}

// After Settle, writing the same number of bytes always shows, on a file
// system that stamps from the coarse clock too.
func TestSettle(t *testing.T) {
	tr := newTree(t)
	for round := range 50 {
		tr.file("lib/liba.so", "content A")
		d, err := tr.sort(tr.probes("lib/liba.so"), tr.path("lib/liba.so"))
		if err == nil {
			err = d.Hash(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := Settle(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 10*maxTick {
			t.Errorf("waited for %v", took)
		}
		now, err := linux.CoarseNow()
		if err != nil {
			t.Fatal(err)
		}
		if d.Libraries[0].ID.Ctime >= now {
			t.Fatalf("round %d: settled at %d, changed at %d", round, now, d.Libraries[0].ID.Ctime)
		}
		tr.file("lib/liba.so", "content B")
		if staleFile(tr.path("lib/liba.so"), d.Libraries[0].ID, nil) == "" {
			t.Fatalf("round %d: a change is not noticed", round)
		}
	}
}

func TestSettleNoticesWhatChangedMeanwhile(t *testing.T) {
	tr := newTree(t)
	d := record(t, tr)
	now, err := linux.CoarseNow()
	if err != nil {
		t.Fatal(err)
	}
	d.Libraries[0].ID.Ctime = now + int64(maxTick)/4 // as if recorded in this tick
	if err := Settle(t.Context(), d); !errors.Is(err, ErrChanged) {
		t.Errorf("Settle = %v", err)
	}
}

// A clock that was set back leaves times in the future.
func TestSettleDoesNotWaitForTheFuture(t *testing.T) {
	d := &Dependencies{Program: File{ID: linux.FileID{Ctime: time.Now().Add(time.Hour).UnixNano()}}}
	start := time.Now()
	if err := Settle(t.Context(), d); err != nil || time.Since(start) > time.Second {
		t.Errorf("Settle = %v after %v", err, time.Since(start))
	}
}

// The clock that Settle waits for is the kernel's.
func TestTickIsShorterThanSettleWaits(t *testing.T) {
	var res unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_REALTIME_COARSE, &res); err != nil {
		t.Skip(err)
	}
	if tick := time.Duration(res.Nano()); tick >= maxTick {
		t.Errorf("a tick is %v, Settle waits for %v", tick, maxTick)
	}
}

// Verify reads what was only looked at, too: a start goes by its times.
func TestVerifyReadsChecks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "module.py")
	if err := os.WriteFile(path, []byte("x = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	id, err := StatID(path)
	if err != nil {
		t.Fatal(err)
	}
	named := func(d *Dependencies) bool {
		reasons, err := d.Verify(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(reasons, func(r string) bool { return strings.Contains(r, "the content of "+path) })
	}
	c := Checked{Path: path, ID: id}
	if err := c.hash(); err != nil {
		t.Fatal(err)
	}
	if named(&Dependencies{Checks: []Checked{c}}) {
		t.Error("unchanged, and reported")
	}
	c.SHA256 = strings.Repeat("0", 64)
	if !named(&Dependencies{Checks: []Checked{c}}) {
		t.Error("another content is not noticed")
	}
}

func TestLookupsNameExactDirectories(t *testing.T) {
	d := &Dependencies{Directories: []Directory{{Path: "/a", Exact: true}, {Path: "/b"}}}
	if got, want := strings.Join(d.Lookups(), " "), "/a /a/ /b"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
