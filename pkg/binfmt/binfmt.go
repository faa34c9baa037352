// Package binfmt has the kernel start programs through their launcher files. It keeps the
// entries of binfmt_misc (the kernel's Documentation/admin-guide/binfmt-misc.rst;
// fs/binfmt_misc.c), and the lines in binfmt.d from which systemd-binfmt(8) makes entries
// at each boot.
//
// The kernel identifies a program by its first bytes only. The launcher finds out which
// file it really is, and starts other programs with the same first bytes normally.
package binfmt

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

// Dir is where the file system binfmt_misc is mounted, by kernel and systemd.
const Dir = "/proc/sys/fs/binfmt_misc"

// BootDir holds what systemd-binfmt registers at boot (binfmt.d(5)).
const BootDir = "/etc/binfmt.d"

// MagicLen is how many bytes of a file the kernel looks at (include/uapi/linux/
// binfmts.h, BINPRM_BUF_SIZE).
const MagicLen = 256

// prefix begins the names of all entries that are residentctl's.
const prefix = "residentctl-"

// Flags of the entries: F, the kernel opens the interpreter once, so that it is
// the same in every root and mount namespace; P, argv[0] is passed on; O, so is a
// descriptor of the program; and C, its credentials are the program's, without
// which a setuid program whose first bytes are the same would lose them.
const flags = "FPOC"

// Errors of machines where programs cannot be enabled this way.
var (
	ErrNotMounted = errors.New("binfmt_misc is not mounted at " + Dir)
	ErrTooOld     = errors.New("before Linux 5.15, a program that /proc/self/exe was set to can be written to while it runs")
)

// magicOfFS is BINFMTFS_MAGIC (include/uapi/linux/magic.h).
const magicOfFS = 0x42494e4d

// Mounted reports whether the file system is there.
func Mounted() bool {
	var st unix.Statfs_t
	err := linux.EINTR(func() error { return unix.Statfs(Dir, &st) })
	return err == nil && st.Type == magicOfFS
}

// Supported returns why the kernel cannot do what the launcher needs, or nil: it tells an
// interpreter whether argv[0] was passed on (AT_FLAGS, since Linux 5.12), and denies
// writes to the file that prctl(PR_SET_MM_EXE_FILE) has set as the process's own
// (kernel/fork.c, replace_mm_exe_file, since 5.15).
func Supported() error {
	release, err := linux.Kernel()
	if err != nil {
		return nil
	}
	return supported(release)
}

func supported(release string) error {
	if olderThan(release, 5, 15) {
		return problem.Errorf("use binfmt_misc of Linux %s: %w", release, ErrTooOld).
			WithHint("enable it with a shim instead (without --system)")
	}
	return nil
}

// Mount sees to it that the file system is there.
func Mount() error {
	if Mounted() {
		return nil
	}
	if err := unix.Mount("binfmt_misc", Dir, "binfmt_misc", 0, ""); err != nil {
		return problem.Errorf("mount binfmt_misc at "+Dir+": %w", err).
			WithHint("enable it with a shim instead (without --system): the container may lack the right, or the kernel the feature (CONFIG_BINFMT_MISC)")
	}
	return nil
}

// A tree is a path by which the file system is reached.
type tree string

// initialUserNamespace is the inode of the machine's own (include/uapi/linux/nsfs.h,
// USER_NS_INIT_INO).
const initialUserNamespace = 0xEFFFFFFD

// Instance names the binfmt_misc that an entry is made in: "" is the machine's own, and
// so it is in every boot; another one is a user namespace's (since Linux 6.7,
// fs/binfmt_misc.c, bm_fill_super), by the inode of that and the boot in which it is, for
// instance "4026532448-0190a1c5-…". A user namespace that ends, as a container's when it
// is started again, takes its own with it.
func Instance() (string, error) {
	if release, err := linux.Kernel(); err == nil && olderThan(release, 6, 7) {
		return "", nil // all have the machine's
	}
	id, err := linux.StatID("/proc/self/ns/user")
	if err != nil {
		return "", problem.Errorf("find out whose binfmt_misc this is: %w", err).WithHint("check that /proc is mounted")
	}
	if id.Ino == initialUserNamespace {
		return "", nil
	}
	boot, err := linux.BootID()
	return fmt.Sprintf("%d-%s", id.Ino, boot), err
}

// Ended reports whether an instance, as Instance names it, was one of an earlier boot.
func Ended(instance string) bool {
	boot, err := linux.BootID()
	return err == nil && instance != "" && !strings.HasSuffix(instance, "-"+boot)
}

// reach returns it where it is mounted, and elsewhere a mount that no other process sees:
// entries count whether it is mounted or not. In another user namespace than the
// machine's the first mount would make a new binfmt_misc, without the machine's
// entries (since Linux 6.7), and hide those from all processes there: ErrNotMounted.
func reach() (t tree, done func(), err error) {
	if Mounted() {
		return Dir, func() {}, nil
	}
	if id, err := linux.StatID("/proc/self/ns/user"); err != nil || id.Ino != initialUserNamespace {
		return "", nil, ErrNotMounted
	}
	fs, err := unix.Fsopen("binfmt_misc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", nil, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return "", nil, err
	}
	root, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return "", nil, err
	}
	return tree(fmt.Sprintf("/proc/self/fd/%d", root)), func() { unix.Close(root) }, nil
}

func olderThan(release string, major, minor int) bool {
	first, rest, _ := strings.Cut(release, ".")
	second, _, _ := strings.Cut(rest, ".")
	if i := strings.IndexFunc(second, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		second = second[:i]
	}
	a, err1 := strconv.Atoi(first)
	b, err2 := strconv.Atoi(second)
	return err1 == nil && err2 == nil && (a < major || a == major && b < minor)
}

// Magic returns the bytes by which the kernel will know a program.
func Magic(program string) ([]byte, error) {
	f, err := os.Open(program)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	magic := make([]byte, MagicLen)
	if _, err := io.ReadFull(f, magic); err != nil {
		return nil, fmt.Errorf("read the first %d bytes of %s: %w", MagicLen, program, err)
	}
	return magic, nil
}

// Entry is one of residentctl's in the kernel, or one for the next boot.
type Entry struct {
	Path        string      // its own file
	Binary      linux.Inode // of the program that it was made for
	Interpreter string      // the launcher file, "" if it has none
	Magic       []byte
	Enabled     bool
}

func name(b linux.Inode) string { return prefix + b.String() }

// binaryOf undoes name.
func binaryOf(s string) (b linux.Inode, ok bool) {
	s, isOurs := strings.CutPrefix(s, prefix)
	b, ok = linux.ParseInode(s)
	return b, ok && isOurs
}

// line is what the kernel's register file and binfmt.d take.
func line(b linux.Inode, magic []byte, interpreter string) (string, error) {
	const delimiters = "|:,!%&@~^" // the first character delimits; '#' and ';' would begin a comment of binfmt.d
	const longest = 1920           // fs/binfmt_misc.c, MAX_REGISTER_LENGTH
	if !filepath.IsAbs(interpreter) || strings.ContainsAny(interpreter, "\n\x00") {
		return "", fmt.Errorf("%q cannot be an interpreter's path", interpreter)
	}
	for _, d := range delimiters {
		if strings.ContainsRune(interpreter, d) {
			continue
		}
		var escaped strings.Builder
		for _, c := range magic {
			fmt.Fprintf(&escaped, `\x%02x`, c)
		}
		s := strings.Join([]string{"", name(b), "M", "", escaped.String(), "", interpreter, flags}, string(d))
		if len(s) > longest {
			return "", fmt.Errorf("the path %s is too long for an interpreter's", interpreter)
		}
		return s, nil
	}
	return "", fmt.Errorf("%q cannot be an interpreter's path", interpreter)
}

// Register makes the kernel start files that begin with magic through the
// interpreter, in place of what it knew for this program.
func Register(b linux.Inode, magic []byte, interpreter string) error {
	doing := "register " + interpreter + " with binfmt_misc"
	s, err := line(b, magic, interpreter)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if err := Remove(b); err != nil {
		return err
	}
	if err := tree(Dir).write("register", s); err != nil {
		return failed(doing, err)
	}
	return nil
}

var hints = problem.Hints{
	{fs.ErrPermission, "run it as root of the machine, not of a container"},
	{fs.ErrNotExist, "mount it: mount -t binfmt_misc binfmt_misc " + Dir},
}

// failed says what was being done with the kernel's entries.
func failed(doing string, err error) error {
	return &problem.Problem{Err: fmt.Errorf("%s: %w", doing, err), Hint: hints.For(err)}
}

func (t tree) write(file, s string) error {
	f, err := os.OpenFile(filepath.Join(string(t), file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(s)
	return errors.Join(err, f.Close())
}

// Remove makes the kernel forget a program. That it does not know it is no error. An
// entry counts although the file system is not mounted, so it is mounted for that.
func Remove(b linux.Inode) error {
	if err := Mount(); errors.Is(err, unix.ENODEV) {
		return nil // this kernel has none
	} else if err != nil {
		return err
	}
	err := tree(Dir).write(name(b), "-1")
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return failed("remove "+name(b)+" from binfmt_misc", err)
}

// Entries returns residentctl's in the kernel. Where the file system is not mounted the
// error is ErrNotMounted: there may be some.
func Entries() ([]Entry, error) {
	if !Mounted() {
		return nil, ErrNotMounted
	}
	return tree(Dir).entries()
}

func (t tree) entries() ([]Entry, error) {
	on, err := os.ReadFile(filepath.Join(string(t), "status"))
	if err != nil {
		return nil, err
	}
	var all []Entry
	err = t.each(true, func(path string, text []byte) error {
		e, err := parse(text)
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		e.Path = path
		e.Binary, _ = binaryOf(filepath.Base(path))
		e.Enabled = e.Enabled && bytes.HasPrefix(on, []byte("enabled"))
		all = append(all, e)
		return nil
	})
	return all, err
}

// Interpreters returns those of other entries than residentctl's.
func Interpreters() ([]string, error) {
	var all []string
	err := tree(Dir).each(false, func(_ string, text []byte) error {
		for s := range strings.Lines(string(text)) {
			if path, ok := strings.CutPrefix(s, "interpreter "); ok {
				all = append(all, strings.TrimSuffix(path, "\n"))
			}
		}
		return nil
	})
	return all, err
}

// each passes the entries' files to take, residentctl's or all others.
func (t tree) each(ours bool, take func(path string, text []byte) error) error {
	files, err := os.ReadDir(string(t))
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, is := binaryOf(f.Name()); is != ours || f.Name() == "register" || f.Name() == "status" {
			continue
		}
		path := filepath.Join(string(t), f.Name())
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed just now
		}
		if err == nil {
			err = take(path, text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parse reads an entry's file (fs/binfmt_misc.c, entry_status).
func parse(text []byte) (e Entry, err error) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for first := true; lines.Scan(); first = false {
		key, value, _ := strings.Cut(lines.Text(), " ")
		switch {
		case first:
			e.Enabled = key == "enabled"
		case key == "interpreter":
			e.Interpreter = value
		case key == "magic":
			if e.Magic, err = hex.DecodeString(value); err != nil {
				return e, err
			}
		}
	}
	if e.Interpreter == "" || len(e.Magic) == 0 {
		return e, errors.New("it is not an entry with an interpreter and a magic")
	}
	return e, lines.Err()
}

// Aside takes the entries that fit a program, or without its first bytes all, out of
// the way, so that an exec of it is the kernel's own, until back is called. Others
// who do so meanwhile wait, as long as ctx lets them. A process that is killed in
// between leaves them disabled: programs start as if they had none.
func Aside(ctx context.Context, magic []byte) (back func(), err error) {
	nothing := func() {}
	t, done, err := reach()
	if err != nil {
		return nothing, nil // this kernel has none, or it is not for us: the exec will show it
	}
	entries, err := t.fitting(magic)
	if err != nil || len(entries) == 0 {
		done()
		return nothing, err
	}
	unlock, err := t.lock(ctx)
	if err != nil {
		done()
		return nothing, err
	}
	var disabled []Entry
	back = func() {
		for _, e := range disabled {
			_ = t.write(name(e.Binary), "1") // it may have been removed
		}
		unlock()
		done()
	}
	// Only what is enabled now is enabled again.
	if entries, err = t.fitting(magic); err != nil {
		back()
		return nothing, err
	}
	for _, e := range entries {
		if !e.Enabled {
			continue
		}
		if err := t.write(name(e.Binary), "0"); err != nil {
			back()
			return nothing, failed("take "+name(e.Binary)+" out of binfmt_misc for a while", err)
		}
		disabled = append(disabled, e)
	}
	return back, nil
}

// fitting are the entries that fit a program, or without its first bytes all.
func (t tree) fitting(magic []byte) ([]Entry, error) {
	entries, err := t.entries()
	return slices.DeleteFunc(entries, func(e Entry) bool { return magic != nil && !bytes.HasPrefix(magic, e.Magic) }), err
}

// lock waits for the lock of Aside, until ctx ends. It is on the one file that only
// root can open: with the directory's anybody could keep root waiting.
func (t tree) lock(ctx context.Context) (unlock func(), err error) {
	const pause = 2 * time.Millisecond
	f, err := os.OpenFile(filepath.Join(string(t), "register"), os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	for {
		err = linux.EINTR(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err == unix.EWOULDBLOCK && ctx.Err() == nil {
			time.Sleep(pause)
			continue
		}
		f.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, failed("lock "+Dir, err)
	}
}
