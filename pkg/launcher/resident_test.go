package launcher

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/internal/fixture"
	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/ldcache"
	"github.com/residentctl/residentctl/pkg/plan"
)

// asExec compares what a resident witness says with what an exec'd one says.
func asExec(t *testing.T, resident, plain ending) {
	t.Helper()
	if resident.status != plain.status {
		t.Errorf("status %d, after an exec %d", resident.status, plain.status)
	}
	got, want := resident.said(), plain.said()
	if got.one("resident") != "1" || got.one("rbx") != "b0b" {
		t.Fatalf("this is no resident start: %s%s", resident.stderr, resident.stdout)
	}
	for _, word := range []string{"stack-alignment", "argc", "argv", "env", "aux-phdr", "aux-phnum", "aux-entry", "aux-base",
		"aux-pagesz", "aux-secure", "vdso-magic", "platform", "random-misplaced", "mask", "comm", "cmdline", "environ", "open"} {
		if diff := cmp.Diff(want[word], got[word]); diff != "" {
			t.Errorf("%s, after an exec and resident:\n%s", word, diff)
		}
	}
	for _, word := range []string{"wrong-word", "wrong-fs", "brk-stuck"} {
		if got[word] != nil {
			t.Errorf("%s %s", word, got.one(word))
		}
	}
	if brk := got.hex(t, "brk"); brk < witnessBrk || brk > witnessBrk+1<<31 {
		t.Errorf("the break is %#x", brk)
	}
	cleanMaps(t, got)
}

// cleanMaps holds that the process is made of the image, its stack and the
// vDSO, and of nothing that the launcher brought along.
func cleanMaps(t *testing.T, s saying) {
	t.Helper()
	maps, err := linux.ParseMaps([]byte(strings.Join(s["maps"], "\n") + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	vdso := false
	for _, m := range maps {
		switch {
		case m.Start == witnessWords && m.Prot != syscall.PROT_READ:
			t.Errorf("the corrected words can be written: %v", m)
		case m.Start >= witnessText && m.End <= witnessBrk, m.Start >= warmStack-1<<20 && m.End <= warmStack+warmStackLen, m.Path == "[stack]", m.Path == "[vsyscall]", m.Path == "[heap]":
		case m.Kernel() && m.Start >= witnessVDSO && m.End <= witnessVDSO+1<<20:
			vdso = true
		default:
			t.Errorf("this is left: %v", m)
		}
	}
	if !vdso || s.hex(t, "aux-vdso") < witnessVDSO || s.hex(t, "aux-vdso") > witnessVDSO+1<<20 {
		t.Errorf("the vDSO is not at its place: %s\n%s", s.one("aux-vdso"), strings.Join(s["maps"], "\n"))
	}
}

func TestResidentStartOfLauncherFile(t *testing.T) {
	dir := openDirectory(t)
	bin := witness(t, dir)
	index := filepath.Join(dir, "index")
	write(t, index, witnessPlan(t, dir, bin))
	file := launcherFile(t, filepath.Join(dir, "launchers/witness"), bin, index)
	for _, tc := range []struct {
		name string
		argv []string
		env  []string
	}{
		{"one argument", []string{"witness"}, []string{"A=1", "B="}},
		{"an even number", []string{"other name", "x"}, []string{"A=1"}},
		{"no environment", []string{"witness", "", "b"}, []string{}},
		{"empty argv[0]", []string{""}, []string{"A=1"}},
		{"a status", []string{"witness", "--fail"}, []string{"A=1"}},
		{"much", append([]string{"witness"}, slices.Repeat([]string{strings.Repeat("x", 1000)}, 200)...), slices.Repeat([]string{"E=" + strings.Repeat("y", 1000)}, 200)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plain := run(t, &exec.Cmd{Path: bin, Args: tc.argv, Env: tc.env})
			resident := run(t, &exec.Cmd{Path: file, Args: tc.argv, Env: tc.env})
			asExec(t, resident, plain)
			if resident.stderr != "" {
				t.Errorf("it says %q", resident.stderr)
			}
			if got := resident.said().one("execfn"); got != bin {
				t.Errorf("AT_EXECFN is %q, want %q", got, bin)
			}
			if os.Geteuid() == 0 && resident.said().one("exe") != bin {
				t.Errorf("/proc/self/exe is %s", resident.said().one("exe"))
			}
		})
	}
}

func TestResidentStartSaysSo(t *testing.T) {
	dir := openDirectory(t)
	bin := witness(t, dir)
	index := filepath.Join(dir, "index")
	write(t, index, witnessPlan(t, dir, bin))
	file := launcherFile(t, filepath.Join(dir, "launchers/witness"), bin, index)
	got := run(t, &exec.Cmd{Path: file, Env: []string{"RESIDENTCTL_EXPLAIN=1"}})
	if want := fmt.Sprintf("residentctl: %s: resident start: image by-hand\n", bin); got.stderr != want {
		t.Errorf("it says %q, want %q", got.stderr, want)
	}
}

// Without capabilities the kernel does not let /proc/self/exe be set; all the
// rest is as for root.
func TestResidentStartUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	dir := openDirectory(t)
	bin := witness(t, dir)
	index := filepath.Join(dir, "index")
	write(t, index, witnessPlan(t, dir, bin))
	file := launcherFile(t, filepath.Join(dir, "launchers/witness"), bin, index)
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	plain := run(t, &exec.Cmd{Path: bin, Args: []string{"witness", "a"}, Env: []string{}, SysProcAttr: nobody})
	resident := run(t, &exec.Cmd{Path: file, Args: []string{"witness", "a"}, Env: []string{}, SysProcAttr: nobody})
	asExec(t, resident, plain)
	if got := resident.said().one("exe"); got != file {
		t.Errorf("/proc/self/exe is %s, want the launcher file", got)
	}
}

// Every number of leading arguments, odd and even: each moves the stack in
// another way.
func TestResidentStartOfFrontDoor(t *testing.T) {
	dir := openDirectory(t)
	bin := witness(t, dir)
	store := filepath.Join(dir, "store")
	if err := os.Mkdir(store, 0o755); err != nil {
		t.Fatal(err)
	}
	p := witnessPlan(t, store, bin)
	id := p.Program().ID
	binary := id.Inode().String()
	write(t, filepath.Join(store, "index", binary), p)
	// Executed by the front door where the caller cannot set /proc/self/exe.
	raw, err := File(0, storeIn(store), "index/"+binary, bin, 0)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(store, "launchers", binary, bin), raw, 0o755)
	door := frontDoor(t, dir, filepath.Join(dir, "no-such-store"), store)
	for _, tc := range []struct {
		name   string
		before []string
		name0  string
		after  []string
	}{
		{"two off", []string{"run"}, bin, []string{"a", "b"}},
		{"three off", []string{"run", "--strict"}, bin, []string{"a", "b"}},
		{"four off", []string{"run", "--strict", "--strict"}, bin, []string{"a", ""}},
		{"from PATH", []string{"run", "--strict"}, "witness", []string{"a"}},
		{"no arguments", []string{"run"}, bin, nil},
		{"options of the program", []string{"run", "--strict"}, bin, []string{"--explain", "run"}},
		{"a status", []string{"run"}, bin, []string{"--fail"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			env := []string{"PATH=/nonexistent:" + dir, "A=1"}
			plain := run(t, &exec.Cmd{Path: bin, Args: append([]string{tc.name0}, tc.after...), Env: env})
			args := slices.Concat([]string{"residentctl"}, tc.before, []string{tc.name0}, tc.after)
			resident := run(t, &exec.Cmd{Path: door, Args: args, Env: env})
			asExec(t, resident, plain)
			if got := resident.said().one("execfn"); got != bin {
				t.Errorf("AT_EXECFN is %q, want %q", got, bin)
			}
		})
	}
}

// What makes a start doubtful is answered by an exec of the program, with the
// reason; the plan is right but for one thing.
func TestDoubts(t *testing.T) {
	_, vendor, _, _ := linux.CPUID(0, 0)
	for _, tc := range []struct {
		name   string
		change func(p *plan.Plan)
		want   string
	}{
		{"other CPU flags", func(p *plan.Plan) { p.Caller.HWCap ^= 1 }, "describes the machine differently"},
		{"other boot, other kernel", func(p *plan.Plan) {
			p.Caller.BootID[0] ^= 1 // and it has no mark
			p.VDSO.BuildID[0], p.VDSO.BuildLen = 1, 1
		}, "the kernel is another one"},
		{"other boot, other CPU", func(p *plan.Plan) {
			p.Caller.BootID[0] ^= 1 // and it has no mark
			p.CPUID = []plan.CPUID{{Mask: [4]uint32{0, 1}, Value: [4]uint32{0, ^vendor}}}
		}, "the CPU is another one"},
		{"other XCR0", func(p *plan.Plan) { p.Caller.XCR0 = 1 << 63 }, "the CPU is another one"},
		{"checked file changed", func(p *plan.Plan) { p.Checks[0].ID.Mtime++ }, "this has changed /proc/version"},
		{"checked file of another size", func(p *plan.Plan) { p.Checks[0].ID.Size++ }, "this has changed /proc/version"},
		{"checked file gone", func(p *plan.Plan) { p.Checks[0].Path = "/gone" }, "this has changed /gone"},
		{"checked file now there", func(p *plan.Plan) { p.Checks[1].Path = "/etc/passwd" }, "this has changed /etc/passwd"},
		{"another cache with other answers", func(p *plan.Plan) {
			p.Checks[0] = otherCache(p, ldcache.Entry{Path: "/lib/libz.so.2"})
		}, "ld.so.cache has another answer for libz.so.1"},
		{"another cache that is none", func(p *plan.Plan) {
			p.Checks[0] = otherCache(p, ldcache.Entry{Path: "/lib/libz.so.1"})
			os.WriteFile(p.Checks[0].Path, []byte("garbage"), 0o644)
		}, "this has changed"},
		{"missed library now there", func(p *plan.Plan) { p.Directories[0].Misses[0] = "/etc/passwd" }, "comes first in the search for libraries /etc/passwd"},
		{"program changed", func(p *plan.Plan) { p.Program().ID.Ctime++ }, "this has changed"},
		{"pages cut", func(p *plan.Plan) { os.Truncate(pagesOf(p), 4096) }, "this has changed"},
		{"pages gone", func(p *plan.Plan) { os.Remove(pagesOf(p)) }, "this cannot be opened"},
		{"pages writable for others", func(p *plan.Plan) {
			os.Chmod(pagesOf(p), 0o666)
			p.Files[1].ID, _ = linux.StatID(pagesOf(p))
		}, "its image is not safe"},
		{"stack reaches the image", func(p *plan.Plan) { p.Caller.MapsEnd = 1<<47 - 1 }, "the stack limit leaves no room"},
		{"robust list of a length that the kernel refuses", func(p *plan.Plan) { p.Kernel.RobustLen = 1 }, "the robust list cannot"},
		{"rseq at a place that the kernel refuses", func(p *plan.Plan) { p.Kernel.RseqAddr++ }, "restartable sequences cannot"},
		{"thread pointer of the kernel", func(p *plan.Plan) { p.Kernel.FSBase = 1 << 63 }, "the thread pointer cannot"},
		{"memory map that the kernel refuses", func(p *plan.Plan) { p.MM.EndCode = 0 }, "PR_SET_MM_MAP"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := openDirectory(t)
			bin := witness(t, dir)
			p := witnessPlan(t, dir, bin)
			tc.change(p)
			index := filepath.Join(dir, "index")
			write(t, index, p)
			file := launcherFile(t, filepath.Join(dir, "witness-launcher"), bin, index)
			startsNormally(t, file, bin, nil, tc.want)
		})
	}
}

// otherCache is the check of a cache that is another one than it was, in which libz.so.1
// is /lib/libz.so.1, and had the answer was before.
func otherCache(p *plan.Plan, was ldcache.Entry) plan.CheckedFile {
	path := filepath.Join(filepath.Dir(p.Path), "ld.so.cache")
	c := fixture.Cache{New: true, Libs: []fixture.CacheLib{{Name: "libz.so.1", Path: "/lib/libz.so.1"}}}
	if err := os.WriteFile(path, c.Bytes(), 0o644); err != nil {
		panic(err)
	}
	return plan.CheckedFile{Path: path, ID: plan.FileID{Ino: 1}, Answers: []plan.CacheAnswer{
		{Name: "libz.so.1", Entries: []ldcache.Entry{was}}, {Name: "libnone.so"},
	}}
}

// A cache of another identity that gives the same answers leaves a start resident, and
// nothing of it is left mapped.
func TestResidentStartWithAnotherCache(t *testing.T) {
	dir := openDirectory(t)
	bin := witness(t, dir)
	p := witnessPlan(t, dir, bin)
	p.Checks[0] = otherCache(p, ldcache.Entry{Path: "/lib/libz.so.1"})
	index := filepath.Join(dir, "index")
	write(t, index, p)
	file := launcherFile(t, filepath.Join(dir, "launchers/witness"), bin, index)
	plain := run(t, &exec.Cmd{Path: bin, Args: []string{"witness", "a"}, Env: []string{}})
	resident := run(t, &exec.Cmd{Path: file, Args: []string{"witness", "a"}, Env: []string{}})
	asExec(t, resident, plain)
	if strings.Contains(resident.stdout, "ld.so.cache") {
		t.Errorf("the cache is still mapped:\n%s", resident.stdout)
	}
}

// pagesOf are those of a witness's plan, which is in the same directory.
func pagesOf(p *plan.Plan) string { return filepath.Join(filepath.Dir(p.Path), p.Pages().Path) }

// startsNormally holds that the launcher file execs the program as if it were
// not there, and says why when it is asked.
func startsNormally(t *testing.T, file, bin string, env []string, want string) {
	t.Helper()
	argv := []string{"my name", "a", "", "--fail"}
	silent := append([]string{"A=1"}, env...)
	env = append([]string{"RESIDENTCTL_EXPLAIN=1"}, silent...)
	got := run(t, &exec.Cmd{Path: file, Args: argv, Env: env})
	plain := run(t, &exec.Cmd{Path: bin, Args: argv, Env: env})
	changing := regexp.MustCompile(`(?m)^(aux-vdso|brk) .*$`)
	without := func(e ending) string {
		report, _, _ := strings.Cut(e.stdout, "\nmaps ")
		return changing.ReplaceAllString(report, "")
	}
	if diff := cmp.Diff(without(plain), without(got)); diff != "" || got.status != plain.status {
		t.Errorf("status %d and %d; after an exec and through the launcher:\n%s", plain.status, got.status, diff)
	}
	prefix := fmt.Sprintf("residentctl: %s: started normally: ", bin)
	if !strings.HasPrefix(got.stderr, prefix) || !strings.Contains(got.stderr, want) || !strings.HasSuffix(got.stderr, "\n") {
		t.Errorf("it says %q, want %q and %q", got.stderr, prefix, want)
	}
	quiet := run(t, &exec.Cmd{Path: file, Args: argv, Env: append(silent, "RESIDENTCTL_EXPLAIN=0")})
	if quiet.stderr != "" || quiet.status != plain.status {
		t.Errorf("without being asked: status %d, %q", quiet.status, quiet.stderr)
	}
}

func frontDoor(t *testing.T, dir string, stores ...string) string {
	t.Helper()
	var known []Store
	for _, dir := range stores {
		known = append(known, storeIn(dir))
	}
	raw, err := Front(known)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "residentctl")
	writeFile(t, path, raw, 0o755)
	return path
}
