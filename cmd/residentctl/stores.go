package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/resident"
	"github.com/residentctl/residentctl/pkg/store"
)

// openToRead opens the stores in which run would look, in its order: the one that
// was named, or those of the caller's own and the system's that are there.
func (g *globals) openToRead() (stores []listedStore, err error) {
	dirs, err := storesToSearch(string(g.store))
	if err != nil {
		return nil, storeError(err)
	}
	for _, dir := range counting(dirs) {
		m, err := resident.OpenToRead(dir)
		if err != nil {
			return nil, storeError(err)
		}
		stores = append(stores, listedStore{m, dir})
	}
	return stores, nil
}

// unread is what could not be read of the stores, beside what could: a command goes
// on without it, and says so.
type unread struct {
	images []*report // each of an image, of which is not known what it is of
	rest   error     // of a store or its registry
}

// add sorts what a method of a resident.Manager gave beside its result.
func (u *unread) add(err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			u.add(e)
		}
		return
	}
	var about *resident.AboutError
	switch {
	case err == nil, errors.Is(err, registry.ErrNotFound): // another store may have it
	case !errors.As(err, &about):
		u.rest = errors.Join(u.rest, err)
	case !slices.ContainsFunc(u.images, func(r *report) bool { return r.Error == err.Error() }):
		u.images = append(u.images, newReport(err))
	}
}

// warn reports it where what was asked for could be read.
func (u *unread) warn(g *globals) {
	for _, r := range u.images {
		r.print(g.err, g.format)
	}
	if u.rest != nil {
		newReport(u.rest).print(g.err, g.format)
	}
}

// end is how a command ends that was to show all of so many, given its other
// failures, which have been printed.
func (u *unread) end(g *globals, failures []*report, total int) error {
	g.printFailures(u.images)
	if u.rest != nil {
		return storeError(u.rest)
	}
	return ended(nil, append(failures, u.images...), total+len(u.images))
}

// counting are those of several stores that count for the caller; one that was named
// is not asked.
func counting(dirs []string) []string {
	if len(dirs) == 1 {
		return dirs
	}
	return slices.DeleteFunc(slices.Clone(dirs), func(dir string) bool { return !countsForCaller(dir) })
}

// countsForCaller reports whether there is a store. One in a HOME that the caller may
// not enter, as where HOME is another user's (su), is none: run passes it over as well.
func countsForCaller(dir string) bool {
	_, err := os.Stat(dir)
	// Of other errors opening it says what is wrong.
	return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) && !errors.Is(err, fs.ErrPermission)
}

// ownRemover removes from the store that the caller works on by default, and of
// what is in the system's says that it is there.
type ownRemover struct{ remover }

// withSystem is how a command that was not told a store removes.
func (g *globals) withSystem(m remover) remover {
	if own, err := store.Default(); g.store != "" || err != nil || own == store.SystemDir() {
		return m
	}
	return ownRemover{m}
}

func (o ownRemover) Remove(ctx context.Context, queries ...string) ([]registry.Record, error) {
	removed, err := o.remover.Remove(ctx, queries...)
	if !errors.Is(err, registry.ErrNotFound) {
		return removed, err
	}
	system, openErr := resident.OpenToRead(store.SystemDir())
	if openErr != nil {
		return removed, err
	}
	found, _, _ := system.Select(ctx, resident.Selection{Queries: queries})
	if len(found) == 0 {
		return removed, err
	}
	return removed, store.Failed("remove "+found[0].Program+" from",
		fmt.Sprintf("the system's store (%s)", store.SystemDir()), fs.ErrPermission)
}
