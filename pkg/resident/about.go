package resident

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/readers"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// The registry is for the store's owner alone, since it names every program. So
// each image holds a copy of its record, which is for those who may read the
// image: what an ordinary user can see of the system's store is the sum of those.

// expose opens what is staged to those who may read the program and what it depends on.
func (a *adding) expose(deps *fingerprint.Dependencies) error {
	return expose(a.staging, a.entry, deps)
}

func expose(staging *store.Staging, program string, deps *fingerprint.Dependencies) error {
	r, err := readers.Of(program, deps)
	if err != nil {
		return err
	}
	return staging.Expose(r.Mode, r.GID)
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
	return a.expose(a.layouts[0].deps)
}

// maxAbout bounds what is read of an about.json; that of inkscape, with 138
// libraries, has 100 KiB.
const maxAbout = 16 << 20

// AboutError is an image's copy of its record that does not exist or cannot be read, so
// that who may only read the store does not know of the image.
type AboutError struct{ *problem.Problem }

// visible are the records of all images that a start could find and that the
// caller may read. For each that is damaged there is an *AboutError, joined, beside
// the others. It lists images/, whose names are random: only the owner may list index/
// and launchers/, which show devices and inodes.
func visible(s *store.Store) (records []registry.Record, err error) {
	ids, _, err := s.Images()
	if err != nil {
		return nil, err
	}
	var damaged []error
	for _, id := range ids {
		rec, err := readAbout(s.AboutPath(id))
		_, gone := os.Lstat(s.PlanPath(id)) // an image goes as a whole
		switch {
		case errors.Is(err, fs.ErrPermission):
			continue // not for the caller
		case errors.Is(err, fs.ErrNotExist) && gone != nil:
			continue // just being removed
		case err == nil && rec.ID != id:
			err = errors.New("it is about another image")
		}
		if err != nil {
			damaged = append(damaged, &AboutError{problem.Errorf("read %s: %w", s.AboutPath(id), err).
				WithHint("run `residentctl refresh` as the store's owner to make its image again; until then one program is not shown")})
			continue
		}
		if link, ok := s.LinkOf(rec.Binary.Inode()); !ok || link.ID != id {
			continue // no start finds it, or it is just being replaced
		}
		records = append(records, rec)
	}
	return records, errors.Join(damaged...)
}

func readAbout(path string) (rec registry.Record, err error) {
	f, err := os.Open(path)
	if err != nil {
		return rec, reason(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxAbout))
	if err != nil {
		return rec, reason(err)
	}
	return rec, json.Unmarshal(text, &rec)
}

// reason is an error without what was done to which file.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// aboutFault says what is wrong with the copy of an entry's record. The names are
// those at the time when the image was made, and the record's may be others by now.
func (m *Manager) aboutFault(rec registry.Record) string {
	path := m.store.AboutPath(rec.ID)
	about, err := readAbout(path)
	if err == nil && (!slices.Contains(rec.Names(), about.Program) || !bytes.Equal(nameless(about), nameless(rec))) {
		err = errors.New("the registry has another record")
	}
	if err == nil {
		return ""
	}
	return fmt.Sprintf("%s, which tells other users of it, is damaged: %v", path, err)
}

// nameless is a record without what of its wish may change while its image stays, to be
// compared.
func nameless(rec registry.Record) []byte {
	rec.Wish, rec.Created = registry.Wish{Layouts: rec.Layouts}, rec.Created.UTC()
	text, err := json.Marshal(rec)
	if err != nil {
		return nil // its dependencies are not JSON, and what was read is
	}
	return text
}
