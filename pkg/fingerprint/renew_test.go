package fingerprint

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// linkAside gives a file a further name, which changes its ctime.
func linkAside(tr tree, name string) {
	tr.t.Helper()
	if err := os.Link(tr.path(name), tr.path(name)+".backup"); err != nil {
		tr.t.Fatal(err)
	}
}

// sameAgain writes a file's content again, in place.
func sameAgain(tr tree, name string) {
	tr.t.Helper()
	content, err := os.ReadFile(tr.path(name))
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.file(name, string(content))
}

func TestRenew(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(tr tree, d *Dependencies)
		want   string // the reason why not; "" if only times differ
	}{
		{"nothing", func(tree, *Dependencies) {}, ""},
		{"hard link to a library", func(tr tree, _ *Dependencies) { linkAside(tr, "lib/liba.so") }, ""},
		{"hard link to all", func(tr tree, _ *Dependencies) {
			for _, name := range []string{"bin/prog", "lib/ld.so", "lib/liba.so", "etc/cache"} {
				linkAside(tr, name)
			}
		}, ""},
		{"chmod", func(tr tree, _ *Dependencies) { os.Chmod(tr.path("lib/ld.so"), 0o700) }, ""},
		{"mtime", func(tr tree, _ *Dependencies) {
			os.Chtimes(tr.path("bin/prog"), time.Time{}, time.Unix(1e9, 0))
		}, ""},
		{"same content written again", func(tr tree, _ *Dependencies) { sameAgain(tr, "lib/liba.so") }, ""},
		{"check written again", func(tr tree, _ *Dependencies) { sameAgain(tr, "etc/cache") }, ""},
		{"other content of the same size", func(tr tree, _ *Dependencies) { tr.file("lib/liba.so", "content of lib/libx.so") },
			"TOP/lib/liba.so has changed since it was made resident"},
		{"other content of a check", func(tr tree, _ *Dependencies) { tr.file("etc/cache", "content of etc/cachf") },
			"TOP/etc/cache has changed since it was made resident"},
		{"same content in another inode", func(tr tree, _ *Dependencies) {
			sameAgain(tr, "lib/liba.so")
			os.Rename(tr.path("lib/liba.so"), tr.path("lib/old"))
			tr.file("lib/liba.so", "content of lib/liba.so")
		}, "TOP/lib/liba.so has changed since it was made resident"},
		{"gone", func(tr tree, _ *Dependencies) { tr.remove("lib/ld.so") },
			"TOP/lib/ld.so is gone (no such file or directory)"},
		{"check gone", func(tr tree, _ *Dependencies) { tr.remove("etc/cache") },
			"TOP/etc/cache is gone (no such file or directory)"},
		{"must not exist", func(tr tree, _ *Dependencies) { tr.file("etc/preload", "x") },
			"TOP/etc/preload now exists and comes first in the search"},
		{"miss exists", func(tr tree, _ *Dependencies) { tr.file("empty/liba.so", "x") },
			"TOP/empty/liba.so now exists and comes first in the search"},
		{"directory has something else", func(tr tree, _ *Dependencies) { tr.file("empty/other", "x") }, ""},
		{"new directory on the way to a miss", func(tr tree, _ *Dependencies) { tr.directory("empty/v3") }, ""},
		{"kernel", func(_ tree, d *Dependencies) { d.VDSOBuildID = "00" }, "the kernel's vDSO is another one"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tr := newTree(t)
			d := record(t, tr)
			tc.change(tr, d)
			renewed, err := d.Renew(t.Context(), func(string) error { return nil })
			got := ""
			if err != nil {
				got = strings.ReplaceAll(err.Error(), tr.top, "TOP")
			}
			if got != tc.want {
				t.Fatalf("Renew = %q, want %q", got, tc.want)
			}
			if err != nil {
				return
			}
			if reasons := renewed.Stale(); len(reasons) > 0 {
				t.Errorf("it is still stale: %q", reasons)
			}
			if renewed.Digest() != d.Digest() {
				t.Error("its digest is another one")
			}
		})
	}
}

// What comes into being in a directory that was not there when the program was linked
// does not change the directory that was.
func TestRenewedWatchesNewDirectories(t *testing.T) {
	tr := newTree(t)
	d := record(t, tr)
	tr.directory("empty/v3")
	d, err := d.Renew(t.Context(), func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	tr.file("empty/v3/liba.so", "x")
	want := []string{tr.path("empty/v3/liba.so") + " now exists and comes first in the search"}
	if got := d.Stale(); !slices.Equal(got, want) {
		t.Errorf("Stale = %q, want %q", got, want)
	}
}

// Only a file with other times is read, and only if that is allowed.
func TestRenewAsksBeforeItReads(t *testing.T) {
	tr := newTree(t)
	d := record(t, tr)
	linkAside(tr, "lib/liba.so")
	refused := errors.New("refused")
	var asked []string
	_, err := d.Renew(context.Background(), func(path string) error {
		asked = append(asked, path)
		return refused
	})
	if !errors.Is(err, refused) || !slices.Equal(asked, []string{tr.path("lib/liba.so")}) {
		t.Errorf("Renew = %v, asked for %q", err, asked)
	}
}

// What a start has to look at further is dated, and no longer so when it is renewed.
func TestDated(t *testing.T) {
	tr := newTree(t)
	d := record(t, tr)
	if d.Dated() {
		t.Error("what was just recorded is dated")
	}
	tr.file("empty/other", "x")
	if !d.Dated() || len(d.Stale()) > 0 {
		t.Errorf("Dated = %v, Stale = %q", d.Dated(), d.Stale())
	}
	renewed, err := d.Renew(t.Context(), func(string) error { return nil })
	if err != nil || renewed.Dated() {
		t.Errorf("renewed: %v", err)
	}
}
