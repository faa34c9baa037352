package resident

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// The registry is for the store's owner alone, since it names every program. So
// each image holds a copy of its record, which is for those who may read the
// image: what an ordinary user can see of the system's store is the sum of those.

// expose gives what is staged to the program's readers.
func (a *adding) expose() error {
	r, err := readersOf(a.program.Path, a.deps)
	if err != nil {
		return err
	}
	return a.staging.Expose(r.mode, r.gid)
}

// rightlyExposed tells whether an entry's image is for those who may read its
// program now. A program's own mode cannot change without its image being stale,
// but that of a folder which leads to it can.
func (m *Manager) rightlyExposed(rec registry.Record) bool {
	if dir, err := os.Stat(m.store.Dir()); err != nil || dir.Mode()&everyone == 0 {
		return err == nil // all of the store is for its owner alone
	}
	var deps fingerprint.Dependencies
	if json.Unmarshal(rec.Deps, &deps) != nil {
		return false
	}
	r, err := readersOf(rec.Program, &deps)
	if err != nil {
		return false
	}
	var st syscall.Stat_t
	if syscall.Stat(m.store.PlanPath(rec.ID), &st) != nil {
		return false
	}
	const read = mayRead | mayRead<<3
	group, others := r.mode>>3&mayRead, r.mode&mayRead
	return fs.FileMode(st.Mode)&read == r.mode&read && (group == others || int(st.Gid) == r.gid)
}

// describe puts the copy of the record into the image.
func (a *adding) describe(rec *registry.Record) error {
	text, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	about := filepath.Join(a.staging.Dir, filepath.Base(a.store.AboutPath(a.id)))
	if err := os.WriteFile(about, text, 0o600); err != nil {
		return err
	}
	return a.expose()
}

// maxAbout bounds what is read of an about.json; that of inkscape, with 138
// libraries, has 100 KiB.
const maxAbout = 16 << 20

// visible are the records of all images that a start could find and that the
// caller may read. What is damaged is told beside the others.
func visible(s *store.Store) (records []registry.Record, err error) {
	links, _, err := s.Links()
	if err != nil {
		return nil, err
	}
	var damaged []error
	for _, link := range links {
		rec, err := readAbout(s.AboutPath(link.ID))
		switch {
		case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist):
			continue // not for the caller, or just being removed
		case err == nil && (rec.ID != link.ID || rec.Binary.Dev != link.Dev || rec.Binary.Ino != link.Ino):
			err = errors.New("it is about another image")
		}
		if err != nil {
			damaged = append(damaged, fmt.Errorf("read %s: %w", s.AboutPath(link.ID), err))
			continue
		}
		records = append(records, rec)
	}
	return records, errors.Join(damaged...)
}

func readAbout(path string) (rec registry.Record, err error) {
	f, err := os.Open(path)
	if err != nil {
		return rec, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxAbout))
	if err != nil {
		return rec, err
	}
	return rec, json.Unmarshal(text, &rec)
}
