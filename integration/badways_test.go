package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/pkg/launcher"
	"github.com/residentctl/residentctl/pkg/plan"
)

// A badWorld is a store with one resident program, whose first word of output is
// "one", and a user who starts it.
type badWorld struct {
	owner, user       kit.Account
	residentctl       string // the command under test; a state may put another in its place
	dir               string // the store
	program, launcher string
	criu              string
	wrapper           []string // in which root executes what the user starts
	namespaces        uintptr  // clone(2)'s flags for that
}

// ways are the ways in, by name.
var badWays = []string{"launcher file", "run", "run --strict", "shim", "exec", "exec --strict", "exec --auto"}

func newBadWorld(t *testing.T, owner, user kit.Account, criu string) *badWorld {
	t.Helper()
	data := kit.Dir(t)
	kit.Chown(t, data, int(owner.UID))
	w := &badWorld{owner: owner, user: user, residentctl: kit.Residentctl(t), dir: filepath.Join(data, "residentctl")}
	w.program = filepath.Join(kit.Dir(t), "speak")
	w.build(t, w.program, "one")
	if owner.UID != 0 {
		w.criu = criu
	}
	return w
}

// build puts a program that says a word in its place, by rename.
func (w *badWorld) build(t *testing.T, path, word string) {
	t.Helper()
	built := filepath.Join(kit.Temporary, "speaking-"+word)
	source := built + ".c"
	if err := os.WriteFile(source, []byte(strings.Replace(speaking, "puts(\"\")", "return !puts(\"\")", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	kit.Compile(t, built, source, fmt.Sprintf("-DWORD=%q", word))
	kit.CopyFile(t, built, path+".new")
	rename(t, path+".new", path)
}

// as is a command line as a user executes it, in the wrapper.
func (w *badWorld) as(t *testing.T, a kit.Account, env []string, argv ...string) *exec.Cmd {
	t.Helper()
	all := append([]string{}, w.wrapper...)
	if a.UID != 0 {
		all = append(all, "setpriv", "--reuid", fmt.Sprint(a.UID), "--regid", fmt.Sprint(a.UID), "--clear-groups")
	}
	all = append(all, "env", "-i", "LANG=C.UTF-8", "HOME="+a.Home, "TMPDIR="+a.Home, "XDG_DATA_HOME="+filepath.Dir(w.dir), "PATH=/usr/bin:/bin:"+filepath.Dir(w.program))
	if w.criu != "" {
		all = append(all, "RESIDENTCTL_CRIU="+w.criu)
	}
	all = append(append(all, env...), argv...)
	path, err := exec.LookPath(all[0])
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, path, all[1:]...)
	c.Dir = "/"
	c.WaitDelay = 5 * time.Second
	if w.namespaces != 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: w.namespaces,
			UidMappings: []syscall.SysProcIDMap{{Size: 1<<32 - 1}}, GidMappings: []syscall.SysProcIDMap{{Size: 1<<32 - 1}}, GidMappingsEnableSetgroups: true}
	}
	return c
}

// does runs a command of residentctl's as the store's owner, which must succeed.
func (w *badWorld) does(t *testing.T, args ...string) {
	t.Helper()
	if r := kit.Finish(t, w.as(t, w.owner, nil, append([]string{w.residentctl, "--store", w.dir}, args...)...)); r.Code != 0 {
		t.Fatalf("residentctl %s: %v", strings.Join(args, " "), r)
	}
}

// fill makes the program resident and enables it.
func (w *badWorld) fill(t *testing.T) {
	t.Helper()
	w.does(t, "enable", "--even-if-slower", w.program)
	var st syscall.Stat_t
	if err := syscall.Stat(w.program, &st); err != nil {
		t.Fatal(err)
	}
	w.launcher = filepath.Join(w.dir, "launchers", fmt.Sprintf("%d-%d", st.Dev, st.Ino), w.program)
}

// start starts the program that way.
func (w *badWorld) start(t *testing.T, way string) kit.Result {
	t.Helper()
	env := []string{"RESIDENTCTL_EXPLAIN=1"}
	execs := []string{w.residentctl, "exec", "--store", w.dir}
	run := []string{w.residentctl, "run"}
	if w.user.UID == 0 { // who looks into no store of a HOME
		run = append(run, "--store", w.dir)
	}
	var argv []string
	switch way {
	case "launcher file":
		argv = []string{w.launcher}
	case "run":
		argv = append(run, w.program)
	case "run --strict":
		argv = append(run, "--strict", w.program)
	case "shim":
		env = append(env, "PATH="+filepath.Join(w.dir, "shims")+":/usr/bin:/bin:"+filepath.Dir(w.program))
		argv = []string{"/usr/bin/env", "speak"}
	case "exec":
		argv = append(execs, "-q", "--", w.program)
	case "exec --strict":
		argv = append(execs, "-q", "--strict", "--", w.program)
	case "exec --auto":
		argv = append(execs, "-q", "--auto", "--no-background", "--", w.program)
	}
	return kit.Finish(t, w.as(t, w.user, env, append(argv, "a", "b c")...))
}

// Outcomes of a start.
const (
	isResident = "resident"
	isNormal   = "normal"      // and says so
	isPlain    = "plain"       // without anything of residentctl's having been executed
	isUncover  = "not covered" // exec says why, and executes the command normally
	isRefused  = "refused"     // --strict: status 125 and a hint
	isGone     = "gone"        // status 127: there is no such program
	isNoWay    = "no way"      // the way itself is gone
)

// wantStart fails unless a start that way is what it should be.
func (w *badWorld) wantStart(t *testing.T, way, want, word, because string) {
	t.Helper()
	if want == isNoWay {
		return
	}
	r := w.start(t, way)
	how, why := kit.Explanation(r.Stderr)
	said := strings.Contains(r.Stderr, because)
	ok := r.Code == 0 && strings.HasPrefix(r.Stdout, word+" ") && strings.HasSuffix(r.Stdout, " a b c\n")
	switch want {
	case isResident:
		ok = ok && how == "resident start"
	case isNormal:
		ok = ok && how == "started normally" && said
	case isPlain:
		ok = ok && how == "nothing said"
	case isUncover:
		ok = ok && how == "nothing said" && strings.Contains(r.Stderr, "residentctl: no resident starts in "+w.program+": ") && said
	case isRefused:
		ok = r.Code == 125 && r.Stdout == "" && strings.Count(r.Stderr, "residentctl: error: ") == 1 && said
		if strings.HasPrefix(way, "exec") {
			ok = ok && strings.Contains(r.Stderr, "residentctl: hint: ")
		}
	case isGone:
		ok = r.Code == 127 && r.Stdout == "" && r.Stderr != ""
	}
	if !ok {
		t.Errorf("%s by %s: want %s (%q), got %s: %s\n%v", way, w.user.Name, want, because, how, why, r)
	}
	for _, leak := range []string{"panic", "goroutine ", "runtime error", "SIGSEGV"} {
		if strings.Contains(r.Stderr, leak) {
			t.Errorf("%s: it says %q", way, leak)
		}
	}
}

// inMountNamespace lets everything from now on happen in a mount namespace in which
// the script was run.
func (w *badWorld) inMountNamespace(t *testing.T, script string, args ...string) {
	t.Helper()
	c := exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "/bin/sh", "-c", script + "\necho ready; read -r _", "sh"}, args...)...)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	lines := startReading(t, c)
	t.Cleanup(func() { in.Close() })
	lines.want(t, "ready")
	w.wrapper = []string{"nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", c.Process.Pid)}
}

// plan is the plan's file.
func (w *badWorld) plan(t *testing.T) string {
	t.Helper()
	plans, err := filepath.Glob(filepath.Join(w.dir, "images", "*", "plan"))
	if err != nil || len(plans) != 1 {
		t.Fatalf("plans %q, %v", plans, err)
	}
	return plans[0]
}

// otherVersion writes another format's version into the plan.
func otherVersion(version uint32) func(*testing.T, *badWorld) {
	return func(t *testing.T, w *badWorld) {
		path := w.plan(t)
		for i, b := range binary.LittleEndian.AppendUint32(nil, version) {
			overwrite(t, path, int64(len(plan.Magic)+i), b)
		}
	}
}

// oldLauncher puts launchers that know only another version of plans in the place
// of the launcher file's and of residentctl's own.
func oldLauncher(t *testing.T, w *badWorld) {
	code := otherLauncher(t)
	patched := filepath.Join(kit.Dir(t), "residentctl")
	for _, file := range []struct {
		from, to string
		least    int
	}{{w.launcher, w.launcher, 1}, {w.residentctl, patched, 2}} {
		raw, err := os.ReadFile(file.from)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(raw, launcher.Code); n < file.least {
			t.Fatalf("%s holds the launcher %d times", file.from, n)
		}
		raw = bytes.ReplaceAll(raw, launcher.Code, code)
		// It is in the store's order of writes: another file, of the same owner and mode.
		if err := os.WriteFile(file.to+".new", raw, 0o755); err != nil {
			t.Fatal(err)
		}
		kit.Chown(t, file.to+".new", int(w.owner.UID))
		rename(t, file.to+".new", file.to)
	}
	kit.Chown(t, patched, 0)
	w.residentctl = patched
}

// otherLauncher is the launcher, compiled for the next version of plans.
func otherLauncher(t *testing.T) []byte {
	t.Helper()
	tree := kit.Dir(t)
	for _, dir := range []string{"scripts", "pkg/launcher/src"} {
		if err := os.CopyFS(filepath.Join(tree, dir), os.DirFS(filepath.Join("..", dir))); err != nil {
			t.Fatal(err)
		}
	}
	edit := func(name, old, new string) {
		t.Helper()
		path := filepath.Join(tree, "pkg/launcher/src", name)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(text, []byte(old)); n != 1 {
			t.Fatalf("%s holds %q %d times", name, old, n)
		}
		rewrite(t, path, bytes.ReplaceAll(text, []byte(old), []byte(new)))
	}
	version := "#define PLAN_VERSION %d\n"
	edit("plan.h", fmt.Sprintf(version, plan.Version), fmt.Sprintf(version, plan.Version+1))
	// It has to be as long as this one, whose place it takes: a message is left out, in
	// case that what the compiler makes of another number is longer, and the rest filled.
	edit("map.c", "the vDSO would be moved over itself", "")
	edit("launcher.lds", ". = ALIGN(16);", fmt.Sprintf(". = %d;", len(launcher.Code)))
	out := filepath.Join(tree, "launcher.bin")
	build := exec.Command(filepath.Join(tree, "scripts", "build-launcher"), out)
	if message, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build-launcher: %v\n%s", err, message)
	}
	code, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if len(code) != len(launcher.Code) || bytes.Equal(code, launcher.Code) {
		t.Fatalf("the other launcher has %d bytes, this one %d", len(code), len(launcher.Code))
	}
	return code
}

// ownFileSystem puts the store on a file system of its own.
func ownFileSystem(t *testing.T, w *badWorld) {
	w.inMountNamespace(t, `mount -t tmpfs -o mode=755 none "$1" && chown "$2" "$1"`, filepath.Dir(w.dir), fmt.Sprint(w.owner.UID))
}

// makeNoexec forbids to execute anything there.
func makeNoexec(t *testing.T, w *badWorld) {
	if r := kit.Finish(t, w.as(t, admin(t), nil, "mount", "-o", "remount,noexec", filepath.Dir(w.dir))); r.Code != 0 {
		t.Fatal(r)
	}
}

func wantAddRefused(t *testing.T, w *badWorld) {
	w.wantStarted(t, "run")
	r := kit.Finish(t, w.as(t, w.owner, nil, w.residentctl, "--store", w.dir, "add", "--even-if-slower", kit.Installed(t, "true")))
	if r.Code != statusStore || !strings.Contains(r.Stderr, "its file system is mounted noexec") {
		t.Errorf("add: want status %d: %v", statusStore, r)
	}
	wantClear(t, "add", r.Code, r.Stdout, r.Stderr)
}

// TestBadStatesByWay: in each state every way in starts the program, normally where
// that is in doubt, or says clearly why not. Each day it is one user's turn.
func TestBadStatesByWay(t *testing.T) {
	alice, _ := kit.NewAccounts(t)
	criu := kit.CapableCRIU(t)
	all := func(how string) map[string]string {
		want := map[string]string{}
		for _, way := range badWays {
			want[way] = how
		}
		if how == isNormal {
			want["run --strict"] = isRefused
		}
		return want
	}
	but := func(want map[string]string, more ...string) map[string]string {
		for i := 0; i < len(more); i += 2 {
			want[more[i]] = more[i+1]
		}
		return want
	}
	uncovered := []string{"exec", isUncover, "exec --strict", isRefused, "exec --auto", isUncover}
	both := []kit.Account{admin(t), alice}
	states := []struct {
		name    string
		users   []kit.Account
		others  bool                            // the store is root's, also when another user starts
		before  func(*testing.T, *badWorld)     // before the program is made resident
		spoil   func(*testing.T, *badWorld)     // afterwards
		want    map[string]string               // by way
		word    string                          // "one" if it is empty
		because string                          // in what is said where it is not resident
		after   func(t *testing.T, w *badWorld) // what else there is to see
	}{
		{name: "nothing", users: both, want: all(isResident)},
		{name: "the store gone", users: both, spoil: func(t *testing.T, w *badWorld) { kit.Remove(t, w.dir) },
			because: "it is not resident", want: but(all(isNormal), "launcher file", isNoWay, "shim", isPlain)},
		{name: "the images gone", users: both, spoil: func(t *testing.T, w *badWorld) { kit.Remove(t, filepath.Join(w.dir, "images")) },
			because: "its image is missing", want: all(isNormal)},
		{name: "root's store, readable", users: []kit.Account{alice}, others: true,
			want: all(isResident)},
		{name: "root's store, unreadable", users: []kit.Account{alice}, others: true,
			spoil:   func(t *testing.T, w *badWorld) { kit.Chmod(t, w.dir, 0o700) },
			because: "", want: but(but(all(isNormal), "launcher file", isNoWay, "shim", isPlain), uncovered...)},
		{name: "root's images, unreadable", users: []kit.Account{alice}, others: true,
			spoil:   func(t *testing.T, w *badWorld) { kit.Chmod(t, filepath.Join(w.dir, "images"), 0o700) },
			because: "", want: but(all(isNormal), "exec --strict", isNormal)},
		{name: "a store on another file system", users: both,
			before: ownFileSystem, want: all(isResident)},
		{name: "images on another file system", users: []kit.Account{admin(t)},
			spoil: func(t *testing.T, w *badWorld) {
				w.inMountNamespace(t, `mount -t tmpfs -o mode=755 none "$1"`, filepath.Join(w.dir, "images"))
			},
			because: "its image is missing", want: all(isNormal),
			after: func(t *testing.T, w *badWorld) {
				// What is staged cannot be renamed to its place.
				r := kit.Finish(t, w.as(t, w.owner, nil, w.residentctl, "--store", w.dir, "add", "--even-if-slower", kit.Installed(t, "true")))
				if r.Code != statusStore || !strings.Contains(r.Stderr, "error: ") || !strings.Contains(r.Stderr, "hint: use another store with --store: all of a store must be on one file system") {
					t.Errorf("add: want status %d: %v", statusStore, r)
				}
				wantClear(t, "add", r.Code, r.Stdout, r.Stderr)
				if left, _ := os.ReadDir(filepath.Join(w.dir, "staging")); len(left) > 0 {
					t.Errorf("left in staging: %v", left)
				}
			}},
		{name: "a store from which nothing may be executed", users: []kit.Account{admin(t)},
			before: ownFileSystem,
			spoil:  makeNoexec,
			// Root becomes the program without a launcher file.
			because: "noexec", want: but(but(all(isResident), "launcher file", isNoWay, "shim", isPlain, "run", "", "run --strict", ""), uncovered...),
			after: wantAddRefused},
		{name: "a store from which nothing may be executed, of an ordinary user", users: []kit.Account{alice},
			before: ownFileSystem,
			spoil:  makeNoexec,
			// What exec covers the linker with stands somewhere else.
			because: "noexec", want: but(all(isResident), "launcher file", isNoWay, "shim", isPlain, "run", "", "run --strict", ""),
			after: wantAddRefused},
		{name: "a plan of the next version", users: both, spoil: otherVersion(plan.Version + 1),
			because: "its plan is of another version of residentctl", want: all(isNormal), after: wantMended},
		{name: "a plan of an older version", users: both, spoil: otherVersion(plan.Version - 1),
			because: "its plan is of another version of residentctl", want: all(isNormal)},
		{name: "launchers of another version", users: both, spoil: oldLauncher,
			because: "its plan is of another version of residentctl", want: all(isNormal)},
		{name: "the program deleted", users: both, spoil: func(t *testing.T, w *badWorld) { kit.Remove(t, w.program) }, want: all(isGone)},
		{name: "the program replaced", users: both, spoil: func(t *testing.T, w *badWorld) { w.build(t, w.program, "two") },
			word: "two", because: "", want: all(isNormal)},
		{name: "the program overwritten", users: both, spoil: func(t *testing.T, w *badWorld) {
			other := filepath.Join(kit.Dir(t), "speak")
			w.build(t, other, "two")
			kit.CopyFile(t, other, w.program)
		}, word: "two", because: "this has changed", want: all(isNormal)},
		{name: "no user namespaces", users: []kit.Account{alice}, spoil: noUserNamespaces,
			because: "(user.max_user_namespaces is 0)", want: but(map[string]string{}, uncovered...)},
		// It is in no usual directory for programs.
		{name: "no user namespaces, a program that looks at itself", users: []kit.Account{alice}, spoil: noUserNamespaces,
			because: "it looks at itself", want: but(all(isNormal), "exec", "", "exec --strict", "", "exec --auto", "")},
		{name: "no mount namespaces", users: []kit.Account{admin(t)}, spoil: func(_ *testing.T, w *badWorld) {
			w.namespaces = syscall.CLONE_NEWUSER
			w.wrapper = []string{"/bin/sh", "-c", `echo 0 >/proc/sys/user/max_mnt_namespaces && exec "$@"`, "sh"}
		}, because: "make a mount namespace: no space left on device", want: but(all(isResident), uncovered...)},
	}
	for i, state := range states {
		slice := kit.Today(t, len(state.users))
		for j, user := range state.users {
			if !slice.Has(i, j) {
				continue
			}
			t.Run(state.name+", "+user.Name, func(t *testing.T) {
				owner := user
				if state.others {
					owner = admin(t)
				}
				w := newBadWorld(t, owner, user, criu)
				if state.before != nil {
					state.before(t, w)
				}
				w.fill(t)
				if state.spoil != nil {
					state.spoil(t, w)
				}
				word := state.word
				if word == "" {
					word = "one"
				}
				for _, way := range badWays {
					if want := state.want[way]; want != "" {
						w.wantStart(t, way, want, word, state.because)
					}
				}
				if state.after != nil {
					state.after(t, w)
				}
			})
		}
	}
}

// noUserNamespaces starts in a user namespace that maps every user to itself, and whose
// limit of others is 0.
func noUserNamespaces(_ *testing.T, w *badWorld) {
	w.namespaces = syscall.CLONE_NEWUSER
	w.wrapper = []string{"/bin/sh", "-c", `echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"`, "sh"}
}

// admin is root with a home of his own.
func admin(t *testing.T) kit.Account {
	t.Helper()
	return kit.Account{Name: "root", Home: kit.Dir(t)}
}

// wantStarted fails unless the program starts that way, however that is.
func (w *badWorld) wantStarted(t *testing.T, way string) {
	t.Helper()
	if r := w.start(t, way); r.Code != 0 || !strings.HasPrefix(r.Stdout, "one ") {
		t.Errorf("%s by %s: %v", way, w.user.Name, r)
	}
}

// wantMended: commands tell of a plan of another version, and refresh replaces it.
func wantMended(t *testing.T, w *badWorld) {
	for _, words := range [][]string{{"check"}, {"verify"}} {
		r := kit.Finish(t, w.as(t, w.owner, nil, append([]string{w.residentctl, "--store", w.dir}, words...)...))
		if r.Code == 0 || !strings.Contains(r.Stdout+r.Stderr, "version") {
			t.Errorf("%s: %v", words[0], r)
		}
	}
	w.does(t, "refresh")
	for _, way := range badWays {
		w.wantStart(t, way, isResident, "one", "")
	}
	w.does(t, "gc")
	w.does(t, "check")
}

// TestAutoWithRootsStore: by an ordinary user exec --auto starts programs from root's
// images, as exec does, and says once that it can add none to them.
func TestAutoWithRootsStore(t *testing.T) {
	alice, _ := kit.NewAccounts(t)
	w := newBadWorld(t, admin(t), alice, "")
	w.fill(t)
	w.criu = kit.CapableCRIU(t) // or --strict fails for want of one
	auto := []string{w.residentctl, "exec", "--store", w.dir, "--auto"}
	r := kit.Finish(t, w.as(t, alice, []string{"RESIDENTCTL_EXPLAIN=1"}, append(auto, "--", w.program, "a")...))
	if r.Code != 0 || !strings.HasPrefix(r.Stdout, "one ") ||
		!strings.Contains(r.Stderr, "residentctl: "+w.program+": resident start") ||
		strings.Count(r.Stderr, "residentctl: cannot make resident what the command executes: ") != 1 ||
		!strings.Contains(r.Stderr, "residentctl: 1 of 1 starts were resident") {
		t.Errorf("%v", r)
	}
	r = kit.Finish(t, w.as(t, alice, nil, append(auto, "--strict", "--", w.program)...))
	if r.Code != 125 || r.Stdout != "" || !strings.Contains(r.Stderr, "nothing can be made resident: ") || !strings.Contains(r.Stderr, "permission denied") {
		t.Errorf("--strict: %v", r)
	}
}

// TestBadStatesUnderExec: what goes wrong while a command tree is running in it
// makes starts normal, and nothing else. Each day it is half of the users and ways.
func TestBadStatesUnderExec(t *testing.T) {
	alice, _ := kit.NewAccounts(t)
	criu := kit.CapableCRIU(t)
	slice := kit.Today(t, 4)
	for i, test := range []struct {
		name  string
		spoil func(t *testing.T, w *badWorld)
		want  string
	}{
		{"the store gone", func(t *testing.T, w *badWorld) { kit.Remove(t, w.dir) }, "one normal"},
		{"the store shut", func(t *testing.T, w *badWorld) { kit.Chmod(t, w.dir, 0) }, "one any"},
		{"removed", func(t *testing.T, w *badWorld) { w.does(t, "remove", "--all") }, "one normal"},
		{"made again", func(t *testing.T, w *badWorld) { w.does(t, "refresh", "--all") }, "one resident"},
		{"gc", func(t *testing.T, w *badWorld) { w.does(t, "gc") }, "one resident"},
		{"the program deleted", func(t *testing.T, w *badWorld) { kit.Remove(t, w.program) }, " 127"},
		{"the program replaced", func(t *testing.T, w *badWorld) { w.build(t, w.program, "two") }, "two normal"},
	} {
		for j, user := range []kit.Account{admin(t), alice} {
			for k, way := range []string{"", "--auto"} {
				if !slice.Has(i, j, k) {
					continue
				}
				t.Run(fmt.Sprintf("%s, %s, exec %s", test.name, user.Name, way), func(t *testing.T) {
					w := newBadWorld(t, user, user, criu)
					w.fill(t)
					const script = `
						say() { said=$("$1" 2>&1) || { echo " $?"; return; }; case $said in
							*"resident start"*) how=resident ;; *"started normally"*) how=normal ;; *) how=silent ;; esac
							word=${said##*started normally*$'\n'}; word=${word##*resident start*$'\n'}; echo "${word%% *} $how"; }
						say "$0"; read -r _ || exit 9; say "$0"; exit 6`
					argv := []string{w.residentctl, "exec", "-q", "--strict", "--store", w.dir}
					if way != "" {
						argv = append(argv, way)
					}
					c := w.as(t, user, []string{"RESIDENTCTL_EXPLAIN=1"}, append(argv, "--", "/bin/bash", "-c", script, w.program)...)
					in, err := c.StdinPipe()
					if err != nil {
						t.Fatal(err)
					}
					lines := startReading(t, c)
					if first := <-lines; first != "one resident" {
						t.Fatalf("before: %q", first)
					}
					test.spoil(t, w)
					if _, err := in.Write([]byte("go\n")); err != nil {
						t.Fatal(err)
					}
					got := <-lines
					if strings.HasSuffix(test.want, " any") {
						got = strings.Replace(strings.Replace(got, "resident", "any", 1), "normal", "any", 1)
					}
					if got != test.want {
						t.Errorf("got %q, want %q", got, test.want)
					}
					lines.drain()
					if _ = c.Wait(); c.ProcessState.ExitCode() != 6 {
						t.Errorf("%v", c.ProcessState)
					}
				})
			}
		}
	}
}
