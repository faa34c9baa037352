package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/internal/seeded"
	"github.com/residentctl/residentctl/internal/unchanged"
)

// An account is an ordinary user as these tests need one: with groups and with a
// home, in which is the store of its own.
type account struct {
	name   string
	uid    uint32
	groups []uint32
	home   string
	env    []string // added to the environment of its commands
}

// Ids that nothing else on the machine has.
const (
	aliceID = 61_001
	bobID   = 61_002
	staffID = 61_100 // alice's group
)

// newAccounts are alice, who is in the group staff, and bob, who is not.
func newAccounts(t *testing.T) (alice, bob account) {
	t.Helper()
	requireCRIU(t)
	alice = account{name: "alice", uid: aliceID, groups: []uint32{staffID}}
	bob = account{name: "bob", uid: bobID}
	for _, a := range []*account{&alice, &bob} {
		a.home = folder(t)
		chown(t, a.home, int(a.uid))
		chmod(t, a.home, 0o700)
	}
	return alice, bob
}

func (a account) store() string { return filepath.Join(a.home, ".local", "share", "residentctl") }

// command is residentctl ARG… as the user runs it.
func (a account) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	return a.exec(t, residentctl(t), args...)
}

func (a account) exec(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, program, args...)
	c.Dir = "/"
	c.Env = append([]string{"PATH=/usr/bin:/bin", "HOME=" + a.home, "LANG=C.UTF-8"}, a.env...)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: a.uid, Gid: a.uid, Groups: a.groups}}
	c.WaitDelay = 5 * time.Second
	return c
}

// result is what a command said and ended with.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit status %d\nstdout: %sstderr: %s", r.code, r.stdout, r.stderr)
}

func finish(t *testing.T, c *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	unchanged.Check(t)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", c, err)
	}
	return result{stdout.String(), stderr.String(), c.ProcessState.ExitCode()}
}

// does runs a command that must succeed.
func (a account) does(t *testing.T, args ...string) result {
	t.Helper()
	r := finish(t, a.command(t, args...))
	if r.code != 0 {
		t.Fatalf("residentctl %s, as %s: %v", strings.Join(args, " "), a.name, r)
	}
	return r
}

// fails runs a command that must end with a status, and say all of the words.
func (a account) fails(t *testing.T, code int, words []string, args ...string) {
	t.Helper()
	r := finish(t, a.command(t, args...))
	if r.code != code {
		t.Errorf("residentctl %s, as %s: want status %d: %v", strings.Join(args, " "), a.name, code, r)
	}
	for _, w := range words {
		if !strings.Contains(r.stderr, w) {
			t.Errorf("residentctl %s, as %s: want %q: %v", strings.Join(args, " "), a.name, w, r)
		}
	}
}

// entry is what these tests look at of list's JSON.
type entry struct {
	ID      string `json:"id"`
	Program string `json:"program"`
	Current bool   `json:"current"`
	Store   string `json:"store"`
}

// lists gives the programs that the user is shown, sorted, each with its store.
func (a account) lists(t *testing.T, args ...string) []string {
	t.Helper()
	var entries []entry
	r := a.does(t, append([]string{"--format", "json"}, args...)...)
	if err := json.Unmarshal([]byte(r.stdout), &entries); err != nil {
		t.Fatalf("%v: %v", err, r)
	}
	programs := []string{}
	for _, e := range entries {
		if !e.Current {
			t.Errorf("%s is shown %s as stale", a.name, e.Program)
		}
		programs = append(programs, e.Program+" in "+e.Store)
	}
	slices.Sort(programs)
	return programs
}

// capableCRIU gives a CRIU which ordinary users can dump with, as scripts/setup
// --users makes one: a copy, so that the machine's own stays as it is.
func capableCRIU(t *testing.T) string {
	t.Helper()
	requireCRIU(t)
	return machinesCRIU(t, func(dir string) {
		setup := exec.Command("scripts/setup", "--users")
		setup.Dir = ".."
		// It uses the first in PATH that is new enough.
		setup.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		output, err := setup.CombinedOutput()
		if err != nil || !strings.Contains(string(output), filepath.Join(dir, "criu")) {
			t.Fatalf("scripts/setup --users: %v\n%s", err, output)
		}
	})
}

// plainCRIU is a copy of the machine's CRIU without any capability.
func plainCRIU(t *testing.T) string {
	t.Helper()
	return machinesCRIU(t, func(string) {})
}

func machinesCRIU(t *testing.T, prepare func(dir string)) string {
	t.Helper()
	for _, path := range append(strings.Split(os.Getenv("PATH"), ":"), "/usr/local/sbin", "/usr/sbin") {
		path = filepath.Join(path, "criu")
		if _, err := os.Stat(path); err != nil {
			continue
		}
		dir := folder(t)
		copyFile(t, path, filepath.Join(dir, "criu"))
		prepare(dir)
		return filepath.Join(dir, "criu")
	}
	t.Fatal("there is no criu")
	return ""
}

// program is a copy of true(1) with a mode and a group of its own.
func program(t *testing.T, path string, mode fs.FileMode, gid int) string {
	t.Helper()
	copyFile(t, installed(t, "true"), path)
	if err := os.Chown(path, 0, gid); err != nil {
		t.Fatal(err)
	}
	chmod(t, path, mode)
	return path
}

// TestReaders: of the programs in root's store every user sees and starts those
// that he can read, and nobody sees anything of the others.
func TestReaders(t *testing.T) {
	alice, bob := newAccounts(t)
	dir := folder(t)
	s := newStore(t, filepath.Join(dir, "data"))
	under := func(name string, mode fs.FileMode, gid int) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, 0, gid); err != nil {
			t.Fatal(err)
		}
		chmod(t, path, mode)
		return path
	}
	public := program(t, filepath.Join(dir, "public-program"), 0o755, 0)
	private := program(t, filepath.Join(dir, "private-program"), 0o700, 0)
	staffs := program(t, filepath.Join(dir, "staffs-program"), 0o750, staffID)
	execOnly := program(t, filepath.Join(dir, "execute-only-program"), 0o711, 0)
	shut := program(t, filepath.Join(under("shut-folder", 0o700, 0), "shut-program"), 0o755, 0)
	staffsShut := program(t, filepath.Join(under("staffs-folder", 0o750, staffID), "deep-program"), 0o755, 0)
	all := []string{public, private, staffs, execOnly, shut, staffsShut}
	s.do(t, append([]string{"add"}, all...)...)
	// A further name, in a folder for root alone, of a program for everybody.
	link := filepath.Join(dir, "shut-folder", "linked-program")
	if err := os.Link(public, link); err != nil {
		t.Fatal(err)
	}
	s.do(t, "add", public) // the link has changed it
	s.do(t, "add", link)

	for _, test := range []struct {
		account
		sees   []string
		starts map[string]string // "": resident; else what a start is or says
	}{
		{alice, []string{public, staffs, staffsShut}, map[string]string{execOnly: "normal", private: "none", shut: "none"}},
		{bob, []string{public}, map[string]string{execOnly: "normal", private: "none", shut: "none", staffs: "none", staffsShut: "none"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := []string{}
			for _, p := range test.sees {
				want = append(want, p+" in "+s.dir)
			}
			slices.Sort(want)
			if diff := cmp.Diff(want, test.lists(t, "--store", s.dir, "list")); diff != "" {
				t.Errorf("seen: want (-), got (+):\n%s", diff)
			}
			test.env = []string{"XDG_DATA_HOME=" + s.dataHome}
			for _, p := range all {
				plain, resident := -1, 0
				if c := test.exec(t, p); canStart(c) {
					plain = finish(t, test.exec(t, p)).code
				}
				r := finish(t, test.command(t, "run", p))
				strict := finish(t, test.command(t, "run", "--strict", p))
				switch test.starts[p] {
				case "":
					if plain != 0 || r.code != 0 || strict.code != resident {
						t.Errorf("%s: plain %d, run: %v\nrun --strict: %v", p, plain, r, strict)
					}
				case "normal":
					if plain != 0 || r.code != 0 || strict.code != 125 {
						t.Errorf("%s: plain %d, run: %v\nrun --strict: %v", p, plain, r, strict)
					}
				case "none":
					if plain == 0 || r.code != 126 && r.code != 127 {
						t.Errorf("%s: plain %d, run: %v", p, plain, r)
					}
				}
			}
			// What the user cannot read is nowhere to be found in the store.
			for _, p := range append(slices.Clone(all), link) {
				if slices.Contains(test.sees, p) {
					continue
				}
				found := finish(t, test.exec(t, "/usr/bin/find", s.dir, "-name", filepath.Base(p)))
				held := finish(t, test.exec(t, "/bin/grep", "-rsla", "--", filepath.Base(p), s.dir))
				if found.stdout != "" || held.stdout != "" {
					t.Errorf("%s is shown by %s%s", p, found.stdout, held.stdout)
				}
			}
			if held := finish(t, test.exec(t, "/bin/grep", "-rsla", "--", "public-program", s.dir)); held.stdout == "" {
				t.Error("grep finds nothing at all")
			}
		})
	}

	t.Run("mode changed", func(t *testing.T) {
		chmod(t, public, 0o700)
		s.do(t, "add", public)
		if got := bob.lists(t, "--store", s.dir, "list"); len(got) > 0 {
			t.Errorf("bob sees %q", got)
		}
		chmod(t, staffs, 0o755)
		s.do(t, "add", staffs)
		if got := bob.lists(t, "--store", s.dir, "list"); len(got) != 1 {
			t.Errorf("bob sees %q", got)
		}
		bob.env = []string{"XDG_DATA_HOME=" + s.dataHome}
		bob.does(t, "run", "--strict", staffs)

		// Of the folder that leads there.
		chmod(t, filepath.Dir(shut), 0o755)
		s.do(t, "add", shut)
		bob.does(t, "run", "--strict", shut)
		chmod(t, filepath.Dir(shut), 0o700)
		s.do(t, "add", shut)
		if got := bob.lists(t, "--store", s.dir, "list"); len(got) != 1 {
			t.Errorf("bob sees %q", got)
		}
	})
}

func canStart(c *exec.Cmd) bool {
	if err := c.Start(); err != nil {
		return false
	}
	return c.Wait() == nil
}

// TestVerifyAnothersStore: whoever may read an image may verify it, in a folder of
// his own where that takes one.
func TestVerifyAnothersStore(t *testing.T) {
	alice, _ := newAccounts(t)
	s := newStore(t, folder(t))
	program := fixture(t, "args")
	for _, layouts := range []string{"1", "2"} {
		s.do(t, "add", "--even-if-slower", "--layouts", layouts, program)
		alice.does(t, "--store", s.dir, "verify", program)
		s.do(t, "verify", program)
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "residentctl-work-*", filepath.Base(program))); len(left) > 0 || err != nil {
		t.Errorf("left behind: %q (%v)", left, err)
	}
}

// TestAnothersStore: an ordinary user can do nothing to root's store, and is told
// so; nor can he keep root waiting.
func TestAnothersStore(t *testing.T) {
	alice, _ := newAccounts(t)
	s := newStore(t, folder(t))
	program := fixture(t, "args")
	s.do(t, "add", program)
	for _, args := range [][]string{
		{"remove", program}, {"remove", "--all"}, {"add", "/bin/true"},
	} {
		alice.fails(t, 3, []string{"permission denied", "hint: only the owner of the store"}, append([]string{"--store", s.dir}, args...)...)
	}
	if got := alice.lists(t, "--store", s.dir, "list", program); len(got) != 1 {
		t.Errorf("after that: %q", got)
	}
	alice.fails(t, 1, []string{"nothing-of-that-name: no such entry"}, "--store", s.dir, "list", "nothing-of-that-name")

	// Locks on all that can be opened.
	const script = `
		while IFS= read -r path; do exec {fd}<"$path" && flock -x -n "$fd"; done 2>/dev/null < <(find "$1" 2>/dev/null)
		echo locked; sleep 60`
	c := alice.exec(t, "/bin/bash", "-c", script, "bash", s.dir)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { c.Process.Kill(); c.Wait() }()
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s.do(t, "add", fixture(t, "c-main"))
	s.do(t, "list")
	s.do(t, "remove", "--all")
	if took := time.Since(began); took > 4*time.Second { // below the registry's timeout
		t.Errorf("it took %v", took)
	}
}

// TestSystemStore: an ordinary user finds his own store and then the system's.
func TestSystemStore(t *testing.T) {
	alice, _ := newAccounts(t)
	// The system's store is on a file system of its own, in a mount namespace of its
	// own.
	const script = `
		set -eu
		residentctl=$1 criu=$2 home=$3 id=$4
		mount --make-rprivate /
		mount -t tmpfs -o mode=755 tmpfs /var/lib
		as() { setpriv --reuid="$id" --regid="$id" --clear-groups env -i PATH=/usr/bin:/bin HOME="$home" RESIDENTCTL_CRIU="$criu" "$@"; }
		HOME=/root "$residentctl" add /usr/bin/true >&2
		as "$residentctl" run --strict true
		as "$residentctl" list
		as "$residentctl" add /usr/bin/env >&2
		as "$residentctl" run --strict env true
		as "$residentctl" list
		as "$residentctl" list --format json true env nothing || echo list $?
		as "$residentctl" remove true || echo remove $?
		as "$residentctl" remove nothing || echo remove $?
		as "$residentctl" remove env
		as "$residentctl" exec -q --strict -- env RESIDENTCTL_EXPLAIN=1 true 2>&1 | sed -n 's/: image .*//; /true: /p'
		HOME=$home "$residentctl" list # root with a user's home
		HOME=$home "$residentctl" exec --strict -- true
		HOME=$home "$residentctl" exec -q --strict --auto -- true
		# A user with root's, where he has no store.
		mkdir -m 700 /var/lib/roots /var/lib/own; chown "$id" /var/lib/own; home=/var/lib/roots
		as "$residentctl" list
		as "$residentctl" status
		as TMPDIR=/var/lib/own "$residentctl" exec -q --strict -- env RESIDENTCTL_EXPLAIN=1 true 2>&1 | sed -n 's/: image .*//; /true: /p'
	`
	c := exec.Command("/bin/bash", "-c", script, "bash", residentctl(t), capableCRIU(t), alice.home, fmt.Sprint(alice.uid))
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	r := finish(t, c)
	const id, rest = `[0-9a-f]{12}  `, ` +current  +\S+ +\d+ +\S+ \S+ +\S+ \S+`
	const head = `ID +PROGRAM +STATE +GAIN +LIBRARIES +SIZE +CREATED`
	want := regexp.MustCompile(`(?s)^` + head + `\n` +
		id + `/usr/bin/true` + rest + `\n` +
		head + ` +STORE\n` +
		id + `/usr/bin/env` + rest + `  ` + alice.store() + `\n` +
		id + `/usr/bin/true` + rest + `  /var/lib/residentctl\n` +
		`\[.*"store": "` + alice.store() + `".*"store": "/var/lib/residentctl".*\]\n` +
		`list 1\nremove 3\nremove 1\n/usr/bin/env: removed [^\n]*\n` +
		`residentctl: /usr/bin/true: resident start\n` +
		head + `\n` +
		id + `/usr/bin/true` + rest + `\n` +
		head + `\n` +
		id + `/usr/bin/true` + rest + `\n` +
		`nothing is enabled[^\n]*\n` +
		`residentctl: /usr/bin/true: resident start\n$`)
	if r.code != 0 || !want.MatchString(r.stdout) {
		t.Errorf("want %s\n%v", want, r)
	}
	for _, said := range []string{
		"error: nothing: no such entry in " + alice.store(),
		"error: remove /usr/bin/true from the system's store (/var/lib/residentctl): permission denied",
		"hint: this store is somebody else's",
	} {
		if !strings.Contains(r.stderr, said) {
			t.Errorf("want %q: %v", said, r)
		}
	}
}

// TestUnsafeStore: a store that somebody else can write to is refused by every
// command, and a start from it is a normal one.
func TestUnsafeStore(t *testing.T) {
	alice, bob := newAccounts(t)
	program := fixture(t, "args")
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		words  []string
	}{
		{"writable by all", func(t *testing.T, dir string) { chmod(t, dir, 0o777) },
			[]string{"not safe to run programs from: others than its owner may write to it", "hint: look who could have changed it"}},
		{"writable by the group", func(t *testing.T, dir string) { chmod(t, dir, 0o775) },
			[]string{"others than its owner may write to it (mode 0775)"}},
		{"images writable by the group", func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, "images"), 0o775) },
			[]string{"images", "others than its owner may write to it"}},
		{"registry writable by all", func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, "registry.db"), 0o666) },
			[]string{"registry.db: not safe to be relied on: others than its owner may write to it (mode 0666)", "hint: look who could have changed it"}},
		{"registry somebody's", func(t *testing.T, dir string) { chown(t, filepath.Join(dir, "registry.db"), bobID) }, nil},
		{"somebody's", func(t *testing.T, dir string) { chown(t, dir, bobID) },
			[]string{fmt.Sprintf("belongs to user %d", bobID)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStore(t, folder(t))
			s.do(t, "add", program)
			test.damage(t, s.dir)
			for _, args := range [][]string{{"list"}, {"add", program}, {"remove", program}} {
				if test.words != nil {
					alice.fails(t, 3, test.words, append([]string{"--store", s.dir}, args...)...)
				}
				r := finish(t, s.command(args...)) // as root
				if r.code != 3 || !strings.Contains(r.stderr, "not safe") {
					t.Errorf("residentctl %q as root: %v", args, r)
				}
			}
			if strings.HasPrefix(test.name, "images") || strings.HasPrefix(test.name, "registry") {
				return // a start asks for the files' owner and mode, and for no registry
			}
			a := alice
			a.env = []string{"XDG_DATA_HOME=" + s.dataHome}
			a.does(t, "run", program)
			a.fails(t, 125, []string{"the store is not safe"}, "run", "--strict", program)
			// Root looks into none that the environment names.
			r := account{name: "root", home: bob.home}
			r.does(t, "run", "--store", s.dir, program)
			r.fails(t, 125, []string{"not safe"}, "run", "--strict", "--store", s.dir, program)
		})
	}
}

// TestDamagedAbout: a copy of a record that is damaged hides one program from who may
// only read the store, who is told so, and no other; root makes it anew.
func TestDamagedAbout(t *testing.T) {
	alice, _ := newAccounts(t)
	dir := folder(t)
	s := newStore(t, filepath.Join(dir, "data"))
	good, bad := program(t, filepath.Join(dir, "good"), 0o755, 0), program(t, filepath.Join(dir, "bad"), 0o755, 0)
	s.do(t, "add", "--even-if-slower", good, bad)
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, about string)
	}{
		{"empty", func(t *testing.T, about string) { truncate(t, about, 0, 1) }},
		{"half", func(t *testing.T, about string) { truncate(t, about, 1, 2) }},
		{"missing", remove},
		{"another's", func(t *testing.T, about string) {
			copyFile(t, filepath.Join(filepath.Dir(s.plan(t, good)), "about.json"), about)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			about := filepath.Join(filepath.Dir(s.plan(t, bad)), "about.json")
			test.damage(t, about)
			words := []string{"error: read " + about + ": ", "hint: one program is not shown; `residentctl refresh`"}
			for _, args := range [][]string{{"list"}, {"list", good}, {"list", "-q"}} {
				r := finish(t, alice.command(t, append([]string{"--store", s.dir}, args...)...))
				if r.code != 1 || r.stdout == "" {
					t.Errorf("%q: %v", args, r)
				}
				alice.fails(t, 1, words, append([]string{"--store", s.dir}, args...)...)
			}
			alice.fails(t, 1, words, "--store", s.dir, "verify")
			alice.fails(t, 1, words, "--store", s.dir, "status")
			alice.fails(t, 0, words, "--store", s.dir, "verify", good)
			alice.fails(t, 0, words, "--store", s.dir, "inspect", good)
			alice.fails(t, 1, append(words, bad+": no such entry"), "--store", s.dir, "inspect", bad)
			alice.fails(t, 1, []string{`{"error":"read ` + about}, "--store", s.dir, "--format", "json", "verify")

			s.do(t, "refresh")
			if got := alice.lists(t, "--store", s.dir, "list"); len(got) != 2 {
				t.Errorf("after refresh: %q", got)
			}
		})
	}
	remove(t, filepath.Join(s.dir, "registry.db")) // which is not for alice anyway
	if got := alice.lists(t, "--store", s.dir, "list"); len(got) != 2 {
		t.Errorf("without a registry: %q", got)
	}
}

// TestOwnStore: a user makes programs resident in a store of his own, with a CRIU
// that has the one capability for it, and is told how when it has not.
func TestOwnStore(t *testing.T) {
	alice, bob := newAccounts(t)
	s := newStore(t, folder(t)) // another's, with the same program
	s.do(t, "add", "perl")

	alice.env = []string{"RESIDENTCTL_CRIU=" + plainCRIU(t)}
	alice.fails(t, 4, []string{"has not the capability (CAP_CHECKPOINT_RESTORE)", "scripts/setup --users", "setcap cap_checkpoint_restore+ep"}, "add", "perl", "bash")

	alice.env = []string{"RESIDENTCTL_CRIU=" + capableCRIU(t)}
	perl := installed(t, "perl")
	alice.does(t, "add", "--even-if-slower", perl)
	if diff := cmp.Diff([]string{perl + " in " + alice.store()}, ownOf(alice, alice.lists(t, "list"))); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	r := alice.does(t, "run", "--strict", "--explain", perl, "-e", `print "$< $0 @ARGV\n"; exec $^X, "-e", "print 1"`, "x")
	if want := fmt.Sprintf("%d -e x\n1", aliceID); r.stdout != want || !strings.Contains(r.stderr, "resident start") {
		t.Errorf("want %q: %v", want, r)
	}
	// Nobody else can see into it, and bob's own is empty.
	if r := finish(t, bob.exec(t, "/bin/ls", alice.store())); r.code == 0 {
		t.Errorf("bob sees %v", r)
	}
	if got := ownOf(bob, bob.lists(t, "list")); len(got) > 0 {
		t.Errorf("bob sees %q", got)
	}
	bob.env = []string{"XDG_DATA_HOME=" + filepath.Dir(alice.store())}
	if got := ownOf(alice, bob.lists(t, "list")); len(got) > 0 {
		t.Errorf("bob sees %q", got)
	}
	bob.fails(t, 3, nil, "--store", alice.store(), "list")
	bob.does(t, "run", perl, "-e", "1")

	// Programs that are not for him to make resident.
	dir := folder(t)
	alice.fails(t, 1, []string{"may not be read by you"}, "add", program(t, filepath.Join(dir, "execute-only"), 0o711, 0))
	alice.fails(t, 1, []string{"may not be read by you"}, "add", program(t, filepath.Join(dir, "private"), 0o700, 0))
	staffs := program(t, filepath.Join(dir, "staffs"), 0o750, staffID)
	alice.does(t, "add", "--even-if-slower", staffs)
	alice.does(t, "run", "--strict", staffs)
	odd := program(t, filepath.Join(dir, "odd"), 0o715, bobID) // a group that alice cannot give files to
	alice.does(t, "add", "--even-if-slower", odd)
	alice.does(t, "run", "--strict", odd)

	alice.does(t, "remove", "perl")
	if got := ownOf(alice, alice.lists(t, "list")); len(got) != 2 {
		t.Errorf("after a removal: %q", got)
	}
	alice.does(t, "remove", "--all")
	if left, _ := filepath.Glob(filepath.Join(alice.store(), "[il]*", "*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// ownOf leaves out what is in the machine's own store.
func ownOf(a account, programs []string) []string {
	return slices.DeleteFunc(programs, func(p string) bool { return !strings.HasSuffix(p, " in "+a.store()) })
}

// TestKilledUsersAdd: as TestKilledAdd, for a CRIU which as a file with
// capabilities outlives its parent's death signal.
func TestKilledUsersAdd(t *testing.T) {
	const kills = 25
	alice, _ := newAccounts(t)
	alice.env = []string{"RESIDENTCTL_CRIU=" + capableCRIU(t)}
	program := program(t, filepath.Join(folder(t), "args"), 0o755, 0)

	begin := time.Now()
	alice.does(t, "add", "--even-if-slower", program)
	whole := time.Since(begin)
	alice.does(t, "remove", "--all")
	rnd := seeded.Rand(t)
	for range kills {
		after := time.Duration(rnd.Float64() * 1.1 * float64(whole))
		add := alice.command(t, "add", "--even-if-slower", program)
		if err := add.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after)
		add.Process.Kill()
		add.Wait()
		wantNoProcess(t, program, alice.home)
		alice.does(t, "run", program)
		if t.Failed() {
			t.Fatalf("after add was killed at %v of %v", after, whole)
		}
	}
	alice.does(t, "add", "--even-if-slower", program)
	alice.does(t, "run", "--strict", program)
}
