package fingerprint

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/ldcache"
)

// Stale says what is no longer true, for people, one sentence each without a
// full stop. None means that the image is still good as far as can be seen
// without reading files: it makes one stat(2) per file and per directory. An
// error of the system while looking counts as a reason.
func (d *Dependencies) Stale() []string { return d.StaleSeen(nil) }

// Seen is what stat(2) said of files, for one command that asks about many programs: they
// share their libraries. It may be used by several goroutines at once.
type Seen struct {
	mu  sync.Mutex
	ids map[string]seenID
}

type seenID struct {
	id  linux.FileID
	err error
}

// statID is StatID, without asking again what is known.
func (s *Seen) statID(path string) (linux.FileID, error) {
	if s == nil {
		return StatID(path)
	}
	s.mu.Lock()
	known, ok := s.ids[path]
	s.mu.Unlock()
	if ok {
		return known.id, known.err
	}
	known.id, known.err = StatID(path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids == nil {
		s.ids = map[string]seenID{}
	}
	s.ids[path] = known
	return known.id, known.err
}

// StaleSeen is Stale for one of many programs, as their files were when they were first looked
// at.
func (d *Dependencies) StaleSeen(seen *Seen) []string {
	var reasons []string
	note := func(reason string) {
		if reason != "" {
			reasons = append(reasons, reason)
		}
	}
	for _, f := range d.files() {
		note(staleFile(f.Path, f.ID, seen))
	}
	for _, c := range d.Checks {
		note(staleCheck(c, seen))
	}
	for _, f := range d.Directories {
		if f.Exact && !f.unchanged() {
			note(f.Path + " has changed since it was made resident")
		}
		for _, miss := range staleMisses(f) {
			note(nowExists(miss))
		}
	}
	return append(reasons, d.staleMachine()...)
}

func staleFile(path string, id linux.FileID, seen *Seen) string {
	now, err := seen.statID(path)
	switch {
	case err == nil && now == id:
		return ""
	case err == nil:
		return path + " has changed since it was made resident"
	case missing(err):
		return fmt.Sprintf("%s is gone (%v)", path, errnoOf(err))
	}
	return err.Error()
}

func staleCheck(c Checked, seen *Seen) string {
	now, err := seen.statID(c.Path)
	switch {
	case c.absent() && missing(err), !c.absent() && err == nil && now == c.ID:
		return ""
	case c.absent() && err == nil:
		return nowExists(c.Path)
	case c.absent():
		return err.Error()
	case err == nil && len(c.Answers) > 0:
		return staleAnswers(c)
	case err == nil && c.Path == ldcache.Path:
		return c.Path + " was rebuilt"
	}
	return staleFile(c.Path, c.ID, seen)
}

func nowExists(path string) string {
	if path == "/etc/ld.so.preload" {
		return path + " now exists"
	}
	return path + " now exists and comes first in the search"
}

// unchanged reports whether nothing has come into being in the directory.
func (f Directory) unchanged() bool {
	now, err := linux.StatID(f.Path)
	now.Size = f.ID.Size
	return err == nil && now == f.ID
}

// staleMisses are those misses of a directory that exist now. They are looked for
// only if the directory is not as it was.
func staleMisses(f Directory) []string {
	if f.unchanged() {
		return nil
	}
	var found []string
	for _, miss := range f.Misses {
		if exists(miss) {
			found = append(found, miss)
		}
	}
	return found
}

func (d *Dependencies) staleMachine() []string {
	var now Dependencies
	if err := now.Machine(); err != nil {
		return []string{err.Error()}
	}
	var reasons []string
	if now.Kernel != d.Kernel {
		reasons = append(reasons, fmt.Sprintf("the kernel is another one: %s instead of %s", now.Kernel, d.Kernel))
	}
	if now.VDSOBuildID != d.VDSOBuildID {
		reasons = append(reasons, "the kernel's vDSO is another one")
	}
	if now.CPUSum != d.CPUSum || now.XCR0 != d.XCR0 {
		reasons = append(reasons, "the CPU, or what the kernel enables of it, is another one")
	}
	return reasons
}

// Hashed are the files of which the content is recorded: those that are mapped, and of those
// that were looked at all that could be read.
func (d *Dependencies) Hashed() []*File {
	files := d.files()
	for _, c := range d.Checks {
		if c.SHA256 != "" {
			files = append(files, &File{Path: c.Path, ID: c.ID, SHA256: c.SHA256})
		}
	}
	return files
}

// Verify is Stale, and reads every file again: its reasons also name files whose content
// differs although their times do not. Its error is the context's.
func (d *Dependencies) Verify(ctx context.Context) ([]string, error) {
	reasons := d.Stale()
	files := d.Hashed()
	found := make([]string, len(files))
	err := each(ctx, len(files), func(i int) error {
		found[i] = staleContent(*files[i])
		return nil
	})
	for _, reason := range found {
		if reason != "" {
			reasons = append(reasons, reason)
		}
	}
	return reasons, err
}

// staleContent is empty for a file that Stale already complains about.
func staleContent(f File) string {
	if staleFile(f.Path, f.ID, nil) != "" {
		return ""
	}
	now, err := readFile(f.Path)
	switch {
	case err != nil:
		return err.Error()
	case now.SHA256 != f.SHA256:
		return fmt.Sprintf("the content of %s is not what was made resident, although its times are the same", f.Path)
	}
	return ""
}

// errnoOf is the system call's error in err, without the words around it.
func errnoOf(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
