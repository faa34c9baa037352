package kit

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
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/binfmt"
)

// A Way is one of the ways to start a program.
type Way struct {
	Name string
	// Argv is what to execute in the program's stead.
	Argv func(s *Store, program string) (path, argv0 string, args []string)
	// Plain is the start that one by this way is compared with, if not the way of
	// that name.
	Plain *Way
	// SetUp is what has to be done before a program's first start by this way; what
	// it registers with T.Cleanup is done after the last. No plain start is made in
	// between.
	SetUp func(t testing.TB, s *Store, program string)
	// Env is added to a start's environment, after the command's own.
	Env func(s *Store, program string) []string
	// Around is for a way that a whole command tree goes: it is given what is to be
	// executed, with the shell or tool that prepares the situation, and begin is how
	// such a command is begun.
	Around func(s *Store, u User, path string, args []string) (string, []string)
	Begin  func(s *Store, u User, begin func() error) error
	// Users are those who can start something by this way; nil: all.
	Users []User
	// Restores: CRIU restores the program as a child. What it cannot start as an exec
	// would have it refuses, instead of starting it normally.
	Restores bool
	// OwnExe: /proc/self/exe is the program for ordinary users too.
	OwnExe bool
	// Normal is why every start by this way is a normal one; "" if it is not.
	Normal string
	// Takes reports whether a program can be started this way at all; nil: always.
	Takes func(t testing.TB, program string) bool
	// Differs are the parts of the output in which the user's start may differ from
	// a plain one, whatever the program.
	Differs func(u User) []Noise
}

// Plain is the start without residentctl that others are compared with.
var Plain = Way{Name: "plain", Argv: func(_ *Store, program string) (string, string, []string) {
	return program, program, nil
}}

// ByLauncher leaves argv[0] as it is in a plain start, so that all is comparable.
var ByLauncher = Way{Name: "launcher", Argv: func(s *Store, program string) (string, string, []string) {
	return s.Launcher(program), program, nil
}}

// ByRun names the store: root looks into none that the environment names.
var ByRun = Way{Name: "run", Argv: func(s *Store, program string) (string, string, []string) {
	return s.Residentctl, "residentctl", []string{"run", "--store", s.Dir, program}
}}

// Strictly is run with --strict, which fails where the others start normally.
var Strictly = Way{Name: "run --strict", Argv: func(s *Store, program string) (string, string, []string) {
	return s.Residentctl, "residentctl", []string{"run", "--strict", "--store", s.Dir, program}
}}

// ByCRIU is run with CRIU's restore. The process is a child of residentctl's, under the id
// that was dumped.
var ByCRIU = Way{Name: "criu", Plain: &inAnother, Env: anotherProcess, Users: OnlyRoot, Restores: true, OwnExe: true,
	Argv: func(s *Store, program string) (string, string, []string) {
		return s.Residentctl, "residentctl", []string{"run", "--engine", "criu", "--store", s.Dir, program}
	},
	Differs: func(User) []Noise { return restored },
}

// inAnother is a plain start by which the program does not know which process it is.
var inAnother = Way{Name: "plain in another process", Argv: Plain.Argv, Env: anotherProcess}

// anotherProcess takes the place of what the situation's tool tells the program of its
// process.
func anotherProcess(*Store, string) []string { return []string{"SITUATION="} }

// restored is how every start by CRIU differs.
var restored = []Noise{
	{regexp.MustCompile(`(?m)^death signal \d+$`), "death signal"},
	{regexp.MustCompile(`(?m)^(\w+ namespace): .*$`), "$1"}, // compared with the parent's
	{regexp.MustCompile(`(?m)^ok: WIFEXITED.*\n`), ""},      // of children from before the exec
	{regexp.MustCompile(`(?m), parent \d+$`), ", parent"},
	{regexp.MustCompile(`(?m)^children \d+$`), "children"},
	{regexp.MustCompile(`(?m)^flags (0|0x40), threads`), "flags, threads"},        // PF_FORKNOEXEC
	{regexp.MustCompile(`(?m)^(flags 0x[0-9a-f]+)[04]0, threads`), "$1, threads"}, // with others
	// CRIU's own descriptors were above the program's (criu/servicefd.c, choose_service_fd_base).
	{regexp.MustCompile(`(?m)^FDSize:\t\d+$`), "FDSize"},
}

// refused is why CRIU did not start a program.
func (w Way) refused(o Outcome) (why string, ok bool) {
	why, ok = strings.CutPrefix(o.Stderr, "residentctl: error: ")
	return why, w.Restores && ok && o.Status == "exit status 125"
}

// pidTaken is a part of the hint of a start by CRIU that has to wait for a process id.
const pidTaken = "another process has the image's pid"

// By returns those of the users who can start something by this way.
func (w Way) By(users []User) []User {
	if w.Users == nil {
		return users
	}
	return slices.DeleteFunc(slices.Clone(users), func(u User) bool { return !slices.Contains(w.Users, u) })
}

// ByExec starts it under the covered dynamic linker. The situation is prepared
// inside, where the program meets it and not residentctl, which is a Go program with
// needs of its own; the shell or tool that does so is started as everything there.
//
// For an ordinary user that is in a user namespace. His own store is empty, and the
// one with the images is the system's: what is root's has to be trusted where the
// kernel shows it as the overflow uid's. The program gets the environment that it
// has in every other start.
var ByExec = Way{Name: "exec", Argv: Plain.Argv, Takes: linkedByGlibc, OwnExe: true,
	Around: func(s *Store, u User, path string, args []string) (string, []string) {
		if u == Root {
			return s.Residentctl, slices.Concat([]string{"exec", "--strict", "--store", s.Dir, "--", path}, args)
		}
		return "/usr/bin/env", slices.Concat([]string{"XDG_DATA_HOME=" + s.OwnDataHome(u), s.Residentctl, "exec", "-q", "--strict", "--",
			"/usr/bin/env", "XDG_DATA_HOME=" + s.DataHome, path}, args)
	},
	Begin: func(s *Store, u User, begin func() error) error {
		if u == Root {
			return begin()
		}
		return inSystem(s.Dir, begin)
	},
	Differs: func(u User) []Noise {
		if u == Root {
			return inMountNamespace
		}
		return slices.Concat(inMountNamespace, inUserNamespace)
	},
}

// inMountNamespace is how every start under exec differs. This and the other
// differences of a way below are those that docs/differences.md lists, with their causes.
var inMountNamespace = []Noise{
	{regexp.MustCompile(`(?m)^mnt namespace: .*$`), "mnt namespace"},
	{regexp.MustCompile(`(?m)^(r-xp) (ld-linux-x86-64\.so\.2|original) `), "$1 LINKER "},
}

// inUserNamespace is how an ordinary user's start under exec differs besides. (What
// else a user namespace changes, such as what setuid programs and supplementary groups
// can do, TestExecOfUsers looks at.)
var inUserNamespace = []Noise{{regexp.MustCompile(`(?m)^CapBnd:\t.*$`), "CapBnd:"}}

// CoveredLinker is how a normal start under exec differs: its dynamic linker is some
// pages longer, which hold the launcher.
var CoveredLinker = map[string][]Noise{"exec": {
	{regexp.MustCompile(`(?m)^(VmPeak|VmSize|VmLib|VmHWM):\s+\d+ kB$`), "$1"},
	{regexp.MustCompile(`(?m)^r-xp ld-linux\S+ [0-9a-f]+ bytes from [0-9a-f]{5,}\n`), ""}, // its last segment
}}

// byName calls the program by its name, as a shell does. The directory of the shims
// stands first in PATH here too, so that a start has the same environment with and
// without a shim; but there is none of that name.
var byName = Way{Name: "by name", Env: shimsFirst, Argv: func(s *Store, program string) (string, string, []string) {
	if shim := filepath.Join(s.Shims(), filepath.Base(program)); exists(shim) {
		s.t.Fatalf("a plain start by name would go through %s", shim)
	}
	return called(s, program)
}}

// called lets the situation's tool look for the program in PATH.
func called(s *Store, program string) (path, argv0 string, args []string) {
	name := filepath.Base(program)
	return Fixture(s.t, "situation"), "situation", []string{"--search", "--", name, name}
}

// ByShim calls it by its name when there is a shim. What is peculiar to a shim is
// how it finds its program, which all fixtures and situations go through. The
// launcher file that it leads to is a way of its own, so the programs of the
// distribution, whose starts take long, are tried with one command only; TestShims
// has more. They may differ in one thing: a program that looks for itself in PATH,
// as bash and python3 do when argv[0] is no path, finds the shim. GCC's drivers have none
// (TestShimRefused).
var ByShim = Way{Name: "shim", Argv: called, Plain: &byName, Env: shimsFirst,
	Takes: func(t testing.TB, program string) bool {
		text, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		return !bytes.Contains(text, []byte("GCC_EXEC_PREFIX"))
	},
	// Of several fixtures of one name the last that was enabled has the shim.
	SetUp: func(t testing.TB, s *Store, program string) {
		t.Helper()
		enable := s.Command("enable", "--even-if-slower", program)
		enable.Env = append(os.Environ(), "PATH="+dirsFor(program))
		if out, err := enable.CombinedOutput(); err != nil {
			t.Fatalf("enable %s: %v\n%s", program, err, out)
		}
		t.Cleanup(func() { s.Do(t, "disable", program) })
	},
}

func shimsFirst(s *Store, program string) []string {
	return []string{"PATH=" + s.Shims() + ":" + dirsFor(program)}
}

func dirsFor(program string) string {
	return filepath.Dir(program) + ":/usr/local/bin:/usr/bin:/bin"
}

// inNamespace is a plain start in the surroundings of BySystem.
var inNamespace = Way{Name: "plain in a namespace", Argv: Plain.Argv,
	Around: func(s *Store, _ User, path string, args []string) (string, []string) {
		return namespaceTool(s.t), slices.Concat([]string{"-", path}, args)
	},
}

// BySystem has the kernel start the program through its launcher file, as after
// enable --system, in a user namespace with a binfmt_misc of its own.
var BySystem = Way{Name: "system", Argv: Plain.Argv, Plain: &inNamespace, Takes: OwnBinfmt, Around: registered, OwnExe: true,
	SetUp: func(t testing.TB, s *Store, program string) {
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
		line += "||" + s.Launcher(program) + "|FPOC\n"
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

// BySystemNormally is BySystem for whatever is not started from its image: the
// launcher does the kernel's work.
var BySystemNormally = Way{Name: "system, normally", Argv: Plain.Argv, Takes: OwnBinfmt, SetUp: BySystem.SetUp, Around: registered,
	Plain: &Way{Name: "plain in a namespace, off", Argv: Plain.Argv, Around: inNamespace.Around, Env: off},
	Env:   off, Normal: "RESIDENTCTL_OFF=1", OwnExe: true,
	Differs: func(User) []Noise { return linkerBelowVDSO },
}

// linkerBelowVDSO is how a normal start by binfmt_misc differs: the kernel maps the
// dynamic linker before the vDSO, the launcher afterwards, below it.
var linkerBelowVDSO = []Noise{{regexp.MustCompile(`(?m)^r-xp ld-linux\S+ [0-9a-f]+ bytes from [0-9a-f]+\n`), ""}}

// OnTheMachine are the ways without a user namespace, where root can do less.
var OnTheMachine = []Way{ByLauncher, ByRun, ByCRIU, ByExec, ByShim}

// OwnBinfmt: a user namespace has a binfmt_misc of its own since Linux 6.7.
func OwnBinfmt(t testing.TB, _ string) bool {
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

func off(*Store, string) []string { return []string{"RESIDENTCTL_OFF=1"} }

func registered(s *Store, _ User, path string, args []string) (string, []string) {
	return namespaceTool(s.t), slices.Concat([]string{registrations(), path}, args)
}

func registrations() string { return filepath.Join(Temporary, "registrations") }

// namespaceTool has to belong to root, whichever user executes it.
func namespaceTool(t testing.TB) string {
	t.Helper()
	path := filepath.Join(Temporary, "namespace")
	if exists(path) {
		return path
	}
	Compile(t, path, "../scripts/bench.d/namespace.c")
	if err := os.Chmod(path, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	return path
}

// ResidentWays are those that need no other surroundings than a plain start.
var ResidentWays = []Way{ByLauncher, ByRun}

// SurroundedWays are those for which nothing has to be set up.
var SurroundedWays = []Way{ByLauncher, ByRun, ByExec}

// ReadyWays are SurroundedWays and those of binfmt_misc, set up for programs.
func ReadyWays(t testing.TB, s *Store, programs ...string) []Way {
	t.Helper()
	for _, program := range programs {
		BySystem.Ready(t, s, program)
	}
	ways := slices.Clip(SurroundedWays)
	if OwnBinfmt(t, "") {
		ways = append(ways, BySystem, BySystemNormally)
	}
	return ways
}

// EveryWay are all that a command or situation is tried in.
var EveryWay = []Way{ByLauncher, ByRun, ByCRIU, ByExec, ByShim, BySystem, BySystemNormally}

// Launched are those in which the launcher is what starts the program.
var Launched = []Way{ByLauncher, ByRun, ByExec, ByShim, BySystem, BySystemNormally}

// WaysTo returns those of the ways by which the program can be started.
func WaysTo(t testing.TB, program string, ways []Way) []Way {
	t.Helper()
	return slices.DeleteFunc(slices.Clone(ways), func(w Way) bool {
		return w.Takes != nil && !w.Takes(t, program) || w.Restores && !restoring(t)
	})
}

// EngineEnv names the environment variable that, as "criu", has every test go by CRIU's
// restore too. That takes several times as long.
const EngineEnv = "RESIDENTCTL_TEST_ENGINE"

// restoredAlways are the tests that do so always.
var restoredAlways = []string{"TestVectors", "TestNames", "TestInheritance"}

// restoring reports whether a test goes by CRIU's restore.
func restoring(t testing.TB) bool {
	name, _, _ := strings.Cut(t.Name(), "/")
	return os.Getenv(EngineEnv) == "criu" || slices.Contains(restoredAlways, name)
}

// linkedByGlibc: only glibc's dynamic linker can be covered.
func linkedByGlibc(t testing.TB, program string) bool {
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

// Reference returns the way of the start to compare with.
func (w Way) Reference() Way {
	if w.Plain != nil {
		return *w.Plain
	}
	return Plain
}

// Ready sets the way up for a program, until the end of the test.
func (w Way) Ready(t testing.TB, s *Store, program string) {
	t.Helper()
	if w.SetUp != nil {
		w.SetUp(t, s, program)
	}
}

// Diff compares a start by this way with a plain one, but for what may differ.
func (w Way) Diff(u User, c Command, plainly, got Outcome) string {
	c.Noise = c.Differs[w.Name]
	if w.Differs != nil {
		c.Noise = slices.Concat(c.Noise, w.Differs(u))
	}
	for _, o := range []*Outcome{&plainly, &got} {
		o.Stdout, o.Stderr = c.Quiet(o.Stdout), c.Quiet(o.Stderr)
	}
	return cmp.Diff(plainly, got)
}

// Command returns the command line of a start, which Start begins.
func (w Way) Command(s *Store, u User, program string, more ...string) (path, argv0 string, args []string) {
	path, argv0, args = w.Argv(s, program)
	return w.surround(s, u, path, argv0, slices.Concat(args, more))
}

func (w Way) surround(s *Store, u User, path, argv0 string, args []string) (string, string, []string) {
	if w.Around == nil {
		return path, argv0, args
	}
	path, args = w.Around(s, u, path, args)
	return path, path, args
}

// Start begins a command whose line Command returned.
func (w Way) Start(s *Store, u User, c *exec.Cmd) error {
	if w.Begin == nil {
		return c.Start()
	}
	return w.Begin(s, u, c.Start)
}

func (w Way) run(s *Store, u User, c *exec.Cmd) error {
	if err := w.Start(s, u, c); err != nil {
		return err
	}
	return c.Wait()
}

// OwnDataHome returns where the user's own store is, which nothing is added to.
func (s *Store) OwnDataHome(u User) string {
	s.t.Helper()
	path := filepath.Join(Temporary, "own-of-"+u.Name)
	if err := os.Mkdir(path, 0o700); err == nil {
		err = os.Chown(path, int(u.ID), int(u.ID))
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return path
}

// The main goroutine keeps the main thread, so that none of inSystem's runs there:
// it is the one that /proc/self shows.
func init() { runtime.LockOSThread() }

// inSystem begins a command where the directory is the system's store, in a mount
// namespace of its own.
func inSystem(dir string, begin func() error) error {
	return inThread(func() error {
		if err := enterSystem(dir); err != nil {
			return err
		}
		return begin()
	})
}

// systems are the namespaces of enterSystem, by the store's directory. They stay: of
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
		return enter(namespace)
	}
	err := unix.Unshare(unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, "")
	}
	if _, statErr := os.Stat(system); err == nil && statErr != nil {
		// The directory to mount it on, beside all else that is there.
		skeleton := filepath.Join(Temporary, "skeleton")
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

// ExplanationOf returns what --explain says of one program, where others that are
// executed on the way to it say something too.
func ExplanationOf(stderr, program string) (how, why string) {
	for _, match := range explained.FindAllStringSubmatch(stderr, -1) {
		if filepath.Base(match[1]) == filepath.Base(program) {
			return match[2], match[3]
		}
	}
	return "nothing said", ""
}
