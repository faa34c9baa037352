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
)

// cacheStep is something that is done to ld.so.cache, and what starts are then.
type cacheStep struct {
	name   string
	script string // in a mount namespace with an /etc of its own; $dir has the libraries
	normal string // why starts are normal; empty if they are resident
	mark   string // what the library that is found says; empty: as before
	fails  bool   // no library is found
}

// cacheSteps follow one another. The program's library is in $dir/lib, which only
// ld.so.conf names, and in a glibc-hwcaps subdirectory of it.
var cacheSteps = []cacheStep{
	{name: "as it was", script: "true"},
	{name: "ldconfig once more", script: "$ldconfig"},
	{name: "an unrelated library", script: `mkdir "$dir/unrelated"; cp "$other" "$dir/unrelated/libunrelated.so.1"
		echo "$dir/unrelated" >/etc/ld.so.conf.d/unrelated.conf; $ldconfig`},
	// Its name comes first in the list of subdirectories.
	{name: "an unrelated library in a subdirectory", script: `mkdir -p "$dir/unrelated/glibc-hwcaps/x86-64-v2"
		cp "$unrelated" "$dir/unrelated/glibc-hwcaps/x86-64-v2/libunrelated.so"; $ldconfig`},
	{name: "the same library in a directory that comes later", script: `mkdir "$dir/later"; cp "$other" "$dir/later/libconstructors.so"
		echo "$dir/later" >/etc/ld.so.conf.d/zzz.conf; $ldconfig`},
	{name: "another library wins", normal: "ld.so.cache has another answer for libconstructors.so", mark: "other",
		script: `mkdir "$dir/first"; cp "$other" "$dir/first/libconstructors.so"
		mkdir -p "$dir/first/glibc-hwcaps/x86-64-v3"; cp "$other" "$dir/first/glibc-hwcaps/x86-64-v3/libconstructors.so"
		echo "$dir/first" >/etc/ld.so.conf.d/aaa.conf; $ldconfig`},
	{name: "the first library again", script: "rm /etc/ld.so.conf.d/aaa.conf; $ldconfig"},
	{name: "a subdirectory is added", normal: "ld.so.cache has another answer for libconstructors.so",
		script: `mkdir "$dir/lib/glibc-hwcaps/x86-64-v4"; cp "$other" "$dir/lib/glibc-hwcaps/x86-64-v4/libconstructors.so"; $ldconfig`},
	{name: "and removed", script: `rm -r "$dir/lib/glibc-hwcaps/x86-64-v4"; $ldconfig`},
	// By the length of the paths in it, its extensions begin at a multiple of 4, without which
	// the dynamic linker leaves it alone, or do not (glibc elf/cache.c, save_cache).
	{name: "both formats in one file", normal: "ld.so.cache", script: "$ldconfig -c compat"},
	{name: "the old format alone", normal: "this has changed /etc/ld.so.cache", script: "$ldconfig -c old"},
	{name: "cut off", normal: "this has changed /etc/ld.so.cache", fails: true, script: "$ldconfig; truncate -s 1000 /etc/ld.so.cache"},
	{name: "empty", normal: "this has changed /etc/ld.so.cache", fails: true, script: ">/etc/ld.so.cache"},
	{name: "garbage", normal: "this has changed /etc/ld.so.cache", fails: true, script: "head -c 50000 /dev/urandom >/etc/ld.so.cache"},
	{name: "gone", normal: "this has changed /etc/ld.so.cache", fails: true, script: "rm /etc/ld.so.cache"},
	// Opened for writing, or each plain start would wait for a process that does it.
	{name: "a FIFO", normal: "this has changed /etc/ld.so.cache", fails: true, script: "mkfifo /etc/ld.so.cache; exec 9<>/etc/ld.so.cache"},
	{name: "as it was in the end", script: "rm /etc/ld.so.cache; exec 9>&-; $ldconfig"},
}

// TestAnotherCache: ld.so.cache is written again and again, and starts are resident
// exactly while it answers as before; always they do what a plain start does.
func TestAnotherCache(t *testing.T) {
	ldconfig, err := exec.LookPath("/sbin/ldconfig")
	if err != nil {
		t.Skip(err)
	}
	s := kit.NewStore(t, kit.Dir(t))
	dir := kit.Dir(t)
	program, lib := filepath.Join(dir, "constructors"), filepath.Join(dir, "lib", "libconstructors.so")
	if err := os.MkdirAll(filepath.Join(dir, "lib", "glibc-hwcaps", "x86-64-v3"), 0o755); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join("fixtures", "libconstructors.c")
	kit.Compile(t, lib, source, "-shared", "-fPIC", "-Wl,-soname,libconstructors.so")
	kit.CopyFile(t, lib, filepath.Join(dir, "lib", "glibc-hwcaps", "x86-64-v3", "libconstructors.so"))
	kit.Compile(t, filepath.Join(dir, "other.so"), source, "-shared", "-fPIC", "-Wl,-soname,libconstructors.so", `-DMARK="other"`)
	kit.Compile(t, filepath.Join(dir, "unrelated.so"), source, "-shared", "-fPIC", "-Wl,-soname,libunrelated.so")
	kit.Compile(t, program, filepath.Join("fixtures", "constructors.c"), lib)

	said := runCacheSteps(t, s, ldconfig, dir, program)
	for _, step := range cacheSteps {
		plain, ok := said[step.name+" plain"]
		if !ok || (plain.status != "0") != step.fails || !strings.Contains(plain.output, step.mark) {
			t.Errorf("%s: a plain start: %+v", step.name, plain)
		}
		for _, way := range []string{"run", "launcher", "exec"} {
			got := said[step.name+" "+way]
			if got.status != plain.status || got.output != plain.output {
				t.Errorf("%s, %s: %+v, plain: %+v", step.name, way, got, plain)
			}
			if how, why, _ := strings.Cut(got.explained, ": "); (how == "resident start") != (step.normal == "") || !strings.Contains(why, step.normal) {
				t.Errorf("%s, %s: %s, want a normal start because %q", step.name, way, got.explained, step.normal)
			}
		}
		if current := !strings.Contains(said[step.name+" list"].output, "stale"); current != (step.normal == "") {
			t.Errorf("%s: %s", step.name, said[step.name+" list"].output)
		}
	}
}

// said is what a start has said and how it ended.
type said struct {
	status, output, explained string
}

// runCacheSteps returns what was said in each step by each way.
func runCacheSteps(t *testing.T, s *kit.Store, ldconfig, dir, program string) map[string]said {
	t.Helper()
	var script strings.Builder
	script.WriteString(`
		set -eu
		residentctl=$1 data=$2 dir=$3 program=$4 ldconfig="$5 -X" other=$3/other.so unrelated=$3/unrelated.so
		mount --make-rprivate /
		mkdir "$data/etc"
		mount -t tmpfs -o mode=755 none "$data/etc"
		cp -a /etc/ld.so.* /etc/passwd /etc/group "$data/etc"
		mount --bind "$data/etc" /etc
		mkdir -p /var/cache/ldconfig
		mount -t tmpfs none /var/cache/ldconfig
		mkdir -p /etc/ld.so.conf.d
		echo "include /etc/ld.so.conf.d/*.conf" >/etc/ld.so.conf
		echo "$dir/lib" >/etc/ld.so.conf.d/bbb.conf
		$ldconfig
		store=$data/residentctl
		"$residentctl" --store "$store" add --even-if-slower "$program" >&2
		launcher=$(echo "$store"/launchers/*"$program")
		say() {
			local status=0 output
			output=$("${@:2}" 2>"$data/stderr" </dev/null) || status=$?
			output+=$(grep -v ^residentctl: "$data/stderr" || :)
			output=${output//$launcher/$program}
			printf '%s\t%s\t%s\t%s\n' "$1" "$status" "${output//$'\n'/ }" "$(sed -n "s|^residentctl: $program: ||p" "$data/stderr")"
		}
		starts() {
			say "$1 plain" "$program"
			say "$1 run" "$residentctl" --store "$store" run --explain "$program"
			RESIDENTCTL_EXPLAIN=1 say "$1 launcher" "$launcher"
			RESIDENTCTL_EXPLAIN=1 say "$1 exec" "$residentctl" --store "$store" exec -- "$program"
			say "$1 list" "$residentctl" --store "$store" list
		}
	`)
	for _, step := range cacheSteps {
		fmt.Fprintf(&script, "%s\nstarts %q\n", step.script, step.name)
	}
	cmd := exec.Command("/bin/bash", "-c", script.String(), "bash", s.Residentctl, s.DataHome, dir, program, ldconfig)
	cmd.Env = s.Environment(s.DataHome)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, stdout, stderr.String())
	}
	all := map[string]said{}
	for line := range strings.Lines(string(stdout)) {
		if parts := strings.Split(strings.TrimSuffix(line, "\n"), "\t"); len(parts) == 4 {
			all[parts[0]] = said{parts[1], parts[2], parts[3]}
		}
	}
	return all
}
