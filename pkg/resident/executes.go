package resident

import (
	"errors"
	"fmt"
	"os"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/owners"
	"github.com/residentctl/residentctl/pkg/fingerprint"
)

// begin refuses the program and its dynamic linker before anything of them runs: by
// the rule about owners, and while they are open for writing. It returns which files
// they were.
func (a *adding) begin() (program, linker linux.FileID, err error) {
	one := func(path string) (linux.FileID, error) {
		checked, err := a.owners.allow(path)
		if err != nil {
			return checked, err
		}
		return refuseWriters(path, path, checked)
	}
	if program, err = one(a.program.Path); err == nil {
		linker, err = one(a.program.Interp)
	}
	return program, linker, err
}

// allow is linkstop.Allow: what begin does, for what the dynamic linker looks at.
func (a *adding) allow(path, opened string) error {
	if err := a.owners.allowOpened(path, opened); err != nil || opened == "" {
		return err
	}
	info, err := os.Stat(opened)
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	if _, err := refuseWriters(opened, path, linux.FileID{}); errors.Is(err, errWriter) {
		return err
	}
	return nil // a file that cannot be opened again says so when it is hashed
}

// end refuses what is open for writing when the image is about to be published.
func (a *adding) end() error { return notWritten(a.layouts[0].deps) }

// notWritten is errWriter if one of the files that an image maps is open for writing.
func notWritten(deps *fingerprint.Dependencies) error {
	for _, f := range append([]fingerprint.File{deps.Program, deps.Linker}, deps.Libraries...) {
		if _, err := refuseWriters(f.Path, f.Path, f.ID); err != nil {
			return err
		}
	}
	return nil
}

// allow is check, but of a nil rule it allows everything.
func (o *ownerRule) allow(path string) (linux.FileID, error) {
	if o == nil {
		return linux.FileID{}, nil
	}
	return o.check(path)
}

// allowOpened is allow for a path at which the dynamic linker looks. Where that has
// opened a file it must be the one that was checked.
func (o *ownerRule) allowOpened(path, opened string) error {
	if o == nil {
		return nil
	}
	id, err := o.check(path)
	if err != nil || opened == "" {
		return err
	}
	is, err := linux.StatID(opened)
	if err != nil {
		return err
	}
	if is.Inode() != id.Inode() {
		return fmt.Errorf("%s %w", path, fingerprint.ErrChanged)
	}
	return nil
}

// ownersUnless returns the rule about owners, or nil where they are trusted.
func ownersUnless(trusted bool) *ownerRule {
	if rule := owners.New(); rule != nil && !trusted {
		return &ownerRule{rule}
	}
	return nil
}
