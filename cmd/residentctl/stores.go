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
		return nil, &storeError{err}
	}
	for _, dir := range counting(dirs) {
		m, err := resident.OpenToRead(dir)
		if err != nil {
			return nil, &storeError{err}
		}
		stores = append(stores, listedStore{m, dir})
	}
	return stores, nil
}

// counting are those of several stores that count for the caller; one that was named
// is not asked.
func counting(dirs []string) []string {
	if len(dirs) == 1 {
		return dirs
	}
	return slices.DeleteFunc(slices.Clone(dirs), func(dir string) bool { return !countsForCaller(dir) })
}

// countsForCaller tells whether there is a store. One that belongs to somebody
// whom the caller does not trust, as where root has a user's HOME (su, sudo -E), is
// none, and so is one in a HOME that is not the caller's: run passes them over as
// well.
func countsForCaller(dir string) bool {
	var st syscall.Stat_t
	switch err := syscall.Stat(dir, &st); {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrPermission):
		return false
	case err != nil:
		return true // opening it says what is wrong
	}
	return os.Geteuid() != 0 || st.Uid == 0
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
	return removed, &store.Error{
		Doing: "remove " + found[0].Program + " from",
		Path:  fmt.Sprintf("the system's store (%s)", store.SystemDir()), Err: fs.ErrPermission,
	}
}
