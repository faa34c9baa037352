package integration

import (
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

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/internal/seeded"
)

// program is a copy of true(1) with a mode and a group of its own.
func program(t *testing.T, path string, mode fs.FileMode, gid int) string {
	t.Helper()
	kit.CopyFile(t, kit.Installed(t, "true"), path)
	if err := os.Chown(path, 0, gid); err != nil {
		t.Fatal(err)
	}
	kit.Chmod(t, path, mode)
	return path
}

// TestReaders: of the programs in root's store every user sees and starts those
// that he can read, and nobody sees anything of the others.
func TestReaders(t *testing.T) {
	alice, bob := kit.NewAccounts(t)
	dir := kit.Dir(t)
	s := kit.NewStore(t, filepath.Join(dir, "data"))
	under := func(name string, mode fs.FileMode, gid int) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, 0, gid); err != nil {
			t.Fatal(err)
		}
		kit.Chmod(t, path, mode)
		return path
	}
	public := program(t, filepath.Join(dir, "public-program"), 0o755, 0)
	private := program(t, filepath.Join(dir, "private-program"), 0o700, 0)
	staffs := program(t, filepath.Join(dir, "staffs-program"), 0o750, kit.StaffID)
	execOnly := program(t, filepath.Join(dir, "execute-only-program"), 0o711, 0)
	shut := program(t, filepath.Join(under("shut-directory", 0o700, 0), "shut-program"), 0o755, 0)
	staffsShut := program(t, filepath.Join(under("staffs-directory", 0o750, kit.StaffID), "deep-program"), 0o755, 0)
	all := []string{public, private, staffs, execOnly, shut, staffsShut}
	s.Do(t, append([]string{"add"}, all...)...)
	// A further name, in a directory for root alone, of a program for all users.
	link := filepath.Join(dir, "shut-directory", "linked-program")
	if err := os.Link(public, link); err != nil {
		t.Fatal(err)
	}
	s.Do(t, "add", public) // the link has changed it
	s.Do(t, "add", link)

	for _, test := range []struct {
		kit.Account
		sees   []string
		starts map[string]string // "": resident; else what a start is or says
	}{
		{alice, []string{public, staffs, staffsShut}, map[string]string{execOnly: "normal", private: "none", shut: "none"}},
		{bob, []string{public}, map[string]string{execOnly: "normal", private: "none", shut: "none", staffs: "none", staffsShut: "none"}},
	} {
		t.Run(test.Name, func(t *testing.T) {
			want := []string{}
			for _, p := range test.sees {
				want = append(want, p+" in "+s.Dir)
			}
			slices.Sort(want)
			if diff := cmp.Diff(want, test.Lists(t, "--store", s.Dir, "list")); diff != "" {
				t.Errorf("seen: want (-), got (+):\n%s", diff)
			}
			test.Env = []string{"XDG_DATA_HOME=" + s.DataHome}
			for _, p := range all {
				plain, resident := -1, 0
				if c := test.Exec(t, p); canStart(c) {
					plain = kit.Finish(t, test.Exec(t, p)).Code
				}
				r := kit.Finish(t, test.Command(t, "run", p))
				strict := kit.Finish(t, test.Command(t, "run", "--strict", p))
				switch test.starts[p] {
				case "":
					if plain != 0 || r.Code != 0 || strict.Code != resident {
						t.Errorf("%s: plain %d, run: %v\nrun --strict: %v", p, plain, r, strict)
					}
				case "normal":
					if plain != 0 || r.Code != 0 || strict.Code != 125 {
						t.Errorf("%s: plain %d, run: %v\nrun --strict: %v", p, plain, r, strict)
					}
				case "none":
					if plain == 0 || r.Code != 126 && r.Code != 127 {
						t.Errorf("%s: plain %d, run: %v", p, plain, r)
					}
				}
			}
			// What the user cannot read is nowhere to be found in the store.
			for _, p := range append(slices.Clone(all), link) {
				if slices.Contains(test.sees, p) {
					continue
				}
				found := kit.Finish(t, test.Exec(t, "/usr/bin/find", s.Dir, "-name", filepath.Base(p)))
				held := kit.Finish(t, test.Exec(t, "/bin/grep", "-rsla", "--", filepath.Base(p), s.Dir))
				if found.Stdout != "" || held.Stdout != "" {
					t.Errorf("%s is shown by %s%s", p, found.Stdout, held.Stdout)
				}
			}
			if held := kit.Finish(t, test.Exec(t, "/bin/grep", "-rsla", "--", "public-program", s.Dir)); held.Stdout == "" {
				t.Error("grep finds nothing at all")
			}
		})
	}

	t.Run("mode changed", func(t *testing.T) {
		kit.Chmod(t, public, 0o700)
		s.Do(t, "add", public)
		if got := bob.Lists(t, "--store", s.Dir, "list"); len(got) > 0 {
			t.Errorf("bob sees %q", got)
		}
		kit.Chmod(t, staffs, 0o755)
		s.Do(t, "add", staffs)
		if got := bob.Lists(t, "--store", s.Dir, "list"); len(got) != 1 {
			t.Errorf("bob sees %q", got)
		}
		bob.Env = []string{"XDG_DATA_HOME=" + s.DataHome}
		bob.Does(t, "run", "--strict", staffs)

		// Of the directory that leads there.
		kit.Chmod(t, filepath.Dir(shut), 0o755)
		s.Do(t, "add", shut)
		bob.Does(t, "run", "--strict", shut)
		kit.Chmod(t, filepath.Dir(shut), 0o700)
		s.Do(t, "add", shut)
		if got := bob.Lists(t, "--store", s.Dir, "list"); len(got) != 1 {
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

// TestVerifyAnothersStore: a user who may read an image may verify it, in a directory of
// his own where that takes one.
func TestVerifyAnothersStore(t *testing.T) {
	alice, _ := kit.NewAccounts(t)
	s := kit.NewStore(t, kit.Dir(t))
	program := kit.Fixture(t, "args")
	for _, layouts := range []string{"1", "2"} {
		s.Do(t, "add", "--even-if-slower", "--layouts", layouts, program)
		alice.Does(t, "--store", s.Dir, "verify", program)
		s.Do(t, "verify", program)
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "residentctl-work-*", filepath.Base(program))); len(left) > 0 || err != nil {
		t.Errorf("left behind: %q (%v)", left, err)
	}
}

// TestAnothersStore: an ordinary user can do nothing to root's store, and is told
// so; nor can he keep root waiting.
func TestAnothersStore(t *testing.T) {
	alice, _ := kit.NewAccounts(t)
	s := kit.NewStore(t, kit.Dir(t))
	program := kit.Fixture(t, "args")
	s.Do(t, "add", program)
	for _, args := range [][]string{
		{"remove", program}, {"remove", "--all"}, {"add", "/bin/true"},
	} {
		alice.Fails(t, 3, []string{"permission denied", "hint: run it as the owner of the store"}, append([]string{"--store", s.Dir}, args...)...)
	}
	if got := alice.Lists(t, "--store", s.Dir, "list", program); len(got) != 1 {
		t.Errorf("after that: %q", got)
	}
	alice.Fails(t, 1, []string{"nothing-of-that-name: no such entry"}, "--store", s.Dir, "list", "nothing-of-that-name")

	// Locks on all that can be opened.
	const script = `
		while IFS= read -r path; do exec {fd}<"$path" && flock -x -n "$fd"; done 2>/dev/null < <(find "$1" 2>/dev/null)
		echo locked; sleep 60`
	c := alice.Exec(t, "/bin/bash", "-c", script, "bash", s.Dir)
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
	s.Do(t, "add", kit.Fixture(t, "c-main"))
	s.Do(t, "list")
	s.Do(t, "remove", "--all")
	if took := time.Since(began); took > 4*time.Second { // below the registry's timeout
		t.Errorf("it took %v", took)
	}
}

// TestSystemStore: an ordinary user finds his own store and then the system's.
func TestSystemStore(t *testing.T) {
	alice, _ := kit.NewAccounts(t)
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
	c := exec.Command("/bin/bash", "-c", script, "bash", kit.Residentctl(t), kit.CapableCRIU(t), alice.Home, fmt.Sprint(alice.UID))
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	r := kit.Finish(t, c)
	const id, rest = `[0-9a-f]{12}  `, ` +linked +current  +\S+ +\d+ +\S+ \S+ +\S+ \S+`
	const head = `ID +PROGRAM +KIND +STATE +GAIN +LIBRARIES +SIZE +CREATED`
	want := regexp.MustCompile(`(?s)^` + head + `\n` +
		id + `/usr/bin/true` + rest + `\n` +
		head + ` +STORE\n` +
		id + `/usr/bin/env` + rest + `  ` + alice.Store() + `\n` +
		id + `/usr/bin/true` + rest + `  /var/lib/residentctl\n` +
		`\[.*"store": "` + alice.Store() + `".*"store": "/var/lib/residentctl".*\]\n` +
		`list 1\nremove 3\nremove 1\n/usr/bin/env: removed [^\n]*\n` +
		`residentctl: /usr/bin/true: resident start\n` +
		head + `\n` +
		id + `/usr/bin/true` + rest + `\n` +
		head + `\n` +
		id + `/usr/bin/true` + rest + `\n` +
		`nothing is enabled[^\n]*\n` +
		`residentctl: /usr/bin/true: resident start\n$`)
	if r.Code != 0 || !want.MatchString(r.Stdout) {
		t.Errorf("want %s\n%v", want, r)
	}
	for _, said := range []string{
		"error: nothing: no such entry in " + alice.Store(),
		"error: remove /usr/bin/true from the system's store (/var/lib/residentctl): permission denied",
		"hint: set HOME to your own home directory",
	} {
		if !strings.Contains(r.Stderr, said) {
			t.Errorf("want %q: %v", said, r)
		}
	}
}

// TestUnsafeStore: a store that another user can write to is refused by every
// command, and a start from it is a normal one.
func TestUnsafeStore(t *testing.T) {
	alice, bob := kit.NewAccounts(t)
	program := kit.Fixture(t, "args")
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		words  []string
	}{
		{"writable by all", func(t *testing.T, dir string) { kit.Chmod(t, dir, 0o777) },
			[]string{"not safe to run programs from: users other than its owner may write to it", "hint: find out who could have changed it"}},
		{"writable by the group", func(t *testing.T, dir string) { kit.Chmod(t, dir, 0o775) },
			[]string{"users other than its owner may write to it (mode 0775)"}},
		{"images writable by the group", func(t *testing.T, dir string) { kit.Chmod(t, filepath.Join(dir, "images"), 0o775) },
			[]string{"images", "users other than its owner may write to it"}},
		{"registry writable by all", func(t *testing.T, dir string) { kit.Chmod(t, filepath.Join(dir, "registry.db"), 0o666) },
			[]string{"registry.db: not safe to rely on: users other than its owner may write to it (mode 0666)", "hint: find out who could have changed it"}},
		{"registry of another user", func(t *testing.T, dir string) { kit.Chown(t, filepath.Join(dir, "registry.db"), kit.BobID) }, nil},
		{"another user's", func(t *testing.T, dir string) { kit.Chown(t, dir, kit.BobID) },
			[]string{fmt.Sprintf("belongs to user %d", kit.BobID)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := kit.NewStore(t, kit.Dir(t))
			s.Do(t, "add", program)
			test.damage(t, s.Dir)
			for _, args := range [][]string{{"list"}, {"add", program}, {"remove", program}} {
				if test.words != nil {
					alice.Fails(t, 3, test.words, append([]string{"--store", s.Dir}, args...)...)
				}
				r := kit.Finish(t, s.Command(args...)) // as root
				if r.Code != 3 || !strings.Contains(r.Stderr, "not safe") {
					t.Errorf("residentctl %q as root: %v", args, r)
				}
			}
			if strings.HasPrefix(test.name, "images") || strings.HasPrefix(test.name, "registry") {
				return // a start asks for the files' owner and mode, and for no registry
			}
			a := alice
			a.Env = []string{"XDG_DATA_HOME=" + s.DataHome}
			a.Does(t, "run", program)
			a.Fails(t, 125, []string{"the store is not safe"}, "run", "--strict", program)
			// Root looks into none that the environment names.
			r := kit.Account{Name: "root", Home: bob.Home}
			r.Does(t, "run", "--store", s.Dir, program)
			r.Fails(t, 125, []string{"not safe"}, "run", "--strict", "--store", s.Dir, program)
		})
	}
}

// TestDamagedAbout: a copy of a record that is damaged hides one program from who may
// only read the store, who is told so, and no other; root makes it again.
func TestDamagedAbout(t *testing.T) {
	alice, _ := kit.NewAccounts(t)
	dir := kit.Dir(t)
	s := kit.NewStore(t, filepath.Join(dir, "data"))
	good, bad := program(t, filepath.Join(dir, "good"), 0o755, 0), program(t, filepath.Join(dir, "bad"), 0o755, 0)
	s.Do(t, "add", "--even-if-slower", good, bad)
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, about string)
	}{
		{"empty", func(t *testing.T, about string) { truncate(t, about, 0, 1) }},
		{"half", func(t *testing.T, about string) { truncate(t, about, 1, 2) }},
		{"missing", func(t *testing.T, about string) { kit.Remove(t, about) }},
		{"another's", func(t *testing.T, about string) {
			kit.CopyFile(t, filepath.Join(filepath.Dir(s.Plan(t, good)), "about.json"), about)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			about := filepath.Join(filepath.Dir(s.Plan(t, bad)), "about.json")
			test.damage(t, about)
			words := []string{"error: read " + about + ": ", "hint: run `residentctl refresh` as the store's owner"}
			for _, args := range [][]string{{"list"}, {"list", good}, {"list", "-q"}} {
				r := kit.Finish(t, alice.Command(t, append([]string{"--store", s.Dir}, args...)...))
				if r.Code != 1 || r.Stdout == "" {
					t.Errorf("%q: %v", args, r)
				}
				alice.Fails(t, 1, words, append([]string{"--store", s.Dir}, args...)...)
			}
			alice.Fails(t, 1, words, "--store", s.Dir, "verify")
			alice.Fails(t, 1, words, "--store", s.Dir, "status")
			alice.Fails(t, 0, words, "--store", s.Dir, "verify", good)
			alice.Fails(t, 0, words, "--store", s.Dir, "inspect", good)
			alice.Fails(t, 1, append(words, bad+": no such entry"), "--store", s.Dir, "inspect", bad)
			alice.Fails(t, 1, []string{`{"error":"read ` + about}, "--store", s.Dir, "--format", "json", "verify")

			s.Do(t, "refresh")
			if got := alice.Lists(t, "--store", s.Dir, "list"); len(got) != 2 {
				t.Errorf("after refresh: %q", got)
			}
		})
	}
	kit.Remove(t, filepath.Join(s.Dir, "registry.db")) // which is not for alice anyway
	if got := alice.Lists(t, "--store", s.Dir, "list"); len(got) != 2 {
		t.Errorf("without a registry: %q", got)
	}
}

// TestOwnStore: a user makes programs resident in a store of his own, with a CRIU
// that has the one capability for it, and is told how when it has not.
func TestOwnStore(t *testing.T) {
	alice, bob := kit.NewAccounts(t)
	s := kit.NewStore(t, kit.Dir(t)) // another's, with the same program
	s.Do(t, "add", "perl")

	alice.Env = []string{"RESIDENTCTL_CRIU=" + kit.PlainCRIU(t)}
	alice.Fails(t, 4, []string{"lacks the capability (CAP_CHECKPOINT_RESTORE)", "setcap cap_checkpoint_restore+ep"}, "add", "perl", "bash")

	alice.Env = []string{"RESIDENTCTL_CRIU=" + kit.CapableCRIU(t)}
	perl := kit.Installed(t, "perl")
	alice.Does(t, "add", "--even-if-slower", perl)
	if diff := cmp.Diff([]string{perl + " in " + alice.Store()}, ownOf(alice, alice.Lists(t, "list"))); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	r := alice.Does(t, "run", "--strict", "--explain", perl, "-e", `print "$< $0 @ARGV\n"; exec $^X, "-e", "print 1"`, "x")
	if want := fmt.Sprintf("%d -e x\n1", kit.AliceID); r.Stdout != want || !strings.Contains(r.Stderr, "resident start") {
		t.Errorf("want %q: %v", want, r)
	}
	// Nobody else can see into it, and bob's own is empty.
	if r := kit.Finish(t, bob.Exec(t, "/bin/ls", alice.Store())); r.Code == 0 {
		t.Errorf("bob sees %v", r)
	}
	if got := ownOf(bob, bob.Lists(t, "list")); len(got) > 0 {
		t.Errorf("bob sees %q", got)
	}
	bob.Env = []string{"XDG_DATA_HOME=" + filepath.Dir(alice.Store())}
	if got := ownOf(alice, bob.Lists(t, "list")); len(got) > 0 {
		t.Errorf("bob sees %q", got)
	}
	bob.Fails(t, 3, nil, "--store", alice.Store(), "list")
	bob.Does(t, "run", perl, "-e", "1")

	// Programs that are not for him to make resident.
	dir := kit.Dir(t)
	alice.Fails(t, 1, []string{"cannot be read by you"}, "add", program(t, filepath.Join(dir, "execute-only"), 0o711, 0))
	alice.Fails(t, 1, []string{"cannot be read by you"}, "add", program(t, filepath.Join(dir, "private"), 0o700, 0))
	staffs := program(t, filepath.Join(dir, "staffs"), 0o750, kit.StaffID)
	alice.Does(t, "add", "--even-if-slower", staffs)
	alice.Does(t, "run", "--strict", staffs)
	odd := program(t, filepath.Join(dir, "odd"), 0o715, kit.BobID) // a group that alice cannot give files to
	alice.Does(t, "add", "--even-if-slower", odd)
	alice.Does(t, "run", "--strict", odd)

	alice.Does(t, "remove", "perl")
	if got := ownOf(alice, alice.Lists(t, "list")); len(got) != 2 {
		t.Errorf("after a removal: %q", got)
	}
	alice.Does(t, "remove", "--all")
	if left, _ := filepath.Glob(filepath.Join(alice.Store(), "[il]*", "*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// ownOf leaves out what is in the machine's own store.
func ownOf(a kit.Account, programs []string) []string {
	return slices.DeleteFunc(programs, func(p string) bool { return !strings.HasSuffix(p, " in "+a.Store()) })
}

// TestKilledUsersAdd: as TestKilledAdd, for a CRIU which as a file with
// capabilities outlives its parent's death signal.
func TestKilledUsersAdd(t *testing.T) {
	const kills = 25
	alice, _ := kit.NewAccounts(t)
	alice.Env = []string{"RESIDENTCTL_CRIU=" + kit.CapableCRIU(t)}
	program := program(t, filepath.Join(kit.Dir(t), "args"), 0o755, 0)

	begin := time.Now()
	alice.Does(t, "add", "--even-if-slower", program)
	whole := time.Since(begin)
	alice.Does(t, "remove", "--all")
	rnd := seeded.Rand(t)
	for range kills {
		after := time.Duration(rnd.Float64() * 1.1 * float64(whole))
		add := alice.Command(t, "add", "--even-if-slower", program)
		if err := add.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after)
		add.Process.Kill()
		add.Wait()
		wantNoProcess(t, program, alice.Home)
		alice.Does(t, "run", program)
		if t.Failed() {
			t.Fatalf("after add was killed at %v of %v", after, whole)
		}
	}
	alice.Does(t, "add", "--even-if-slower", program)
	alice.Does(t, "run", "--strict", program)
}
