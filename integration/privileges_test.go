package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/launcher"
	"github.com/residentctl/residentctl/pkg/plan"
)

// marked is fixtures/marked.c, compiled to path.
func marked(t *testing.T, path string, flags ...string) {
	t.Helper()
	kit.Compile(t, path, "fixtures/marked.c", flags...)
}

// TestSystemDeniesWriting: a set-id program that shares an enabled program's first bytes
// is the launcher's to load, with the privileges that the kernel has given it already. Its
// owner cannot have other bytes run with them, whenever they are written.
func TestSystemDeniesWriting(t *testing.T) {
	s := newSpace(t)
	dir := filepath.Dir(s.Dir)
	marked(t, filepath.Join(dir, "one"))
	s.env = append(s.env, "I="+kit.Fixture(t, "interrupt"))
	for _, privilege := range []struct{ name, give, has string }{
		{"setgid", `chmod 2755 other`, "group 1002, capabilities 0000000000000000"},
		{"file capabilities", `chmod 755 other; /usr/sbin/setcap cap_net_raw+ep other`, "group 65534, capabilities 0000000000002000"},
	} {
		for _, moment := range []struct{ name, call, action, want string }{
			{"before the first look at the file", "look", "$W", "126"},
			{"when it is mapped", "map", "! $W 2>/dev/null", "original, " + privilege.has + "\n0"},
			{"before the first look, and capabilities of another namespace given to it", "look",
				"$W; setpriv --reuid 1001 --regid 1002 --clear-groups unshare --user --map-root-user /usr/sbin/setcap cap_net_raw+ep other", "126"},
			{"held open from before the first look", "look", "(exec 3>>other; sleep 1000) & sleep 0.2", "126"},
		} {
			t.Run(privilege.name+", "+moment.name, func(t *testing.T) {
				// Mode and content are the owner's to change, and a change takes the
				// privileges away, as the kernel has it.
				got := s.try(t, `
				cd $DIR
				$R enable --system --even-if-slower $DIR/one >/dev/null
				cp one other; chown 1001:1002 other; `+privilege.give+`
				offset=$(grep -abo 'MARK original' other | cut -d: -f1)
				W="setpriv --reuid 1001 --regid 1002 --clear-groups dd of=other bs=1 conv=notrunc status=none seek=$((offset + 5))"
				export W="echo changed! | $W"
				status=0
				$I -u 65534 `+moment.call+` '' "`+strings.ReplaceAll(moment.action, "$W", "{ $W; }")+`" ./other || status=$?
				echo $status
				pkill -P 1 -x sleep 2>/dev/null || true
				rm -f other
				$R disable one >/dev/null
				`)
				if got.Stdout != moment.want+"\n" || got.Status != "exit status 0" {
					t.Errorf("%s, want %q\n%s%s", got.Status, moment.want, got.Stdout, got.Stderr)
				}
			})
		}
	}
}

// TestSystemPrivilegesWithoutNewCode: root's set-id programs start also where no memory may
// become code, so that the launcher can make no copy of itself.
func TestSystemPrivilegesWithoutNewCode(t *testing.T) {
	s := newSpace(t)
	marked(t, filepath.Join(filepath.Dir(s.Dir), "one"))
	s.env = append(s.env, "SITUATION="+kit.Fixture(t, "situation"))
	wantLines(t, s.run(t, `
	cd $DIR
	$R enable --system --even-if-slower $DIR/one >/dev/null
	cp one other; chgrp 1002 other; chmod 2755 other
	as 65534 $SITUATION --no-new-code -- ./other other
	`), "original, group 1002, capabilities 0000000000000000\n")
}

// TestSystemNeedsLaunchersPlace: a program that is not position-independent starts, if the
// launcher file stands where its memory belongs.
func TestSystemNeedsLaunchersPlace(t *testing.T) {
	s := newSpace(t)
	dir := filepath.Dir(s.Dir)
	one, other := filepath.Join(dir, "one"), filepath.Join(dir, "other")
	marked(t, one, "-no-pie", "-s")
	marked(t, other, "-no-pie", "-s", "-DSIZE=(64<<20)")
	a, b := head(t, one), head(t, other)
	if a != b {
		t.Fatalf("their first bytes differ:\n%x\n%x", a, b)
	}
	wantLines(t, s.run(t, `
	$R enable --system --even-if-slower $DIR/one >/dev/null
	as 65534 $DIR/one; as 65534 $DIR/other
	as 0 $DIR/other | sed 's/capabilities.*//'
	`), strings.Repeat("original, group 65534, capabilities 0000000000000000\n", 2)+"original, group 0, \n")
}

func head(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw[:256])
}

// TestExecSaysNothingWithPrivileges: under exec a set-id program's standard error belongs
// to it alone, whatever its caller has put in the environment.
func TestExecSaysNothingWithPrivileges(t *testing.T) {
	kit.RequireCRIU(t)
	s := kit.NewStore(t, kit.Dir(t))
	program := filepath.Join(filepath.Dir(s.Dir), "setgid")
	marked(t, program)
	if err := os.Chown(program, 0, 1002); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(program, 0o755|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	cmd := s.Command("exec", "--strict", "--", "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", program)
	cmd.Env = append(os.Environ(), "RESIDENTCTL_EXPLAIN=1")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || !strings.HasPrefix(string(out), "original, group 1002, ") {
		t.Fatalf("%v: %s%s", err, out, stderr.String())
	}
	if strings.Contains(stderr.String(), program) {
		t.Errorf("it says %q", stderr.String())
	}
}

// disowned gives all of a store to a user, and has its plans name CRIU's pages as they are
// after that.
func disowned(t *testing.T, dir string, uid int) {
	t.Helper()
	if out, err := exec.Command("chown", "-R", fmt.Sprint(uid), dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	plans, err := filepath.Glob(filepath.Join(dir, "images/*/plan"))
	if err != nil || len(plans) == 0 {
		t.Fatalf("no plans in %s (%v)", dir, err)
	}
	for _, path := range plans {
		p, err := plan.Read(path)
		if err != nil {
			t.Fatal(err)
		}
		writePlan(t, path, p)
	}
}

// TestCopiedLinkerTrustsNobody: a covered dynamic linker that was made for a user
// namespace, in which root's files are shown as the overflow uid's, and that is used
// outside one, takes nobody's files for nobody's.
func TestCopiedLinkerTrustsNobody(t *testing.T) {
	kit.RequireCRIU(t)
	const nobody = 65534
	s := kit.NewStore(t, kit.Dir(t))
	dir := filepath.Dir(s.Dir)
	program := filepath.Join(dir, "marked")
	marked(t, program)
	s.Do(t, "add", "--even-if-slower", program)
	disowned(t, s.Dir, nobody)

	linker, err := filepath.EvalSymlinks(launcher.LinkerPath)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(linker)
	if err != nil {
		t.Fatal(err)
	}
	id, err := linux.StatID(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	original := filepath.Join(dir, "original")
	covered, err := launcher.Cover(raw, launcher.CoverOptions{
		Original: original, Root: nobody, Stores: []launcher.Store{{Dir: s.Dir, Inode: id.Inode()}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{filepath.Join(dir, "copied"): covered, original: nil} {
		if err := os.WriteFile(path, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name, as, want string
		uid            int
	}{
		{"another user", "setpriv --reuid 1000 --regid 1000 --clear-groups", "started normally: the store is not safe", 0},
		{"the user whose files they are", "setpriv --reuid 65534 --regid 65534 --clear-groups", "resident start", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := exec.Command("unshare", "--mount", "--propagation", "private", "/bin/bash", "-ec",
				`mount --bind "$1" original; mount --bind copied "$1"; exec `+tc.as+` env RESIDENTCTL_EXPLAIN=1 "$2"`,
				"bash", linker, program)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), program+": "+tc.want) {
				t.Errorf("%v, want %q:\n%s", err, tc.want, out)
			}
		})
	}
}

// A swapped is a store whose path leads to another, which belongs to a user who may
// rename the directory above both.
type swapped struct {
	*kit.Store
	program, above, evil string
	image                string // the id of the true store's image
}

const mallory, victim = 1001, 1002

// newSwapped makes both stores: DIR/above/residentctl is root's, DIR/above/evil mallory's but
// for what victim is to take for a plan of his own, with its pages.
func newSwapped(t *testing.T) *swapped {
	t.Helper()
	kit.RequireCRIU(t)
	dir := kit.Dir(t)
	w := &swapped{program: filepath.Join(dir, "marked"), above: filepath.Join(dir, "above")}
	w.evil = filepath.Join(w.above, "evil")
	marked(t, w.program)
	if err := os.Mkdir(w.above, 0o755); err != nil {
		t.Fatal(err)
	}
	w.Store = kit.NewStore(t, w.above)
	w.Do(t, "add", "--even-if-slower", w.program)
	p, err := plan.Read(w.Plan(t, w.program))
	if err != nil {
		t.Fatal(err)
	}
	w.image = p.ID
	if out, err := exec.Command("cp", "-a", w.Dir, w.evil).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	disowned(t, w.evil, victim)
	plans, _ := filepath.Glob(filepath.Join(w.evil, "images/*/plan"))
	if p, err = plan.Read(plans[0]); err != nil {
		t.Fatal(err)
	}
	p.ID = "evil"
	writePlan(t, plans[0], p)
	for _, path := range []string{w.above, w.evil, filepath.Join(w.evil, "index")} {
		if err := os.Lchown(path, mallory, mallory); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// swap is how mallory does it.
func (w *swapped) swap() string {
	return fmt.Sprintf("cd %s && setpriv --reuid %d --regid %d --clear-groups sh -c 'mv residentctl true && mv evil residentctl'", w.above, mallory, mallory)
}

// TestRunKeepsTheStoreThatItChecked: the directory above a store is renamed by its owner
// while `run` is under way.
func TestRunKeepsTheStoreThatItChecked(t *testing.T) {
	for _, tc := range []struct {
		name, text, want string
	}{
		// The launcher file, which is executed then, looks at the path again.
		{"before the plan is opened", "index/", "started normally: the store is not safe"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newSwapped(t)
			cmd := exec.Command(kit.Fixture(t, "interrupt"), "-u", fmt.Sprint(victim), "open", tc.text, w.swap(),
				w.Residentctl, "run", "--explain", "--store", w.Dir, w.program)
			out, err := cmd.CombinedOutput()
			if err != nil || strings.Contains(string(out), "evil") || !strings.Contains(string(out), tc.want) ||
				!strings.Contains(string(out), "\noriginal, ") {
				t.Errorf("%v, want %q:\n%s", err, tc.want, out)
			}
		})
	}
}

// TestExecKeepsTheStoreThatItChecked: the same in a command tree, in whose user namespace
// mallory's files look like root's.
func TestExecKeepsTheStoreThatItChecked(t *testing.T) {
	w := newSwapped(t)
	ready, done := filepath.Join(filepath.Dir(w.program), "ready"), filepath.Join(filepath.Dir(w.program), "done")
	for _, path := range []string{ready, done} {
		if err := syscall.Mkfifo(path, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("setpriv", "--reuid", fmt.Sprint(victim), "--regid", fmt.Sprint(victim), "--clear-groups",
		w.Residentctl, "exec", "-q", "--strict", "--store", w.Dir, "--",
		"/bin/sh", "-c", `RESIDENTCTL_EXPLAIN=1 "$1"; echo >"$2"; read x <"$3"; RESIDENTCTL_EXPLAIN=1 "$1"`, "sh", w.program, ready, done)
	cmd.Env = append(os.Environ(), "HOME="+filepath.Join(filepath.Dir(w.program), "none"), "XDG_DATA_HOME=", "XDG_RUNTIME_DIR=")
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	go func() { _, err := os.ReadFile(ready); opened <- err }()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-opened:
		if err != nil {
			t.Fatal(err)
		}
	case err := <-ended:
		t.Fatalf("%v:\n%s", err, said.String())
	}
	if out, err := exec.Command("/bin/sh", "-c", w.swap()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.WriteFile(done, []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	err := <-ended
	out := said.String()
	if err != nil || strings.Contains(out, "image evil") || !strings.Contains(out, "resident start: image "+w.image) ||
		!strings.Contains(out, "another directory is now at the store's path") && !strings.Contains(out, "the store is not safe") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// TestRunOfNamedStoreNeedsNoGo: `residentctl --store DIR run` starts a program where limits
// leave Go's runtime no room.
func TestRunOfNamedStoreNeedsNoGo(t *testing.T) {
	kit.RequireCRIU(t)
	s := kit.NewStore(t, kit.Dir(t))
	program := filepath.Join(filepath.Dir(s.Dir), "marked")
	marked(t, program)
	s.Do(t, "add", "--even-if-slower", program)
	for _, words := range []string{"--store $S run --strict", "--store=$S run --strict", "run --strict --store $S", "run --store=$S --strict"} {
		for _, as := range []string{"", "setpriv --reuid 65534 --regid 65534 --clear-groups "} {
			cmd := exec.Command("/bin/bash", "-c", "ulimit -v 1000000; exec "+as+"$R "+words+" $P")
			cmd.Env = append(os.Environ(), "S="+s.Dir, "R="+s.Residentctl, "P="+program)
			if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "original") {
				t.Errorf("%s%s: %v:\n%s", as, words, err, out)
			}
		}
	}
}
