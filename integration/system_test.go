package integration

import (
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/pkg/binfmt"
	stores "github.com/residentctl/residentctl/pkg/store"
)

// What counts for the whole system is tried in namespaces of its own, where the
// kernel has a binfmt_misc for them alone (since Linux 6.7): the machine's stays as
// it is, and so does its binfmt.d.
const prologue = `set -eu
mount --make-rslave /
mount -t tmpfs none /proc/sys/fs/binfmt_misc # over what the machine may have there
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
if [ -d /etc/binfmt.d ]; then mount -t tmpfs none /etc/binfmt.d; fi
as() { id=$1; shift; setpriv --reuid $id --regid $id --clear-groups "$@"; }
`

// A space is such namespaces for the time of one script.
type space struct {
	*kit.Store
	env []string // beside what all have
}

func newSpace(t *testing.T) *space {
	t.Helper()
	if !kit.OwnBinfmt(t, "") {
		t.Skip("a binfmt_misc for these tests alone needs Linux 6.7")
	}
	dir := kit.Dir(t)
	s := kit.NewStore(t, dir)
	return &space{s, []string{"DIR=" + dir, "STORE=" + s.Dir, "R=" + s.Residentctl + " --store " + s.Dir}}
}

// try runs a script as root there; R is residentctl with the space's store.
func (s *space) try(t *testing.T, script string) kit.Outcome {
	t.Helper()
	cmd := exec.Command("/bin/bash", "-c", prologue+script)
	cmd.Dir = "/"
	cmd.Env = append(s.Environment("/root"), s.env...)
	all := []syscall.SysProcIDMap{{Size: 1<<32 - 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: all, GidMappings: all, GidMappingsEnableSetgroups: true,
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return kit.Outcome{Stdout: stdout.String(), Stderr: stderr.String(), Status: cmd.ProcessState.String()}
}

// run is try of a script that has to succeed and say nothing on stderr.
func (s *space) run(t *testing.T, script string) string {
	t.Helper()
	got := s.try(t, script)
	if got.Status != "exit status 0" || got.Stderr != "" {
		t.Fatalf("%s\n%s%s", got.Status, got.Stdout, got.Stderr)
	}
	return got.Stdout
}

// copyOf is a fixture of its own in the space's directory.
func (s *space) copyOf(t *testing.T, name, as string) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(s.Dir), as)
	kit.CopyFile(t, kit.Fixture(t, name), path)
	return path
}

func wantLines(t *testing.T, got, want string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestSystemLife: enabled, off after a boot, registered again, moved with an upgrade
// and removed; status shows it, and nothing is left behind.
func TestSystemLife(t *testing.T) {
	s := newSpace(t)
	s.copyOf(t, "args", "one")
	s.copyOf(t, "identity", "other")
	got := s.run(t, `
	cd $DIR
	say() { echo "== $*"; }
	how() { RESIDENTCTL_EXPLAIN=1 as 65534 ./one 2>&1 >/dev/null | sed 's/.*one: //; s/image .*/image/; s| /.*||'; }
	files() { echo $(ls /etc/binfmt.d | wc -l) in binfmt.d, $(ls $STORE/system | wc -l) in the store; }
	word() { sed 's/.*: //; s/ (.*//; 1q'; }
	status() { $R status | sed -n 's/  */ /g; s|'$DIR'|DIR|g; /one/p; /nothing/p'; }
	say enable; $R enable --system --even-if-slower $DIR/one | sed 's/ (id.*//'; status; how
	say again; $R enable --system $DIR/one
	say without root; as 65534 $R status 2>&1 | sed -n 's/  */ /g; s|'$DIR'|DIR|g; /one/p'
	say boot; echo -1 >/proc/sys/fs/binfmt_misc/status; status; how
	say what systemd does; sed -n '/^[^#;]/p' /etc/binfmt.d/residentctl-*.conf >/proc/sys/fs/binfmt_misc/register; status; how
	say boot, refresh; echo -1 >/proc/sys/fs/binfmt_misc/status; $R refresh | word; status; how
	say switched off; echo 0 >/proc/sys/fs/binfmt_misc/status; status; how; echo 1 >/proc/sys/fs/binfmt_misc/status
	say not mounted; umount /proc/sys/fs/binfmt_misc; status; $R refresh | word; status
	say new layouts; $R refresh --all | word; status; how
	say verify; $R verify | word
	say upgraded, the same first bytes; cp one one.new; mv one.new one; status; how
	say refresh; $R refresh | word; status; how; files
	say removed; mv one away; status; as 65534 ./one 2>/dev/null || echo $?
	say gc; $R gc >/dev/null; status; files
	say back; cp away one; $R refresh | word; status; how; files
	say disable; cp other one; $R enable --system --even-if-slower $DIR/one >/dev/null; $R disable one | sed 's|'$DIR'|DIR|'; status; how
	say not enabled; $R disable one 2>&1 || echo $?
	say both ways; $R enable --even-if-slower $DIR/one >/dev/null 2>&1; $R enable --system $DIR/one; $R disable --all | sed 's|'$DIR'|DIR|'; status
	say remove; $R enable --system --even-if-slower $DIR/one >/dev/null; $R remove one >/dev/null; status; files; ls /proc/sys/fs/binfmt_misc
	$R check 2>/dev/null | sed -n 's/.*store: garbage/garbage/p'
	say purge; $R enable --system --even-if-slower $DIR/one >/dev/null; ls /etc/binfmt.d /proc/sys/fs/binfmt_misc | grep -c residentctl
	$R purge --yes >/dev/null; ls /etc/binfmt.d /proc/sys/fs/binfmt_misc | grep residentctl || [ -e $STORE ] || echo nothing is left
	`)
	wantLines(t, strings.ReplaceAll(got, filepath.Dir(s.Dir), "DIR"), systemLife)
}

const systemLife = `== enable
DIR/one: enabled for the whole system, and made resident
one DIR/one system resident
resident start: image
== again
DIR/one: already enabled for the whole system
== without root
one DIR/one system resident
== boot
one DIR/one system off the kernel does not know it (any more)
== what systemd does
one DIR/one system resident
resident start: image
== boot, refresh
current
one DIR/one system resident
resident start: image
== switched off
one DIR/one system off it is switched off in /proc/sys/fs/binfmt_misc
== not mounted
one DIR/one system off binfmt_misc is not mounted at /proc/sys/fs/binfmt_misc
current
one DIR/one system resident
== new layouts
made again
one DIR/one system resident
resident start: image
== verify
the same as a fresh link
== upgraded, the same first bytes
one DIR/one system normal another file, or none, is at its path
started normally: it is not resident
== refresh
made again
one DIR/one system resident
resident start: image
1 in binfmt.d, 1 in the store
== removed
one DIR/one system normal another file, or none, is at its path
127
== gc
one DIR/one system waiting no image: DIR/one is gone
0 in binfmt.d, 0 in the store
== back
resident again
one DIR/one system resident
resident start: image
1 in binfmt.d, 1 in the store
== disable
one: disabled for the whole system (DIR/one)
nothing is enabled; enable a program with ` + "`residentctl enable PROGRAM`" + `
== not enabled
residentctl: error: one: it is not enabled in DIR/residentctl
residentctl: hint: run ` + "`residentctl status`" + ` to see what is enabled
1
== both ways
DIR/one: enabled for the whole system
one: disabled (DIR/one)
one: disabled for the whole system (DIR/one)
nothing is enabled; enable a program with ` + "`residentctl enable PROGRAM`" + `
== remove
nothing is enabled; enable a program with ` + "`residentctl enable PROGRAM`" + `
0 in binfmt.d, 0 in the store
register
status
garbage: nothing is there without an entry
== purge
2
nothing is left
`

// TestSystemCollides: what the kernel cannot tell from an enabled program is started
// as by an exec, with the privileges that it has.
func TestSystemCollides(t *testing.T) {
	s := newSpace(t)
	one := s.copyOf(t, "identity", "identity")
	dir := filepath.Dir(one)
	variants := []string{"same", "setuid", "setgid", "capable", "unreadable"}
	for _, name := range variants {
		s.copyOf(t, "identity", name)
	}
	for path, mode := range map[string]os.FileMode{"setuid": 0o755 | os.ModeSetuid, "setgid": 0o755 | os.ModeSetgid, "unreadable": 0o711} {
		if err := os.Chmod(filepath.Join(dir, path), mode); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("setcap", "cap_net_raw+ep", filepath.Join(dir, "capable")).CombinedOutput(); err != nil {
		t.Fatalf("setcap: %v\n%s", err, out)
	}
	script := `
	cd $DIR
	export SECRET=told
	for id in 0 65534; do for p in identity ` + strings.Join(variants, " ") + `; do
		as $id ./$p a 'b c' || echo $?
		as $id $DIR/$p <&- || echo $?
		as $id bash -c 'exec -a "" ./'$p || echo $?
	done; done
	for id in 0 65534; do
		as $id su --version
		as $id su nobody -s /bin/echo yes </dev/null || echo $?
		as $id /usr/sbin/runuser --version
		as $id /usr/sbin/runuser -u nobody echo yes || echo $?
	done 2>&1
	`
	want := s.run(t, script)
	if !strings.Contains(want, "uid 65534 0, gid 65534 65534, secure 1") {
		t.Fatalf("a setuid program has not its privileges in a plain start:\n%s", want)
	}
	for name, env := range map[string]string{"resident": "", "normally": "export RESIDENTCTL_OFF=1\n"} {
		t.Run(name, func(t *testing.T) {
			wantLines(t, s.run(t, `$R enable --system --even-if-slower $DIR/identity /usr/sbin/runuser >/dev/null
			[ $(ls /proc/sys/fs/binfmt_misc | wc -l) = 4 ]
			`+env+script), want)
		})
	}
	// Even if it were resident: it has privileges, and the environment says nothing.
	said := s.try(t, `$R enable --system --even-if-slower $DIR/identity >/dev/null
	RESIDENTCTL_EXPLAIN=1 as 65534 $DIR/setuid || true; RESIDENTCTL_EXPLAIN=1 as 65534 $DIR/same || true
	RESIDENTCTL_RUN=s as 65534 $DIR/setuid || echo $? >&2`)
	if strings.Contains(said.Stderr, "setuid") || !strings.Contains(said.Stderr, "same: started normally") {
		t.Errorf("said: %s", said.Stderr)
	}
	if got := s.try(t, `$R enable --system su`); !strings.Contains(got.Stderr, "setuid") || got.Status == "exit status 0" {
		t.Errorf("enable su: %s\n%s", got.Status, got.Stderr)
	}
}

// TestSystemSegments: what differs from an enabled program only after its first
// bytes is mapped as the kernel maps it, whatever its program headers ask for.
func TestSystemSegments(t *testing.T) {
	s := newSpace(t)
	s.copyOf(t, "segments", "base")
	const beyond = 0x9000 // the program's own segments
	more := func(flags elf.ProgFlag, off, addr, inFile, inMemory, align uint64) elf.Prog64 {
		return elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(flags), Off: off, Vaddr: addr, Paddr: addr, Filesz: inFile, Memsz: inMemory, Align: align}
	}
	variants := map[string]elf.Prog64{
		"zeroes-not-writable":       more(elf.PF_R, 0, beyond, 0, 0x3000, 0x1000),
		"zeroes-after-not-writable": more(elf.PF_R, 0, beyond, 0x10, 0x3000, 0x1000),
		"zeroes-after-code":         more(elf.PF_R|elf.PF_X, 0, beyond, 0x10, 0x3000, 0x1000),
		"zeroes-after-data":         more(elf.PF_R|elf.PF_W, 0, beyond, 0x10, 0x3000, 0x1000),
		"zeroes-of-no-offset":       more(elf.PF_R|elf.PF_W, 0, beyond+0x10, 0, 0x3000, 0x1000),
		"nothing-where-data-is":     more(elf.PF_R|elf.PF_W, 0x10, s.dataOf(t, "base"), 0, 0, 0x1000),
		"the-same-page-twice":       more(elf.PF_R, 0x1000, beyond, 0x1000, 0x1000, 0x1000),
		"aligned-to-2-MiB":          more(elf.PF_R|elf.PF_W, 0, beyond, 0x10, 0x3000, 0x200000),
		"executable-stack":          {Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W | elf.PF_X), Align: 16},
	}
	for name, header := range variants {
		s.withHeader(t, "base", name, header)
	}
	script := `cd $DIR; for p in *-*; do echo $p; setarch -R ./$p || echo $?; ./$p >/dev/null || echo $?; done` + "\n"
	wantLines(t, s.run(t, `$R enable --system --even-if-slower $DIR/base >/dev/null`+"\n"+script), s.run(t, script))
}

// dataOf is a byte of a fixture's initialised data, from its start.
func (s *space) dataOf(t *testing.T, name string) uint64 {
	t.Helper()
	f, err := elf.Open(filepath.Join(filepath.Dir(s.Dir), name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return f.Section(".data").Addr&^0xfff + 0x10
}

// withHeader is a copy that has another program header in place of that of the
// exception tables, which C does not need.
func (s *space) withHeader(t *testing.T, name, as string, header elf.Prog64) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(filepath.Dir(s.Dir), name))
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_GNU_EH_FRAME })
	at := binary.LittleEndian.Uint64(raw[32:]) + uint64(i)*56 // e_phoff
	if i < 0 || at < binfmt.MagicLen {
		t.Fatalf("the compiler puts program header %d at %d", i, at)
	}
	if _, err = binary.Encode(raw[at:], binary.LittleEndian, header); err == nil {
		err = os.WriteFile(filepath.Join(filepath.Dir(s.Dir), as), raw, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestSystemElsewhere: in another root, and where the store is not, programs start
// as they would.
func TestSystemElsewhere(t *testing.T) {
	s := newSpace(t)
	s.copyOf(t, "identity", "identity")
	// A user who can neither set /proc/self/exe nor make a user namespace in which he
	// can finds the launcher file there.
	script := `
	but_exe() { sed 's/^exe [^,]*/exe/'; }
	cd $DIR
	mkdir -p root/usr root/lib root/lib64 root/proc root/test root/store
	mount --bind /usr root/usr
	mount --bind /lib root/lib
	mount --bind /lib64 root/lib64
	mount --bind $DIR root/test
	for id in 0 65534; do
		echo chroot, no proc; /usr/sbin/chroot --userspec=$id:$id root /test/identity a || echo $?
	done 2>&1
	mount --rbind /proc root/proc
	echo chroot; /usr/sbin/chroot --userspec=65534:65534 root /test/identity a | but_exe
	echo mount namespace without the store
	unshare --mount sh -c "mount -t tmpfs none $STORE 2>/dev/null; setpriv --reuid 65534 --regid 65534 --clear-groups $DIR/identity a || echo \$?"
	echo user namespace
	as 65534 unshare --user --map-root-user $DIR/identity a || echo $?
	echo pid namespace
	unshare --pid --fork --mount-proc setpriv --reuid 65534 --regid 65534 --clear-groups $DIR/identity a || echo $?
	echo seccomp; as 65534 ` + kit.Fixture(t, "situation") + ` --filter-errno 160 -- $DIR/identity identity a | but_exe
	echo no namespaces; echo 0 >/proc/sys/user/max_user_namespaces; as 65534 $DIR/identity a | but_exe
	`
	s.Do(t, "add", "--even-if-slower", filepath.Join(filepath.Dir(s.Dir), "identity"))
	want := s.run(t, script)
	wantLines(t, s.run(t, `$R enable --system $DIR/identity`+"\n"+script), filepath.Dir(s.Dir)+"/identity: enabled for the whole system\n"+want)
}

// TestSystemBadStates: whatever happens to a store, programs that are enabled start.
func TestSystemBadStates(t *testing.T) {
	for _, test := range []struct{ name, state string }{
		{"store gone", `rm -r $STORE`},
		{"store not readable", `chmod 700 $STORE`},
		{"plan gone", `rm $STORE/images/*/plan`},
		{"plan damaged", `printf x | dd of=$(echo $STORE/images/*/plan) bs=1 seek=500 conv=notrunc status=none`},
		{"plan of another version", `printf '\143' | dd of=$(echo $STORE/images/*/plan) bs=1 seek=8 conv=notrunc status=none`},
		{"pages gone", `rm $STORE/images/*/pages-1.img`},
		{"launcher file gone", `rm $STORE/launchers/*/$DIR/identity`},
		{"launcher file of another version", `l=$(echo $STORE/launchers/*/$DIR/identity); cp $l $l.new; mv $l.new $l`},
		{"store of another user", `chown -R 12345 $STORE`},
		{"store writable for all", `chmod -R a+w $STORE`},
		{"store on another file system", `mkdir $DIR/else; mount -t tmpfs none $DIR/else; cp -a $STORE/. $DIR/else; mount --bind $DIR/else $STORE`},
		{"ld.so.preload", `touch $DIR/preload; mount --bind $DIR/preload /etc/ld.so.preload 2>/dev/null || true`},
		{"library path", `export LD_LIBRARY_PATH=/usr/lib`},
		{"stack limit", `ulimit -s unlimited`},
		{"address space", `ulimit -v 400000`},
		{"no more files", `ulimit -n 4`},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSpace(t)
			s.copyOf(t, "identity", "identity")
			start := `for id in 0 65534; do as $id $DIR/identity a 'b c' || echo $?; done`
			want := s.run(t, start)
			wantLines(t, s.run(t, `$R enable --system --even-if-slower $DIR/identity >/dev/null`+"\n"+test.state+"\n"+start), want)
		})
	}
}

// TestSystemRefused: a clear word where it cannot be.
func TestSystemRefused(t *testing.T) {
	s := newSpace(t)
	s.copyOf(t, "args", "one")
	s.copyOf(t, "args", "one.odd")
	for _, test := range []struct{ name, script, want string }{
		{"another's by its name", `printf ':mine:E::odd::/usr/bin/true:P' >/proc/sys/fs/binfmt_misc/register; $R add $DIR/one.odd`,
			"the kernel executes another program in its place (binfmt_misc)"},
		{"not root", `as 65534 $R enable --system $DIR/one`, "only root can enable a program for the whole system"},
		{"not there", `$R enable --system $DIR/none`, "does not exist"},
		{"not for all to read", `chmod 700 $DIR/one; $R enable --system $DIR/one`, "would show its path"},
		{"no user namespaces", `chmod 755 $DIR/one; echo 0 >/proc/sys/user/max_user_namespaces; $R enable --system --even-if-slower $DIR/one`, "it looks at itself"},
		{"an interpreter", `chmod 755 $DIR/one; printf ':mine:M::MINE::%s:' $DIR/one >/proc/sys/fs/binfmt_misc/register; $R enable --system $DIR/one`, "interpreter of another format"},
		{"both", `$R enable --system --shim $DIR/one`, "exclude each other"},
		{"no binfmt_misc", `umount /proc/sys/fs/binfmt_misc; unshare --user --map-root-user $R enable --system $DIR/one`, "mount binfmt_misc"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := s.try(t, test.script)
			if got.Status == "exit status 0" || !strings.Contains(got.Stderr, test.want) || !strings.Contains(got.Stderr, "hint: ") {
				t.Errorf("%s\n%s%s", got.Status, got.Stdout, got.Stderr)
			}
		})
	}
}

// TestSystemStores: of two stores one has a program enabled. The other says so, and
// leaves it alone; gc removes what no store has any more.
func TestSystemStores(t *testing.T) {
	s := newSpace(t)
	s.copyOf(t, "identity", "one")
	got := s.run(t, `
	cd $DIR
	O="${R%% *} --store $DIR/other"
	how() { RESIDENTCTL_EXPLAIN=1 as 65534 ./one 2>&1 >/dev/null | sed 's/.*one: //; s/image .*/image/; s| /.*||'; }
	state() { "$@" status | sed -n 's/  */ /g; /one/{s|'$DIR'|DIR|g; s| another store.*| another store|; p}'; }
	$R enable --system --even-if-slower $DIR/one >/dev/null
	$O add --even-if-slower $DIR/one >/dev/null
	$O enable --system $DIR/one 2>&1 | sed 's|'$DIR'|DIR|g; s|[0-9][0-9]*-[0-9][0-9]*DIR|D-I/DIR|'
	state $R; how
	ln -s $STORE link; ${R%% *} --store $DIR/link enable --system $DIR/one | sed 's/.*: //'
	# The other store's link, made before stores looked at each other.
	mkdir $DIR/other/system; cp -P $STORE/system/* $DIR/other/system
	state $O
	$O disable one | sed 's/ (.*//'; state $R; how
	rm -r $STORE; how; state $R
	$O gc | tail -n 1 | sed 's/,.*//'; ls /proc/sys/fs/binfmt_misc
	$O enable --system $DIR/one | sed 's/.*: //'; how
	rm -f /etc/binfmt.d/*; $O refresh | sed 's/.*: //'; [ ! -d /etc/binfmt.d ] || [ $(ls /etc/binfmt.d | wc -l) = 1 ]
	rm -r $DIR/other; state $R; $R disable --all | sed 's/ (.*//'; $R status; ls /proc/sys/fs/binfmt_misc
	[ ! -d /etc/binfmt.d ] || [ $(ls /etc/binfmt.d | wc -l) = 0 ]
	`)
	wantLines(t, got, `residentctl: error: another store has enabled it, with DIR/residentctl/launchers/D-I/DIR/one
residentctl: hint: `+"run `residentctl --store DIR disable` with that store's directory first"+`
one DIR/one system resident
resident start: image
already enabled for the whole system
one DIR/one system off another store
one: disabled for the whole system
one DIR/one system resident
resident start: image
started normally: it is not resident
one DIR/one system normal its store is gone
1 item removed
register
status
enabled for the whole system
resident start: image
current
one DIR/one system normal its store is gone
one: disabled for the whole system
nothing is enabled; enable a program with `+"`residentctl enable PROGRAM`"+`
register
status
`)
}

// TestSystemAdd: an enabled program, and one that the kernel cannot tell from it,
// can be made resident and verified all the same.
func TestSystemAdd(t *testing.T) {
	s := newSpace(t)
	s.copyOf(t, "identity", "one")
	s.copyOf(t, "identity", "two")
	got := s.run(t, `
	$R enable --system --even-if-slower $DIR/one >/dev/null
	$R add --even-if-slower $DIR/two | sed 's/.*: resident.*/added/'
	$R verify | sed -n 's/.*: //; s/ (id.*//p'
	$R refresh --all | sed 's/.*: //; s/ (id.*//'
	printf '#!/bin/sh\nexec "$DIR/two"\n' >$DIR/script; chmod +x $DIR/script
	$R add --follow --even-if-slower $DIR/script | sed 's/.*: //'
	$R status | grep -c resident
	RESIDENTCTL_EXPLAIN=1 $DIR/two 2>&1 | grep -c 'resident start'
	`)
	wantLines(t, got, "added\nthe same as a fresh link\nthe same as a fresh link\nmade again\nmade again\nalready resident\n1\n1\n")
}

// TestSystemAddWarm: so can a script get a warm image whose interpreter is enabled.
func TestSystemAddWarm(t *testing.T) {
	s := newSpace(t)
	got := s.run(t, `
	$R enable --system --even-if-slower /usr/bin/python3 >/dev/null
	printf '#!/usr/bin/python3\nimport json\nprint(json.dumps([1]))\n' >$DIR/script; chmod +x $DIR/script
	$R add --warm --even-if-slower $DIR/script | sed 's/.*: resident, warm.*/added/'
	RESIDENTCTL_EXPLAIN=1 "$STORE"/launchers/*/$DIR/script 2>&1 | sed 's/.*resident start.*/resident/'
	`)
	wantLines(t, got, "added\nresident\n[1]\n")
}

// TestSystemFollow: what a version manager chooses here is enabled for the whole system, and
// the choice stays the manager's.
func TestSystemFollow(t *testing.T) {
	s := newSpace(t)
	s.copyOf(t, "identity", "one")
	s.copyOf(t, "args", "two")
	got := s.run(t, `
	mkdir -p $DIR/1 $DIR/2 $DIR/shims; mv $DIR/one $DIR/1/speak; mv $DIR/two $DIR/2/speak
	printf '#!/bin/sh\nshift\nexec "%s/${CHOSEN:-1}/$@"\n' $DIR >$DIR/speakenv
	printf '#!/bin/sh\nexec "%s/speakenv" exec "${0##*/}" "$@"\n' $DIR >$DIR/shims/speak
	chmod +x $DIR/speakenv $DIR/shims/speak
	export PATH=$DIR/shims:$PATH
	how() { RESIDENTCTL_EXPLAIN=1 as 65534 speak 2>&1 >/dev/null | sed -n 's|.*/\(./speak: resident start\).*|\1|p'; }
	$R enable --system --follow --even-if-slower speak | sed "s|$DIR/||; s/ (id.*//; 1q"
	how
	echo two: $(CHOSEN=2 how)
	$R disable --all | wc -l
	how
	`)
	wantLines(t, got, "speak -> 1/speak: enabled for the whole system, and made resident\n1/speak: resident start\ntwo:\n1\n")
}

// TestSystemLock: a process that holds a program's entries aside keeps others waiting that can
// be interrupted; who is not root cannot.
func TestSystemLock(t *testing.T) {
	s := newSpace(t)
	s.copyOf(t, "args", "one")
	s.copyOf(t, "args", "two")
	s.copyOf(t, "identity", "else")
	got := s.run(t, `
	$R enable --system --even-if-slower $DIR/one >/dev/null
	add() { $R add --even-if-slower $DIR/$1 | sed 's/.*: resident.*/added/'; }
	# hold USER FILE holds it until end.
	hold() {
		coproc holder { as $1 bash -c "exec 9$2; flock 9 && echo held; read end" 2>/dev/null; }
		read -r said <&${holder[0]}; echo $said
	}
	end() { echo >&${holder[1]}; wait $holder_PID; }
	misc=/proc/sys/fs/binfmt_misc
	hold 65534 "<$misc"; add two; $R remove two >/dev/null; end
	hold 65534 "<$misc/status"; add two; $R remove two >/dev/null; end
	as 65534 sh -c "exec 9>$misc/register" 2>/dev/null || echo refused
	hold 0 ">$misc/register"; add else
	$R add --even-if-slower $DIR/two 2>$DIR/said & adding=$!
	until ls -l /proc/$adding/fd 2>/dev/null | grep -q register || ! kill -0 $adding; do :; done
	kill -INT $adding; wait $adding || echo $?; cat $DIR/said; end; add two
	`)
	wantLines(t, got, "held\nadded\nheld\nadded\nrefused\nheld\nadded\n130\nresidentctl: error: interrupted\nadded\n")
}

// TestSystemNewLauncher: the kernel holds on to the launcher file that it was given,
// so refresh gives it the one that this residentctl writes.
func TestSystemNewLauncher(t *testing.T) {
	s := newSpace(t)
	s.copyOf(t, "args", "one")
	got := s.run(t, `
	how() { RESIDENTCTL_EXPLAIN=1 $DIR/one 2>&1 >/dev/null | grep -io 'resident start'; }
	$R enable --system --even-if-slower $DIR/one >/dev/null; how
	launcher=$(echo $STORE/launchers/*/$DIR/one)
	sed 's/resident start/RESIDENT START/' $launcher >$launcher.new; chmod 755 $launcher.new; mv $launcher.new $launcher
	echo -1 >/proc/sys/fs/binfmt_misc/status
	sed -n '/^[^#;]/p' /etc/binfmt.d/residentctl-*.conf >/proc/sys/fs/binfmt_misc/register; how
	$R refresh | sed 's/.*: //'; how
	`)
	wantLines(t, got, "resident start\nRESIDENT START\ncurrent\nresident start\n")
}

// systemPoints are where enable --system and its undoing may be killed.
var systemPoints = []string{
	"before-system-link", "after-system-link", "before-register", "after-register",
	"after-unregister", "after-remove-system-link",
}

// TestSystemKilled: killed at any step the program starts, gc finds nothing that is
// in the way, and the same command again does what it is to do.
func TestSystemKilled(t *testing.T) {
	for _, point := range systemPoints {
		t.Run(point, func(t *testing.T) {
			s := newSpace(t)
			s.copyOf(t, "args", "one")
			s.env = append(s.env, stores.FaultEnv+"_IN="+point)
			got := s.run(t, `
			$R add --even-if-slower $DIR/one >/dev/null
			how() { RESIDENTCTL_EXPLAIN=1 as 65534 $DIR/one 2>&1 >/dev/null | sed 's/.*one: //; s/image .*/image/; s| /.*||'; }
			killed() {
				{ st=0; `+stores.FaultEnv+`=$`+stores.FaultEnv+`_IN $R "$@" >/dev/null || st=$?; } 2>/dev/null
				[ $st != 137 ] || echo killed
			}
			killed enable --system $DIR/one; $DIR/one >/dev/null
			$R gc >/dev/null; $DIR/one >/dev/null
			$R enable --system $DIR/one >/dev/null; how
			killed remove one; $DIR/one >/dev/null
			$R gc >/dev/null; $DIR/one >/dev/null
			$R add --even-if-slower $DIR/one >/dev/null
			$R enable --system $DIR/one >/dev/null; how
			killed disable one; $DIR/one >/dev/null
			$R gc >/dev/null; $R disable one 2>/dev/null >&2 || true
			$R status; ls /etc/binfmt.d $STORE/system /proc/sys/fs/binfmt_misc | grep ^residentctl- || true
			$R gc --dry-run | tail -n 1
			`)
			if !strings.Contains(got, "killed\n") {
				t.Error("no command came there")
			}
			wantLines(t, strings.ReplaceAll(got, "killed\n", ""), `resident start: image
resident start: image
nothing is enabled; enable a program with `+"`residentctl enable PROGRAM`"+`
0 items would be removed, 0 B would be freed in `+s.Dir+`
`)
		})
	}
}

// TestSystemNotMounted: what is enabled counts for the machine although binfmt_misc
// is mounted in some other mount namespace only, and root makes such a program
// resident all the same. The program has first bytes of its own, so that it is no
// business of other tests' programs.
func TestSystemNotMounted(t *testing.T) {
	s := kit.NewStore(t, kit.Dir(t))
	dir := filepath.Dir(s.Dir)
	source := filepath.Join(dir, "own.c")
	text := fmt.Sprintf("char size[%d] = \"x\";\nint main(void) { return size[0] != 'x'; }\n", 1<<16+os.Getpid()%(1<<16)*8)
	if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "own")
	kit.Compile(t, program, source)
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "/bin/bash", "-ec", `
	mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
	if [ -d /etc/binfmt.d ]; then mount -t tmpfs none /etc/binfmt.d; fi
	trap '"$R" --store "$STORE" disable own' EXIT
	"$R" --store "$STORE" enable --system --even-if-slower "$PROGRAM"
	read -r || true # until the test has seen it
	`)
	cmd.Env = append(s.Environment("/root"), "R="+s.Residentctl, "STORE="+filepath.Join(dir, "elsewhere"), "PROGRAM="+program)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	enabled := bufio.NewReader(stdout)
	defer func() {
		stdin.Close()
		_, _ = io.Copy(io.Discard, enabled)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, stderr.String())
		}
	}()
	if line, err := enabled.ReadString('\n'); !strings.Contains(line, "enabled for the whole system") {
		t.Fatalf("%q, %v", line, err)
	}
	// The kernel does start it by its launcher file, wherever that is looked at.
	isResident := func() {
		t.Helper()
		plain := exec.Command(program)
		plain.Env = []string{"RESIDENTCTL_EXPLAIN=1"}
		if out, err := plain.CombinedOutput(); err != nil || !strings.Contains(string(out), "resident start") {
			t.Errorf("%v: %s", err, out)
		}
	}
	isResident()
	s.Do(t, "add", "--even-if-slower", program)
	s.Do(t, "verify", program)
	isResident()
}

// TestSystemLinkIsForOneKernelInstance: what is enabled for one binfmt_misc is left alone
// where the kernel has another one, the machine's or another user namespace's.
func TestSystemLinkIsForOneKernelInstance(t *testing.T) {
	s := newSpace(t)
	s.copyOf(t, "args", "one")
	const functions = `
	cd $DIR
	say() { echo "== $*"; }
	status() { $R status | sed -n 's/  */ /g; s|'$DIR'|DIR|g; /one/p; /nothing/p'; }
	kernel() { ls /proc/sys/fs/binfmt_misc | grep -c residentctl || :; }
	links() { ls $STORE/system | sed 's/^[0-9]*-[0-9]*//; s/^@[0-9]*-'$(cat /proc/sys/kernel/random/boot_id)'$/@an instance/'; }
	how() { RESIDENTCTL_EXPLAIN=1 ./one 2>&1 >/dev/null | sed 's/.*one: //; s/image .*/image/'; }
	word() { sed 's/.*: //; s/ (.*//; 1q'; }
	`
	got := s.run(t, functions+`
	say enabled; $R enable --system --even-if-slower $DIR/one | sed 's/ (id.*//'; status; kernel; links; how`)
	got += s.run(t, functions+`
	say elsewhere; status; $R refresh | word; kernel; status; $R check --no-trial | sed -n 's|'$DIR'|DIR|g; /system-wide/{p;n;p}'
	say gc leaves it; $R gc >/dev/null; links
	say upgraded; cp one one.new; mv one.new one; $R refresh | word; kernel; status; links
	say here too; $R enable --system $DIR/one; status | sort; kernel; links; how
	say disabled here; $R disable one | sed 's|'$DIR'|DIR|'; status; kernel
	say disabled; $R disable one | sed 's|'$DIR'|DIR|'; status; links
	say of an older version; b=$(cd $STORE/launchers; echo *); ln -s ../launchers/$b$DIR/one $STORE/system/$b
	status; $R refresh | word; kernel
	say of an earlier boot; $R disable one >/dev/null
	ln -s ../launchers/$b$DIR/one $STORE/system/$b@4026532448-01234567-89ab-cdef-0123-456789abcdef
	status; $R refresh | word; kernel; $R gc | sed -n 's/  */ /g; s/^system .*\(the kernel\)/\1/p'; links; status
	say removed; $R enable --system $DIR/one >/dev/null; cd $STORE/system; mv * $(echo * | sed 's/@.*//'); cd $DIR
	$R remove one >/dev/null; links; kernel`)
	wantLines(t, strings.ReplaceAll(got, filepath.Dir(s.Dir), "DIR"), systemElsewhere)
}

const systemElsewhere = `== enabled
DIR/one: enabled for the whole system, and made resident
one DIR/one system resident
1
@an instance
resident start: image
== elsewhere
one DIR/one system elsewhere for another kernel instance, a user namespace's own
current
0
one DIR/one system elsewhere for another kernel instance, a user namespace's own
note   entry: DIR/one (system-wide): for another kernel instance, a user namespace's own
       -> run ` + "`residentctl enable --system DIR/one`" + ` to enable it here too
== gc leaves it
@an instance
== upgraded
made again
0
one DIR/one system elsewhere for another kernel instance, a user namespace's own
@an instance
== here too
DIR/one: enabled for the whole system
one DIR/one system elsewhere for another kernel instance, a user namespace's own
one DIR/one system resident
1
@an instance
@an instance
resident start: image
== disabled here
one: disabled for the whole system (DIR/one)
one DIR/one system elsewhere for another kernel instance, a user namespace's own
0
== disabled
one: disabled for the whole system (DIR/one)
nothing is enabled; enable a program with ` + "`residentctl enable PROGRAM`" + `
== of an older version
one DIR/one system elsewhere for another kernel instance, the machine's own
current
0
== of an earlier boot
one DIR/one system elsewhere for another kernel instance, which ended with an earlier boot
current
0
the kernel instance that it was enabled for ended with an earlier boot
nothing is enabled; enable a program with ` + "`residentctl enable PROGRAM`" + `
== removed
0
`
