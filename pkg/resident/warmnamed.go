package resident

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
	"github.com/residentctl/residentctl/pkg/warm"
)

// An interpreter with a name of its own has a wrapper in the store's named/, which is the
// program of its entry and goes with that. The wrapper is written before there is an entry:
// gc leaves it as long as a process is at work in staging/, which an add of one is from before
// it writes the wrapper.

// LookPathIn is LookPath, and finds the wrappers of these stores by their names where PATH
// leads to no program.
func LookPathIn(name string, stores ...string) (string, error) {
	path, err := LookPath(name)
	if err == nil || strings.Contains(name, "/") {
		return path, err
	}
	for _, dir := range stores {
		named := store.NamedPathOf(dir, name)
		if info, statErr := os.Lstat(named); statErr == nil && info.Mode().IsRegular() {
			return named, nil
		}
	}
	return path, err
}

func (m *Manager) lookPath(name string) (string, error) { return LookPathIn(name, m.dir) }

// addNamed is Add of the interpreter at path under a name of its own.
func (m *Manager) addNamed(ctx context.Context, path string, opts AddOptions) (*Added, error) {
	if !warm.IsPython(path) {
		return nil, problem.Refusef("%s is not python, and only python can be made warm with modules", path).
			WithHint("name an interpreter by its path or as PATH finds it, for example python3")
	}
	if isScript(path) {
		return nil, problem.Refusef("%s is a script and not python itself", path).
			WithHint("name the interpreter that it executes, by its path: `%s -c 'import sys; print(sys.executable)'` prints that", filepath.Base(path))
	}
	if _, err := ownersUnless(opts.TrustOwner).allow(path); err != nil {
		return nil, err
	}
	id, err := linux.StatID(path)
	if err != nil {
		return nil, err
	}
	opts.Step("wait")
	unlock, err := m.store.LockProgram(ctx, id.Inode())
	if err != nil {
		return nil, err
	}
	defer unlock()
	named := *opts.Warm
	named.Interpreter = path
	opts.Warm = &named
	name := filepath.Base(path) + "-" + opts.Name
	if err := m.writeNamed(ctx, name, path); err != nil {
		return nil, err
	}
	added, err := m.addAt(ctx, m.store.NamedPath(name), opts)
	if err != nil {
		err = errors.Join(err, m.dropNamed(m.store.NamedPath(name)))
	}
	return added, err
}

// writeNamed writes a wrapper, with the store locked.
func (m *Manager) writeNamed(ctx context.Context, name, interpreter string) error {
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return m.store.WriteNamed(name, interpreter)
}

// dropNamed removes a wrapper that no entry has, also after an interruption.
func (m *Manager) dropNamed(path string) error {
	unlock, err := m.store.Lock(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := m.registry.ByPath(path); !errors.Is(err, registry.ErrNotFound) {
		return nil
	}
	return m.store.RemoveNamed(path)
}

// named finds the wrappers that no entry has.
func (s *gcSearch) named() ([]GCItem, error) {
	paths, err := s.store.Named()
	if err != nil || errors.Is(s.store.Idle(), store.ErrBusy) {
		return nil, err
	}
	return itemsAt(slices.DeleteFunc(paths, func(path string) bool { return s.names[path] }), nil)
}

// collectNamed removes a wrapper that still no entry has.
func (m *Manager) collectNamed(item GCItem) (bool, error) {
	_, err := m.registry.ByPath(item.Path)
	if err == nil || errors.Is(m.store.Idle(), store.ErrBusy) {
		return false, nil
	}
	if !errors.Is(err, registry.ErrNotFound) {
		return false, err
	}
	return true, m.store.RemoveNamed(item.Path)
}
