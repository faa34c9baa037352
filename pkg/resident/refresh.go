package resident

import (
	"context"
	"errors"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/ordered"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/registry"
)

// RefreshOptions says what is refreshed.
type RefreshOptions struct {
	All     bool      // also what is current: everything gets new layouts
	Queries []string  // only these entries; none is all of them
	Changed *[]string // only those that use one of these files, if it is not nil
	Jobs    int       // how many entries to work on at a time; 0 is 1
	// Step is told each step as it begins, with the entry's program, and its number of so
	// many; it may be nil, and be called by several goroutines.
	Step func(program string, number, total int, what string)
	// TrustOwner is AddOptions' for all of them; without it the records' own count.
	TrustOwner bool
}

// Refreshed is what became of one entry.
type Refreshed struct {
	Program string          `json:"program"`
	Old     string          `json:"old,omitempty"`    // the id that it had, if it had an image
	Record  registry.Record `json:"record"`           // as it is now
	Current bool            `json:"current"`          // it was current and was left as it is
	Renewed bool            `json:"renewed"`          // only times of files differed: its image is the same
	Gone    bool            `json:"gone"`             // its program is not there now; it stays registered
	Err     error           `json:"-"`                // it could not be made again; the old one stays
	Reason  string          `json:"reason,omitempty"` // Err, or how its program is gone, for people
}

// Refresh makes an image for each wish that has none, makes stale images again, or with
// All every image, at other addresses, and enables again what the wishes have. Programs
// that are running go on; starts use the old image, or are normal ones, until the new
// one has taken its place. It passes done one result for each entry, and goes on after a
// failure; the error is of entries that could not be read. What was wished stays. The results
// come in the order of the entries, one at a time.
func (m *Manager) Refresh(ctx context.Context, opts RefreshOptions, done func(Refreshed)) error {
	records, err := m.refreshable(opts)
	var renewals map[string]error
	if !opts.All {
		renewals = m.renewNeeded(ctx, records)
	}
	results := make([]Refreshed, len(records))
	ordered.Do(opts.Jobs, len(records), func(i int) (goOn bool) {
		if ctx.Err() != nil {
			return false
		}
		step := func(what string) {
			if opts.Step != nil {
				opts.Step(records[i].Program, i+1, len(records), what)
			}
		}
		results[i] = m.refresh(ctx, records[i], opts, renewals, step)
		return true
	}, func(i int) {
		if r := results[i]; r.Program != "" && (r.Err == nil || ctx.Err() == nil) { // else it was interrupted
			done(r)
		}
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (m *Manager) refreshable(opts RefreshOptions) ([]registry.Record, error) {
	if m.registry == nil && len(opts.Queries) > 0 {
		return nil, NotFound(opts.Queries[0], m.dir)
	}
	if m.registry == nil {
		return nil, nil
	}
	m.store.HideNames()
	if opts.Changed != nil {
		return m.usingFiles(*opts.Changed)
	}
	if len(opts.Queries) == 0 {
		return m.registry.List()
	}
	var records []registry.Record
	for _, q := range opts.Queries {
		rec, err := m.registry.Find(q)
		if errors.Is(err, registry.ErrNotFound) {
			return nil, NotFound(q, m.dir)
		}
		if err != nil {
			return nil, err
		}
		records = append(records, rec)
	}
	return records, nil
}

func (m *Manager) refresh(ctx context.Context, rec registry.Record, opts RefreshOptions, renewals map[string]error, step func(string)) Refreshed {
	r := Refreshed{Program: rec.Program, Old: rec.ID, Record: rec}
	program := thereIs(rec.Names())
	if program == "" {
		r.Gone, r.Reason = true, away(rec)
		return r
	}
	if opts.All || !m.refreshCurrent(ctx, &r, program, renewals) {
		r.Record, r.Err = m.makeAgain(ctx, rec, program, opts, step)
	}
	if r.Err != nil && ctx.Err() == nil {
		r.Reason = problem.Text(r.Err)
		m.noteReason(ctx, rec, r.Reason)
	}
	return r
}

// refreshCurrent does what there is to do for an entry whose image is current, by one of its
// names, given how the renewals went. It reports whether it is; r has the error if that
// could not be done.
func (m *Manager) refreshCurrent(ctx context.Context, r *Refreshed, program string, renewals map[string]error) bool {
	now, ok, err := m.current(program)
	renewal, tried := renewals[now.ID]
	if !ok && err == nil && tried && tryAgain(renewal) {
		err = renewal
	}
	if now.ID != r.Old || !ok && err == nil {
		return false
	}
	if err == nil {
		r.Record, err = m.restore(ctx, now)
	}
	if err == nil {
		err = m.stampNewBoot(ctx, now)
	}
	if errors.Is(err, registry.ErrNotFound) {
		r.Record, err = now, nil // removed, or replaced, just now: there is nothing to restore
	}
	r.Err, r.Renewed = err, err == nil && tried && renewal == nil
	r.Current = err == nil && !r.Renewed
	return true
}

// noteReason notes why a wish still has no image. Where it cannot be noted the older reason
// stays.
func (m *Manager) noteReason(ctx context.Context, rec registry.Record, reason string) {
	if rec.HasImage() {
		return
	}
	if unlock, err := m.store.Lock(ctx); err == nil {
		defer unlock()
		_ = m.changeWish(rec.Program, func(w *registry.Wish) bool {
			changed := w.Reason != reason
			w.Reason = reason
			return changed
		})
	}
}

// restore makes again what an entry with a current image has lost: launcher files, links
// that its wish has, the kernel's registrations.
func (m *Manager) restore(ctx context.Context, rec registry.Record) (registry.Record, error) {
	if !m.launchersAreCurrent(rec) {
		if _, err := m.addName(ctx, rec.ID, rec.Program); err != nil {
			return rec, err
		}
	}
	wish := rec
	changed, err := m.adopt(&wish)
	if err != nil {
		return rec, err
	}
	if changed || m.lacksWays(wish) {
		if rec, err = m.restoreWays(ctx, rec.ID); err != nil {
			return rec, err
		}
	}
	return rec, m.restoreSystem(ctx, rec)
}

// restoreWays notes links that no wish has, and makes those that are missing.
func (m *Manager) restoreWays(ctx context.Context, id string) (registry.Record, error) {
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return registry.Record{}, err
	}
	defer unlock()
	rec, err := m.registry.Get(id)
	if err != nil {
		return rec, err
	}
	changed, err := m.adopt(&rec)
	if err == nil && changed {
		_, err = m.registry.Put(rec)
	}
	if err != nil {
		return rec, err
	}
	return rec, m.enableAgain(rec)
}

// makeAgain makes an image for an entry, of the file that program, one of its names, leads
// to now. Its other names follow as far as there is something; else they stay wishes.
func (m *Manager) makeAgain(ctx context.Context, rec registry.Record, program string, opts RefreshOptions, step func(string)) (registry.Record, error) {
	id, err := linux.StatID(program)
	stale := err == nil && id.Inode() == rec.Binary.Inode() // else there may be an image of another entry's
	added, err := m.Add(ctx, program, AddOptions{TrustOwner: opts.TrustOwner, Again: opts.All || stale, Step: step})
	if err != nil {
		return rec, err
	}
	made := added.Record
	for _, name := range rec.Names() {
		if name == program {
			continue
		}
		if named, err := m.Add(ctx, name, AddOptions{TrustOwner: opts.TrustOwner, Step: step}); err == nil && named.Record.ID == made.ID {
			made = named.Record
		}
	}
	return made, nil
}
