package warmstop

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/plural"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// A Finding is something that the program did before its point and that a start from its
// image does not repeat.
type Finding struct {
	What   string `json:"what"`   // one of the words that may be accepted
	Detail string `json:"detail"` // for people
	// Module is what the program was importing then, where it says so by a call like the
	// point's.
	Module string `json:"module,omitempty"`
}

// What of a Finding.
const (
	FoundExec     = "exec"     // it executed another program
	FoundWrite    = "write"    // it wrote to a file, or made, renamed or removed one
	FoundNetwork  = "network"  // it sent something, or was connected
	FoundHere     = "cwd"      // it looked at what is in its working directory, or keeps its path
	FoundHost     = "hostname" // it keeps the host's name
	FoundEnviron  = "environ"  // it has copied its environment
	FoundOutput   = "output"   // a warm run gives another output than a plain one
	FoundTerminal = "terminal" // it asks for something of its terminal but whether it is one, or changes it

	// What a module does while it is imported.
	FoundUmask  = "umask"  // it asks for the umask
	FoundRandom = "random" // it draws random bytes (getrandom(2), os.urandom)
)

// importing in the place of PointVersion says which module is being imported: the third
// argument is its name, or NULL.
const importing = 2

// Acceptable are the findings that a user can accept.
var Acceptable = []string{FoundExec, FoundWrite, FoundNetwork, FoundHere, FoundEnviron, FoundOutput, FoundRandom, FoundTerminal}

// A recorder watches the system calls of a template and of what it makes.
type recorder struct {
	first int
	ours  func(path string) bool
	allow Allow

	probes    []fingerprint.Probe
	known     map[fingerprint.Probe]bool
	read      map[string]bool // directories
	found     []Finding
	dir       string   // the working directory, which is empty
	missed    []string // what was looked for in it, relative to it
	cpus      bool     // the CPUs that it may run on were asked for
	network   bool     // a socket was made
	cacheRead bool     // all of ld.so.cache was read
	start     uint64
	module    string // that is being imported
	imports   bool   // modules are, or were
	// terminals are the standard streams of which it was asked whether they are terminals, as bits.
	terminals uint32
	threads   map[int]*threadState

	onTerminal uint32 // the standard streams that are a terminal, as bits

	tracer    *ptrace.Tracer // set if calls of getenv(3) are to be told; nil from then on
	variables []string       // what was asked for by getenv(3)
}

// maxModule bounds the name of a module, in bytes.
const maxModule = 1024

// threadState is what is known of a thread: the call that it makes, and whether it has
// executed another program.
type threadState struct {
	entry   ptrace.SyscallInfo
	probe   *fingerprint.Probe
	then    func() error // if the call succeeds
	foreign bool
}

func newRecorder(first int, opts Options) *recorder {
	r := &recorder{
		first: first, dir: opts.Dir, ours: opts.Ours, allow: opts.Allow, known: map[fingerprint.Probe]bool{}, read: map[string]bool{},
		threads: map[int]*threadState{first: {}},
	}
	if r.ours == nil {
		r.ours = func(string) bool { return false }
	}
	if r.allow == nil {
		r.allow = func(string, string) error { return nil }
	}
	return r
}

// look is the tree's ptrace.Look.
func (r *recorder) look(tid int, call ptrace.SyscallInfo) (arrived bool, err error) {
	s := r.threads[tid]
	if s == nil {
		s = &threadState{foreign: !linux.SameFile(exeOf(tid), exeOf(r.first))}
		r.threads[tid] = s
	}
	if !call.Entry() {
		return false, r.onExit(tid, s, call.Result())
	}
	s.entry, s.probe, s.then = call, nil, nil
	if s.foreign || call.Arch != unix.AUDIT_ARCH_X86_64 {
		return false, nil
	}
	if r.tracer != nil && tid == r.first {
		if err := r.watchVariables(); err != nil {
			return false, err
		}
	}
	if call.Number() == unix.SYS_PRCTL && uint32(call.Arg(0)) == PointOption {
		switch call.Arg(1) {
		case PointVersion:
			r.start = call.Arg(2)
			return true, alone(tid)
		case importing:
			if !r.imports { // what the runtime has asked for it asks for again in each start, or the caller knows of it
				r.imports, r.variables, r.terminals = true, nil, 0
			}
			r.module, _ = linux.ReadString(tid, call.Arg(2), maxModule)
		}
	}
	return false, r.onEntry(tid, s)
}

// alone refuses a process that has other threads or children at its point: they would be killed.
func alone(tid int) error {
	s, err := linux.ReadStatus(tid)
	if err != nil {
		return err
	}
	if s.Threads != 1 {
		return problem.Refusef("it has %s at its point", plural.Count(s.Threads, "thread")).
			WithHint("call the point before threads are started, or in a child that was forked for it")
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", tid))
	if err == nil && len(strings.TrimSpace(string(children))) > 0 {
		return problem.Refusef("it has child processes at its point")
	}
	return nil
}

// asks reports whether what is asked for now stays in the program: not where it imports modules,
// and none just now.
func (r *recorder) asks() bool { return !r.imports || r.module != "" }

func exeOf(tid int) string { return fmt.Sprintf("/proc/%d/exe", tid) }

func (r *recorder) onEntry(tid int, s *threadState) error {
	nr := s.entry.Number()
	if call, ok := ptrace.PathCalls[nr]; ok {
		return r.onPath(tid, s, call)
	}
	if change, ok := changes[nr]; ok {
		if path, err := pathOf(tid, &s.entry, change.path, change.dir); err == nil {
			s.then = func() error { r.wrote(path); return nil }
		}
		return nil
	}
	switch nr {
	case unix.SYS_EXECVE, unix.SYS_EXECVEAT:
		s.then = func() error { return r.executed(tid, s) }
	case unix.SYS_SOCKET:
		if s.entry.Arg(0) != unix.AF_UNIX {
			s.then = func() error { r.network = true; return nil }
		}
	case unix.SYS_CONNECT, unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_LISTEN:
		s.then = func() error { r.find(FoundNetwork, "uses a socket"); return nil }
	case unix.SYS_SCHED_GETAFFINITY:
		r.cpus = true
	case unix.SYS_IOCTL:
		if fd := s.entry.Arg(0); fd <= 2 && r.asks() {
			r.onIoctl(s, uint(fd))
		}
	case unix.SYS_GETRANDOM:
		if r.module != "" { // the C library draws some for its allocator, before
			r.find(FoundRandom, "draws random bytes")
		}
	case unix.SYS_UMASK:
		if r.asks() {
			r.find(FoundUmask, "asks for the umask")
		}
	case unix.SYS_GETDENTS64, unix.SYS_GETDENTS:
		if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, int32(s.entry.Arg(0)))); err == nil && !r.ours(dir) {
			if dir == r.dir {
				r.find(FoundHere, "reads its working directory")
			}
			r.read[dir] = dir != r.dir
		}
	}
	return nil
}

// Whether a descriptor is closed at an exec (asm-generic/ioctls.h, FIOCLEX and FIONCLEX).
const (
	fionclex = 0x5450
	fioclex  = 0x5451
)

// onIoctl notes what is asked of a standard stream. Only whether it is a terminal is the same in
// another start with the same terminals.
func (r *recorder) onIoctl(s *threadState, fd uint) {
	r.terminals |= 1 << fd
	find := func(detail string) func() error {
		return func() error { r.find(FoundTerminal, detail); return nil }
	}
	switch uint32(s.entry.Arg(1)) {
	case unix.TCGETS, fioclex, fionclex:
	case unix.TIOCGWINSZ:
		s.then = find("asks for the size of the terminal")
	case unix.TIOCGPGRP, unix.TIOCGSID:
		if r.onTerminal>>fd&1 != 0 { // which is not its controlling terminal, so that the answer is a wrong one
			_ = find("asks for the job in the foreground")()
		}
	default:
		s.then = find("changes or asks its terminal")
	}
}

// executed notes an exec, of which no instruction has run yet. What ldconfig(8) says of its cache,
// which ctypes.util.find_library asks it for, stays as it is while the cache does.
func (r *recorder) executed(tid int, s *threadState) error {
	s.foreign = true
	exe, err := os.Readlink(exeOf(tid))
	if err != nil {
		return err
	}
	if filepath.Base(exe) == "ldconfig" {
		r.cacheRead = true
	} else {
		r.find(FoundExec, "executes "+exe)
	}
	return r.allow(exe, exeOf(tid))
}

// changes are the calls that change what others can see of the file system: the numbers of the
// arguments that hold the path and, or -1, the descriptor of its directory.
var changes = map[uint64]struct{ path, dir int }{
	unix.SYS_CREAT: {0, -1}, unix.SYS_MKDIR: {0, -1}, unix.SYS_MKDIRAT: {1, 0}, unix.SYS_MKNOD: {0, -1}, unix.SYS_MKNODAT: {1, 0},
	unix.SYS_UNLINK: {0, -1}, unix.SYS_UNLINKAT: {1, 0}, unix.SYS_RMDIR: {0, -1},
	unix.SYS_RENAME: {1, -1}, unix.SYS_RENAMEAT: {3, 2}, unix.SYS_RENAMEAT2: {3, 2},
	unix.SYS_LINK: {1, -1}, unix.SYS_LINKAT: {3, 2}, unix.SYS_SYMLINK: {1, -1}, unix.SYS_SYMLINKAT: {2, 1},
	unix.SYS_CHMOD: {0, -1}, unix.SYS_FCHMODAT: {1, 0}, unix.SYS_TRUNCATE: {0, -1},
}

// onPath notes what a call asks for; onExit completes the probe.
func (r *recorder) onPath(tid int, s *threadState, call ptrace.PathCall) error {
	path, err := pathOf(tid, &s.entry, call.Path, call.Path-1)
	if err != nil || path == "" || r.ours(path) {
		return nil // a path that cannot be read: the call fails with it too
	}
	if (path == "/dev/urandom" || path == "/dev/random") && r.module != "" {
		r.find(FoundRandom, "draws random bytes")
	}
	if path == "/dev/tty" && r.asks() { // it has none, and a start may have one
		r.find(FoundTerminal, "looks at its terminal")
		return nil
	}
	name := call.Name
	flags, opens := s.entry.OpenFlags(tid)
	switch {
	case opens && flags&unix.O_PATH != 0, strings.HasPrefix(name, "readlink"):
		name = "lstat" // nothing is read but a link, and where that leads shows in what is found there
	case opens && flags&(unix.O_ACCMODE|unix.O_CREAT|unix.O_TRUNC) != unix.O_RDONLY:
		s.then = func() error { r.wrote(path); return nil }
		return nil
	}
	s.probe = &fingerprint.Probe{Call: name, Path: path}
	return nil
}

// pathOf is the absolute path that is a call's argument of this number, relative to that of the
// number dir unless it is -1; "" for that of a descriptor itself (AT_EMPTY_PATH).
func pathOf(tid int, entry *ptrace.SyscallInfo, arg, dir int) (string, error) {
	path, err := linux.ReadString(tid, entry.Arg(arg), unix.PathMax)
	if err != nil || path == "" {
		return "", err
	}
	if filepath.IsAbs(path) {
		return path, nil
	}
	from := fmt.Sprintf("/proc/%d/cwd", tid)
	if dir >= 0 && int32(entry.Arg(dir)) != unix.AT_FDCWD {
		from = fmt.Sprintf("/proc/%d/fd/%d", tid, int32(entry.Arg(dir)))
	}
	above, err := os.Readlink(from)
	if err != nil || !filepath.IsAbs(above) {
		return "", errors.Join(err, unix.ENOENT)
	}
	return above + "/" + path, nil // as it is: what is above a directory is told by ".."
}

// wrote notes a change, but for those of the compiler's cache, which repeat nothing, and of
// devices.
func (r *recorder) wrote(path string) {
	if strings.Contains(path, "/__pycache__/") || strings.HasSuffix(path, "/__pycache__") || strings.HasPrefix(path, "/dev/") || r.ours(path) {
		return
	}
	r.find(FoundWrite, "writes "+path)
}

func (r *recorder) find(what, detail string) {
	f := Finding{What: what, Detail: detail, Module: r.module}
	if !slices.Contains(r.found, f) {
		r.found = append(r.found, f)
	}
}

func (r *recorder) onExit(tid int, s *threadState, result int64) error {
	then := s.then
	s.then = nil
	if then != nil && result >= 0 {
		if err := then(); err != nil {
			return err
		}
	}
	if s.probe == nil {
		return nil
	}
	p := *s.probe
	s.probe = nil
	if result >= 0 && strings.HasPrefix(p.Call, "open") && !fingerprint.UnderKernel(p.Path) {
		if err := r.allow(p.Path, fmt.Sprintf("/proc/%d/fd/%d", tid, result)); err != nil {
			return err
		}
	}
	if result < 0 {
		p.Errno = syscall.Errno(-result)
	}
	if p.Errno == unix.EINVAL || p.Errno == unix.ELOOP || p.Errno == unix.ENOTDIR && isThere(p.Path) || p.Errno == unix.EISDIR {
		p.Errno = 0 // no link, no directory: but there
	}
	if !r.known[p] {
		r.known[p] = true
		r.note(p)
	}
	return nil
}

// note takes in a path that was looked at. What is below the working directory is another file
// in each start, so it may only be missing.
func (r *recorder) note(p fingerprint.Probe) {
	name, isHere := strings.CutPrefix(p.Path, r.dir+"/")
	switch {
	case strings.TrimSuffix(p.Path, "/.") == r.dir && r.dir != "/":
		// There is one in each start.
	case strings.HasPrefix(p.Path, "/dev/pts/"):
		r.find(FoundTerminal, "looks at its terminal")
	case strings.Contains(p.Path+"/", "/__pycache__/"):
		// What python keeps beside its sources is good only for the source, which is looked at
		// too, and is written by whichever run comes first (Lib/importlib/_bootstrap_external.py,
		// SourceLoader.get_code).
	case !isHere || r.dir == "/":
		r.probes = append(r.probes, p)
	case p.Errno == 0 || !filepath.IsLocal(name):
		r.find(FoundHere, "looks at "+name+" in its working directory")
	default:
		r.missed = append(r.missed, name)
	}
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// listed are the directories that were read, sorted.
func (r *recorder) listed() []string {
	var dirs []string
	for dir, is := range r.read {
		if is {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	return dirs
}
