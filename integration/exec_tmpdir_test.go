package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/launcher"
	stores "github.com/residentctl/residentctl/pkg/store"
)

// homeless is `residentctl exec ARG…` as alice runs it without a home, so that the
// covered linker has to be kept in TMPDIR.
func homeless(t *testing.T, alice kit.Account, tmp string, args ...string) *exec.Cmd {
	t.Helper()
	c := alice.Command(t, append([]string{"exec", "-q"}, args...)...)
	c.Env = []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "TMPDIR=" + tmp}
	return c
}

// TestExecUsesOnlyItsOwnDirectoryInTMPDIR: what another user has put there under the
// name is neither followed nor used.
func TestExecUsesOnlyItsOwnDirectoryInTMPDIR(t *testing.T) {
	alice, _ := kit.NewAccounts(t)
	for _, test := range []struct {
		name  string
		plant string // $1 is what TMPDIR holds, $2 a directory of alice's, $3 her uid, $4 bob's
		said  string // "" if the command tree is covered
	}{
		{"nothing", "", ""},
		{"her own directory", `mkdir -m 700 "$1"; chown "$3" "$1"`, ""},
		// Where fs.protected_symlinks is 0 it could be anybody's.
		{"a link", `ln -s "$2" "$1"; chown -h "$3" "$1"`, "not a directory"},
		{"a link to nothing", `ln -s "$2/new" "$1"; chown -h "$3" "$1"`, "not a directory"},
		{"a file", `: >"$1"; chown "$3" "$1"`, "not a directory"},
		{"another's directory", `mkdir -m 755 "$1"; chown "$4" "$1"`, "not yours alone"},
		{"root's directory", `mkdir -m 755 "$1"`, "not yours alone"},
		{"her own directory, open", `mkdir -m 755 "$1"; chown "$3" "$1"`, "not yours alone"},
	} {
		t.Run(test.name, func(t *testing.T) {
			tmp, hers := kit.Dir(t), kit.Dir(t)
			kit.Chown(t, hers, kit.AliceID)
			if err := os.Chmod(tmp, 0o777|os.ModeSticky); err != nil {
				t.Fatal(err)
			}
			name := filepath.Join(tmp, fmt.Sprintf("residentctl-%d", kit.AliceID))
			if out, err := exec.Command("/bin/sh", "-ec", test.plant, "sh", name, hers, fmt.Sprint(kit.AliceID), fmt.Sprint(kit.BobID)).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			r := kit.Finish(t, homeless(t, alice, tmp, "--", "/bin/echo", "done"))
			covered := r.Stderr == ""
			if r.Code != 0 || r.Stdout != "done\n" || covered != (test.said == "") || !strings.Contains(r.Stderr, test.said) {
				t.Errorf("%v", r)
			}
			strict := kit.Finish(t, homeless(t, alice, tmp, "--strict", "--", "/bin/echo", "done"))
			if test.said == "" && strict.Code != 0 || test.said != "" && (strict.Code != 125 || !strings.Contains(strict.Stderr, "residentctl: hint: ")) {
				t.Errorf("--strict: %v", strict)
			}
			if left, err := os.ReadDir(hers); err != nil || len(left) > 0 {
				t.Errorf("made where the link leads: %v, %v", left, err)
			}
		})
	}
}

// TestExecMountsOnlyWhatItHasWritten: in a TMPDIR in which others may rename, a file is
// put in place of another one between the writing and the mounts.
func TestExecMountsOnlyWhatItHasWritten(t *testing.T) {
	alice, _ := kit.NewAccounts(t)
	linker := launcher.LinkerPath
	for _, test := range []struct{ name, swap string }{
		{"the covered linker", `cp -a "$1" "$1.new"; for f in "$1"/exec/*[0-9a-f]; do case $f in */original) ;; *) cp --remove-destination "$2" "$1.new/exec/${f##*/}" ;; esac; done
			mv "$1" "$1.old"; mv "$1.new" "$1"`},
		{"what the linker is mounted over", `cp -a "$1" "$1.new"; for f in "$1"/exec/*; do case $f in */original) ;; *) ln -f "$f" "$1.new/exec/${f##*/}" ;; esac; done
			mv "$1" "$1.old"; mv "$1.new" "$1"`},
		{"a link to the covered linker", `for f in "$1"/exec/*; do case $f in */original) ;; *) mv "$f" "$1/exec/moved"; ln -s "$2" "$f" ;; esac; done`},
	} {
		t.Run(test.name, func(t *testing.T) {
			tmp := kit.Dir(t)
			if err := os.Chmod(tmp, 0o777); err != nil {
				t.Fatal(err)
			}
			planted := filepath.Join(kit.Dir(t), "planted")
			resolved, err := filepath.EvalSymlinks(linker)
			if err != nil {
				t.Fatal(err)
			}
			kit.CopyFile(t, resolved, planted)
			c := homeless(t, alice, tmp, "--", "/usr/bin/stat", "-L", "-c", "%d %i", linker)
			c.Env = append(c.Env, stores.FaultEnv+"="+stores.FaultStop+intercept.FaultMount)
			var stdout, stderr bytes.Buffer
			c.Stdout, c.Stderr = &stdout, &stderr
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			var status syscall.WaitStatus
			if _, err := syscall.Wait4(c.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
				t.Fatalf("it is not stopped: %v, %v", status, err)
			}
			name := filepath.Join(tmp, fmt.Sprintf("residentctl-%d", kit.AliceID))
			if out, err := exec.Command("/bin/sh", "-ec", test.swap, "sh", name, planted).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			if err := c.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			if err := c.Wait(); err != nil {
				t.Errorf("%v: %s", err, stderr.String())
			}
			var st syscall.Stat_t
			if err := syscall.Stat(resolved, &st); err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("%d %d\n", st.Dev, st.Ino); stdout.String() != want || !strings.Contains(stderr.String(), "something else has taken its place") {
				t.Errorf("the linker is %s, want %s: %s", stdout.String(), want, stderr.String())
			}
		})
	}
}
