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
func (s *Store) NamedPath(name string) string { return s.in(namedName, name) }

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

// RemoveNamed removes the wrapper of a name, if the path is one.
func (s *Store) RemoveNamed(path string) error {
	if filepath.Dir(path) != s.in(namedName) {
		return nil
	}
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return wrap("remove", path, err)
}
