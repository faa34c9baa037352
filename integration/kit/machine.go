package kit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/pkg/elfinfo"
)

// A Machine is a root directory with files of its own, in which a test may do what it
// must not do to this machine: run ldconfig(8), replace the C library, boot. Its state is
// the directory; each of its commands is a process of this machine, with that root and in
// a mount namespace which all of them share. In that namespace the root is a mount point,
// as CRIU needs it, /proc and /sys are this machine's, and /dev is its own.
type Machine struct {
	// Root is the directory's path on this machine.
	Root string

	namespace *os.File
}

// machineLinks are the directories at the root that may be links into /usr.
var machineLinks = []string{"bin", "sbin", "lib", "lib64"}

// NewMachine makes a machine with residentctl, CRIU, ldconfig, the configuration of the
// dynamic linkers and these programs, each with its libraries: copies of this machine's at
// the same paths.
func NewMachine(t testing.TB, programs ...string) *Machine {
	t.Helper()
	RequireCRIU(t)
	m := &Machine{Root: Dir(t)}
	for _, name := range machineLinks {
		if target, err := os.Readlink("/" + name); err == nil {
			m.mkdir(t, "/"+target)
			Symlink(t, target, m.Path("/"+name))
		}
	}
	for _, dir := range []string{"/proc", "/sys", "/dev", "/etc", "/root", "/usr/local/lib", "/var/cache/ldconfig", "/var/lib", "/tmp"} {
		m.mkdir(t, dir)
	}
	Chmod(t, m.Path("/tmp"), 0o777|os.ModeSticky)
	for _, file := range machineConfiguration(t) {
		m.CopyIn(t, file, file)
	}
	m.CopyIn(t, Residentctl(t), "/usr/bin/residentctl")
	for _, program := range append([]string{"/sbin/ldconfig", criu()}, programs...) {
		m.Install(t, program, program)
	}
	m.boot(t)
	m.Do(t, "/sbin/ldconfig")
	return m
}

// machineConfiguration are the files that name directories with libraries.
func machineConfiguration(t testing.TB) []string {
	t.Helper()
	files := []string{"/etc/passwd", "/etc/group", "/etc/ld.so.conf"}
	for _, pattern := range []string{"/etc/ld.so.conf.d/*.conf", "/etc/ld-musl-*.path"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, more...)
	}
	return files
}

// Copy returns another machine with the same files, of other inodes.
func (m *Machine) Copy(t testing.TB) *Machine {
	t.Helper()
	c := &Machine{Root: Dir(t)}
	if output, err := exec.Command("cp", "-a", "--reflink=never", m.Root+"/.", c.Root).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v\n%s", m.Root, err, output)
	}
	c.boot(t)
	return c
}

// Path returns a path of the machine's, as seen from here. A link that leads to an absolute
// path leads out of the machine: name what it leads to.
func (m *Machine) Path(path string) string { return filepath.Join(m.Root, path) }

// CopyIn copies a file of this machine to a path of the machine's, where it replaces what
// is there, and leaves it its time of modification.
func (m *Machine) CopyIn(t testing.TB, from, to string) {
	t.Helper()
	m.mkdir(t, filepath.Dir(to))
	Replace(t, from, m.Path(to))
	info, err := os.Stat(from)
	if err == nil {
		err = os.Chtimes(m.Path(to), time.Time{}, info.ModTime())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Replace puts a copy of a program or library in place of a file, as a package manager
// does: a new file, renamed over the old one.
func Replace(t testing.TB, from, to string) {
	t.Helper()
	CopyFile(t, from, to+".new")
	if err := os.Rename(to+".new", to); err != nil {
		t.Fatal(err)
	}
}

func (m *Machine) mkdir(t testing.TB, path string) {
	t.Helper()
	if err := os.MkdirAll(m.Path(path), 0o755); err != nil {
		t.Fatal(err)
	}
}

// Install copies a program of this machine to a path of the machine's, with its dynamic
// linker and the libraries that this loads for it here.
func (m *Machine) Install(t testing.TB, from, to string) {
	t.Helper()
	m.CopyIn(t, from, to)
	file, err := elfinfo.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	if file.Interp == "" {
		return // it is static, as ldconfig is
	}
	files := []string{file.Interp}
	// It fails where one is not found here.
	output, _ := exec.Command(file.Interp, "--list", from).Output()
	for _, match := range listed.FindAllStringSubmatch(string(output), -1) {
		files = append(files, match[1])
	}
	for _, library := range files {
		if _, err := os.Lstat(m.Path(library)); err != nil {
			m.CopyIn(t, library, library)
		}
	}
}

// listed matches a library's path in what a dynamic linker lists.
var listed = regexp.MustCompile(`(?m)^\t(?:.* => )?(/\S+) \(0x`)

// Command returns a command of the machine's; RunIn executes it. It has this machine's
// environment, with PATH, HOME and TMPDIR of an ordinary login of root's.
func (m *Machine) Command(program string, args ...string) *exec.Cmd {
	c := exec.Command(program, args...)
	c.Dir = "/"
	c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: m.Root}
	return c
}

// Outcome executes a command of the machine's.
func (m *Machine) Outcome(t testing.TB, c *exec.Cmd) Outcome {
	t.Helper()
	var stdout, stderr strings.Builder
	c.Stdout, c.Stderr = &stdout, &stderr
	err := inMounts(m.namespace, c.Start)
	if err == nil {
		_ = c.Wait() // its status is looked at
	}
	if c.ProcessState == nil {
		t.Fatalf("execute %q in %s: %v", c.Args, m.Root, err)
	}
	return Outcome{Stdout: stdout.String(), Stderr: stderr.String(), Status: c.ProcessState.String()}
}

// Do executes a command of the machine's, which must succeed, and returns its standard
// output.
func (m *Machine) Do(t testing.TB, program string, args ...string) string {
	t.Helper()
	o := m.Outcome(t, m.Command(program, args...))
	if o.Status != "exit status 0" {
		t.Fatalf("%s %q: %s\n%s%s", program, args, o.Status, o.Stdout, o.Stderr)
	}
	return o.Stdout
}

// boot makes the mount namespace.
func (m *Machine) boot(t testing.TB) {
	t.Helper()
	if err := inThread(m.mount); err != nil {
		t.Fatalf("mount what %s needs: %v", m.Root, err)
	}
	t.Cleanup(func() { m.namespace.Close() })
	m.devices(t)
}

// mount mounts what the machine needs in a new namespace.
func (m *Machine) mount() (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	for _, mount := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"", "/", "", unix.MS_SLAVE | unix.MS_REC},
		{m.Root, m.Root, "", unix.MS_BIND},
		{"/proc", m.Path("/proc"), "", unix.MS_BIND | unix.MS_REC},
		{"/sys", m.Path("/sys"), "", unix.MS_BIND | unix.MS_REC},
		{"dev", m.Path("/dev"), "tmpfs", unix.MS_NOSUID},
	} {
		if err := unix.Mount(mount.source, mount.target, mount.kind, mount.flags, ""); err != nil {
			return fmt.Errorf("%s: %w", mount.target, err)
		}
	}
	m.namespace, err = os.Open("/proc/thread-self/ns/mnt")
	return err
}

// devices makes the device files again, as each boot does.
func (m *Machine) devices(t testing.TB) {
	t.Helper()
	err := inMounts(m.namespace, func() error {
		for name, minor := range map[string]uint32{"null": 3, "zero": 5, "random": 8, "urandom": 9} {
			path := m.Path("/dev/" + name)
			if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
				return err
			}
			// linux/major.h, MEM_MAJOR.
			if err := unix.Mknod(path, unix.S_IFCHR, int(unix.Mkdev(1, minor))); err != nil {
				return err
			}
			if err := os.Chmod(path, 0o666); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("make the device files of %s: %v", m.Root, err)
	}
}

// NextBoot is the id that Reboot gives the next boot.
const NextBoot = "00000000-0000-4000-8000-000000000000"

// Reboot gives the machine what each boot has of its own: another boot id (random(4)), and
// a /dev that has been made again.
func (m *Machine) Reboot(t testing.TB) {
	t.Helper()
	m.devices(t)
	id := filepath.Join(Dir(t), "boot_id")
	if err := os.WriteFile(id, []byte(NextBoot+"\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	const path = "/proc/sys/kernel/random/boot_id"
	if err := inMounts(m.namespace, func() error { return unix.Mount(id, m.Path(path), "", unix.MS_BIND, "") }); err != nil {
		t.Fatalf("give %s another boot id: %v", m.Root, err)
	}
}

// inMounts does something in a mount namespace, in which what it starts is too.
func inMounts(namespace *os.File, do func() error) error {
	return inThread(func() error {
		if err := enter(namespace); err != nil {
			return err
		}
		return do()
	})
}

// inThread does something in a thread that ends afterwards, and its namespaces with it.
func inThread(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- do()
	}()
	return <-done
}

// enter enters a mount namespace with the thread.
func enter(namespace *os.File) error {
	// setns(2): not while the current directory is shared with other threads.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	return unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNS)
}
