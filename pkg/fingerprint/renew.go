package fingerprint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/residentctl/residentctl/internal/linux"
)

// Renew returns d with the identities that its files have now, if linking the program
// would give what it gave before: only times differ (st_mtim and st_ctim of stat(2),
// which a hard link, a chmod or a rewritten directory changes), each mapped file is the
// same inode with the same content, and what was not found is still not there. Else its
// error is the first reason why the program has to be linked again. A file is read only if its times
// differ, after allow, which may refuse it.
//
// A new inode is a difference even with the same content: the link maps in the image
// hold each library's device and inode, which dlopen(3) compares (glibc elf/dl-load.c,
// _dl_map_object_from_fd; musl ldso/dynlink.c, load_library).
//
// When it returns, any later change will be noticed. A file that changes meanwhile is
// ErrChanged.
func (d *Dependencies) Renew(ctx context.Context, allow func(path string) error) (*Dependencies, error) {
	if reasons := d.staleMachine(); len(reasons) > 0 {
		return nil, errors.New(reasons[0])
	}
	r := *d
	r.Libraries = slices.Clone(d.Libraries)
	files := r.files()
	if err := each(ctx, len(files), func(i int) error { return renewFile(files[i], allow) }); err != nil {
		return nil, err
	}
	var misses []string
	r.Checks, r.Directories = nil, nil
	for _, c := range d.Checks {
		if c.absent() {
			misses = append(misses, c.Path)
			continue
		}
		if err := r.renewCheck(&c, allow); err != nil {
			return nil, err
		}
		r.Checks = append(r.Checks, c)
	}
	for _, f := range d.Directories {
		misses = append(misses, f.Misses...)
	}
	if err := r.missAgain(misses); err != nil {
		return nil, err
	}
	return &r, Settle(ctx, &r)
}

// Dated reports whether Renew would give other identities although a start does not mind:
// it has to look further, into another ld.so.cache or for each file that was not found in
// a directory, until the new identities are known.
func (d *Dependencies) Dated() bool {
	return slices.ContainsFunc(d.Checks, func(c Checked) bool {
		now, err := StatID(c.Path)
		return len(c.Answers) > 0 && err == nil && now != c.ID
	}) || slices.ContainsFunc(d.Directories, func(f Directory) bool { return !f.unchanged() })
}

// renewFile sets in f the identity that its file has now, if the content is the recorded
// one.
func renewFile(f *File, allow func(path string) error) error {
	id, err := sameInode(f.Path, f.ID)
	if err != nil || id == f.ID {
		return err
	}
	if err := allow(f.Path); err != nil {
		return err
	}
	now, err := HashFile(f.Path)
	switch {
	case err != nil:
		return err
	case now.ID != id:
		return fmt.Errorf("%s %w", f.Path, ErrChanged)
	case now.SHA256 != f.SHA256:
		return errors.New(staleFile(f.Path, f.ID, nil))
	}
	f.ID = id
	return nil
}

// sameInode returns the identity that a file has now, or why it is another file,
// or one of another size.
func sameInode(path string, was linux.FileID) (linux.FileID, error) {
	now, err := StatID(path)
	if err != nil || now.Inode() != was.Inode() || now.Size != was.Size {
		return now, errors.New(staleFile(path, was, nil))
	}
	return now, nil
}

// renewCheck sets in c the identity that its file has now. A further name of a mapped file
// has that one's; of others the content counts, where it could be read.
func (d *Dependencies) renewCheck(c *Checked, allow func(path string) error) error {
	if len(c.Answers) > 0 {
		return renewCache(c)
	}
	id, err := sameInode(c.Path, c.ID)
	if err != nil || id == c.ID {
		return err
	}
	for _, f := range d.files() {
		if f.ID == id {
			c.ID = id
			return nil
		}
	}
	if c.SHA256 == "" {
		return errors.New(staleCheck(*c, nil))
	}
	f := File{Path: c.Path, ID: c.ID, SHA256: c.SHA256}
	err = renewFile(&f, allow)
	c.ID = f.ID
	return err
}

// renewCache sets in c the identity of the dynamic linker's cache that is there now, if that
// one's answers are the same.
func renewCache(c *Checked) error {
	id, err := StatID(c.Path)
	if err != nil {
		return errors.New(staleFile(c.Path, c.ID, nil))
	}
	if why := staleAnswers(*c); why != "" {
		return errors.New(why)
	}
	c.ID = id
	return nil
}

// missAgain records what was not found as it is recorded when a program is linked: the
// directory that shows when one of them comes into being may be another one by now.
func (d *Dependencies) missAgain(paths []string) error {
	s := newSorter()
	s.deps.Checks = d.Checks
	for _, c := range d.Checks {
		s.checked[c.Path] = true
	}
	for _, path := range paths {
		if exists(path) {
			return errors.New(nowExists(path))
		}
		if err := s.miss(Probe{Path: path, Errno: syscall.ENOENT}); err != nil {
			return err
		}
	}
	if err := s.directories(); err != nil {
		return err
	}
	d.Checks, d.Directories = s.deps.Checks, s.deps.Directories
	return nil
}
