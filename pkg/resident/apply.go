package resident

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/binfmt"
	"github.com/residentctl/residentctl/pkg/conf"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/store"
)

// rules are the files that say what is never to be resident. They are read once.
var rules = sync.OnceValues(conf.Rules)

// mayBeAdded refuses a program that the user has not named where resident.conf says so.
func (m *Manager) mayBeAdded(path string) error {
	c, err := rules()
	if err == nil && c.Never(path) {
		return problem.Refusef("resident.conf excludes %s", path).
			WithHint("add it by its name, or change the line with ! that names it")
	}
	return err
}

// canBePassed reports whether a program without an image, or without a way in, is as it
// should be where only a wildcard or directory names it.
func canBePassed(kind ApplyKind, err error) bool {
	var slower *SlowerError
	is := problem.KindOf(err)
	return errors.As(err, &slower) || is == problem.Refused || is == problem.Untrusted || is == problem.Program ||
		kind == ApplyEnable && is == problem.Other
}

// Apply carries out a plan, one item after the other, and passes each to done. It goes on after
// a failure unless stop reports that the next one is bound to fail as well.
func (m *Manager) Apply(ctx context.Context, plan *ApplyPlan, step func(program, what string), done func(ApplyItem), stop func(error) bool) error {
	failed := map[string]bool{}
	for _, item := range plan.Items {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if item.Kind == ApplyEnable && failed[item.Program] {
			continue
		}
		if item.Err == nil {
			if err := m.apply(ctx, item, func(what string) { step(item.Program, what) }); err != nil {
				item.fail(err)
			}
		}
		if item.Err != nil && (ctx.Err() != nil || stop(item.Err)) {
			return item.Err
		}
		failed[item.Program] = failed[item.Program] || item.Err != nil && item.Kind == ApplyAdd
		done(item)
	}
	return nil
}

func (m *Manager) apply(ctx context.Context, item ApplyItem, step func(string)) error {
	switch item.Kind {
	case ApplyAdd:
		return m.applyAdd(ctx, item, step)
	case ApplyChange:
		return m.applyChange(ctx, item, step)
	case ApplyEnable:
		return m.applyEnable(ctx, item, step)
	case ApplyDisable:
		return m.applyDisable(ctx, item)
	}
	return m.endNames(ctx, item.names, step)
}

// applyAdd enters the wish and then makes the image, which inherits from the wish that files
// have asked for it. A program that cannot be resident has no wish.
func (m *Manager) applyAdd(ctx context.Context, item ApplyItem, step func(string)) error {
	known, err := m.wish(ctx, item)
	if err != nil || item.absent {
		return err
	}
	_, err = m.Add(ctx, item.Program, addOptions(item, step))
	if err != nil && !known {
		err = errors.Join(err, m.unwish(item.Program))
	}
	return err
}

func addOptions(item ApplyItem, step func(string)) AddOptions {
	o := item.options
	return AddOptions{Layouts: o.Layouts, MemoryLimit: o.MemoryLimit, EvenIfSlower: o.EvenIfSlower, TrustOwner: o.TrustOwner, Step: step}
}

// wish enters a wish without an image, unless there is one.
func (m *Manager) wish(ctx context.Context, item ApplyItem) (known bool, err error) {
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	if _, err := m.registry.ByPath(item.Program); !errors.Is(err, registry.ErrNotFound) {
		return true, err
	}
	o := item.options
	rec := registry.Record{Wish: registry.Wish{
		Program: item.Program, Configured: []string{item.Program}, Reason: notThereYet,
		Layouts: o.Layouts, MemoryLimit: o.MemoryLimit, EvenIfSlower: o.EvenIfSlower, TrustOwner: o.TrustOwner,
	}}
	if !item.absent {
		rec.Reason = "its image is not made yet"
	}
	_, err = m.registry.Put(rec)
	store.Fault("after-wish")
	return false, err
}

// unwish takes back what wish has entered, also after an interruption.
func (m *Manager) unwish(path string) error {
	unlock, err := m.store.Lock(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := m.registry.ByPath(path)
	if err != nil || rec.HasImage() {
		return err
	}
	_, err = m.registry.Delete(path)
	return err
}

// applyChange changes the options of a wish, and makes the image again where it has another
// number of layouts.
func (m *Manager) applyChange(ctx context.Context, item ApplyItem, step func(string)) error {
	rec, err := m.registry.ByPath(item.Program)
	if err != nil {
		return err
	}
	again := rec.HasImage() && thereIs([]string{item.Program}) != "" &&
		(max(rec.Layouts, 1) != item.options.Layouts || item.options.TrustOwner && !rec.TrustOwner)
	if again {
		opts := addOptions(item, step)
		opts.Exactly = item.exactly
		if _, err := m.Add(ctx, item.Program, opts); err != nil {
			return err
		}
	}
	return m.lockedChange(ctx, item.Program, func(w *registry.Wish, hasImage bool) {
		o := item.options
		w.MemoryLimit, w.EvenIfSlower, w.TrustOwner = o.MemoryLimit, o.EvenIfSlower, o.TrustOwner
		if !hasImage {
			w.Layouts = o.Layouts
		}
	})
}

// lockedChange changes the wish for a program.
func (m *Manager) lockedChange(ctx context.Context, program string, change func(w *registry.Wish, hasImage bool)) error {
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := m.registry.ByPath(program)
	if err != nil {
		return err
	}
	change(&rec.Wish, rec.HasImage())
	_, err = m.registry.Put(rec)
	return err
}

// applyEnable enables a program, or notes in a wish without an image that it is to be.
func (m *Manager) applyEnable(ctx context.Context, item ApplyItem, step func(string)) (err error) {
	if item.system {
		if err := MayEnableSystem(); err != nil {
			return err
		}
	}
	switch {
	case item.absent:
		return m.enableLater(ctx, item)
	case item.system:
		_, err = m.EnableSystem(ctx, item.Program, AddOptions{Step: step})
	default:
		_, err = m.Enable(ctx, item.Program, AddOptions{Step: step})
	}
	return err
}

func (m *Manager) enableLater(ctx context.Context, item ApplyItem) error {
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := m.registry.ByPath(item.Program)
	if err != nil {
		return err
	}
	if !item.system {
		return m.wishShim(rec, item.Program)
	}
	instance, err := binfmt.Instance()
	if err != nil {
		return err
	}
	return m.wishSystem(rec, item.Program, instance)
}

// applyDisable is done where something else has disabled it.
func (m *Manager) applyDisable(ctx context.Context, item ApplyItem) (err error) {
	if item.system {
		_, err = m.DisableSystem(ctx, item.Program)
	} else {
		_, err = m.Disable(ctx, item.Program)
	}
	if errors.Is(err, ErrNotEnabled) {
		return nil
	}
	return err
}

// endNames ends the wish for names of one file. Its other names stay.
func (m *Manager) endNames(ctx context.Context, names []string, step func(string)) error {
	left, err := m.endNamesLocked(ctx, names)
	if program := thereIs(left); err == nil && program != "" {
		_, err = m.Add(ctx, program, AddOptions{Step: step})
	}
	return err
}

// endNamesLocked returns the other names of an entry that has lost its image, since that was
// made by one of the names that end.
func (m *Manager) endNamesLocked(ctx context.Context, names []string) (left []string, err error) {
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	rec, err := m.registry.ByPath(names[0])
	if errors.Is(err, registry.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ends := func(name string) bool { return slices.Contains(names, name) }
	rest, ok := rec.Wish.Without(ends)
	if !ok {
		return nil, m.forget(rec)
	}
	if err := m.endWays(rec, ends); err != nil {
		return nil, err
	}
	if rec.HasImage() && rest.Program != rec.Program {
		left = rest.Names()
		if err := m.reclaim(rec, "its image was made by the name "+rec.Program); err != nil {
			return nil, err
		}
		rec = registry.Record{Wish: rec.Wish}
		rest.Reason = "its image was made by the name " + rec.Program
	}
	return left, m.splitOff(registry.Record{Wish: rest, Image: rec.Image}, names[0])
}

// splitOff enters a record without names that it had, which the registry keeps as a record of
// their own, and deletes that.
func (m *Manager) splitOff(rec registry.Record, name string) error {
	if _, err := m.registry.Put(rec); err != nil {
		return err
	}
	store.Fault("after-split")
	if _, err := m.registry.Delete(name); err != nil {
		return err
	}
	if !rec.HasImage() {
		return nil
	}
	return m.writeLaunchers(rec) // and remove those of the other names
}

// endWays removes the links of names of an entry.
func (m *Manager) endWays(rec registry.Record, ends func(name string) bool) error {
	for _, name := range rec.Names() {
		base := filepath.Base(name)
		if shim, ok := m.store.Shim(base); ok && shim.Program == name && ends(name) {
			if err := m.store.RemoveShim(base); err != nil {
				return err
			}
		}
	}
	links, err := m.systemLinksOf(rec.Binary.Inode())
	if err != nil {
		return err
	}
	for _, l := range links {
		if ends(l.Program) {
			if err := m.unregister(l); err != nil {
				return err
			}
		}
	}
	return nil
}
