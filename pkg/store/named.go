package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// named/ has the wrappers of interpreters that have a name of their own. It is made when the
// first one is.
const namedName = "named"

// NamedPath returns the wrapper of a name.
func (s *Store) NamedPath(name string) string { return NamedPathOf(s.dir, name) }

// NamedPathOf returns the same of a store in dir that may not exist yet.
func NamedPathOf(dir, name string) string { return filepath.Join(dir, namedName, name) }

// WriteNamed writes the wrapper of a name: a script of sh(1) that executes the interpreter. One
// that is there already stays, so that it is the same file.
func (s *Store) WriteNamed(name, interpreter string) error {
	text := []byte(fmt.Sprintf("#!/bin/sh\n# Written by residentctl for `residentctl add --warm --name`.\nexec '%s' \"$@\"\n",
		strings.ReplaceAll(interpreter, "'", `'\''`)))
	path := s.NamedPath(name)
	if was, err := os.ReadFile(path); err == nil && bytes.Equal(was, text) {
		return nil
	}
	err := makeDirectory(s.in(namedName), s.mode)
	if err == nil {
		err = s.replace(path, "named", func(path string) error { return writeFile(path, text, 0o755) })
	}
	return wrap("write", path, err)
}

// Named are the wrappers that there are.
func (s *Store) Named() (paths []string, err error) {
	entries, err := os.ReadDir(s.in(namedName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		paths = append(paths, s.NamedPath(e.Name()))
	}
	return paths, wrap("read", s.in(namedName), err)
}

// RemoveNamed removes the wrapper of a name, if the path is one.
func (s *Store) RemoveNamed(path string) error {
	if filepath.Dir(path) != s.in(namedName) {
		return nil
	}
	return s.unlink(path, "remove-named")
}
