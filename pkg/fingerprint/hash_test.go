package fingerprint

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
)

func TestHashFile(t *testing.T) {
	tr := newTree(t)
	tr.file("f", "abc")
	got, err := HashFile(tr.path("f"))
	// FIPS 180-2, appendix B.1
	const want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	if err != nil || got.SHA256 != want || got.ID != tr.id("f") || got.Path != tr.path("f") {
		t.Errorf("HashFile = %+v, %v", got, err)
	}
}

func TestHashFileFails(t *testing.T) {
	tr := newTree(t)
	if err := syscall.Mkfifo(tr.path("pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"none", "lib", "pipe"} {
		if f, err := HashFile(tr.path(name)); err == nil {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// A hash is remembered only for a file whose next change must show.
func TestHashFileRemembers(t *testing.T) {
	tr := newTree(t)
	tr.file("f", "abc")
	time.Sleep(maxTick)
	f, err := HashFile(tr.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	if sum, ok := hashed.Load(f.ID); !ok || sum != f.SHA256 {
		t.Errorf("remembered %v", sum)
	}
	hashed.Store(f.ID, "remembered")
	if f, err := HashFile(tr.path("f")); err != nil || f.SHA256 != "remembered" {
		t.Errorf("HashFile = %+v, %v", f, err)
	}
	tr.file("f", "abd")
	if f, err := HashFile(tr.path("f")); err != nil || f.SHA256 == "remembered" {
		t.Errorf("after a change HashFile = %+v, %v", f, err)
	}
}

func TestHashNoticesAnotherFile(t *testing.T) {
	tr := newTree(t)
	d, err := tr.sort(nil)
	if err != nil {
		t.Fatal(err)
	}
	tr.file("bin/prog", "another content")
	if err := d.Hash(t.Context()); !errors.Is(err, ErrChanged) {
		t.Errorf("Hash = %v", err)
	}
}

func TestEach(t *testing.T) {
	var sum atomic.Int64
	if err := each(t.Context(), 100, func(i int) error { sum.Add(int64(i)); return nil }); err != nil || sum.Load() != 4950 {
		t.Errorf("each = %v, sum %d", err, sum.Load())
	}
	bad := fmt.Errorf("bad")
	if err := each(t.Context(), 100, func(i int) error {
		if i == 7 {
			return bad
		}
		return nil
	}); err != bad {
		t.Errorf("each = %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := each(ctx, 100, func(int) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("each = %v", err)
	}
	if err := each(t.Context(), 0, nil); err != nil {
		t.Errorf("each of nothing = %v", err)
	}
}

// libraries are at most n of the machine's, each file once.
func libraries(n int) []File {
	paths, _ := filepath.Glob("/usr/lib/x86_64-linux-gnu/*.so.*")
	var files []File
	seen := map[linux.FileID]bool{}
	for _, path := range paths {
		if id, err := linux.StatID(path); err == nil && !seen[id] && len(files) < n {
			seen[id] = true
			files = append(files, File{Path: path, ID: id})
		}
	}
	return files
}

func BenchmarkHash215Libraries(b *testing.B) {
	files := libraries(215)
	var size uint64
	for _, f := range files {
		size += f.ID.Size
	}
	b.SetBytes(int64(size))
	for b.Loop() {
		hashed.Clear()
		d := Dependencies{Program: files[0], Linker: files[1], Libraries: slices.Clone(files[2:])}
		if err := d.Hash(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStale215Libraries(b *testing.B) {
	files := libraries(215)
	d := Dependencies{Program: files[0], Linker: files[1], Libraries: files[2:]}
	for b.Loop() {
		d.Stale()
	}
}
