package intercept

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/store"
)

// A Tree is a command, with everything that it executes, in a mount namespace in which the
// dynamic linker is covered.
//
// Its methods execute the command in this process's place, or beside it. Where there is no
// namespace for it, it is executed normally. They return a *NormalError if Strict forbids
// that, and the error of execve(2) if the program cannot be executed.
type Tree struct {
	Program string   // the file to execute
	Argv    []string // the command line, as it was given
	Strict  bool     // do not execute the command normally

	// Store is the directory of the store that keeps the covered linker, which is made if
	// there is none; "" is the caller's default one.
	Store string
	// Stores are the directories of the stores in which images are looked for.
	Stores []string

	// Again is the command line that leads to BecomeInside in this program, for a namespace
	// that another program makes. The command is at its end.
	Again func(mounts []string, ignoreChild bool) ([]string, error)
	// Normally is called before the command is executed normally.
	Normally func(why error)
	// Differs is called before the first command in a user namespace, for each store;
	// nil if that need not be known.
	Differs func()
}

// A NormalError says why the command would have been executed normally.
type NormalError struct{ Why error }

func (e *NormalError) Error() string { return e.Why.Error() }
func (e *NormalError) Unwrap() error { return e.Why }

// ErrWithin says that the command changes nothing for a command tree around it.
var ErrWithin = errors.New("it is inside another exec")

// Become executes the command in this process's place. It returns only with an error.
func (t *Tree) Become() error {
	known, why := t.uncovered(false)
	if !known {
		runtime.LockOSThread() // whose namespace it is about
		why = t.cover()
	}
	return t.execute(why)
}

// BecomeInside is Become in the namespace that was made for the command, given what Again
// was given.
func (t *Tree) BecomeInside(mounts []string, ignoreChild bool) error {
	runtime.LockOSThread()
	if ignoreChild {
		ignore(int(syscall.SIGCHLD))
	}
	return t.execute(mountInside(mounts))
}

// BecomeNormally executes the command normally, for a reason that is the caller's.
func (t *Tree) BecomeNormally(why error) error { return t.execute(why) }

// execute executes the command, normally if there is a reason why.
func (t *Tree) execute(why error) error {
	// Not before: cover waits for a child, whose signal may be one to ignore.
	RestoreSignals()
	switch {
	case why == nil:
	case t.Strict:
		return &NormalError{why}
	default:
		t.Normally(why)
	}
	return Execute(t.Program, t.Argv)
}

// uncovered reports whether it is known before anything is made that the command is
// executed without a cover of its own, and why; nil where the one around it will do.
func (t *Tree) uncovered(auto bool) (known bool, why error) {
	if why := refuse(t.Program); why != nil {
		return true, why
	}
	around := Around()
	if around == nil {
		return false, nil
	}
	return true, t.within(around, auto)
}

// within says why the tree does not come true inside another one; nil if it does. The
// cover stays the outer tree's: another would be made of that one and not of the dynamic
// linker.
func (t *Tree) within(around *Within, auto bool) error {
	if around.Has(t.Stores) && (!auto || around.Auto) && (t.Store == "" || exists(t.Store)) {
		return nil
	}
	stores := "no store"
	if len(around.Stores) > 0 {
		stores = strings.Join(around.Stores, " and ")
	}
	return problem.Errorf("exec changes nothing for %s: %w, which looks for images in %s", t.Argv[0], ErrWithin, stores).
		WithHint("give --store and --auto to the outer exec")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// packageManagers replace files of the system, among them the dynamic linker, which
// cannot be replaced where it is covered.
var packageManagers = []string{
	"apk", "apt", "apt-get", "aptitude", "dnf", "dnf5", "dpkg", "microdnf", "nala",
	"pacman", "rpm", "unattended-upgrade", "unattended-upgrades", "yum", "zypper",
}

// refuse says why a program itself is executed without the cover.
func refuse(program string) error {
	if os.Geteuid() != 0 {
		if gainsPrivileges(program) {
			return errors.New("it is setuid, setgid or has capabilities, and would gain nothing in a user namespace")
		}
		return nil
	}
	// A package manager would fail at the C library, with others of its packages half
	// installed. One that is executed further down is found by the kernel only (EBUSY,
	// or EXDEV for a link), and leaves the C library as it was.
	if slices.Contains(packageManagers, filepath.Base(program)) {
		return errors.New("a package manager must be able to replace the C library, which is busy while it is covered")
	}
	return nil
}

// gainsPrivileges reports whether the kernel gives the program more than its caller
// has.
func gainsPrivileges(program string) bool {
	info, err := os.Stat(program)
	if err != nil {
		return false
	}
	if info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
		return true
	}
	size, err := unix.Getxattr(program, "security.capability", nil)
	return err == nil && size > 0
}

// cover makes the namespace and the mounts. For an ordinary user it returns only with
// an error: unshare(1) executes residentctl again.
func (t *Tree) cover() error {
	user := os.Geteuid() != 0
	s, err := t.coverStore()
	if err != nil {
		return err
	}
	c, err := Prepare(s, Options{Stores: t.Stores, InUserNamespace: user})
	if err != nil {
		return err
	}
	if user {
		return t.becomeInUserNamespace(s, c)
	}
	if err := Unshare(); err != nil {
		return err
	}
	return c.Mount()
}

// coverStore opens the store that keeps the covered linker, and makes it if there is none.
// An ordinary user who must not write to it gets another one for that.
func (t *Tree) coverStore() (s *store.Store, err error) {
	dir, err := t.storeDir()
	if err == nil {
		s, err = store.Create(dir)
	}
	if os.Geteuid() != 0 && (err != nil || !s.Writable()) {
		return anotherStore(s, err)
	}
	return s, err
}

// storeDir is the directory of the store that the command was given, or of the default one.
func (t *Tree) storeDir() (string, error) {
	if t.Store != "" {
		return t.Store, nil
	}
	return store.Default()
}

// anotherStore is where an ordinary user keeps the covered linker who must not write
// to that of the images, or has none for want of a home directory: one of his own, made
// if there is none. If there cannot be any it returns what it was given.
func anotherStore(s *store.Store, err error) (*store.Store, error) {
	var others []string
	if dir, err := store.UserDir(); err == nil {
		others = append(others, dir)
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		others = append(others, filepath.Join(dir, "residentctl"))
	}
	for _, dir := range others {
		if other, err := store.Create(dir); err == nil && other.Writable() {
			return other, nil
		}
	}
	// Where others may make files too, and have this name lead elsewhere.
	other, ownErr := store.CreateOwn(filepath.Join(os.TempDir(), fmt.Sprintf("residentctl-%d", os.Geteuid())))
	switch {
	case ownErr == nil && other.Writable():
		return other, nil
	case errors.Is(ownErr, store.ErrUnsafe):
		err = ownErr
	}
	return s, err
}

// becomeInUserNamespace executes what makes a user namespace and runs this program again
// in it.
func (t *Tree) becomeInUserNamespace(s *store.Store, c *Cover) error {
	argv, err := t.userLine(s, c)
	if err != nil {
		return err
	}
	RestoreSignals()
	return fmt.Errorf("execute %s: %w", argv[0], syscall.Exec(argv[0], argv, Environment()))
}

// userLine is the command line which makes a user namespace and runs this program again
// in it.
func (t *Tree) userLine(s *store.Store, c *Cover) ([]string, error) {
	namespace, err := NamespaceCommand()
	if err != nil {
		return nil, err
	}
	again, err := t.again(c)
	if err != nil {
		return nil, err
	}
	// Without a directory of his own to note it in, a user is told each time.
	if t.Differs != nil && s.FirstExec() {
		t.Differs()
	}
	return append(namespace, again...), nil
}

// again is the command line of this program for a namespace that was made for the command.
func (t *Tree) again(c *Cover) ([]string, error) {
	// unshare(1) makes it the default, and so does what waits for a child.
	ignored, _ := inheritedSignals()
	return t.Again(c.words(), slices.Contains(ignored, int(syscall.SIGCHLD)))
}
