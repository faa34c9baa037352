package integration

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/binfmt"
)

// A way is one of the ways to start a program.
type way struct {
	name string
	// argv is what to execute in the program's stead.
	argv func(s *store, program string) (path, argv0 string, args []string)
	// plain is the start that one by this way is compared with, if not the way of
	// that name.
	plain *way
	// setUp is what has to be done before a program's first start by this way; what
	// it registers with T.Cleanup is done after the last. No plain start is made in
	// between.
	setUp func(t *testing.T, s *store, program string)
	// env is added to a start's environment, after the command's own.
	env func(s *store, program string) []string
	// around is for a way that a whole command tree goes: it is given what is to be
	// executed, with the shell or tool that prepares the situation, and begin is how
	// such a command is begun.
	around func(s *store, u user, path string, args []string) (string, []string)
	begin  func(s *store, u user, begin func() error) error
	// ownExe: /proc/self/exe is the program for ordinary users too.
	ownExe bool
	// normal is why every start by this way is a normal one; "" if it is not.
	normal string
	// takes tells whether a program can be started this way at all; nil: always.
	takes func(t *testing.T, program string) bool
	// differs are the parts of the output in which the user's start may differ from
	// a plain one, whatever the program.
	differs func(u user) []noise
}

var plain = way{name: "plain", argv: func(_ *store, program string) (string, string, []string) {
	return program, program, nil
}}

// byLauncher leaves argv[0] as it is in a plain start, so that all is comparable.
var byLauncher = way{name: "launcher", argv: func(s *store, program string) (string, string, []string) {
	return s.launcher(program), program, nil
}}

// byRun names the store: root looks into none that the environment names.
var byRun = way{name: "run", argv: func(s *store, program string) (string, string, []string) {
	return s.residentctl, "residentctl", []string{"run", "--store", s.dir, program}
}}

// strictly is run with --strict, which fails where the others start normally.
var strictly = way{name: "run --strict", argv: func(s *store, program string) (string, string, []string) {
	return s.residentctl, "residentctl", []string{"run", "--strict", "--store", s.dir, program}
}}

// byExec starts it under the covered dynamic linker. The situation is prepared
// inside, where the program meets it and not residentctl, which is a Go program with
// needs of its own; the shell or tool that does so is started as everything there.
//
// For an ordinary user that is in a user namespace. His own store is empty, and the
// one with the images is the system's: what is root's has to be trusted where the
// kernel shows it as the overflow uid's. The program gets the environment that it
// has in every other start.
var byExec = way{name: "exec", argv: plain.argv, takes: linkedByGlibc, ownExe: true,
	around: func(s *store, u user, path string, args []string) (string, []string) {
		if u == root {
			return s.residentctl, slices.Concat([]string{"exec", "--strict", "--store", s.dir, "--", path}, args)
		}
		return "/usr/bin/env", slices.Concat([]string{"XDG_DATA_HOME=" + s.ownDataHome(u), s.residentctl, "exec", "-q", "--strict", "--",
			"/usr/bin/env", "XDG_DATA_HOME=" + s.dataHome, path}, args)
	},
	begin: func(s *store, u user, begin func() error) error {
		if u == root {
			return begin()
		}
		return inSystem(s.dir, begin)
	},
	differs: func(u user) []noise {
		if u == root {
			return inMountNamespace
		}
		return slices.Concat(inMountNamespace, inUserNamespace)
	},
}

// inMountNamespace is how every start under exec differs. This and the other
// differences of a way below are DESIGN.md's, "What is compared with an exec, and what
// differs".
var inMountNamespace = []noise{
	{regexp.MustCompile(`(?m)^mnt namespace: .*$`), "mnt namespace"},
	{regexp.MustCompile(`(?m)^(r-xp) (ld-linux-x86-64\.so\.2|original) `), "$1 LINKER "},
}

// inUserNamespace is how an ordinary user's start under exec differs besides. (What
// else a user namespace changes, such as what setuid programs and supplementary groups
// can do, TestExecOfUsers looks at.)
var inUserNamespace = []noise{{regexp.MustCompile(`(?m)^CapBnd:\t.*$`), "CapBnd:"}}

// coveredLinker is how a normal start under exec differs: its dynamic linker is some
// pages longer, which hold the launcher.
var coveredLinker = map[string][]noise{"exec": {
	{regexp.MustCompile(`(?m)^(VmPeak|VmSize|VmLib|VmHWM):\s+\d+ kB$`), "$1"},
	{regexp.MustCompile(`(?m)^r-xp ld-linux\S+ [0-9a-f]+ bytes from [0-9a-f]{5,}\n`), ""}, // its last segment
}}

// byName calls the program by its name, as a shell does. The folder of the shims
// stands first in PATH here too, so that a start has the same environment with and
// without a shim; but there is none of that name.
var byName = way{name: "by name", env: shimsFirst, argv: func(s *store, program string) (string, string, []string) {
	if shim := filepath.Join(s.shims(), filepath.Base(program)); exists(shim) {
		s.t.Fatalf("a plain start by name would go through %s", shim)
	}
	return called(s, program)
}}

// called lets the situation's tool look for the program in PATH.
func called(s *store, program string) (path, argv0 string, args []string) {
	name := filepath.Base(program)
	return fixture(s.t, "situation"), "situation", []string{"--search", "--", name, name}
}

// byShim calls it by its name when there is a shim. What is peculiar to a shim is
// how it finds its program, which all fixtures and situations go through. The
// launcher file that it leads to is a way of its own, so the programs of the
// distribution, whose starts take long, are tried with one command only; TestShims
// has more. They may differ in one thing: a program that looks for itself in PATH,
// as bash and python3 do when argv[0] is no path, finds the shim. GCC's drivers have none
// (TestShimRefused).
var byShim = way{name: "shim", argv: called, plain: &byName, env: shimsFirst,
	takes: func(t *testing.T, program string) bool {
		text, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		return !bytes.Contains(text, []byte("GCC_EXEC_PREFIX"))
	},
	// Of several fixtures of one name the last that was enabled has the shim.
	setUp: func(t *testing.T, s *store, program string) {
		t.Helper()
		enable := s.command("enable", "--even-if-slower", program)
		enable.Env = append(os.Environ(), "PATH="+foldersFor(program))
		if out, err := enable.CombinedOutput(); err != nil {
			t.Fatalf("enable %s: %v\n%s", program, err, out)
		}
		t.Cleanup(func() { s.do(t, "disable", program) })
	},
}

func shimsFirst(s *store, program string) []string {
	return []string{"PATH=" + s.shims() + ":" + foldersFor(program)}
}

func foldersFor(program string) string {
	return filepath.Dir(program) + ":/usr/local/bin:/usr/bin:/bin"
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// inNamespace is a plain start in the surroundings of bySystem.
var inNamespace = way{name: "plain in a namespace", argv: plain.argv,
	around: func(s *store, _ user, path string, args []string) (string, []string) {
		return namespaceTool(s.t), slices.Concat([]string{"-", path}, args)
	},
}

// bySystem has the kernel start the program through its launcher file, as after
// enable --system, in a user namespace with a binfmt_misc of its own.
var bySystem = way{name: "system", argv: plain.argv, plain: &inNamespace, takes: ownBinfmt, around: registered, ownExe: true,
	setUp: func(t *testing.T, s *store, program string) {
		t.Helper()
		var st unix.Stat_t
		magic, err := binfmt.Magic(program)
		if err == nil {
			err = unix.Stat(program, &st)
		}
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf(`|residentctl-%d-%d|M||`, st.Dev, st.Ino)
		for _, b := range magic {
			line += fmt.Sprintf(`\x%02x`, b)
		}
		line += "||" + s.launcher(program) + "|FPOC\n"
		others, err := os.ReadFile(registrations())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if bytes.Contains(others, []byte(line)) {
			return
		}
		if err := os.WriteFile(registrations(), append(slices.Clip(others), line...), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.WriteFile(registrations(), others, 0o644); err != nil {
				t.Error(err)
			}
		})
	},
}

// bySystemNormally is bySystem for whatever is not started from its image: the
// launcher does the kernel's work.
var bySystemNormally = way{name: "system, normally", argv: plain.argv, takes: ownBinfmt, setUp: bySystem.setUp, around: registered,
	plain: &way{name: "plain in a namespace, off", argv: plain.argv, around: inNamespace.around, env: off},
	env:   off, normal: "RESIDENTCTL_OFF=1", ownExe: true,
	differs: func(user) []noise { return linkerBelowVDSO },
}

// linkerBelowVDSO is how a normal start by binfmt_misc differs: the kernel maps the
// dynamic linker before the vDSO, the launcher afterwards, below it.
var linkerBelowVDSO = []noise{{regexp.MustCompile(`(?m)^r-xp ld-linux\S+ [0-9a-f]+ bytes from [0-9a-f]+\n`), ""}}

// onTheMachine are the ways without a user namespace, where root can do less.
var onTheMachine = []way{byLauncher, byRun, byExec, byShim}

// ownBinfmt: a user namespace has a binfmt_misc of its own since Linux 6.7.
func ownBinfmt(t *testing.T, _ string) bool {
	t.Helper()
	release, err := linux.Kernel()
	if err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if n, err := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		t.Fatalf("kernel release %q: %v", release, err)
	}
	return major > 6 || major == 6 && minor >= 7
}

func off(*store, string) []string { return []string{"RESIDENTCTL_OFF=1"} }

func registered(s *store, _ user, path string, args []string) (string, []string) {
	return namespaceTool(s.t), slices.Concat([]string{registrations(), path}, args)
}

func registrations() string { return filepath.Join(temporary, "registrations") }

// namespaceTool has to be root's for whoever executes it.
func namespaceTool(t *testing.T) string {
	t.Helper()
	path := filepath.Join(temporary, "namespace")
	if exists(path) {
		return path
	}
	compile(t, path, "../scripts/bench.d/namespace.c")
	if err := os.Chmod(path, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	return path
}

// residentWays are those that need no other surroundings than a plain start.
var residentWays = []way{byLauncher, byRun}

// surroundedWays are those for which nothing has to be set up.
var surroundedWays = []way{byLauncher, byRun, byExec}

// readyWays are surroundedWays and those of binfmt_misc, set up for programs.
func readyWays(t *testing.T, s *store, programs ...string) []way {
	t.Helper()
	for _, program := range programs {
		bySystem.ready(t, s, program)
	}
	ways := slices.Clip(surroundedWays)
	if ownBinfmt(t, "") {
		ways = append(ways, bySystem, bySystemNormally)
	}
	return ways
}

// everyWay are all that a command or situation is tried in.
var everyWay = []way{byLauncher, byRun, byExec, byShim, bySystem, bySystemNormally}

// waysTo are those of the ways by which the program can be started.
func waysTo(t *testing.T, program string, ways []way) []way {
	t.Helper()
	return slices.DeleteFunc(slices.Clone(ways), func(w way) bool { return w.takes != nil && !w.takes(t, program) })
}

// linkedByGlibc: only glibc's dynamic linker can be covered.
func linkedByGlibc(t *testing.T, program string) bool {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	interp, err := f.Section(".interp").Data()
	if err != nil {
		t.Fatal(err)
	}
	return !bytes.Contains(interp, []byte("musl"))
}

// reference is the way of the start to compare with.
func (w way) reference() way {
	if w.plain != nil {
		return *w.plain
	}
	return plain
}

// ready sets the way up for a program, until the end of the test.
func (w way) ready(t *testing.T, s *store, program string) {
	t.Helper()
	if w.setUp != nil {
		w.setUp(t, s, program)
	}
}

// diff compares a start by this way with a plain one, but for what may differ.
func (w way) diff(u user, c command, plainly, got outcome) string {
	c.noise = c.differs[w.name]
	if w.differs != nil {
		c.noise = slices.Concat(c.noise, w.differs(u))
	}
	for _, o := range []*outcome{&plainly, &got} {
		o.Stdout, o.Stderr = c.quiet(o.Stdout), c.quiet(o.Stderr)
	}
	return cmp.Diff(plainly, got)
}

// command is the command line of a start, which start then starts, and run waits
// for too.
func (w way) command(s *store, u user, program string, more ...string) (path, argv0 string, args []string) {
	path, argv0, args = w.argv(s, program)
	return w.surround(s, u, path, argv0, slices.Concat(args, more))
}

func (w way) surround(s *store, u user, path, argv0 string, args []string) (string, string, []string) {
	if w.around == nil {
		return path, argv0, args
	}
	path, args = w.around(s, u, path, args)
	return path, path, args
}

func (w way) start(s *store, u user, c *exec.Cmd) error {
	if w.begin == nil {
		return c.Start()
	}
	return w.begin(s, u, c.Start)
}

func (w way) run(s *store, u user, c *exec.Cmd) error {
	if err := w.start(s, u, c); err != nil {
		return err
	}
	return c.Wait()
}

// ownDataHome is where the user's own store is, which nothing is added to.
func (s *store) ownDataHome(u user) string {
	s.t.Helper()
	path := filepath.Join(temporary, "own-of-"+u.name)
	if err := os.Mkdir(path, 0o700); err == nil {
		err = os.Chown(path, int(u.id), int(u.id))
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return path
}

// The main goroutine keeps the main thread, so that none of inSystem's runs there:
// it is the one that /proc/self shows.
func init() { runtime.LockOSThread() }

// inSystem begins a command where the folder is the system's store, in a mount
// namespace of its own. A thread that is in one hands it on to what it starts, and
// ends with its goroutine, since it stays locked.
func inSystem(dir string, begin func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := enterSystem(dir)
		if err == nil {
			err = begin()
		}
		done <- err
	}()
	return <-done
}

// systems are the namespaces of enterSystem, by the store's folder. They stay: of
// what was opened in a namespace that is gone, /proc shows no whole paths.
var systems = struct {
	sync.Mutex
	namespaces map[string]*os.File
}{namespaces: map[string]*os.File{}}

func enterSystem(dir string) error {
	const system = "/var/lib/residentctl"
	systems.Lock()
	defer systems.Unlock()
	if namespace := systems.namespaces[dir]; namespace != nil {
		// setns(2): not while the current folder is shared with other threads.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		return unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNS)
	}
	err := unix.Unshare(unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, "")
	}
	if _, statErr := os.Stat(system); err == nil && statErr != nil {
		// The folder to mount it on, beside all else that is there.
		skeleton := filepath.Join(temporary, "skeleton")
		if err = os.MkdirAll(filepath.Join(skeleton, filepath.Base(system)), 0o755); err == nil {
			above := filepath.Dir(system)
			err = unix.Mount("overlay", above, "overlay", unix.MS_RDONLY, "lowerdir="+skeleton+":"+above)
		}
	}
	if err == nil {
		err = unix.Mount(dir, system, "", unix.MS_BIND, "")
	}
	if err == nil {
		systems.namespaces[dir], err = os.Open("/proc/thread-self/ns/mnt")
	}
	if err != nil {
		return fmt.Errorf("make %s the system's store: %w", dir, err)
	}
	return nil
}

// explanationOf is what --explain says of one program, where others that are
// executed on the way to it say something too.
func explanationOf(stderr, program string) (how, why string) {
	for _, match := range explained.FindAllStringSubmatch(stderr, -1) {
		if filepath.Base(match[1]) == filepath.Base(program) {
			return match[2], match[3]
		}
	}
	return "nothing said", ""
}
