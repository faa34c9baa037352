package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
)

// TestExecInside: residentctl itself, called in a command tree of its own. There the
// dynamic linker's path shows another file, and what an image depends on is the
// linker all the same.
func TestExecInside(t *testing.T) {
	criu := kit.CapableCRIU(t)
	for _, e := range newExecers(t) {
		t.Run(e.name, func(t *testing.T) {
			e.Env = append(e.Env, "RESIDENTCTL_CRIU="+criu, ownTemporary(t))
			e.dir += "-inside" // exec's and exec --auto's of one user are the same
			if e.auto {
				e.dir += "-auto"
			}
			e.Does(t, "--store", e.dir, "add", "--even-if-slower", "perl")
			rctl := kit.Residentctl(t) + " --store " + e.dir + " "
			inside := func(code int, script string, words ...string) {
				t.Helper()
				r := kit.Finish(t, e.inside(t, "/bin/sh", "-c", script))
				if r.Code != code {
					t.Errorf("%s: want status %d: %v", script, code, r)
				}
				for _, w := range words {
					if !strings.Contains(r.Stdout+r.Stderr, w) {
						t.Errorf("%s: want %q: %v", script, w, r)
					}
				}
			}
			inside(0, rctl+"list", "/usr/bin/perl  linked  current")
			inside(0, rctl+"gc", "0 items removed")
			inside(0, rctl+"add perl", "already resident")
			inside(0, rctl+"check", "current; its image, plan, link and launcher file fit")
			if e.UID == 0 {
				inside(0, rctl+"add --even-if-slower true", "resident (id ")
				inside(0, rctl+"refresh --all", "perl: made again", "true: made again")
				inside(0, rctl+"verify", "perl: the same as a fresh link", "true: the same as a fresh link")
				inside(0, rctl+"enable --even-if-slower cat && "+rctl+"status", "shim  resident")
				inside(0, rctl+"check", "ok     trial: add /usr/bin/true", "ok     trial: a start by this user")
				// The command goes out of the tree for itself only.
				inside(0, fmt.Sprintf("%sadd true; grep -c ' %s/exec/original ' /proc/self/mountinfo", rctl, e.dir), "already resident\n1\n")
			} else {
				const refused = "the dynamic linker is covered here: this is inside `residentctl exec`"
				for _, command := range []string{"add true", "refresh --all", "verify perl"} {
					code := 4
					if command[0] == 'r' {
						code = 1 // one of some
					}
					inside(code, rctl+command, refused, "hint: run it outside")
				}
				inside(0, rctl+"check", refused)
			}
			r := e.Does(t, "--store", e.dir, "list")
			if !strings.Contains(r.Stdout, "/usr/bin/perl  linked  current") {
				t.Errorf("outside: %v", r)
			}
			if r := e.Does(t, "--store", e.dir, "gc"); !strings.Contains(r.Stdout, "0 items removed") {
				t.Errorf("outside: %v", r)
			}
			e.Does(t, "--store", e.dir, "verify")
		})
	}
}

// TestExecInsideRootsStore: in an ordinary user's tree root's files look like nobody's,
// as bob's do. The stores that the tree looks in were found to be root's before, so there
// that is known; of another nobody knows whose it is.
func TestExecInsideRootsStore(t *testing.T) {
	alice, bob := kit.NewAccounts(t)
	roots, other := kit.NewStore(t, kit.Dir(t)), kit.NewStore(t, kit.Dir(t))
	for _, s := range []*kit.Store{roots, other} {
		s.Do(t, "enable", "--even-if-slower", kit.Installed(t, "true"))
	}
	const hidden, hint = "not safe to run programs from: this user namespace does not show its owner", "hint: run it outside: in the user namespace that `residentctl exec` makes"
	inside := func(code int, words []string, args ...string) {
		t.Helper()
		r := kit.Finish(t, alice.Command(t, append([]string{"--store", roots.Dir, "exec", "-q", "--strict", "--", kit.Residentctl(t)}, args...)...))
		if r.Code != code {
			t.Errorf("%q: want status %d: %v", args, code, r)
		}
		for _, w := range words {
			if !strings.Contains(r.Stdout+r.Stderr, w) {
				t.Errorf("%q: want %q: %v", args, w, r)
			}
		}
	}
	inside(0, []string{"/true  linked  current"}, "--store", roots.Dir, "list")
	inside(0, []string{"shim  resident"}, "--store", roots.Dir, "status")
	inside(0, []string{roots.Shims()}, "--store", roots.Dir, "env", "sh")
	inside(0, []string{"state:     current"}, "--store", roots.Dir, "inspect", "true")
	inside(3, []string{"run it as the owner of the store"}, "--store", roots.Dir, "add", "true")
	inside(3, []string{hidden, hint}, "--store", other.Dir, "list")
	inside(3, []string{hidden, hint}, "--store", other.Dir, "env", "sh")
	inside(3, []string{hidden, hint[len("hint: "):]}, "--store", other.Dir, "check")

	// Where bob has got a directory of it, it is not looked in.
	kit.Chown(t, filepath.Join(roots.Dir, "images"), int(bob.UID))
	alice.Fails(t, 125, []string{fmt.Sprintf("belongs to user %d", bob.UID)}, "--store", roots.Dir, "exec", "-q", "--strict", "true")
	// Nor is it root's for another namespace than the tree's.
	r := kit.Finish(t, alice.Exec(t, "/usr/bin/unshare", "--user", "--map-current-user", kit.Residentctl(t), "--store", other.Dir, "list"))
	if r.Code != 3 || !strings.Contains(r.Stderr, hidden) {
		t.Errorf("without exec: %v", r)
	}
}

// Where the linker itself is out of sight nobody can say that an image is of no use.
func TestExecInsideWithoutLinker(t *testing.T) {
	e := newExecers(t)[0]
	e.Env = append(e.Env, ownTemporary(t))
	e.Does(t, "--store", e.dir, "add", "perl")
	rctl := kit.Residentctl(t) + " --store " + e.dir + " "
	r := kit.Finish(t, e.inside(t, "/bin/sh", "-c", fmt.Sprintf("umount %s/exec/original && %[2]s gc; %[2]s list; %[2]s add true", e.dir, rctl)))
	const why = "see the dynamic linker that `residentctl exec` has covered"
	if r.Code != 0 || strings.Count(r.Stdout, why) < 1 || !strings.Contains(r.Stdout, "0 items removed") || !strings.Contains(r.Stdout, "resident") {
		t.Errorf("%v", r)
	}
	if all, err := filepath.Glob(filepath.Join(e.dir, "images", "*")); err != nil || len(all) != 2 {
		t.Errorf("images: %v, %v", all, err)
	}
	if r := e.Does(t, "--store", e.dir, "list"); strings.Count(r.Stdout, "  current  ") != 2 {
		t.Errorf("%v", r)
	}
}

// ownTemporary is an empty TMPDIR for all users: what others leave in the
// usual one is garbage to gc.
func ownTemporary(t *testing.T) string {
	t.Helper()
	dir := kit.Dir(t)
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	return "TMPDIR=" + dir
}

// TestExecInsideLaunchers: launcher files, and run, map the linker itself, and are not
// started a second time through the covered one. A long path is in other memory.
func TestExecInsideLaunchers(t *testing.T) {
	criu := kit.CapableCRIU(t)
	for _, e := range newExecers(t) {
		if e.auto {
			continue
		}
		for _, long := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, a long path: %v", e.name, long), func(t *testing.T) {
				e.Env = append(e.Env, "RESIDENTCTL_CRIU="+criu)
				if long {
					e.dir = filepath.Join(e.Home, strings.Repeat("x", 200), strings.Repeat("y", 200), "residentctl")
				}
				if r := kit.Finish(t, e.Exec(t, "/bin/mkdir", "-p", "-m", "755", e.dir)); r.Code != 0 {
					t.Fatal(r)
				}
				e.Does(t, "--store", e.dir, "enable", "--even-if-slower", "cat")
				const maps = " /proc/self/maps | sed 's/.* //' | sort | uniq"
				shim := filepath.Join(e.dir, "shims", "cat")
				for _, way := range []string{
					"PATH=" + filepath.Dir(shim) + ":/usr/bin RESIDENTCTL_EXPLAIN=1 cat",
					"RESIDENTCTL_EXPLAIN=1 " + shim,
					kit.Residentctl(t) + " run --store " + e.dir + " --strict --explain cat",
				} {
					r := kit.Finish(t, e.inside(t, "/bin/sh", "-c", way+maps))
					if r.Code != 0 || strings.Count(r.Stderr, "\n") != 1 || !strings.Contains(r.Stderr, "/usr/bin/cat: resident start: image") {
						t.Errorf("%s: %v", way, r)
					}
					// Nothing else is mapped than outside.
					outside := kit.Finish(t, e.Exec(t, "/bin/sh", "-c", way+maps))
					linker := regexp.MustCompile(`(?m)^/.*(/ld-linux-x86-64\.so\.2|/exec/original)\n`)
					if linker.ReplaceAllString(outside.Stdout, "") != linker.ReplaceAllString(r.Stdout, "") || !strings.Contains(r.Stdout, e.dir+"/exec/original\n") {
						t.Errorf("%s: mapped outside:\n%s\ninside:\n%s", way, outside.Stdout, r.Stdout)
					}
				}
			})
		}
	}
}
