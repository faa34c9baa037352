package store

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// A Note is a file of the store that its owner alone reads and that may be lost: a process that
// reads it does without. So it is replaced by rename, as all files of a store, but not
// brought to the disk.
type Note string

// Notes.
const (
	NoteStarts Note = "starts" // how often programs were started under exec --auto
	NoteSeen   Note = "seen"   // the files of the system of which exec knows that images are in step with them
)

// Notes are all of them.
var Notes = []Note{NoteStarts, NoteSeen}

// maxNote is how many bytes of a note are read and written.
const maxNote = 4 << 20

var errLongNote = errors.New("it is longer than such a file may be")

// NotePath returns the file of a note.
func (s *Store) NotePath(n Note) string { return s.in(string(n)) }

// ReadNote returns what WriteNote wrote last, nothing if there is none.
func (s *Store) ReadNote(n Note) ([]byte, error) {
	data, err := readNote(s.NotePath(n))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, wrap("read", s.NotePath(n), err)
}

func readNote(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxNote+1))
	if err == nil && len(data) > maxNote {
		err = errLongNote
	}
	return data, err
}

// WriteNote replaces a note. Who reads it before must hold the store's lock.
func (s *Store) WriteNote(n Note, data []byte) error {
	return wrap("write", s.NotePath(n), s.writeNote(n, data))
}

func (s *Store) writeNote(n Note, data []byte) error {
	if len(data) > maxNote {
		return errLongNote
	}
	g, err := s.stage()
	if err != nil {
		return err
	}
	defer func() { _ = g.Discard() }()
	made := filepath.Join(g.Dir, string(n))
	if err := os.WriteFile(made, data, 0o600); err != nil {
		return err
	}
	Fault("before-note")
	if err := os.Rename(made, s.NotePath(n)); err != nil {
		return err
	}
	Fault("after-note")
	return nil
}

// RemoveNote removes a note. That there is none is no error.
func (s *Store) RemoveNote(n Note) error {
	err := os.Remove(s.NotePath(n))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return wrap("remove", s.NotePath(n), err)
}
