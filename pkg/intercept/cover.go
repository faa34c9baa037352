package intercept

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/launcher"
	"github.com/residentctl/residentctl/pkg/store"
)

// ErrCovered says that the dynamic linker is covered already: this is inside of
// a command tree that runs so.
var ErrCovered = launcher.ErrCovered

// Within is the command tree that this process belongs to, if it is one whose
// dynamic linker is covered.
type Within struct {
	Stores []string // in which it looks for images
	Auto   bool     // its starts are noted
}

// Around returns the command tree around this process, or nil.
func Around() *Within {
	covered := launcher.Inside()
	if covered == nil {
		return nil
	}
	o := covered.Options()
	w := &Within{Auto: o.Log != ""}
	for _, s := range o.Stores {
		w.Stores = append(w.Stores, s.Dir)
	}
	return w
}

// Has reports whether the tree looks for images in all of these directories that are
// stores.
func (w *Within) Has(dirs []string) bool {
	return !slices.ContainsFunc(dirs, func(dir string) bool {
		asked, err := os.Stat(dir)
		return err == nil && !slices.ContainsFunc(w.Stores, func(other string) bool {
			there, err := os.Stat(other)
			return err == nil && os.SameFile(asked, there)
		})
	})
}

// Cover is what has to be mounted, in this order.
type Cover struct {
	Mounts []Mount
}

// Mount is a file that is to be seen in place of another one. Which files those are
// was fixed when they were read or written: what has taken their place by the time of the
// mount is not mounted.
type Mount struct {
	From, To store.File
}

// FaultMount is the fault point (store.Fault) between the writing of what is mounted and
// the mounts.
const FaultMount = "before-mount"

// Options of Prepare.
type Options struct {
	// Stores are the directories of the stores to look for images in. One that is
	// not there is left out.
	Stores []string
	// InUserNamespace: root's files will be shown as the overflow uid's there,
	// so a store of root's must be his alone.
	InUserNamespace bool
	// Session is a directory for what belongs to this command tree only: with it
	// starts are noted in its file LogName, and the covered linker, which
	// names that file, is there too.
	Session *store.Staging
}

// LogName is the name of the file in which starts are noted.
const LogName = "log"

// Outdated returns the covered linkers in a store that no command would be started with
// any more: the dynamic linker, or residentctl, has been replaced.
func Outdated(s *store.Store) ([]string, error) {
	path := launcher.LinkerPath
	if c := launcher.Inside(); c != nil {
		if _, err := c.Linker(); err != nil {
			return nil, nil // it cannot be told
		}
		path = c.Original
	}
	linker, err := os.ReadFile(path)
	if err != nil {
		return nil, nil // none to cover, on this machine
	}
	paths, err := s.Execs()
	if err != nil {
		return nil, err
	}
	var outdated []string
	for _, path := range paths {
		covered, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return outdated, err
		}
		fits, err := launcher.CoverIsOf(covered, linker)
		if err != nil || !fits {
			outdated = append(outdated, path)
		}
	}
	return outdated, nil
}

// Prepare writes the covered linker to the store.
func Prepare(s *store.Store, opts Options) (*Cover, error) {
	o := launcher.CoverOptions{}
	var err error
	if o.Stores, err = LookIn(opts.Stores); err != nil {
		return nil, err
	}
	if opts.InUserNamespace {
		if o.Root, err = linux.OverflowUID(); err != nil {
			return nil, err
		}
	}
	linker, err := filepath.EvalSymlinks(launcher.LinkerPath)
	if err != nil {
		return nil, fmt.Errorf("find the dynamic linker: %w", err)
	}
	raw, own, err := readFile(linker)
	if err != nil {
		return nil, fmt.Errorf("read the dynamic linker: %w", err)
	}
	original, err := s.ExecOriginal()
	if err != nil {
		return nil, err
	}
	o.Original = original.Path
	if opts.Session != nil {
		dir, err := filepath.EvalSymlinks(opts.Session.Dir) // the launcher follows no links to it
		if err != nil {
			return nil, err
		}
		o.Log = filepath.Join(dir, LogName)
	}
	covered, err := launcher.Cover(raw, o)
	if err != nil {
		return nil, fmt.Errorf("cover %s: %w", linker, err)
	}
	var cover store.File
	if opts.Session != nil {
		cover, err = opts.Session.WriteFile(filepath.Base(linker), covered, 0o755)
	} else {
		cover, err = s.WriteExec(covered)
	}
	if err != nil {
		return nil, err
	}
	return &Cover{Mounts: []Mount{{own, original}, {cover, own}}}, nil
}

// readFile reads a file, and says which one that was.
func readFile(path string) ([]byte, store.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, store.File{}, err
	}
	defer f.Close()
	id, err := linux.FstatID(int(f.Fd()))
	if err != nil {
		return nil, store.File{}, err
	}
	raw, err := io.ReadAll(f)
	return raw, store.File{Path: path, Inode: id.Inode()}, err
}

// Unshare moves the calling thread, which must be locked and is to execute the
// command, into a mount namespace of its own. What is mounted outside later
// still appears in it; nothing leaks out.
func Unshare() error {
	err := unix.Unshare(unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, "")
	}
	if err != nil {
		return NoMountNamespace(err)
	}
	return nil
}

// Mount puts the cover in place, in the calling thread's mount namespace.
func (c *Cover) Mount() error {
	store.Fault(FaultMount)
	for _, m := range c.Mounts {
		if err := m.mount(); err != nil {
			return fmt.Errorf("mount %s over %s: %w", m.From.Path, m.To.Path, err)
		}
	}
	return nil
}

// mount makes the mount of descriptors and not of paths. They are opened here, since what
// is mounted has to be in this mount namespace (fs/namespace.c, do_loopback, check_mnt).
func (m Mount) mount() error {
	from, err := openSame(m.From)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	to, err := openSame(m.To)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", from), fmt.Sprintf("/proc/self/fd/%d", to), "", unix.MS_BIND, "")
}

// openSame opens a file, for its path only, if that is still the same file.
func openSame(file store.File) (fd int, err error) {
	err = linux.EINTR(func() (err error) {
		fd, err = unix.Open(file.Path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, store.Failed("open", file.Path, err)
	}
	id, err := linux.FstatID(fd)
	if err == nil && id.Inode() != file.Inode {
		err = store.ErrReplaced
	}
	if err != nil {
		unix.Close(fd)
		return -1, store.Failed("open", file.Path, err)
	}
	return fd, nil
}

// Uncover moves the calling thread, which must be locked, into a mount namespace in
// which the dynamic linker is not covered, as outside the command tree that it
// belongs to. Only root can: what came from the namespace of a user with more
// rights cannot be unmounted (mount_namespaces(7), "Restrictions on mount
// namespaces").
func Uncover() error {
	linker, err := filepath.EvalSymlinks(launcher.LinkerPath)
	if err != nil {
		return err
	}
	if err := Unshare(); err != nil {
		return err
	}
	return unix.Unmount(linker, unix.MNT_DETACH)
}

// DropCapabilities gives up every capability of the calling thread, also for
// what it executes.
func DropCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop ambient capabilities: %w", err)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&head, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}
