package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/store"
)

// newExecCommand runs a command tree in which each exec is looked at by the
// launcher.
func newExecCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "exec",
		Usage:     "run a command; whatever it executes starts from its image if it is resident",
		ArgsUsage: "[--] COMMAND [ARG…]",
		Description: `Becomes the command, in a mount namespace in which the dynamic linker is
covered by a copy of itself that looks for images first. Everything else runs
as always, and no file of the system changes. Options end at the command.

For root that is all: capabilities and groups stay, setuid programs work. An
ordinary user gets a user namespace with just the own user and group ids, which
is said once, the first time. In it
 - programs that are setuid, setgid or have file capabilities gain nothing outside
   of it: su, sudo, passwd, ping, mount, newuidmap;
 - supplementary groups still open files, but id(1) calls them "nogroup", chgrp,
   newgrp and install -g to one fail (Invalid argument), and cp -p, tar and rsync
   leave the own group where they would have kept such a one;
 - files of all others, root's too, are shown as those of "nobody".
A COMMAND that is such a program is executed normally, with one line that says so.
Whoever has ambient capabilities (a service) would lose them there, so the
command is executed normally then.

A package manager cannot replace the C library inside: the covered file is busy.
So one that is the COMMAND itself is executed normally, if it is root's; one that
the command executes works, but for packages that bring a dynamic linker. dpkg
says "unable to make backup link of '…/ld-linux-x86-64.so.2' … Invalid cross-device
link" then, and leaves that package as it was: install it outside. What is
installed outside meanwhile, the C library too, is seen inside at once.

What copies the dynamic linker inside (an initramfs, an AppDir, a chroot that is
being filled) copies the covering one. That works as a linker anywhere, but is not
the file that the C library's package has: make such copies outside.

Programs that are linked with another dynamic linker than glibc's for x86-64
(musl, 32-bit), and static ones, start as always.

residentctl can be called inside. What has to link programs (add, enable, refresh,
verify, part of check) is refused to an ordinary user there: do it outside.

With --auto programs that the tree has executed normally for the third time (see
--after) are made resident meanwhile, in the store that add would use. Then
residentctl stays beside the command as its parent, and at the end says in one
line on standard error what that saved, and in one before it why nothing can be
made resident, if so (without CRIU, for example; with --strict that fails with 125
before the command); -q silences both. It counts what comes to the covered linker:
starts of programs that are linked with glibc, also those that could not be resident
(LD_PRELOAD), but not those that a shim, a launcher file, run or enable --system makes
from an image before. While a program is made resident its file cannot be written to
("Text file busy"). So those are left out that the command might write to: which the
caller may write, if they were changed, or anything was in their folder, since the
command began, or if they lie below the current folder. Run by root, --auto makes resident only
what root alone can change (see add), and the line counts what it refused.

Inside of another exec the images stay those of the outer one. One line says so if
other stores, or --auto, are asked for; with --strict that fails with 125.

Where the kernel does not allow it, the command is executed normally, with one
line on standard error that says why and what can be done.`,
		SkipFlagParsing: true, // parseExec does it: the command's options are not ours
		Flags:           startFlags(cmdExec),
		CustomHelpTemplate: cli.CommandHelpTemplate + exitStatusPart(exitRun, exitCannotRun, exitNotFound) +
			"   else the command's own\n",
		Action: func(c *cli.Context) error {
			o, err := parseExec(c.Args().Slice())
			if err != nil {
				return &runError{code: exitRun, what: err.Error(), hint: "see `residentctl help exec`"}
			}
			if o.help {
				return cli.ShowSubcommandHelp(c)
			}
			if o.store == "" {
				o.store = string(g.store)
			}
			return runExec(o, g.err)
		},
	}
}

// runExec becomes the command, or with --auto stays beside it. Without --auto it
// returns only if that cannot be.
func runExec(o startLine, stderr io.Writer) error {
	surviveBrokenPipe()
	command, err := findProgram(o.argv[0])
	if err != nil {
		return err
	}
	covered := refuseCommand(command)
	around := intercept.Around()
	switch {
	case o.inside != nil:
		restoreSignals() // and the goroutine stays on its thread, whose namespace it is about
		if o.ignoreChild {
			ignore(int(syscall.SIGCHLD))
		}
		covered = mountInside(o.inside)
	case covered != nil:
		restoreSignals()
	case around != nil:
		restoreSignals()
		if err := changesNothing(o, around); err != nil {
			if o.strict {
				return err
			}
			fmt.Fprintf(stderr, "residentctl: %s; %s\n", printable(err.what), err.hint)
		}
	case o.auto:
		started, err := runAuto(o, stderr)
		if started {
			return err
		}
		covered = err
		restoreSignals()
	default:
		runtime.LockOSThread() // whose namespace it is about
		covered = cover(o, stderr)
		// Not before: cover waits for a child, whose signal may be one to ignore.
		restoreSignals()
	}
	if covered != nil {
		hint := ""
		if hinter := interface{ Hint() string }(nil); errors.As(covered, &hinter) {
			hint = hinter.Hint()
		}
		if o.strict {
			return &runError{code: exitRun, what: covered.Error(), hint: join(hint, "without --strict the command is executed normally")}
		}
		fmt.Fprintf(stderr, "residentctl: no resident starts in %s: %s\n", printable(o.argv[0]), printable(join(covered.Error(), hint)))
	}
	return cannotRun(command, execProgram(command, o.argv))
}

// changesNothing says what of the command line does not come true inside of a command
// tree; nil if all of it does. The cover stays the outer tree's: another would be made
// of that one and not of the dynamic linker.
func changesNothing(o startLine, around *intercept.Within) *runError {
	dirs, err := storesToSearch(o.store)
	if err == nil && around.Has(counting(dirs)) && (!o.auto || around.Auto) && (o.store == "" || exists(o.store)) {
		return nil
	}
	stores := "in no store"
	if len(around.Stores) > 0 {
		stores = "in " + strings.Join(around.Stores, " and ")
	}
	return &runError{
		code: exitRun,
		what: fmt.Sprintf("exec changes nothing for %s: it is inside of another exec, which looks for images %s", o.argv[0], stores),
		hint: "give --store and --auto to that one",
	}
}

// join makes one line of what is said and what more there is to say.
func join(first, second string) string {
	if first == "" || second == "" {
		return first + second
	}
	return first + "; " + second
}

// packageManagers replace files of the system, among them the dynamic linker, which
// cannot be replaced where it is covered.
var packageManagers = []string{
	"apk", "apt", "apt-get", "aptitude", "dnf", "dnf5", "dpkg", "microdnf", "nala",
	"pacman", "rpm", "unattended-upgrade", "unattended-upgrades", "yum", "zypper",
}

// refuseCommand says why a command itself is executed without the cover.
func refuseCommand(command string) error {
	if os.Geteuid() != 0 {
		if gainsPrivileges(command) {
			return &runError{what: "it is setuid, setgid or has capabilities, and would gain nothing in a user namespace"}
		}
		return nil
	}
	// A package manager would fail at the C library, with others of its packages half
	// installed. One that is executed further down is found by the kernel only (EBUSY,
	// or EXDEV for a link), and leaves the C library as it was.
	if slices.Contains(packageManagers, filepath.Base(command)) {
		return &runError{what: "a package manager has to be able to replace the C library, which is busy where it is covered"}
	}
	return nil
}

// gainsPrivileges tells whether the kernel gives the program more than its caller
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

// cover makes the namespace and the mounts. For an ordinary user it does not
// return but with an error: unshare(1) executes residentctl again.
func cover(o startLine, stderr io.Writer) error {
	s, stores, err := execStores(o)
	if os.Geteuid() != 0 && (err != nil || !s.Writable()) {
		s, err = anotherStore(s, err)
	}
	if err != nil {
		return err
	}
	c, err := intercept.Prepare(s, intercept.Options{Stores: stores, InUserNamespace: os.Geteuid() != 0})
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		argv, err := insideUser(s, c, o, stderr)
		if err != nil {
			return err
		}
		restoreSignals()
		return fmt.Errorf("execute %s: %w", argv[0], syscall.Exec(argv[0], argv, environment()))
	}
	if err := intercept.Unshare(); err != nil {
		return err
	}
	return c.Mount()
}

// anotherStore is where an ordinary user keeps the covered linker who may not write
// to that of the images, or has none for want of a home folder: one of his own, made
// if there is none. If there cannot be any it gives back what it was given.
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

// execStores are the store that exec keeps the covered linker in, made if there
// is none, and the folders of the stores to look for images in, which are there also
// when the first cannot be had.
func execStores(o startLine) (*store.Store, []string, error) {
	stores, err := storesToSearch(o.store)
	if err != nil {
		return nil, nil, err
	}
	stores = counting(stores)
	dir := o.store
	if dir == "" {
		if dir, err = store.Default(); err != nil {
			return nil, stores, err
		}
	}
	s, err := store.Create(dir)
	return s, stores, err
}

// insideUser is the command line which makes a user namespace and runs exec in
// it.
func insideUser(s *store.Store, c *intercept.Cover, o startLine, stderr io.Writer) ([]string, error) {
	namespace, err := intercept.NamespaceCommand()
	if err != nil {
		return nil, err
	}
	// unshare(1) makes it the default.
	ignored, _, _ := inheritedSignals()
	o.ignoreChild = slices.Contains(ignored, int(syscall.SIGCHLD))
	inside, err := inside(c, o)
	if err != nil {
		return nil, err
	}
	// Whoever has no folder of his own to note it in is told each time.
	if !o.quiet && s.FirstExec() {
		fmt.Fprintf(stderr, "residentctl: in the user namespace that exec makes %s (said once; see `residentctl help exec`)\n", intercept.Differs)
	}
	return append(namespace, inside...), nil
}

// inside is the command line of exec where the namespace is made already.
func inside(c *intercept.Cover, o startLine) ([]string, error) {
	self, err := os.Executable()
	args := []string{self, "exec"}
	if o.strict {
		args = append(args, "--strict")
	}
	if o.ignoreChild {
		args = append(args, "--"+ignoreChildOption)
	}
	for _, m := range c.Mounts {
		args = append(args, "--"+insideOption, insideFile(m.From), "--"+insideOption, insideFile(m.To))
	}
	return append(append(args, "--"), o.argv...), err
}

// insideFile is how a file is named behind insideOption: by device and inode, which are
// the same in every namespace, and by its path.
func insideFile(f store.File) string { return fmt.Sprintf("%d-%d:%s", f.Dev, f.Ino, f.Path) }

// parseInsideFile undoes insideFile.
func parseInsideFile(s string) (f store.File, err error) {
	id, path, _ := strings.Cut(s, ":")
	f.Path = path
	if _, err = fmt.Sscanf(id, "%d-%d", &f.Dev, &f.Ino); err != nil || insideFile(f) != s || !filepath.IsAbs(path) {
		return f, fmt.Errorf("--%s wants DEVICE-INODE:PATH, not %q", insideOption, s)
	}
	return f, nil
}

// mountInside makes the mounts in a namespace that is there, and gives up the
// capabilities that an ordinary user got for it.
func mountInside(files []string) error {
	c, err := parseInside(files)
	if err == nil {
		err = c.Mount()
	}
	if os.Geteuid() == 0 {
		return err
	}
	// Also where the command is executed without the mounts.
	return errors.Join(err, intercept.DropCapabilities())
}

func parseInside(files []string) (*intercept.Cover, error) {
	c := &intercept.Cover{}
	for pair := range slices.Chunk(files, 2) {
		if len(pair) != 2 {
			return nil, fmt.Errorf("--%s wants pairs", insideOption)
		}
		from, err := parseInsideFile(pair[0])
		if err != nil {
			return nil, err
		}
		to, err := parseInsideFile(pair[1])
		if err != nil {
			return nil, err
		}
		c.Mounts = append(c.Mounts, intercept.Mount{From: from, To: to})
	}
	return c, nil
}
