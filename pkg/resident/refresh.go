package resident

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/residentctl/residentctl/pkg/registry"
)

// RefreshOptions says what is refreshed.
type RefreshOptions struct {
	All     bool              // also what is current: everything gets new layouts
	Queries []string          // only these entries; none is all of them
	Step    func(what string) // told each step as it begins; may be nil
	// TrustOwner is AddOptions' for all of them; without it the records' own count.
	TrustOwner bool
}

// Refreshed is what became of one entry.
type Refreshed struct {
	Program string          `json:"program"`
	Old     string          `json:"old"`              // the id that it had
	Record  registry.Record `json:"record"`           // as it is now
	Current bool            `json:"current"`          // it was current and was left as it is
	Renewed bool            `json:"renewed"`          // only times of files differed: its image is the same
	Gone    bool            `json:"gone"`             // its program is not there any more; gc forgets it
	Err     error           `json:"-"`                // it could not be made anew; the old one stays
	Reason  string          `json:"reason,omitempty"` // Err, for people
}

// Refresh makes stale images anew, or with All every image, at other addresses.
// Programs that are running go on; starts use the old image, or are normal ones,
// until the new one has taken its place. It gives done one result for each
// entry, and goes on after a failure; the error is of entries that could not be
// read. The names, the number of layouts, the memory limit, that an entry was wanted
// although it is slower and that its owner is trusted stay.
func (m *Manager) Refresh(ctx context.Context, opts RefreshOptions, done func(Refreshed)) error {
	records, err := m.refreshable(opts.Queries)
	var renewals map[string]error
	if !opts.All {
		renewals = m.renewNeeded(ctx, records)
	}
	for _, rec := range records {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		done(m.refresh(ctx, rec, opts, renewals))
	}
	return err
}

func (m *Manager) refreshable(queries []string) ([]registry.Record, error) {
	if m.registry == nil {
		return nil, nil
	}
	m.store.HideNames()
	if len(queries) == 0 {
		return m.registry.List()
	}
	var records []registry.Record
	for _, q := range queries {
		rec, err := m.registry.Find(q)
		if err != nil {
			return nil, err
		}
		records = append(records, rec)
	}
	return records, nil
}

func (m *Manager) refresh(ctx context.Context, rec registry.Record, opts RefreshOptions, renewals map[string]error) Refreshed {
	r := Refreshed{Program: rec.Program, Old: rec.ID, Record: rec}
	if _, err := os.Stat(rec.Program); errors.Is(err, fs.ErrNotExist) {
		r.Gone = true
		return r
	}
	if !opts.All && m.refreshCurrent(ctx, &r, renewals) {
		return r
	}
	added, err := m.Add(ctx, rec.Program, AddOptions{
		EvenIfSlower: rec.Timing != nil && !faster(rec.Timing),
		Layouts:      rec.Layouts, MemoryLimit: rec.MemoryLimit, Anew: true, Step: opts.Step,
		TrustOwner: rec.TrustOwner || opts.TrustOwner,
	})
	if err != nil {
		r.Err, r.Reason = err, err.Error()
		return r
	}
	r.Record = added.Record
	for _, name := range rec.Names()[1:] {
		if named, err := m.Add(ctx, name, AddOptions{Step: opts.Step, TrustOwner: r.Record.TrustOwner, MemoryLimit: r.Record.MemoryLimit}); err == nil {
			r.Record = named.Record
		}
	}
	return r
}

// refreshCurrent does what there is to do for an entry whose image is current, given how
// the renewals went. It reports whether it is; r has the error if that could not be done.
func (m *Manager) refreshCurrent(ctx context.Context, r *Refreshed, renewals map[string]error) bool {
	now, ok, err := m.current(r.Program)
	renewal, tried := renewals[now.ID]
	if !ok && err == nil && tried && tryAgain(renewal) {
		err = renewal
	}
	if !ok && err == nil {
		return false
	}
	if err == nil && !m.launchersAreCurrent(now) {
		_, err = m.addName(ctx, now.ID, now.Program)
	}
	if err == nil {
		err = m.restoreSystem(ctx, now)
	}
	if err != nil {
		r.Err, r.Reason = err, err.Error()
		return true
	}
	r.Record, r.Renewed = now, tried && renewal == nil
	r.Current = !r.Renewed
	return true
}
