package resident

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// RenewBudget is how long exec may be held up for images of which only times of files
// have changed.
const RenewBudget = 20 * time.Millisecond

// seen is the store's note of the files of which nearly all images depend, as they were
// when images were last renewed for them: what an upgrade or ldconfig(8) changes. As long
// as they and the registry are the same, nothing is looked at.
type seen struct {
	Registry linux.FileID
	Files    map[string]linux.FileID // by path; zero for one that does not exist
	// Done are the binaries whose images need no renewal since, or cannot have one.
	Done []string
	All  bool // these are all
	Late int  // in so many calls in a row the first of the others was not done in time
}

// alwaysSeen is in each note; the dynamic linkers and C libraries of entries are added.
const alwaysSeen = "/etc/ld.so.cache"

// maxLate is after how many calls a program is left to refresh for which all of the budget
// was not enough.
const maxLate = 3

// faultNoHurry is a value of store.FaultEnv with which the budget is as good as unlimited.
const faultNoHurry = "no-hurry"

// maxSeen is how many files are in a note at most.
const maxSeen = 16

// RenewWithin renews images in the store in dir, as refresh does where only times of files
// differ, if ld.so.cache, a dynamic linker or a C library has other times than when it was
// last called, or the registry is another. The programs that are used most come first, and
// after the budget the rest is left to the next call. What cannot be renewed is left to
// refresh, and a store that does not exist, or not the caller's to write, as it is.
func RenewWithin(dir string, budget time.Duration) error {
	s, err := store.Open(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !s.Writable() {
		return nil
	}
	if err != nil {
		return err
	}
	was := readSeen(s)
	now := was.again(s.RegistryPath())
	same := maps.Equal(was.Files, now.Files)
	if same && was.All && was.Registry == now.Registry {
		return nil
	}
	if same {
		now.Done, now.Late = was.Done, was.Late
	}
	if os.Getenv(store.FaultEnv) == faultNoHurry {
		budget = time.Minute
	}
	m, err := Open(dir, false)
	if err != nil || m.registry == nil {
		return err
	}
	if err := m.renewInTurn(now, budget); err != nil {
		return err
	}
	data, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return s.WriteNote(store.NoteSeen, data)
}

// renewInTurn renews what the note does not have as done, until the budget is used up.
func (m *Manager) renewInTurn(now *seen, budget time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	binaries, err := m.byUse()
	if err != nil {
		return err
	}
	done := map[string]bool{}
	for _, b := range now.Done {
		done[b] = true
	}
	now.Done, now.All = nil, true
	first := true
	for _, b := range binaries {
		if !done[b.String()] {
			inTime := (first || ctx.Err() == nil) && m.renewFor(ctx, b, now)
			if !inTime && !(first && now.tooLate()) {
				now.All, first = false, false
				continue
			}
			now.Late, first = 0, false
		}
		now.Done = append(now.Done, b.String())
	}
	return nil
}

// tooLate counts a program for which all of the budget was not enough, and reports whether
// that is left to refresh.
func (s *seen) tooLate() bool {
	s.Late++
	return s.Late == maxLate
}

// renewFor renews the image of a binary, if it needs that and can be renewed. It reports
// whether there was time enough.
func (m *Manager) renewFor(ctx context.Context, b linux.Inode, now *seen) (done bool) {
	rec, err := m.registry.ByInode(b)
	if err != nil {
		return true
	}
	now.add(rec)
	_, _, _, err = m.currentOrRenewed(ctx, rec.Program)
	return err == nil || ctx.Err() == nil
}

// byUse are the binaries that have an image, those that exec --auto has started most first.
func (m *Manager) byUse() ([]linux.Inode, error) {
	links, _, err := m.store.Links()
	if err != nil {
		return nil, err
	}
	var binaries []linux.Inode
	for _, l := range links {
		binaries = append(binaries, l.Binary)
	}
	past := intercept.ReadHistory(m.store)
	slices.SortStableFunc(binaries, func(a, b linux.Inode) int { return past.Uses(b) - past.Uses(a) })
	return binaries, nil
}

// readSeen is the store's note. One that cannot be read is empty.
func readSeen(s *store.Store) *seen {
	data, err := s.ReadNote(store.NoteSeen)
	if err != nil {
		return &seen{}
	}
	n, err := parseSeen(data)
	if err != nil {
		return &seen{}
	}
	return n
}

func parseSeen(data []byte) (*seen, error) {
	s := &seen{}
	if len(data) == 0 {
		return s, nil
	}
	return s, json.Unmarshal(data, s)
}

// again is the note of the same files as they are now, with nothing done.
func (s *seen) again(registryPath string) *seen {
	now := &seen{Registry: identity(registryPath), Files: map[string]linux.FileID{alwaysSeen: identity(alwaysSeen)}}
	for path := range s.Files {
		now.addFile(path)
	}
	return now
}

// add adds the dynamic linker and the C library of an entry.
func (s *seen) add(rec registry.Record) {
	var deps fingerprint.Dependencies
	if json.Unmarshal(rec.Deps, &deps) != nil {
		return
	}
	s.addFile(deps.Linker.Path)
	for _, l := range deps.Libraries {
		if strings.HasPrefix(filepath.Base(l.Path), "libc.so") {
			s.addFile(l.Path)
		}
	}
}

func (s *seen) addFile(path string) {
	if _, known := s.Files[path]; !known && len(s.Files) < maxSeen {
		s.Files[path] = identity(path)
	}
}

func identity(path string) linux.FileID {
	id, err := fingerprint.StatID(path)
	if err != nil {
		return linux.FileID{}
	}
	return id
}

// damagedNotes are the notes of a store that cannot be read, and count as empty.
func damagedNotes(s *store.Store) (paths []string) {
	read := map[store.Note]func([]byte) error{
		store.NoteStarts: func(data []byte) error {
			_, err := intercept.ParseHistory(data)
			return err
		},
		store.NoteSeen: func(data []byte) error {
			_, err := parseSeen(data)
			return err
		},
	}
	for _, n := range store.Notes {
		if _, err := os.Lstat(s.NotePath(n)); err != nil {
			continue
		}
		data, err := s.ReadNote(n)
		if err == nil {
			err = read[n](data)
		}
		if err != nil && !errors.Is(err, fs.ErrPermission) { // it is the owner's alone
			paths = append(paths, s.NotePath(n))
		}
	}
	return paths
}
