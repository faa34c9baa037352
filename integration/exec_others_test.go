package integration

import (
	"errors"
	"fmt"
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
)

// What is different in a tree under exec, or left alone: privileges and groups, other
// dynamic linkers, package managers. What has to be the same is in exec_test.go.

// TestExecPrivileges: root's tree has setuid programs as always; in an ordinary
// user's they gain nothing, and neither do file capabilities.
func TestExecPrivileges(t *testing.T) {
	dir := kit.Dir(t)
	suid, capable := filepath.Join(dir, "suid"), filepath.Join(dir, "capable")
	kit.CopyFile(t, kit.Installed(t, "id"), suid)
	kit.Chmod(t, suid, 0o755|os.ModeSetuid)
	kit.CopyFile(t, kit.Installed(t, "perl"), capable)
	if out, err := exec.Command("setcap", "cap_net_raw+ep", capable).CombinedOutput(); err != nil {
		t.Skipf("setcap: %v %s", err, out)
	}
	drop := fmt.Sprintf("setpriv --reuid=%d --regid=%d --clear-groups ", kit.AliceID, kit.AliceID)
	for _, e := range newExecers(t) {
		t.Run(e.name, func(t *testing.T) {
			as := ""
			if e.UID == 0 {
				as = drop // root's tree, in which an ordinary user calls it
			}
			for _, test := range []struct{ script, gained string }{
				{as + suid, "euid=0(root)"},
				{as + capable + ` -MSocket -e 'socket(S, PF_INET, SOCK_RAW, 1) or die "$!\n"; print "raw\n"'`, "raw\n"},
			} {
				outside, inside := e.says(t, test.script)
				if outside.Code != 0 || !strings.Contains(outside.Stdout, test.gained) {
					t.Skipf("it gains nothing outside either: %v", outside)
				}
				if e.UID == 0 && inside != outside {
					t.Errorf("outside %v\ninside %v", outside, inside)
				}
				if e.UID != 0 && strings.Contains(inside.Stdout, test.gained) {
					t.Errorf("inside %v", inside)
				}
			}
			// As the command itself it is executed normally.
			if e.UID != 0 {
				strict, normal := e.inside(t, suid), e.Command(t, "exec", "--store", e.dir, "--", suid)
				if r := kit.Finish(t, strict); r.Code != 125 || !strings.Contains(r.Stderr, "would gain nothing in a user namespace") {
					t.Errorf("strict: %v", r)
				}
				if r := kit.Finish(t, normal); r.Code != 0 || !strings.Contains(r.Stdout, "euid=0(root)") || !strings.Contains(r.Stderr, "no resident starts in") {
					t.Errorf("%v", r)
				}
			}
			// su(1) changes the user where it is allowed to, and says that it is not (after two
			// seconds, PAM's).
			if e.UID != 0 && e.auto {
				return
			}
			outside, inside := e.says(t, "su -s /bin/sh nobody -c 'id -u; echo $0' </dev/null")
			if e.UID == 0 && (inside != outside || outside.Stdout != "65534\nsh\n") {
				t.Errorf("su: outside %v\ninside %v", outside, inside)
			}
			if e.UID != 0 && (inside.Code == 0 || inside.Stderr == "" || inside.Stdout != "") {
				t.Errorf("su: inside %v", inside)
			}
			// Nobody gains anything against the host by the namespace.
			if _, inside := e.says(t, "mount -t tmpfs none /mnt"); e.UID != 0 && inside.Code == 0 {
				t.Errorf("mount: %v", inside)
			}
		})
	}
}

// TestExecDropsCapabilities: what an ordinary user got for the mounts is gone before
// the command, also where the mounts could not be made.
func TestExecDropsCapabilities(t *testing.T) {
	alice, _ := kit.NewAccounts(t)
	for _, strict := range []string{"-q", "--strict"} {
		r := kit.Finish(t, alice.Exec(t, "unshare", "--user", "--map-current-user", "--keep-caps", "--mount",
			kit.Residentctl(t), "exec", strict, "--inside", "0-0:/nowhere/from", "--inside", "0-0:/nowhere/to", "--", "grep", "-E", "Cap(Inh|Prm|Eff|Amb)", "/proc/self/status"))
		if strict == "--strict" && r.Code != 125 || !strings.Contains(r.Stderr, "mount /nowhere/from over /nowhere/to") {
			t.Errorf("%s: %v", strict, r)
		}
		if none := "0000000000000000\n"; strict != "--strict" && (r.Code != 0 || strings.Count(r.Stdout, none) != 4) {
			t.Errorf("%s: %v", strict, r)
		}
	}
}

// TestExecGroups: supplementary groups still open files. In an ordinary user's tree
// they have no names and cannot be given to files, as the manual says.
func TestExecGroups(t *testing.T) {
	kit.RequireCRIU(t)
	dir := kit.Dir(t)
	staffs := filepath.Join(dir, "staffs")
	if err := os.WriteFile(staffs, []byte("for staff\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(staffs, 0, kit.StaffID); err != nil {
		t.Fatal(err)
	}
	for _, e := range newExecers(t) {
		t.Run(e.name, func(t *testing.T) {
			same := []string{
				"cat " + staffs,
				"id -u; id -g; id -un 2>&1 || :",
				`cd "$HOME" && echo x >own && chgrp $(id -g) own && stat -c %u:%g own`,
				`cd "$HOME" && rm -rf d && mkdir d && chmod g+s d && touch d/f && stat -c %g d/f && cp -p d/f d/g && tar -cf d/t own && tar -xf d/t -C d && cat d/own`,
			}
			if e.UID == 0 {
				same = append(same, "id", "id -G", "stat -c %u:%g "+staffs,
					fmt.Sprintf(`cd "$HOME" && touch r && chgrp %[1]d r && chown %[1]d:%[2]d r && stat -c %%u:%%g r`, kit.StaffID, kit.BobID),
					fmt.Sprintf("setpriv --reuid=%d --regid=%d --groups=%d cat %s", kit.AliceID, kit.AliceID, kit.StaffID, staffs))
			}
			for _, script := range same {
				outside, inside := e.says(t, script)
				if outside.Code != 0 || inside != outside {
					t.Errorf("%s: outside %v\ninside %v", script, outside, inside)
				}
			}
			if e.UID == 0 {
				return
			}
			chgrp := fmt.Sprintf(`cd "$HOME" && touch s && chgrp %d s && stat -c %%g s`, kit.StaffID)
			outside, inside := e.says(t, chgrp)
			if outside.Stdout != fmt.Sprintln(kit.StaffID) || inside.Code == 0 || !strings.Contains(inside.Stderr, "Invalid argument") {
				t.Errorf("chgrp: outside %v\ninside %v", outside, inside)
			}
			// A copy that would keep it has the own group, silently.
			keep := fmt.Sprintf(`cd "$HOME" && rm -f c && cp -p %s c && stat -c %%g c`, staffs)
			outside, inside = e.says(t, keep)
			if outside.Stdout != fmt.Sprintln(kit.StaffID) || inside.Code != 0 || inside.Stdout != fmt.Sprintln(e.UID) {
				t.Errorf("cp -p: outside %v\ninside %v", outside, inside)
			}
			// Namespaces in it can be made: a sandbox that needs no setuid program.
			if outside, inside := e.says(t, "unshare --user --map-root-user --mount sh -c 'id -u; mount -t tmpfs none /mnt && echo mounted'"); inside != outside || inside.Code != 0 {
				t.Errorf("a namespace: outside %v\ninside %v", outside, inside)
			}
			overflow, err := os.ReadFile("/proc/sys/kernel/overflowgid")
			if err != nil {
				t.Fatal(err)
			}
			if _, inside := e.says(t, "id -G"); inside.Stdout != fmt.Sprintf("%d %s", e.UID, overflow) {
				t.Errorf("id -G: %v", inside)
			}
			if _, inside := e.says(t, "stat -c %U /etc/passwd"); inside.Stdout != "nobody\n" {
				t.Errorf("root's file: %v", inside)
			}
		})
	}
}

// TestExecTellsOnce: an ordinary user is told what differs the first time, root is
// not; check tells it always.
func TestExecTellsOnce(t *testing.T) {
	const told = "residentctl: in the user namespace that exec makes setuid programs (su, sudo) gain nothing, chgrp"
	for _, e := range newExecers(t) {
		t.Run(e.name, func(t *testing.T) {
			quietly := e.words("true")
			loudly := slices.DeleteFunc(slices.Clone(quietly), func(w string) bool { return w == "-q" })
			for i, run := range []struct {
				words []string
				tells bool
			}{{quietly, false}, {loudly, e.UID != 0 && !e.auto}, {loudly, false}} {
				r := e.Does(t, run.words...)
				if lines := strings.Count(r.Stderr, told); lines > 1 || (lines == 1) != run.tells {
					t.Errorf("start %d: %v", i, r)
				}
				if e.auto && i > 0 != strings.Contains(r.Stderr, "starts were resident") || !e.auto && !run.tells && r.Stderr != "" {
					t.Errorf("start %d: %v", i, r)
				}
			}
			if e.auto {
				return
			}
			r := kit.Finish(t, e.Command(t, "--store", e.dir, "check"))
			if !strings.Contains(r.Stdout, "kernel: exec") || !strings.Contains(r.Stdout, "setuid programs (su, sudo) gain nothing") {
				t.Errorf("check: %v", r)
			}
		})
	}
	alice, _ := kit.NewAccounts(t)
	c := exec.Command("setpriv", "--reuid", fmt.Sprint(kit.AliceID), "--regid", fmt.Sprint(kit.AliceID), "--clear-groups",
		"--inh-caps=+net_raw", "--ambient-caps=+net_raw", kit.Residentctl(t), "exec", "--", "grep", "CapAmb", "/proc/self/status")
	c.Env = []string{"HOME=" + alice.Home, "PATH=/usr/bin:/bin"}
	if r := kit.Finish(t, c); r.Stdout != "CapAmb:\t0000000000002000\n" || !strings.Contains(r.Stderr, "no resident starts in grep: a user namespace would drop your capabilities") {
		t.Errorf("with an ambient capability: %v", r)
	}
}

// TestExecOtherLinkers: programs for which the linker that is covered is not the
// linker: musl's, 32-bit ones, static ones.
func TestExecOtherLinkers(t *testing.T) {
	dir := kit.Dir(t)
	programs := map[string]string{}
	static := filepath.Join(dir, "static")
	kit.Compile(t, static, filepath.Join("fixtures", "stdio.c"), "-static")
	programs["static"] = static
	t.Run("32-bit", func(t *testing.T) {
		// A dynamic linker and a program that names it, without a C library: the kernel
		// enters the first. It says one word and ends.
		linker, program := filepath.Join(dir, "ld-32.so"), filepath.Join(dir, "program-32")
		const source = `.globl _start
			_start: movl $4, %eax; movl $1, %ebx; call 1f; 1: popl %ecx; addl $text-1b, %ecx; movl $6, %edx; int $0x80
			movl $1, %eax; movl $5, %ebx; int $0x80
			text: .ascii "32bit\n"
			.section .note.GNU-stack,"",@progbits
			`
		path := filepath.Join(dir, "linker.s")
		if err := os.WriteFile(path, []byte(source), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{"-m32", "-nostdlib", "-shared", "-Wl,-e,_start", "-o", linker, path},
			{"-m32", "-nostdlib", "-pie", "-Wl,--dynamic-linker=" + linker, "-o", program, path},
		} {
			if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
				t.Skipf("gcc makes no 32-bit program: %v\n%s", err, out)
			}
		}
		if out, err := exec.Command(program).CombinedOutput(); string(out) != "32bit\n" {
			t.Skipf("this machine runs no 32-bit program: %v %s", err, out)
		}
		programs["32-bit"] = program
	})
	t.Run("musl", func(t *testing.T) { programs["musl"] = muslOrSkip(t) })
	for _, e := range newExecers(t) {
		for name, program := range programs {
			t.Run(e.name+", "+name, func(t *testing.T) {
				outside, inside := kit.Finish(t, e.Exec(t, program, "a", "b c")), kit.Finish(t, e.inside(t, program, "a", "b c"))
				if outside.Stdout == "" || inside.Code != outside.Code || inside.Stderr != outside.Stderr ||
					inside.Stdout != outside.Stdout {
					t.Errorf("outside %v\ninside %v", outside, inside)
				}
			})
		}
	}
}

// muslOrSkip is a program that is linked with musl.
func muslOrSkip(t *testing.T) string {
	t.Helper()
	kit.RequireMusl(t)
	return kit.MuslFixture(t, "stdio")
}

// TestExecPackages: a package manager inside works for other packages, and fails at
// the one with the dynamic linker, which it leaves whole. Outside it replaces the
// linker, under a command that is running inside.
func TestExecPackages(t *testing.T) {
	kit.RequireCRIU(t)
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("needs dpkg")
	}
	linker, err := filepath.EvalSymlinks("/lib64/ld-linux-x86-64.so.2")
	if err != nil {
		t.Fatal(err)
	}
	dir := kit.Dir(t)
	s := kit.NewStore(t, filepath.Join(dir, "data"))
	// The linker's directory is an overlay, in a mount namespace of its own, and dpkg has
	// a database of its own.
	const script = `
		set -eu
		residentctl=$1 store=$2 linker=$3 work=$4
		libs=$(dirname "$linker")
		mount --make-rprivate /
		mount -t tmpfs none "$work"
		mkdir "$work"/upper "$work"/below "$work"/db "$work"/db/updates "$work"/db/info
		mount -t overlay overlay -o "lowerdir=$libs,upperdir=$work/upper,workdir=$work/below" "$libs"
		: >"$work/db/status"; : >"$work/db/available"
		package() { # NAME VERSION FILE...: with the linker, and a file that comes before and one that comes after it
			mkdir -p "$work/pkg/DEBIAN" "$work/pkg$libs"
			printf 'Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: nobody <nobody@localhost>\nDescription: test\n' "$1" "$2" >"$work/pkg/DEBIAN/control"
			for f in "${@:3}"; do
				case $f in "$linker") cp "$f" "$work/pkg$f" ;; *) echo "$1 $2" >"$work/pkg$f" ;; esac
			done
			dpkg-deb --root-owner-group -b "$work/pkg" "$work/$1-$2.deb" >/dev/null
			rm -r "$work/pkg"
		}
		dpkg() { command dpkg --admindir="$work/db" --log=/dev/null --force-depends --no-triggers "$@" </dev/null; }
		export -f dpkg; export work
		status() { dpkg-query --admindir="$work/db" -W -f '${Package} ${Version} ${db:Status-Status}\n'; }
		for v in 1 2; do package with-linker $v "$libs/aaa-$$" "$linker" "$libs/zzz-$$"; package other $v "$libs/other-$$"; done
		dpkg -i "$work/with-linker-1.deb" "$work/other-1.deb" >/dev/null
		before=$(stat -c %i "$linker")
		inside() { "$residentctl" exec --strict --store "$store" -- bash -c "$@"; }

		echo "other: $(inside 'dpkg -i "$work/other-2.deb" >/dev/null && echo done')"
		inside 'dpkg -i "$work/with-linker-2.deb"' >"$work/said" 2>&1 && echo "the linker was replaced inside"
		grep -o "unable to make backup link of.*ld-linux.*\|unable to install new version of.*ld-linux.*" "$work/said" || cat "$work/said"
		status
		cat "$libs/aaa-$$" "$libs/zzz-$$"
		ls "$libs" | grep -e dpkg-new -e dpkg-tmp || echo "nothing is left"
		[ "$(stat -c %i "$linker")" = "$before" ] && echo "the linker is the same"
		ls / >/dev/null && inside 'ls / >/dev/null' && echo "programs start"

		# Outside, while something runs inside.
		mkfifo "$work/go" "$work/ready"
		inside 'echo ready >"$work/ready"; read -r _ <"$work/go"; ls / >/dev/null && echo "programs start inside"; grep -c " $0 " /proc/self/mountinfo' "$linker" >"$work/inside" 2>&1 &
		read -r _ <"$work/ready"
		dpkg -i "$work/with-linker-2.deb" >/dev/null
		status
		cat "$libs/aaa-$$" "$libs/zzz-$$"
		echo go >"$work/go"; wait $! || :
		cat "$work/inside"
		inside 'ls / >/dev/null' && echo "programs start"
		# As the command itself it is not covered.
		"$residentctl" exec --store "$store" -- dpkg --admindir="$work/db" --log=/dev/null --no-triggers -i "$work/with-linker-1.deb" </dev/null 2>&1 | grep -v '^(Reading\|^Prepar\|^Unpack\|^Setting\|^dpkg: warning'
		status
		"$residentctl" exec --strict --store "$store" -- dpkg --version || echo "strict: $?"
	`
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/bin/bash", "-c", script, "bash", s.Residentctl, s.Dir, linker, work)
	c.Env = append(s.Environment(dir), "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8")
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	r := kit.Finish(t, c)
	const refused = "residentctl: no resident starts in dpkg: a package manager must be able to replace the C library, which is busy while it is covered\n"
	want := strings.ReplaceAll(`other: done
unable to make backup link of './LINKER' before installing new version: Invalid cross-device link
other 2 installed
with-linker 1 installed
with-linker 1
with-linker 1
nothing is left
the linker is the same
programs start
other 2 installed
with-linker 2 installed
with-linker 2
with-linker 2
programs start inside
0
programs start
`+refused+`other 2 installed
with-linker 1 installed
strict: 125
`, "LINKER", strings.TrimPrefix(linker, "/"))
	if diff := cmp.Diff(want, r.Stdout); diff != "" || r.Code != 0 {
		t.Errorf("want (-), got (+):\n%s\n%v", diff, r)
	}
}

// TestExecChangesMeanwhile: a program at a fixed address is put over itself, which
// cannot be undone. What happens just before to its file and its image is no matter.
func TestExecChangesMeanwhile(t *testing.T) {
	strace := kit.Installed(t, "strace")
	for name, change := range map[string]func(s *kit.Store, program string) error{
		"refreshed": func(s *kit.Store, _ string) error { return s.Command("refresh", "--all").Run() },
		"removed":   func(s *kit.Store, program string) error { return s.Command("remove", program).Run() },
		"replaced": func(_ *kit.Store, program string) error {
			return errors.Join(os.WriteFile(program+".new", []byte("#!/bin/false\n"), 0o755), os.Rename(program+".new", program))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := kit.NewStore(t, kit.Dir(t))
			program := filepath.Join(kit.Dir(t), "fixed")
			kit.Compile(t, program, kit.FixtureSource("multicall"), "-no-pie", "-fno-pie")
			s.Do(t, "add", "--even-if-slower", program)
			s.RequireResident(t, kit.ByExec, kit.Root, program, kit.Command{})
			want := s.Start(t, kit.Plain, kit.Root, program, kit.Command{})

			// The second prctl of a start is the last call in front of that.
			slowly := kit.ByExec
			slowly.Around = func(s *kit.Store, _ kit.User, path string, _ []string) (string, []string) {
				return strace, []string{"-f", "-o", "/dev/null", "-e", "trace=prctl", "-e", "inject=prctl:delay_exit=4000000:when=2",
					s.Residentctl, "exec", "--strict", "--store", s.Dir, "--", "/bin/sh", "-c", path + "; exit $?"}
			}
			changed := make(chan error, 1)
			go func() {
				if err := waitForImage(s.Dir); err != nil {
					changed <- err
					return
				}
				changed <- change(s, program)
			}()
			got := s.Start(t, slowly, kit.Root, program, kit.Command{})
			if err := <-changed; err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("plain (-) and exec (+) differ:\n%s", diff)
			}
		})
	}
}

// waitForImage waits until a process has an image of the store mapped.
func waitForImage(dir string) error {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		all, err := filepath.Glob("/proc/[0-9]*/maps")
		if err != nil {
			return err
		}
		for _, path := range all {
			if maps, _ := os.ReadFile(path); strings.Contains(string(maps), dir+"/images/") {
				return nil
			}
		}
	}
	return errors.New("no process has an image mapped")
}

// TestExecValgrind: valgrind wants the dynamic linker's symbols, which it finds by the
// build-id in another file, and finds in a program what it finds outside.
func TestExecValgrind(t *testing.T) {
	valgrind := kit.Installed(t, "valgrind")
	dir := kit.Dir(t)
	program := filepath.Join(dir, "leak")
	const source = `#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void)
{
	char *s = malloc(4), *lost = malloc(1000);

	strcpy(s, "four");
	printf("%zu\n", strlen(s));
	return lost == s;
}
`
	if err := os.WriteFile(program+".c", []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	kit.Compile(t, program, program+".c", "-O0", "-Wno-stringop-overflow", "-Wno-unused-result")
	for _, e := range newExecers(t) {
		t.Run(e.name, func(t *testing.T) {
			words := []string{"--leak-check=full", "--error-exitcode=9", "--log-fd=1", program}
			said := func(r kit.Result) kit.Result {
				r.Stdout = regexp.MustCompile(`==\d+==|0x[0-9A-Fa-f]+`).ReplaceAllString(r.Stdout, "")
				return r
			}
			outside := said(kit.Finish(t, e.Exec(t, valgrind, words...)))
			if outside.Code != 9 || !strings.Contains(outside.Stdout, "Invalid write") || !strings.Contains(outside.Stdout, "definitely lost") {
				t.Skipf("it does not work outside: %v", outside) // without the debugging symbols
			}
			inside := said(kit.Finish(t, e.inside(t, append([]string{valgrind}, words...)...)))
			if diff := cmp.Diff(outside, inside, cmp.AllowUnexported(kit.Result{})); diff != "" {
				t.Errorf("outside (-) and inside (+) differ:\n%s", diff)
			}
		})
	}
}
