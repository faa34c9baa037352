package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/launcher"
)

// Store is an open store. It holds nothing open, and its methods may be called
// from any goroutine and beside those of other processes.
type Store struct {
	dir string
	// mode of its directories: 0755, or 0700 where it is a user's own.
	mode fs.FileMode
	// Of the directory that was checked, as fstat(2) showed it on the descriptor by which
	// that was done.
	inode linux.Inode
}

// ForLaunchers returns the store as launchers look in it.
func (s *Store) ForLaunchers() launcher.Store { return launcher.Store{Dir: s.dir, Inode: s.inode} }

// ErrReplaced is a store, or a file of it, whose path leads to another one than when it
// was looked at.
var ErrReplaced = errors.New("something else has taken its place")

// same is ErrReplaced if the store's path leads to another directory by now.
func (s *Store) same() error {
	var st syscall.Stat_t
	if err := eintr(func() error { return syscall.Stat(s.dir, &st) }); err != nil {
		return err
	}
	if linux.IDOf(&st).Inode() != s.inode {
		return ErrReplaced
	}
	return nil
}

// Open checks an existing store: it and its directories belong to root or to the
// caller, and nobody else may write to them, else ErrUnsafe. For root, no other user
// may put another directory in its place either. One that is not
// there, or whose making was not finished, is fs.ErrNotExist; one that was finished and
// has lost a directory is opened, and what was in there is missing (Missing).
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, wrap("open store", dir, err)
	}
	top, err := openChecked(dir)
	if err != nil {
		return nil, openError(dir, err)
	}
	defer unix.Close(top)
	return open(dir, top)
}

// open is Open of the store whose directory is open as top.
func open(dir string, top int) (*Store, error) {
	s := &Store{dir: dir}
	st, err := checkDirectory(top, "", dir)
	if err != nil {
		return nil, openError(dir, err)
	}
	s.mode, s.inode = fs.FileMode(st.Mode&0o777), linux.InodeOf(st)
	for _, name := range directories {
		_, err := checkDirectory(top, name, s.in(name))
		if errors.Is(err, fs.ErrNotExist) && HasRegistry(dir) {
			continue
		}
		if err != nil {
			return nil, openError(s.in(name), err)
		}
	}
	return s, nil
}

// openChecked opens the directory that dir leads to, for its path only. Root follows
// only what no other user could change on the way.
func openChecked(dir string) (fd int, err error) {
	if os.Geteuid() == 0 {
		_, fd, err = linux.Walk("", dir, mayLead)
		return fd, err
	}
	err = eintr(func() (err error) {
		fd, err = unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}

// openOrMake is openChecked, but makes what is missing: each directory in the one that
// leads to it, which is open and has been checked, so that nothing is made elsewhere
// whatever another user puts there meanwhile. What another process has made first is
// held to the same check, and no link.
func openOrMake(dir string) (fd int, err error) {
	fd, err = openChecked(dir)
	if !errors.Is(err, fs.ErrNotExist) || dir == "/" {
		return fd, err
	}
	parent, err := openOrMake(filepath.Dir(dir))
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	Fault("before-mkdir")
	if err := makeDirectoryAt(parent, filepath.Base(dir), newStoreMode()); err != nil {
		return -1, wrap("make store", dir, err)
	}
	fd, err = openDirectory(parent, filepath.Base(dir), unix.O_PATH|unix.O_NOFOLLOW)
	switch {
	case errors.Is(err, syscall.ENOTDIR): // what a link is too (open(2), O_PATH)
		return -1, openError(dir, errNotDirectory)
	case err != nil:
		return -1, openError(dir, err)
	}
	if os.Geteuid() == 0 {
		if err := mayLeadTo(parent, fd, dir); err != nil {
			unix.Close(fd)
			return -1, openError(dir, err)
		}
	}
	return fd, nil
}

// mayLeadTo is mayLead for the open entry of an open directory, of which path is the path.
func mayLeadTo(dir, entry int, path string) error {
	var in, st unix.Stat_t
	if err := errors.Join(unix.Fstat(dir, &in), unix.Fstat(entry, &st)); err != nil {
		return err
	}
	return mayLead(linux.Step{Dir: filepath.Dir(path), FD: dir, In: &in, Name: filepath.Base(path), Open: entry, Stat: &st})
}

// mayLead is ErrUnsafe if a user other than root could have another entry stand in the
// place of this one: the directory is his, or he may write to it and it is not sticky
// (unlink(2), EPERM), or the entry is his. Root's group and groups without members count
// as root. In a user namespace with a single user root is that user, and whose the
// directories are cannot be told.
func mayLead(s linux.Step) error {
	isRoot := func(uid uint32) bool { return uid == 0 || linux.MapsOneUser() }
	others := linux.Writers(s.FD, s.In, linux.SystemGroups().Empty) != ""
	why := ""
	switch {
	case !isRoot(s.In.Uid):
		why = fmt.Sprintf("belongs to user %d", s.In.Uid)
	case others && s.In.Mode&unix.S_ISVTX == 0:
		why = fmt.Sprintf("can be written to by users other than root (mode %04o, group %d)", s.In.Mode&0o7777, s.In.Gid)
	case others && s.Stat != nil && !isRoot(s.Stat.Uid):
		return leadError(filepath.Join(s.Dir, s.Name), fmt.Sprintf("belongs to user %d in a directory to which others may write", s.Stat.Uid))
	default:
		return nil
	}
	return leadError(s.Dir, why)
}

// leadError is ErrUnsafe for what leads to a store.
func leadError(path, why string) error {
	return problem.Errorf("%w as root: %s, which leads to it, %s", ErrUnsafe, path, why).
		WithHint("name a store that only root's directories lead to, or find out who could have changed it; to trust it: chown root %[1]s and chmod go-w %[1]s", path)
}

// Missing returns the directories that the store has lost.
func (s *Store) Missing() []string {
	var missing []string
	for _, name := range directories {
		if _, err := os.Lstat(s.in(name)); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, s.in(name))
		}
	}
	return missing
}

// Create makes a store, or opens one that is there and completes it.
func Create(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, wrap("make store", dir, err)
	}
	top, err := openOrMake(dir)
	switch {
	case problem.KindOf(err) == problem.Store:
		return nil, err
	case err != nil:
		return nil, openError(dir, err)
	}
	defer unix.Close(top)
	return complete(dir, top)
}

// MayMake returns an error where a store that a user has named would be made in a directory that
// is not there, which is a mistyped path more often than not.
func MayMake(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return wrap("make store", dir, err)
	}
	parent := filepath.Dir(dir)
	if _, err := os.Stat(parent); !errors.Is(err, fs.ErrNotExist) {
		return nil // opening it says what else is wrong
	}
	return Failed("make store", dir, fmt.Errorf("%s does not exist", parent)).
		WithHint("correct --store, or make the directory first: mkdir -p %s", parent)
}

// CreateOwn is Create in a directory in which other users may make files too, as in
// TMPDIR: dir itself is the caller's own, with mode 0700, and no link, else ErrUnsafe. The
// directory above is there.
func CreateOwn(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, wrap("make store", dir, err)
	}
	above, err := openChecked(filepath.Dir(dir))
	if err != nil {
		return nil, openError(dir, err)
	}
	defer unix.Close(above)
	if err := makeDirectoryAt(above, filepath.Base(dir), 0o700); err != nil {
		return nil, wrap("make store", dir, err)
	}
	top, err := openDirectory(above, filepath.Base(dir), unix.O_PATH|unix.O_NOFOLLOW)
	if errors.Is(err, syscall.ENOTDIR) { // what a link is too (open(2), O_PATH)
		err = errNotDirectory
	}
	if err != nil {
		return nil, openError(dir, err)
	}
	defer unix.Close(top)
	var st unix.Stat_t
	if err := unix.Fstat(top, &st); err != nil {
		return nil, openError(dir, err)
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o7777 != 0o700 {
		return nil, openError(dir, fmt.Errorf("%w: it is not yours alone (user %d, mode %04o)", ErrUnsafe, st.Uid, st.Mode&0o7777))
	}
	return complete(dir, top)
}

// complete makes what is missing in the store whose directory is open as top.
func complete(dir string, top int) (*Store, error) {
	st, err := checkDirectory(top, "", dir) // before anything is put into it
	if err != nil {
		return nil, openError(dir, err)
	}
	if noExec(top) {
		return nil, wrap("use store", dir, ErrNoExec)
	}
	for _, name := range directories {
		if err := makeDirectoryAt(top, name, directoryMode(name, fs.FileMode(st.Mode&0o777))); err != nil {
			return nil, wrap("make store", dir, err)
		}
	}
	s, err := open(dir, top)
	if err == nil {
		s.HideNames()
	}
	return s, err
}

// directoryMode is the mode of a directory in a store whose own mode is top.
func directoryMode(name string, top fs.FileMode) fs.FileMode {
	switch name {
	case stagingName:
		return 0o700 // what is not published is nobody else's business
	case indexName, launcherName:
		return top &^ 0o044 // starts look names up, and nobody else has to list them
	}
	return top
}

// inodeDirectories are named by device and inode in what they hold.
var inodeDirectories = []string{indexName, launcherName}

// HideNames takes from others the right to list index/ and launchers/, which stores of
// older versions give them. It is for the store's owner; NamesShown tells where it failed.
func (s *Store) HideNames() {
	for _, name := range inodeDirectories {
		fd, err := openDirectory(unix.AT_FDCWD, s.in(name), unix.O_RDONLY|unix.O_NOFOLLOW)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&0o044 != 0 {
			_ = unix.Fchmod(fd, st.Mode&0o7777&^0o044)
		}
		unix.Close(fd)
	}
}

// NamesShown returns those of index/ and launchers/ that users other than the owner can list, and
// so see the device and inode of every program.
func (s *Store) NamesShown() (paths []string) {
	for _, name := range inodeDirectories {
		if info, err := os.Lstat(s.in(name)); err == nil && s.Shared() && info.Mode()&0o044 != 0 {
			paths = append(paths, s.in(name))
		}
	}
	return paths
}

// noExec reports whether the file system of an open directory is mounted so that nothing
// in it can be executed. One that does not tell is none.
func noExec(fd int) bool {
	const stNoExec = 8 // include/linux/statfs.h, ST_NOEXEC
	var st syscall.Statfs_t
	err := eintr(func() error { return syscall.Fstatfs(fd, &st) })
	return err == nil && st.Flags&stNoExec != 0
}

// newStoreMode lets all users read what root made; a user's own store is for
// the user alone.
func newStoreMode() fs.FileMode {
	if os.Geteuid() == 0 {
		return 0o755
	}
	return 0o700
}

// Writable reports whether the caller may change the store.
func (s *Store) Writable() bool { return unix.Access(s.in(stagingName), unix.W_OK|unix.X_OK) == nil }

// Holds reports whether a path leads into the store.
func (s *Store) Holds(path string) bool {
	rest, err := filepath.Rel(s.dir, path)
	return err == nil && filepath.IsLocal(rest)
}

var (
	errNotDirectory = fmt.Errorf("%w: not a directory", ErrUnsafe)
	errHiddenOwner  = fmt.Errorf("%w: this user namespace does not show its owner", ErrUnsafe)
)

func openError(path string, err error) error {
	if lead := problem.Of(err); lead != nil { // which says where
		return Failed("open store", path, lead).WithHint("%s", lead.Hint)
	}
	p := Failed("open store", path, err)
	switch {
	case errors.Is(err, errNotDirectory):
		p.WithHint("move %s away, or name another store with --store", path)
	case errors.Is(err, errHiddenOwner):
		p.Hint = "run it outside: in the user namespace that `residentctl exec` makes for an ordinary user, root's files look like nobody's"
	case errors.Is(err, ErrUnsafe):
		p.WithHint("find out who could have changed it; to trust it: chown it to yourself or root and chmod go-w %s", path)
	case errors.Is(err, fs.ErrNotExist):
		p.Hint = "run `residentctl add PROGRAM` to make it"
	}
	return p
}

// checkDirectory looks at the owner and mode of a directory of a store: of the open directory
// top, or of what has that name in it, no link followed. Path is its path.
func checkDirectory(top int, name, path string) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := eintr(func() error { return unix.Fstatat(top, name, &st, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
		return nil, err
	}
	if launcher.ShownForRoot(path, st.Uid) {
		st.Uid = 0
	}
	return &st, distrust(&st, os.Geteuid())
}

// distrust says why what st describes cannot be trusted by the user euid. Where a
// file has an ACL, the group's bits are its mask (acl(5)), so an ACL that lets
// another user write shows there.
func distrust(st *unix.Stat_t, euid int) error {
	switch {
	case st.Mode&syscall.S_IFMT != syscall.S_IFDIR:
		return errNotDirectory
	case st.Uid != 0 && int(st.Uid) != euid:
		if linux.HidesOwner(st.Uid) {
			return errHiddenOwner // root or nobody, which the number does not tell
		}
		return fmt.Errorf("%w: it belongs to user %d, not to root or user %d", ErrUnsafe, st.Uid, euid)
	case st.Mode&0o022 != 0:
		return fmt.Errorf("%w: users other than its owner may write to it (mode %04o)", ErrUnsafe, st.Mode&0o7777)
	}
	return nil
}
