package resident

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// OpenToRead opens the store in dir for methods that change nothing. Where the
// registry is another's, what the caller may know of the store is read from its
// images. A store that is not there yet is an empty one.
func OpenToRead(dir string) (*Manager, error) {
	s, err := store.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return &Manager{dir: absolute(dir)}, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := registry.Open(s.RegistryPath(), registry.Options{Existing: true, ReadOnly: true})
	switch {
	case errors.Is(err, fs.ErrPermission), err == nil && !s.Writable() && !store.HasRegistry(dir):
		return &Manager{store: s, foreign: true, dir: s.Dir()}, nil
	case errors.Is(err, registry.ErrOlderSchema):
		return Open(dir, false) // which brings it up to date
	}
	return &Manager{store: s, registry: r, dir: s.Dir()}, err
}

// records are all that the caller may see, sorted by program. Beside an error is
// what could be read all the same.
func (m *Manager) records() ([]registry.Record, error) {
	switch {
	case m.registry != nil:
		return m.registry.List()
	case !m.foreign:
		return nil, nil
	}
	all, err := visible(m.store)
	slices.SortFunc(all, func(a, b registry.Record) int {
		return cmp.Or(cmp.Compare(a.Program, b.Program), cmp.Compare(a.ID, b.ID))
	})
	return all, err
}

// Selection says which entries are meant; the zero Selection means all.
type Selection struct {
	// Queries: those that one of these names by the beginning of an id, the
	// path of a program, or its base name.
	Queries []string
	// Library: those that use this library, by path or base name.
	Library string
}

// Select returns the entries that are meant, sorted by program, and the queries
// that mean none. Beside an error is what could be read all the same.
func (m *Manager) Select(ctx context.Context, sel Selection) (entries []Entry, unknown []string, err error) {
	records, err := m.using(sel.Library)
	if len(sel.Queries) > 0 {
		records, unknown = choose(records, sel.Queries)
	}
	entries = make([]Entry, len(records))
	seen := &fingerprint.Seen{}
	if err := forEach(ctx, len(records), func(i int) {
		e := m.entry(records[i], seen)
		e.Deps, e.LibraryPaths, e.Lookups = nil, nil, nil // long, and inspect's to show
		entries[i] = e
	}); err != nil {
		return nil, nil, err
	}
	return entries, unknown, err
}

// choose returns the records that the queries name, and those that name none.
func choose(records []registry.Record, queries []string) (chosen []registry.Record, unknown []string) {
	named := make([]bool, len(records))
	for _, q := range queries {
		names := namer(q)
		found := false
		for i := range records {
			if names(&records[i]) {
				named[i], found = true, true
			}
		}
		if !found {
			unknown = append(unknown, q)
		}
	}
	for i, rec := range records {
		if named[i] {
			chosen = append(chosen, rec)
		}
	}
	return chosen, unknown
}

// namer returns what a query names, as registry.Find has it; but a query may name
// several.
func namer(query string) func(*registry.Record) bool {
	if !strings.Contains(query, "/") {
		const minPrefix = 4 // registry's
		return func(r *registry.Record) bool {
			return len(query) >= minPrefix && strings.HasPrefix(r.ID, query) ||
				slices.ContainsFunc(r.Names(), func(name string) bool { return filepath.Base(name) == query })
		}
	}
	abs, err := filepath.Abs(query)
	if err != nil {
		abs = query
	}
	id, err := linux.StatID(abs)
	return func(r *registry.Record) bool {
		return slices.Contains(r.Names(), abs) ||
			err == nil && r.Binary.Inode() == id.Inode() && r.Binary.Size == id.Size && r.Binary.Mtime == id.Mtime
	}
}

// using returns the records that use a library, or all for "". A path means the file
// that it leads to, by whatever path that was opened.
func (m *Manager) using(library string) ([]registry.Record, error) {
	if library == "" {
		return m.records()
	}
	named := strings.Contains(library, "/")
	if named {
		if abs, err := filepath.Abs(library); err == nil {
			library = abs
		}
	}
	same := map[string]bool{}
	info, statErr := os.Stat(library)
	isIt := func(path string) bool {
		if is, known := same[path]; known {
			return is
		}
		is := path == library || !named && filepath.Base(path) == library
		if !is && named && statErr == nil {
			other, err := os.Stat(path)
			is = err == nil && os.SameFile(info, other)
		}
		same[path] = is
		return is
	}
	if m.registry != nil {
		return m.registry.ByLibrary(isIt)
	}
	all, err := m.records()
	return slices.DeleteFunc(all, func(r registry.Record) bool { return !slices.ContainsFunc(r.LibraryPaths, isIt) }), err
}

// forEach calls f with each number below n, on all processors, until the context ends. It is
// not ordered.Do, which locks for each: that takes list of 10,000 programs a third longer.
func forEach(ctx context.Context, n int, f func(i int)) error {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), n) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	workers.Wait()
	return ctx.Err()
}
