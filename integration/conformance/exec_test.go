package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/integration/kit"
)

// inTheSamePlace says of each namespace whether it is the one that the test is in.
const inTheSamePlace = `for n in cgroup ipc mnt net pid time user uts; do
	[ "$(readlink /proc/self/ns/$n)" = "$(eval echo \$$n)" ] && say "namespace $n" same || say "namespace $n" another
done`

// TestExecOfUsers: what an ordinary user can do and see under exec is what he can
// without it, but for what follows from the user namespace that he needs in order to
// mount anything. The user is one whose id is not the one by which the kernel shows
// others there, so that trusting root's files does not come of trusting his own.
func TestExecOfUsers(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	alice := kit.User{Name: "alice", ID: kit.AliceID, Group: kit.StaffID}
	program, bash := kit.Fixture(t, "state"), kit.Installed(t, "bash")
	s.Add(t, program)
	s.Add(t, bash)
	s.RequireResident(t, kit.ByExec, alice, program, kit.Command{})
	s.RequireResident(t, kit.ByExec, alice, bash, kit.Command{Args: []string{"-c", ":"}})

	// Programs that give privileges, and a file for a group.
	dir := kit.Dir(t)
	setuid, capable := filepath.Join(dir, "setuid"), filepath.Join(dir, "capable")
	kit.CopyFile(t, kit.Installed(t, "id"), setuid)
	kit.Chmod(t, setuid, 0o755|os.ModeSetuid)
	kit.CopyFile(t, kit.Installed(t, "chown"), capable)
	// linux/capability.h, struct vfs_cap_data: version 2, effective, CAP_CHOWN.
	if err := syscall.Setxattr(capable, "security.capability", []byte{1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"groups": 0o640, "roots": 0o600} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("text\n"), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, 0, kit.StaffID); err != nil {
			t.Fatal(err)
		}
	}
	c := kit.Command{Args: []string{"-c", `
		say() { echo "$1: ${*:2}"; }
		try() { "${@:2}" >/dev/null 2>&1; say "$1" $?; }
		status() { say $1 $(sed -n "s/^$1:\s*//p" /proc/self/status); }
		cd ` + dir + `
		say ids $(id -ru) $(id -u) $(id -rg) $(id -g)
		say groups $(id -G)
		say "setuid program" $(./setuid -u)
		for line in Uid Gid CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp SigBlk SigIgn Cpus_allowed; do status $line; done
		try "read a file of a group's" cat groups
		try "read a file of root's" cat roots
		try "write a file of root's" sh -c '>>roots'
		cd; : >own
		say "own file" $(stat -c '%u %g %a' own)
		say "file of root's" $(stat -c '%u %g' /etc/passwd)
		try "give a file to a group" chgrp ` + fmt.Sprint(kit.StaffID) + ` own
		try "give a file away" chown root own
		: >given; try "program with a capability" "$OLDPWD/capable" root given
		try "mount" mount -t tmpfs none own
		try "signal another's process" kill -0 $PPID
		say "higher priority" $(nice -n -1 nice 2>&1)
		try "lower priority" nice -n 1 true
		try "change root" /usr/sbin/chroot / true
		try "a user namespace" unshare --user true
		say umask $(umask); say limits $(ulimit -a)
		say uid_map $(cat /proc/self/uid_map); say gid_map $(cat /proc/self/gid_map); say setgroups $(cat /proc/self/setgroups)
		` + inTheSamePlace}}
	for _, name := range []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"} {
		link, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			t.Fatal(err)
		}
		c.Env = append(c.Env, name+"="+link)
	}
	said := func(w kit.Way) map[string]string {
		t.Helper()
		o := s.Start(t, w, alice, bash, c)
		if o.Status != "exit status 0" && o.Status != "exit status 1" || o.Stderr != "" {
			t.Fatalf("%s: %+v", w.Name, o)
		}
		all := map[string]string{}
		for line := range strings.Lines(o.Stdout) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			all[key] = strings.TrimSpace(value)
		}
		return all
	}
	plainly, got := said(kit.Plain), said(kit.ByExec)
	if len(plainly) < 40 || plainly["setuid program"] != "0" || plainly["program with a capability"] != "0" {
		t.Fatalf("a plain start says %q", plainly)
	}
	overflow, err := os.ReadFile("/proc/sys/kernel/overflowuid")
	if err != nil {
		t.Fatal(err)
	}
	nobody := strings.TrimSpace(string(overflow))
	want := plainly
	for key, value := range map[string]string{
		// An unprivileged process may map its own ids only (user_namespaces(7), "Defining
		// user and group ID mappings"), and no others are shown.
		"uid_map":        fmt.Sprintf("%d %[1]d 1", kit.AliceID),
		"gid_map":        fmt.Sprintf("%d %[1]d 1", kit.AliceID),
		"groups":         fmt.Sprintf("%d %s", kit.AliceID, nobody),
		"file of root's": nobody + " " + nobody,
		// A file can be given to mapped groups only (fs/open.c, chown_common).
		"give a file to a group": "1",
		// Without it a group that takes rights away could be dropped (user_namespaces(7),
		// "The /proc/pid/setgroups file"), so a mapping of groups needs it.
		"setgroups": "deny",
		// A setuid program gains nothing if its owner is not mapped (fs/exec.c,
		// bprm_fill_uid). One with a capability has it, but not beyond the namespace
		// (security/commoncap.c, cap_capable).
		"setuid program":            fmt.Sprint(kit.AliceID),
		"program with a capability": "1",
		// The bounding set of a new user namespace is full (kernel/user_namespace.c,
		// set_cred_user_ns). No capability in it reaches beyond the namespace.
		"CapBnd": got["CapBnd"],
		// These two are how it is done.
		"namespace mnt":  "another",
		"namespace user": "another",
	} {
		if key != "CapBnd" && want[key] == value {
			t.Errorf("%s is %q in a plain start too", key, value)
		}
		want[key] = value
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want (-) and under exec (+) differ:\n%s", diff)
	}
}

// TestExecAndStores: which stores an ordinary user starts programs from under exec,
// where the kernel shows root's files and all other users' alike.
func TestExecAndStores(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	alice := kit.User{Name: "alice", ID: kit.AliceID}
	account, _ := kit.NewAccounts(t)
	account.Env = []string{"RESIDENTCTL_CRIU=" + kit.CapableCRIU(t)}
	account.Home = filepath.Join(kit.Temporary, "work", "home")
	program := kit.Fixture(t, "args")
	s.Add(t, kit.Fixture(t, "c-main"))

	// Of his own, where the system's does not have it.
	own := account
	own.Env = append(own.Env, "XDG_DATA_HOME="+s.OwnDataHome(alice))
	if how, why := explained(t, s, kit.ByExec, alice, program); how != "started normally" || why != "it is not resident" {
		t.Errorf("without an image: %s: %s", how, why)
	}
	own.Does(t, "add", "--even-if-slower", program)
	defer own.Does(t, "remove", "--all")
	s.RequireResident(t, kit.ByExec, alice, program, kit.Command{})
	if diff := kit.ByExec.Diff(alice, kit.Command{}, s.Start(t, kit.Plain, alice, program, kit.Command{}), s.Start(t, kit.ByExec, alice, program, kit.Command{})); diff != "" {
		t.Errorf("plain (-) and exec (+) differ:\n%s", diff)
	}
	s.RequireResident(t, kit.ByExec, alice, kit.Fixture(t, "c-main"), kit.Command{}) // the system's

	// Not of another user's, although its owner is shown as root is, and not of one
	// that others may write to.
	for name, damage := range map[string]func(dir string) error{
		"belongs to user":                         func(dir string) error { return exec.Command("chown", "-R", fmt.Sprint(kit.BobID), dir).Run() },
		"users other than its owner may write to": func(dir string) error { return os.Chmod(dir, 0o777) },
	} {
		bad := kit.NewStore(t, kit.Dir(t))
		bad.Add(t, program)
		if err := damage(bad.Dir); err != nil {
			t.Fatal(err)
		}
		if o := bad.Start(t, kit.ByExec, alice, program, kit.Command{}); o.Status != "exit status 125" || !strings.Contains(o.Stderr, name) {
			t.Errorf("a store that %s: %+v", name, o)
		}
	}
}

// explained is what the launcher says of a start.
func explained(t *testing.T, s *kit.Store, w kit.Way, u kit.User, program string) (how, why string) {
	t.Helper()
	return kit.ExplanationOf(s.Start(t, w, u, program, kit.Command{Env: []string{"RESIDENTCTL_EXPLAIN=1"}}).Stderr, program)
}
