// Package owners is the rule about what root executes: only what no other user can
// change. Each such file, and every directory in which its path is looked up, must belong
// to root and be writable by root alone. The same holds for a path that was looked for and
// not found, because the next process would use a library that is put there.
package owners

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// A Refusal refuses to execute as root what another user may change.
type Refusal struct {
	Path string // the file, as it was named
	At   string // what the user owns or may write: the file, or a directory that leads to it
	Why  string // of At
	Who  string // "user alice (1000)", "group staff (50)" or "every user"
}

func (e *Refusal) Error() string {
	return fmt.Sprintf("execute %s as root: %s %s", e.Path, e.At, e.Why)
}

// A Rule holds what root executes to the rule. A nil one allows everything.
type Rule struct {
	groups linux.Groups
	passed map[string]string // paths of directories that are root's alone, without links, by path as it was given
}

// New returns the rule for this process: nil for an ordinary user, who executes what
// they choose, and in a user namespace that maps one id only, whose root is an ordinary
// user.
func New() *Rule {
	if os.Geteuid() != 0 || linux.MapsOneUser() {
		return nil
	}
	return &Rule{groups: linux.SystemGroups(), passed: map[string]string{}}
}

// errMissing is a path that leads nowhere, and that only root can make lead somewhere.
var errMissing = errors.New("nothing is there")

// Check returns a *Refusal for a path that a user other than root can make lead
// to a file of theirs, and the identity of the file that it leads to, the zero one if
// there is none. After a directory has passed, only root can change what a name in it
// leads to, so that another path in it is followed from there on.
func (o *Rule) Check(path string) (id linux.FileID, err error) {
	if o == nil {
		return id, nil
	}
	visit := func(s linux.Step) error { return o.visit(path, s) }
	dir, name := filepath.Split(path)
	at, passed := o.passed[dir]
	var fd int
	if !passed {
		if at, fd, err = linux.Walk("", dir, visit); err == nil {
			unix.Close(fd)
			o.passed[dir] = at
		}
	}
	if err == nil {
		_, fd, err = linux.Walk(at, name, visit)
	}
	if err == nil {
		defer unix.Close(fd)
		id, err = linux.FstatID(fd)
	}
	var refused *Refusal
	switch {
	case err == nil, errors.Is(err, errMissing), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG):
		return id, nil
	case errors.As(err, &refused):
		return id, refused
	}
	return id, fmt.Errorf("find who may change %s: %w", path, err)
}

// visit returns a *Refusal for an entry to which a user other than root can make the
// path lead, or which is theirs. A link counts as root's, whatever its owner, if only root can put
// another one in its place.
func (o *Rule) visit(path string, s linux.Step) error {
	others, err := o.alone(path, s.Dir, s.FD, s.In)
	switch {
	case err != nil:
		return err
	case s.Stat == nil && others != "":
		return &Refusal{path, s.Dir, "is a directory in which it can be created by " + others, others}
	case s.Stat == nil:
		return errMissing
	case s.Stat.Mode&unix.S_IFMT == unix.S_IFLNK && others == "":
		return nil
	}
	_, err = o.alone(path, filepath.Join(s.Dir, s.Name), s.Open, s.Stat)
	return err
}

// alone returns a *Refusal for what is not root's alone: what another user owns, and a
// file or directory that another user may write to. What is written to a device is not
// what is read from it. In a sticky directory others may create files, but not replace
// root's: it returns who they are.
func (o *Rule) alone(path, at string, fd int, st *unix.Stat_t) (others string, err error) {
	if st.Uid != 0 {
		who := userName(st.Uid)
		return "", &Refusal{path, at, fmt.Sprintf("belongs to %s (mode %04o)", who, st.Mode&0o7777), who}
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return "", nil
	}
	others = linux.Writers(fd, st, o.groups.Empty)
	if others == "" || kind == unix.S_IFDIR && st.Mode&unix.S_ISVTX != 0 {
		return others, nil
	}
	return "", &Refusal{path, at, fmt.Sprintf("can be written by %s (mode %04o)", others, st.Mode&0o7777), others}
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return fmt.Sprintf("user %s (%s)", u.Username, id)
	}
	return "user " + id
}
