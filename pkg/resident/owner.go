package resident

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// To make a program resident, or to link it again, is to execute parts of it: its
// dynamic linker, and the resolvers (IFUNC) of the program and its libraries. Root
// executes them only if no other user can decide what they are. So each of these
// files, and every directory in which their paths are looked up, must belong to root
// and be writable by root alone. The same holds for a path that was looked for and
// not found: a library that is put there is used by the next process.

// An OwnerError refuses to execute as root what another user may change.
type OwnerError struct {
	Path string // the file, as it was named
	At   string // what the user owns or may write: the file, or a directory that leads to it
	Why  string // of At
	Who  string // "user alice (1000)", "group staff (50)" or "every user"
}

func (e *OwnerError) Error() string {
	return fmt.Sprintf("execute %s as root: %s %s", e.Path, e.At, e.Why)
}

// Hint says what can be done about it.
func (e *OwnerError) Hint() string {
	return fmt.Sprintf("give --trust-owner if you trust %s with what root executes", e.Who)
}

// An ownerRule holds what root executes to the rule. A nil one allows everything.
type ownerRule struct {
	groups groupFiles
	passed map[string]bool // directories that are root's alone, by path as it was given
}

// newOwnerRule returns the rule for this process: nil for an ordinary user, who
// executes what they choose, and in a user namespace that maps one id only, whose
// root is an ordinary user.
func newOwnerRule() *ownerRule {
	if os.Geteuid() != 0 || linux.MapsOneUser() {
		return nil
	}
	return &ownerRule{groups: readGroupFiles("/etc/group", "/etc/passwd"), passed: map[string]bool{}}
}

// check returns an *OwnerError for a path that a user other than root can make lead
// to a file of theirs, and the identity of the file that it leads to, the zero one if
// there is none. Each component is opened below the one before and looked at by its
// descriptor, so that nothing can be renamed in between; links are followed here.
// After a directory has passed, only root can change what a name in it leads to.
func (o *ownerRule) check(path string) (linux.FileID, error) {
	w := ownerWalk{ownerRule: o, path: path, dir: -1}
	defer w.close()
	id, err := w.run()
	var refused *OwnerError
	if err != nil && !errors.As(err, &refused) {
		err = fmt.Errorf("find who may change %s: %w", path, err)
	}
	return id, err
}

// An ownerWalk is the look-up of one path (path_resolution(7)).
type ownerWalk struct {
	*ownerRule
	path   string
	at     string // the directory that is open, its links resolved
	dir    int    // it
	shared bool   // others may create files in it, but not replace root's (sticky)
	who    string // they
}

func (w *ownerWalk) close() {
	if w.dir >= 0 {
		_ = unix.Close(w.dir)
	}
}

func (w *ownerWalk) run() (id linux.FileID, err error) {
	const maxLinks = 40 // include/linux/namei.h, MAXSYMLINKS
	last := strings.LastIndexByte(w.path, '/')
	if last < 0 {
		return id, errors.New("the path is not absolute")
	}
	start, rest := "/", strings.Split(w.path, "/")
	known := w.path[:last]
	if w.passed[known] {
		start, rest = known, []string{w.path[last+1:]}
	}
	if err := w.open(unix.AT_FDCWD, start, start); err != nil {
		return id, err
	}
	links, asGiven := 0, true // asGiven: the last name has not been reached
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if err := w.open(w.dir, name, parent(w.at)); err != nil {
				return id, err
			}
			continue
		}
		if len(rest) == 0 && asGiven {
			asGiven = false
			w.passed[known] = !w.shared
		}
		fd, err := openPath(w.dir, name, unix.O_NOFOLLOW)
		switch {
		case err == unix.ENOENT && w.shared:
			return id, w.refuse(w.at, "is a directory in which it can be created by "+w.who, w.who)
		case err == unix.ENOENT || err == unix.ENAMETOOLONG:
			return id, nil
		case err != nil:
			return id, err
		}
		target, id, err := w.step(fd, child(w.at, name))
		switch {
		case err != nil:
			return linux.FileID{}, err
		case id.Ino != 0 && hasName(rest):
			return linux.FileID{}, nil // ENOTDIR
		case id.Ino != 0:
			return id, nil
		case target == "":
			continue
		}
		if links++; links > maxLinks {
			return linux.FileID{}, nil // ELOOP
		}
		rest = append(strings.Split(target, "/"), rest...)
		if strings.HasPrefix(target, "/") {
			if err := w.open(unix.AT_FDCWD, "/", "/"); err != nil {
				return linux.FileID{}, err
			}
		}
	}
	st, err := fstat(w.dir) // it leads to a directory
	return idOf(st), err
}

// step looks at the next component, which is open and becomes the walk's: it goes
// into a directory, or returns where a link leads, or which file it is.
func (w *ownerWalk) step(fd int, at string) (target string, id linux.FileID, err error) {
	keep := false
	defer func() {
		if !keep {
			_ = unix.Close(fd)
		}
	}()
	st, err := fstat(fd)
	if err != nil {
		return "", id, err
	}
	if w.shared && st.Uid != 0 {
		return "", id, w.refuse(at, belongs(st), userName(st.Uid))
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err = readlink(fd)
		return target, id, err
	case unix.S_IFDIR:
		keep = true
		return "", id, w.enter(fd, at)
	}
	return "", idOf(st), w.file(fd, st, at)
}

// open goes into a directory by its name.
func (w *ownerWalk) open(dir int, name, at string) error {
	fd, err := openPath(dir, name, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	return w.enter(fd, at)
}

// enter goes into a directory that is open, which becomes the walk's, and refuses one
// that is not root's alone.
func (w *ownerWalk) enter(fd int, at string) error {
	w.close()
	w.dir, w.at, w.shared = fd, at, false
	st, err := fstat(fd)
	if err != nil {
		return err
	}
	if st.Uid != 0 {
		return w.refuse(at, belongs(st), userName(st.Uid))
	}
	who, err := w.writers(fd, st)
	switch {
	case err != nil || who == "":
		return err
	case st.Mode&unix.S_ISVTX != 0:
		w.shared, w.who = true, who
		return nil
	}
	return w.refuse(at, writable(st, who), who)
}

// file refuses a file that is not root's alone. What is written to a device is not
// what is read from it.
func (w *ownerWalk) file(fd int, st *unix.Stat_t, at string) error {
	if st.Uid != 0 {
		return w.refuse(at, belongs(st), userName(st.Uid))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	who, err := w.writers(fd, st)
	if err != nil || who == "" {
		return err
	}
	return w.refuse(at, writable(st, who), who)
}

func (w *ownerWalk) refuse(at, why, who string) error {
	return &OwnerError{Path: w.path, At: at, Why: why, Who: who}
}

// writers names those who may write to what belongs to root, "" for none. With an ACL
// the group's bits are its mask, which may stand for any user or group (acl(5)).
func (w *ownerWalk) writers(fd int, st *unix.Stat_t) (string, error) {
	switch {
	case st.Mode&0o002 != 0:
		return "every user", nil
	case st.Mode&0o020 == 0:
		return "", nil
	}
	// Of a descriptor made with O_PATH fgetxattr(2) reads nothing.
	acl, err := hasACL(fmt.Sprintf("/proc/self/fd/%d", fd))
	switch {
	case err != nil:
		return "", err
	case acl:
		return "the users in its ACL", nil
	case w.groups.empty(st.Gid):
		return "", nil
	}
	return groupName(st.Gid), nil
}

func belongs(st *unix.Stat_t) string {
	return fmt.Sprintf("belongs to %s (mode %04o)", userName(st.Uid), st.Mode&0o7777)
}

func writable(st *unix.Stat_t, who string) string {
	return fmt.Sprintf("can be written by %s (mode %04o)", who, st.Mode&0o7777)
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return fmt.Sprintf("user %s (%s)", u.Username, id)
	}
	return "user " + id
}

func groupName(gid uint32) string {
	id := strconv.FormatUint(uint64(gid), 10)
	if g, err := user.LookupGroupId(id); err == nil {
		return fmt.Sprintf("group %s (%s)", g.Name, id)
	}
	return "group " + id
}

// groupFiles are the users other than root that /etc/group and /etc/passwd have in
// each group. Directories of the system can be writable by a group that has none
// (/usr/local/lib, root:staff 2775 on Debian). Members that only another database of
// nsswitch.conf(5) has are not seen: those cannot be listed cheaply, or at all.
type groupFiles map[uint32][]string

// readGroupFiles reads group(5) and passwd(5). A group that is in neither file, or
// all of them if a file cannot be read, counts as one with members.
func readGroupFiles(group, passwd string) groupFiles {
	members := groupFiles{}
	groups, err := os.ReadFile(group)
	if err != nil {
		return nil
	}
	users, err := os.ReadFile(passwd)
	if err != nil {
		return nil
	}
	root := map[string]bool{}
	primary := map[uint32][]string{}
	for line := range strings.Lines(string(users)) { // name:password:uid:gid:…
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 {
			continue
		}
		gid, err := strconv.ParseUint(f[3], 10, 32)
		if err != nil {
			continue
		}
		if f[2] == "0" {
			root[f[0]] = true
		} else {
			primary[uint32(gid)] = append(primary[uint32(gid)], f[0])
		}
	}
	for line := range strings.Lines(string(groups)) { // name:password:gid:member,member
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 {
			continue
		}
		n, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			continue
		}
		gid := uint32(n)
		members[gid] = append(members[gid], primary[gid]...)
		for name := range strings.SplitSeq(f[3], ",") {
			if name = strings.TrimSpace(name); name != "" && !root[name] {
				members[gid] = append(members[gid], name)
			}
		}
	}
	return members
}

func (g groupFiles) empty(gid uint32) bool {
	members, known := g[gid]
	return known && len(members) == 0
}

// parent is the directory above one whose links are resolved.
func parent(path string) string {
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		return path[:i]
	}
	return "/"
}

func child(dir, name string) string { return strings.TrimSuffix(dir, "/") + "/" + name }

// hasName reports whether there is more to look up.
func hasName(rest []string) bool {
	for _, name := range rest {
		if name != "" && name != "." {
			return true
		}
	}
	return false
}

// openPath is openat(2) with O_PATH.
func openPath(dir int, name string, flags int) (fd int, err error) {
	if name == "" {
		name = "/" // that of a path such as "/lib"
	}
	err = linux.EINTR(func() (err error) {
		fd, err = unix.Openat(dir, name, unix.O_PATH|unix.O_CLOEXEC|flags, 0)
		return err
	})
	return fd, err
}

func fstat(fd int) (*unix.Stat_t, error) {
	var st unix.Stat_t
	return &st, linux.EINTR(func() error { return unix.Fstat(fd, &st) })
}

// idOf is linux.IDOf of what fstat returned.
func idOf(st *unix.Stat_t) linux.FileID {
	return linux.FileID{Dev: st.Dev, Ino: st.Ino, Size: uint64(st.Size), Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano()}
}

func readlink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	if n == len(buf) {
		return "", fs.ErrInvalid
	}
	return string(buf[:n]), nil
}
