package sweep

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A start is what is executed in a cell.
type start struct {
	Path string   // what is given to execve(2)
	Argv []string // from argv[0] on
	User uint32
	Dir  string // the world's directory: where the cell's root is made, and the store
}

// An ending is what a cell reports about its start.
type ending struct {
	Status  syscall.WaitStatus
	Again   bool   // by chance the program was another process than programPID
	Failure string // why there was no start, or ""
}

// resultFD is where a cell writes it.
const resultFD = 3

// Process ids are given out in turn, and how many the threads of a cell take is
// chance; so the program gets one beyond them.
const programPID = 101

// afterwards is how long the processes that a program leaves behind may go on.
const afterwards = 300 * time.Millisecond

// environment is all that programs get. The last variable has the launcher say
// what it does; plain starts have it too, since programs print their environment.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/tmp/home", "LANG=C.UTF-8", "SHELL=/bin/sh", "TERM=dumb",
	"RESIDENTCTL_EXPLAIN=1",
}

// cell makes the cell around itself and starts the program in it. Standard
// output and error are the program's alone.
func cell() int {
	// Nor does the program get what the sweep's own caller left open: close_range(2).
	if err := unix.CloseRange(resultFD, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return exitImpossible
	}
	// Programs signal their parent, or all processes. A signal that is caught is the
	// default again for what is executed.
	signal.Notify(make(chan os.Signal, 1))
	result := os.NewFile(resultFD, "result")
	var s start
	var end ending
	err := json.NewDecoder(os.Stdin).Decode(&s)
	if err == nil {
		end.Status, err = s.carryOut()
	}
	if end.Again = errors.Is(err, errAgain); end.Again {
		err = nil
	}
	if err != nil {
		end.Failure = err.Error()
	}
	if json.NewEncoder(result).Encode(end) != nil || err != nil {
		return exitImpossible
	}
	return 0
}

var errAgain = errors.New("the program got another process id")

func (s *start) carryOut() (syscall.WaitStatus, error) {
	// Capabilities are a thread's.
	runtime.LockOSThread()
	lastPID, err := s.enclose()
	if err != nil {
		return 0, err
	}
	if err := dropCapabilities(); err != nil {
		return 0, err
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		return 0, err
	}
	attr := &syscall.ProcAttr{
		Dir: "/tmp/work", Env: environment,
		Files: []uintptr{null.Fd(), 1, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if s.User != 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: s.User, Gid: s.User}
	}
	if _, err := fmt.Fprint(lastPID, programPID-1); err != nil {
		return 0, fmt.Errorf("set the next process id: %w", err)
	}
	pid, err := syscall.ForkExec(s.Path, s.Argv, attr)
	if err != nil {
		return 0, fmt.Errorf("execute %s: %w", s.Path, err)
	}
	if pid != programPID { // a thread of this process took it
		return 0, errAgain
	}
	// What else writes there must see the end of it.
	syscall.Close(1)
	syscall.Close(2)
	return reap(pid), nil
}

// reap waits for the program, and a while for those that it leaves behind.
func reap(pid int) (status syscall.WaitStatus) {
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		if got == pid {
			status = ws
			break
		}
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return status
		}
	}
	for until := time.Now().Add(afterwards); time.Now().Before(until); {
		got, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			break // there are none
		}
		if got == 0 {
			time.Sleep(5 * time.Millisecond)
		}
	}
	return status
}

// enclose makes the root directory that doc.go describes, and everything else that
// must be done with all capabilities. The file that it returns takes the last process
// id that is not to be used: pid_namespaces(7), ns_last_pid.
func (s *start) enclose() (lastPID *os.File, err error) {
	base := filepath.Join(s.Dir, "cell")
	root := filepath.Join(base, "root")
	at := func(path string) string { return filepath.Join(root, path) }
	m := mounter{}
	m.mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
	m.mount("tmpfs", base, "tmpfs", 0, "mode=755,size=1g")
	m.directories(base, "upper", "work", "root")
	m.mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=/,upperdir=%s/upper,workdir=%[1]s/work", base))
	for _, path := range solid {
		m.bind(path, at(path))
	}
	for _, path := range []string{"root", "home", "run", "tmp"} {
		m.mount("tmpfs", at(path), "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=755,size=1g")
	}
	m.directories(root, "tmp/home", "tmp/work", "run/lock", filepath.Join(s.Dir, storeName))
	m.bind(filepath.Join(s.Dir, storeName), at(filepath.Join(s.Dir, storeName)))
	m.mount("proc", at("proc"), "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, "")
	m.mount("sysfs", at("sys"), "sysfs", syscall.MS_RDONLY|syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, "")
	m.devices(at("dev"))
	m.do("open /tmp", func() error { return os.Chmod(at("tmp"), 0o1777) })
	for _, path := range []string{"tmp/home", "tmp/work"} {
		m.do("give away "+path, func() error { return os.Chown(at(path), int(s.User), int(s.User)) })
	}
	m.do("open a file", func() error {
		lastPID, err = os.OpenFile(at("proc/sys/kernel/ns_last_pid"), os.O_WRONLY, 0)
		return err
	})
	for _, path := range []string{"proc/sys", "proc/sysrq-trigger", "proc/irq", "proc/bus"} {
		m.bind(at(path), at(path))
	}
	m.do("enter "+root, func() error { return enter(root) })
	m.do("set up lo", loopback)
	m.do("name the host", func() error { return syscall.Sethostname([]byte("sweep")) })
	m.do("forbid core dumps", func() error { return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) })
	return lastPID, m.err
}

// solid are the places whose files keep their own identity: where programs and
// libraries are, and what the dynamic linker reads.
var solid = []string{"/usr", "/opt", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", linkerCache}

// enter makes root the root directory and leaves nothing of the former one.
func enter(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	// pivot_root(2), "pivot_root(".", ".")".
	if err := syscall.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := syscall.Unmount(".", syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the former root: %w", err)
	}
	return os.Chdir("/")
}

// loopback switches on the one network interface that there is: netdevice(7).
// CRIU probes the kernel through it.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

// mounter does one thing after the other up to the first that goes wrong.
type mounter struct{ err error }

func (m *mounter) do(what string, f func() error) {
	if m.err != nil {
		return
	}
	if err := f(); err != nil {
		m.err = fmt.Errorf("%s: %w", what, err)
	}
}

func (m *mounter) mount(source, target, kind string, flags uintptr, data string) {
	m.do("mount "+target, func() error { return syscall.Mount(source, target, kind, flags, data) })
}

// bind shows a directory or a file, and what is mounted below it, read-only at
// target; what does not exist or is a link is left out.
func (m *mounter) bind(source, target string) {
	var st syscall.Stat_t
	if syscall.Lstat(source, &st) != nil || st.Mode&syscall.S_IFMT == syscall.S_IFLNK {
		return
	}
	m.mount(source, target, "", syscall.MS_BIND|syscall.MS_REC, "")
	m.do("make read-only "+target, func() error {
		return unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	})
}

func (m *mounter) directories(root string, names ...string) {
	for _, name := range names {
		m.do("make "+name, func() error { return os.MkdirAll(filepath.Join(root, name), 0o755) })
	}
}

// devices makes the directory of devices: only those that are no hardware
// (Documentation/admin-guide/devices.txt).
func (m *mounter) devices(dev string) {
	m.mount("tmpfs", dev, "tmpfs", syscall.MS_NOSUID|syscall.MS_NOEXEC, "mode=755,size=64m")
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{
		{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
	} {
		path := filepath.Join(dev, d.name)
		m.do("make "+path, func() error {
			if err := syscall.Mknod(path, syscall.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
				return err
			}
			return os.Chmod(path, 0o666)
		})
	}
	m.directories(dev, "pts", "shm")
	m.mount("devpts", filepath.Join(dev, "pts"), "devpts", syscall.MS_NOSUID|syscall.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
	m.do("open /dev/shm", func() error { return os.Chmod(filepath.Join(dev, "shm"), 0o1777) })
	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2",
	} {
		m.do("make a link", func() error { return os.Symlink(target, filepath.Join(dev, name)) })
	}
}

// dropped are the capabilities that reach beyond the cell. CAP_CHECKPOINT_RESTORE
// stays: by it a resident start says which program it executes.
var dropped = []uintptr{
	unix.CAP_SYS_ADMIN, unix.CAP_MKNOD, unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_SYS_BOOT,
	unix.CAP_SYS_TIME, unix.CAP_SYSLOG, unix.CAP_MAC_ADMIN, unix.CAP_MAC_OVERRIDE, unix.CAP_AUDIT_CONTROL,
	unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_SYS_TTY_CONFIG, unix.CAP_WAKE_ALARM, unix.CAP_BLOCK_SUSPEND,
	unix.CAP_LINUX_IMMUTABLE,
}

// dropCapabilities takes them from whatever this thread executes
// (capabilities(7), "Transformation of capabilities during execve()").
func dropCapabilities() error {
	for _, c := range dropped {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, syscall.EINVAL) {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return nil
}
