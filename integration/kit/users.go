package kit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/residentctl/residentctl/internal/unchanged"
)

// An Account is an ordinary user as these tests need one: with groups and with a
// home, in which is the store of its own.
type Account struct {
	Name   string
	UID    uint32
	Groups []uint32
	Home   string
	Env    []string // added to the environment of its commands
}

// Ids that nothing else on the machine has.
const (
	AliceID = 61_001
	BobID   = 61_002
	StaffID = 61_100 // alice's group
)

// NewAccounts returns alice, who is in the group staff, and bob, who is not.
func NewAccounts(t testing.TB) (alice, bob Account) {
	t.Helper()
	RequireCRIU(t)
	alice = Account{Name: "alice", UID: AliceID, Groups: []uint32{StaffID}}
	bob = Account{Name: "bob", UID: BobID}
	for _, a := range []*Account{&alice, &bob} {
		a.Home = Dir(t)
		Chown(t, a.Home, int(a.UID))
		Chmod(t, a.Home, 0o700)
	}
	return alice, bob
}

// Store returns the path of the user's own store.
func (a Account) Store() string { return filepath.Join(a.Home, ".local", "share", "residentctl") }

// Command returns residentctl ARG… as the user runs it.
func (a Account) Command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	return a.Exec(t, Residentctl(t), args...)
}

// Exec is PROGRAM ARG… as the user runs it, killed after a minute.
func (a Account) Exec(t testing.TB, program string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, program, args...)
	c.Dir = "/"
	c.Env = append([]string{"PATH=/usr/bin:/bin", "HOME=" + a.Home, "LANG=C.UTF-8"}, a.Env...)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: a.UID, Gid: a.UID, Groups: a.Groups}}
	c.WaitDelay = 5 * time.Second
	return c
}

// Result is what a command said and ended with.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// String returns the result as a failure reports it.
func (r Result) String() string {
	return fmt.Sprintf("exit status %d\nstdout: %sstderr: %s", r.Code, r.Stdout, r.Stderr)
}

// Finish runs a command to its end, whichever status that is.
func Finish(t testing.TB, c *exec.Cmd) Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	unchanged.Check(t)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", c, err)
	}
	return Result{stdout.String(), stderr.String(), c.ProcessState.ExitCode()}
}

// Does runs a command that must succeed.
func (a Account) Does(t testing.TB, args ...string) Result {
	t.Helper()
	r := Finish(t, a.Command(t, args...))
	if r.Code != 0 {
		t.Fatalf("residentctl %s, as %s: %v", strings.Join(args, " "), a.Name, r)
	}
	return r
}

// Fails runs a command that must end with a status, and say all of the words.
func (a Account) Fails(t testing.TB, code int, words []string, args ...string) {
	t.Helper()
	r := Finish(t, a.Command(t, args...))
	if r.Code != code {
		t.Errorf("residentctl %s, as %s: want status %d: %v", strings.Join(args, " "), a.Name, code, r)
	}
	for _, w := range words {
		if !strings.Contains(r.Stderr, w) {
			t.Errorf("residentctl %s, as %s: want %q: %v", strings.Join(args, " "), a.Name, w, r)
		}
	}
}

// entry is what these tests look at of list's JSON.
type entry struct {
	ID      string `json:"id"`
	Program string `json:"program"`
	State   string `json:"state"`
	Store   string `json:"store"`
}

// Lists returns the programs that the user is shown, sorted, each with its store.
func (a Account) Lists(t testing.TB, args ...string) []string {
	t.Helper()
	var entries []entry
	r := a.Does(t, append([]string{"--format", "json"}, args...)...)
	if err := json.Unmarshal([]byte(r.Stdout), &entries); err != nil {
		t.Fatalf("%v: %v", err, r)
	}
	programs := []string{}
	for _, e := range entries {
		if e.State != "current" {
			t.Errorf("%s is shown %s as stale", a.Name, e.Program)
		}
		programs = append(programs, e.Program+" in "+e.Store)
	}
	slices.Sort(programs)
	return programs
}

// CapableCRIU returns a CRIU that ordinary users can dump with, as scripts/setup
// --users makes one: a copy, so that the machine's own stays as it is.
func CapableCRIU(t testing.TB) string {
	t.Helper()
	RequireCRIU(t)
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

// PlainCRIU returns a copy of the machine's CRIU without any capability.
func PlainCRIU(t testing.TB) string {
	t.Helper()
	return machinesCRIU(t, func(string) {})
}

func machinesCRIU(t testing.TB, prepare func(dir string)) string {
	t.Helper()
	for _, path := range append(strings.Split(os.Getenv("PATH"), ":"), "/usr/local/sbin", "/usr/sbin") {
		path = filepath.Join(path, "criu")
		if _, err := os.Stat(path); err != nil {
			continue
		}
		dir := Dir(t)
		CopyFile(t, path, filepath.Join(dir, "criu"))
		prepare(dir)
		return filepath.Join(dir, "criu")
	}
	t.Fatal("there is no criu")
	return ""
}
