package registry

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// A registry as large as a whole /usr/bin: 550 programs, 40 libraries and 20 KB
// of dependencies each.
func BenchmarkWholeUsrBin(b *testing.B) {
	r, err := Open(filepath.Join(b.TempDir(), "registry.db"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	deps := json.RawMessage(`"` + strings.Repeat("x", 20<<10) + `"`)
	program := func(n int) Record {
		rec := record(n, fmt.Sprintf("/usr/bin/p%d", n), uint64(n+1), manyLibraries(40)...)
		rec.Deps = deps
		return rec
	}
	for n := range 550 {
		if _, err := r.Put(program(n)); err != nil {
			b.Fatal(err)
		}
	}
	for name, op := range map[string]func() error{
		"put":     func() error { _, err := r.Put(program(7)); return err },
		"find":    func() error { _, err := r.Find("p7"); return err },
		"inode":   func() error { _, err := r.ByInode(inode(8)); return err },
		"library": func() error { _, err := r.ByLibrary(only(manyLibraries(1)[0])); return err },
		"list":    func() error { _, err := r.List(); return err },
		"check":   func() error { _, err := r.Check(); return err },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := op(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
