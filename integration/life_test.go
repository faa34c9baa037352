package integration

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/cespare/xxhash/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/integration/kit"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/registry"
)

// What a machine lives through: each test does one thing to a machine of its own, and
// looks at starts after it, and after a refresh.

// living is a machine with two resident programs.
type living struct {
	*testing.T
	*kit.Machine
	glibc, musl subject
}

// subject is a program, all of its paths in the machine.
type subject struct {
	program string
	linker  string
	first   string // a directory in its DT_RUNPATH, with nothing in it
	library string // what it needs, which is looked for there and then found here
}

// subjects are both programs: glibc's finds its library through /etc/ld.so.cache, musl's
// through its DT_RUNPATH.
func (l *living) subjects() []subject { return []subject{l.glibc, l.musl} }

// both does the same to each program.
func both(do func(l *living, s subject)) func(l *living) {
	return func(l *living) {
		for _, s := range l.subjects() {
			do(l, s)
		}
	}
}

// lifeLibrary is liblife.c, compiled with this mark.
func lifeLibrary(t *testing.T, mark, soname string) string {
	t.Helper()
	library := filepath.Join(kit.Temporary, "life-"+mark+".so")
	kit.Compile(t, library, kit.FixtureSource("liblife"), "-shared", "-fPIC", "-nostdlib", "-Wl,-soname,"+soname, `-DMARK="`+mark+`"`)
	return library
}

// newLife is a machine with both programs, which are not resident.
func newLife(t *testing.T, programs ...string) *living {
	t.Helper()
	kit.RequireMusl(t)
	l := &living{
		T: t, Machine: kit.NewMachine(t, programs...),
		glibc: subject{"/usr/bin/life", interpreterOf(t, "/usr/bin/env"), "/opt/first", "/usr/local/lib/liblife.so"},
		musl:  subject{"/usr/bin/life-musl", "/lib/ld-musl-x86_64.so.1", "/opt/musl-first", "/opt/musl/liblife.so"},
	}
	mine := lifeLibrary(t, "mine", "liblife.so")
	glibc, musl := filepath.Join(kit.Temporary, "life"), filepath.Join(kit.Temporary, "life-musl")
	kit.Compile(t, glibc, kit.FixtureSource("life"), mine, "-Wl,-rpath,"+l.glibc.first)
	kit.MuslCompile(t, musl, kit.FixtureSource("life"), mine, "-Wl,-rpath,"+l.musl.first+":"+filepath.Dir(l.musl.library))
	l.Install(t, glibc, l.glibc.program)
	l.Install(t, musl, l.musl.program)
	both(func(l *living, s subject) {
		l.mkdir(s.first)
		l.put(mine, s.library)
	})(l)
	l.ldconfig()
	return l
}

// copyOf is another machine like this one.
func (l *living) copyOf(t *testing.T) *living {
	c := *l
	c.T, c.Machine = t, l.Copy(t)
	return &c
}

func (l *living) mkdir(path string) {
	l.Helper()
	l.must(os.MkdirAll(l.Path(path), 0o755))
}

func (l *living) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *living) ldconfig() { l.Do(l.T, "/sbin/ldconfig") }

// put puts a library into a place, with two further names beside it.
func (l *living) put(from, to string) {
	l.Helper()
	l.mkdir(filepath.Dir(to))
	kit.Replace(l.T, from, l.Path(to))
	names := secondNames(to)
	for _, name := range names {
		kit.Remove(l.T, l.Path(name))
	}
	kit.Symlink(l.T, filepath.Base(to), l.Path(names[0]))
	l.must(os.Link(l.Path(to), l.Path(names[1])))
}

// secondNames are a symbolic and a hard link to a library; ldconfig passes over both.
func secondNames(library string) []string {
	dir := filepath.Dir(library)
	return []string{filepath.Join(dir, "symbolic-link"), filepath.Join(dir, "hard-link")}
}

// residentctl executes a command of residentctl's in the machine, with additions to the
// environment.
func (l *living) residentctl(env []string, args ...string) kit.Outcome {
	l.Helper()
	c := l.Command("/usr/bin/residentctl", args...)
	c.Env = append(c.Env, env...)
	return l.Outcome(l.T, c)
}

func (l *living) do(args ...string) {
	l.Helper()
	l.Do(l.T, "/usr/bin/residentctl", args...)
}

// store is the machine's, as seen from here.
func (l *living) store() *kit.Store { return kit.NewStore(l.T, l.Path("/var/lib")) }

// id is that of the image from which a program's starts are.
func (l *living) id(s subject) string {
	l.Helper()
	return filepath.Base(filepath.Dir(l.store().Plan(l.T, l.Path(s.program))))
}

// start starts a program by its path, by its launcher file and by run, with the other names
// of a library as arguments: all must do the same. It returns what the plain start does, and
// how the others were, with the reason.
func (l *living) start(s subject, library string) (plain kit.Outcome, how string) {
	l.Helper()
	args := secondNames(library)
	plain = l.Outcome(l.T, l.Command(s.program, args...))
	launcher := l.Command(l.launcher(s), args...)
	launcher.Args[0] = s.program
	run := l.Command("/usr/bin/residentctl", slices.Concat([]string{"run", s.program}, args)...)
	said := map[string]string{}
	for name, c := range map[string]*exec.Cmd{"launcher": launcher, "run": run} {
		c.Env = append(c.Env, "RESIDENTCTL_EXPLAIN=1")
		got := l.Outcome(l.T, c)
		way, why := kit.Explanation(got.Stderr)
		said[name] = way + ": " + why
		got.Stderr = withoutExplanation(got.Stderr)
		if diff := cmp.Diff(plain, got); diff != "" {
			l.Errorf("%s: plain (-) and %s (+) differ:\n%s", s.program, name, diff)
		}
	}
	if said["launcher"] != said["run"] {
		l.Errorf("%s: launcher file and run start differently: %q", s.program, said)
	}
	return plain, said["run"]
}

func (l *living) launcher(s subject) string {
	l.Helper()
	path := l.store().Launchers(l.Path(s.program))
	return strings.TrimPrefix(filepath.Join(path, s.program), l.Root)
}

// withoutExplanation is standard error without what residentctl says.
func withoutExplanation(stderr string) string {
	lines := slices.DeleteFunc(strings.SplitAfter(stderr, "\n"), func(line string) bool { return strings.HasPrefix(line, "residentctl: ") })
	return strings.Join(lines, "")
}

// wantStart fails unless starts are resident, or normal, with a library and no other.
func (l *living) wantStart(when string, s subject, how, mark, library string) {
	l.Helper()
	plain, got := l.start(s, library)
	want := kit.Outcome{Status: "exit status 0", Stdout: "library: " + mark + "\n" +
		"symbolic-link: same handle, mapped 1\nhard-link: same handle, mapped 1\n"}
	if diff := cmp.Diff(want, plain); diff != "" {
		l.Errorf("%s, %s: want (-), plain (+):\n%s", when, s.program, diff)
	}
	if !strings.HasPrefix(got, how+": ") {
		l.Errorf("%s, %s: %s; want: %s", when, s.program, got, how)
	}
}

const (
	startsResident = "resident start"
	startsNormally = "started normally"
)

// outcome is what a change makes of a program.
type outcome struct {
	way     string
	mark    string // of the library with which it starts from then on
	library string // its path; "": where it was
}

const (
	unaffected = "unaffected" // starts are resident all the time
	renewed    = "renewed"    // they are resident after a refresh, without CRIU
	madeAgain  = "made again" // they are resident after a refresh, from another image
)

var (
	isUnaffected = outcome{way: unaffected, mark: "mine"}
	isRenewed    = outcome{way: renewed, mark: "mine"}
)

// linksOther is that of a change by which the program is linked with another library.
func linksOther(library string) outcome { return outcome{madeAgain, "other", library} }

// TestLife: starts are resident with the same image, and without CRIU, where nothing was
// read differently; otherwise they are normal until a refresh. What they do is always
// right, and a library is known by its other names.
func TestLife(t *testing.T) {
	const (
		defaultLibrary = "/usr/lib/liblife.so"
		inCache        = "/usr/local/lib/glibc-hwcaps/x86-64-v2/liblife.so"
		inCache3       = "/usr/local/lib/glibc-hwcaps/x86-64-v3/liblife.so"
		inDefault      = "/usr/lib/glibc-hwcaps/x86-64-v2/liblife.so"
		earlierDefault = "/usr/lib/x86_64-linux-gnu/liblife.so"
		cache          = "/etc/ld.so.cache"
		configured     = "/opt/configured/liblife.so"
	)
	mine, other := lifeLibrary(t, "mine", "liblife.so"), lifeLibrary(t, "other", "liblife.so")
	preloaded, unrelated := lifeLibrary(t, "preloaded", "libpreloaded.so"), lifeLibrary(t, "unrelated", "libunrelated.so")
	// byDefault has glibc's program find its library in a default directory: it is not in
	// the cache.
	byDefault := func(l *living) {
		kit.Remove(l.T, l.Path(l.glibc.library))
		l.ldconfig()
		l.glibc.library = defaultLibrary
		l.put(mine, defaultLibrary)
	}
	putOther := func(path string) func(l *living) { return func(l *living) { l.put(other, path) } }
	precede := func(l *living, s subject) { l.put(other, s.first+"/liblife.so") }
	base := newLife(t)
	for _, e := range []struct {
		name        string
		before      func(l *living) // the programs are made resident
		change      func(l *living)
		glibc, musl outcome
	}{
		{name: "unrelated library", change: func(l *living) {
			kit.Replace(l.T, unrelated, l.Path("/usr/local/lib/libunrelated.so"))
			l.ldconfig()
		}, glibc: isUnaffected, musl: isUnaffected},
		{name: "ldconfig", change: (*living).ldconfig, glibc: isUnaffected, musl: isUnaffected},
		{name: "new ctime of dynamic linkers", change: both(func(l *living, s subject) { kit.Chmod(l.T, l.Path(s.linker), 0o755) }),
			glibc: isRenewed, musl: isRenewed},
		{name: "new ctime of libraries", change: both(func(l *living, s subject) { kit.Chmod(l.T, l.Path(s.library), 0o755) }),
			glibc: isRenewed, musl: isRenewed},
		{name: "new times of programs", change: both(func(l *living, s subject) { touch(l.T, l.Path(s.program)) }),
			glibc: isRenewed, musl: isRenewed},
		{name: "hard link to libc", change: func(l *living) {
			l.must(os.Link(l.Path("/lib/x86_64-linux-gnu/libc.so.6"), l.Path("/opt/libc")))
		}, glibc: isRenewed, musl: isUnaffected},
		{name: "reboot", change: func(l *living) { l.Reboot(l.T) }, glibc: isUnaffected, musl: isUnaffected},
		{name: "upgrade of residentctl", change: both((*living).age), glibc: outcome{way: madeAgain, mark: "mine"},
			musl: outcome{way: madeAgain, mark: "mine"}},
		{name: "configured directory", change: func(l *living) {
			l.put(other, configured)
			conf := l.Path("/etc/ld.so.conf")
			was, err := os.ReadFile(conf)
			l.must(err)
			l.must(os.WriteFile(conf, slices.Concat([]byte("/opt/configured\n"), was), 0o644))
			l.ldconfig()
		}, glibc: linksOther(configured), musl: isUnaffected},
		{name: "hwcaps with ldconfig", change: func(l *living) {
			l.put(other, inCache)
			l.ldconfig()
		}, glibc: linksOther(inCache), musl: isUnaffected},
		{name: "hwcaps without ldconfig", change: putOther(inCache), glibc: isUnaffected, musl: isUnaffected},
		{name: "hwcaps of an unrelated library, before its own", before: func(l *living) {
			l.glibc.library = inCache3
			l.put(mine, inCache3)
			l.ldconfig()
		}, change: func(l *living) {
			l.put(unrelated, "/usr/local/lib/glibc-hwcaps/x86-64-v2/libunrelated.so")
			l.ldconfig()
		}, glibc: isUnaffected, musl: isUnaffected},
		{name: "ldconfig twice", change: func(l *living) {
			kit.Replace(l.T, unrelated, l.Path("/usr/local/lib/libunrelated.so"))
			l.ldconfig()
			l.do("refresh")
			l.put(other, inCache)
			l.ldconfig()
		}, glibc: linksOther(inCache), musl: isUnaffected},
		{name: "cache removed", before: byDefault, change: func(l *living) { kit.Remove(l.T, l.Path(cache)) },
			glibc: outcome{way: madeAgain, mark: "mine"}, musl: isUnaffected},
		{name: "cache damaged", before: byDefault, change: func(l *living) { l.must(os.WriteFile(l.Path(cache), []byte("nothing"), 0)) },
			glibc: outcome{way: madeAgain, mark: "mine"}, musl: isUnaffected},
		{name: "hwcaps in an empty default directory", before: func(l *living) {
			byDefault(l)
			l.mkdir(filepath.Dir(inDefault))
		}, change: putOther(inDefault), glibc: linksOther(inDefault), musl: isUnaffected},
		{name: "hwcaps in a default directory", before: byDefault, change: putOther(inDefault),
			glibc: linksOther(inDefault), musl: isUnaffected},
		{name: "earlier default directory", before: byDefault, change: putOther(earlierDefault),
			glibc: linksOther(earlierDefault), musl: isUnaffected},
		{name: "library enters the cache", before: byDefault, change: func(l *living) { l.ldconfig() },
			glibc: outcome{way: madeAgain, mark: "mine"}, musl: isUnaffected},
		{name: "replaced", change: both(func(l *living, s subject) { l.put(other, s.library) }),
			glibc: linksOther(""), musl: linksOther("")},
		{name: "replaced by the same", change: both(func(l *living, s subject) { l.put(mine, s.library) }),
			glibc: outcome{way: madeAgain, mark: "mine"}, musl: outcome{way: madeAgain, mark: "mine"}},
		{name: "overwritten", change: both(func(l *living, s subject) { kit.CopyFile(l.T, other, l.Path(s.library)) }),
			glibc: linksOther(""), musl: linksOther("")},
		{name: "overwritten by the same", change: both(func(l *living, s subject) { kit.CopyFile(l.T, mine, l.Path(s.library)) }),
			glibc: isRenewed, musl: isRenewed},
		{name: "preceded", change: both(precede),
			glibc: linksOther("/opt/first/liblife.so"), musl: linksOther("/opt/musl-first/liblife.so")},
		{name: "preceded in a new directory", before: both(func(l *living, s subject) { kit.Remove(l.T, l.Path(s.first)) }),
			change: both(precede), glibc: linksOther("/opt/first/liblife.so"), musl: linksOther("/opt/musl-first/liblife.so")},
		{name: "renewed and then preceded", change: func(l *living) {
			both(func(l *living, s subject) { kit.Chmod(l.T, l.Path(s.library), 0o755) })(l)
			l.do("refresh")
			both(precede)(l)
		}, glibc: linksOther("/opt/first/liblife.so"), musl: linksOther("/opt/musl-first/liblife.so")},
		{name: "link to another", before: both(func(l *living, s subject) {
			l.put(mine, s.library+".1")
			kit.Remove(l.T, l.Path(s.library))
			kit.Symlink(l.T, "liblife.so.1", l.Path(s.library))
		}), change: both(func(l *living, s subject) {
			l.put(other, s.library+".2")
			kit.Symlink(l.T, "liblife.so.2", l.Path(s.library+".new"))
			l.must(os.Rename(l.Path(s.library+".new"), l.Path(s.library)))
		}), glibc: linksOther(""), musl: linksOther("")},
		{name: "preceded by another name", change: both(func(l *living, s subject) { l.put(unrelated, s.first+"/libunrelated.so") }),
			glibc: isUnaffected, musl: isUnaffected},
		{name: "preloaded", change: func(l *living) {
			l.put(preloaded, "/opt/libpreloaded.so")
			l.must(os.WriteFile(l.Path("/etc/ld.so.preload"), []byte("/opt/libpreloaded.so\n"), 0o644))
		}, glibc: outcome{way: madeAgain, mark: "preloaded"}, musl: isUnaffected},
	} {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			l := base.copyOf(t)
			if e.before != nil {
				e.before(l)
			}
			l.add()
			ids := l.ids()
			e.change(l)
			l.lives(e.glibc, e.musl, ids)
		})
	}
}

// add makes the programs resident.
func (l *living) add() {
	l.Helper()
	for _, s := range l.subjects() {
		l.do("add", "--even-if-slower", s.program)
		l.wantStart("at first", s, startsResident, "mine", s.library)
	}
}

// ids are those of the programs' images.
func (l *living) ids() map[string]string {
	l.Helper()
	ids := map[string]string{}
	for _, s := range l.subjects() {
		ids[s.program] = l.id(s)
	}
	return ids
}

// lives fails unless the programs, which had these images, fare as they should.
func (l *living) lives(glibc, musl outcome, ids map[string]string) {
	l.Helper()
	if glibc.way != madeAgain && musl.way != madeAgain {
		l.do("gc") // which leaves both
	}
	for s, o := range map[subject]outcome{l.glibc: glibc, l.musl: musl} {
		if o.library == "" {
			o.library = s.library
		}
		l.fares(s, o, ids[s.program])
	}
	wantNothingWrong(l.T, []byte(l.residentctl(nil, "--format", "json", "check", "--no-trial").Stdout))
}

// fares fails unless a program's starts, after a change and after a refresh, are as they
// should be.
func (l *living) fares(s subject, o outcome, id string) {
	l.Helper()
	how := startsNormally
	if o.way == unaffected {
		how = startsResident
	}
	l.wantStart("after the change", s, how, o.mark, o.library)
	refreshed := l.residentctl(noCRIU, "refresh", s.program)
	if done := refreshed.Status == "exit status 0"; done != (o.way != madeAgain) {
		l.Errorf("refresh of %s, which is %s, without CRIU: %v", s.program, o.way, refreshed)
	}
	if o.way == madeAgain {
		l.wantStart("after a refresh without CRIU", s, how, o.mark, o.library)
		l.do("refresh", s.program)
	}
	l.wantStart("after a refresh", s, startsResident, o.mark, o.library)
	if same := l.id(s) == id; same != (o.way != madeAgain) {
		l.Errorf("%s is %s, and has image %s after %s", s.program, o.way, l.id(s), id)
	}
}

// TestLifeRefreshAll: images at new addresses, several of each program.
func TestLifeRefreshAll(t *testing.T) {
	l := newLife(t)
	for _, s := range l.subjects() {
		l.do("add", "--even-if-slower", "--layouts", "2", s.program)
		id := l.id(s)
		l.do("refresh", "--all", s.program)
		for range 4 { // each layout, most likely
			l.wantStart("after refresh --all", s, startsResident, "mine", s.library)
		}
		if l.id(s) == id {
			t.Errorf("%s still has image %s", s.program, id)
		}
	}
}

// TestLifeRemoved: a program without its library fails as in a plain start, and is
// resident again once it has one and is refreshed.
func TestLifeRemoved(t *testing.T) {
	l := newLife(t)
	l.add()
	mine := lifeLibrary(t, "mine", "liblife.so")
	for _, s := range l.subjects() {
		wantFailure := func(when string) {
			plain, how := l.start(s, s.library)
			if plain.Status != "exit status 127" || !strings.HasPrefix(how, startsNormally+": ") {
				t.Errorf("%s %s: %s; plain: %v", s.program, when, how, plain)
			}
		}
		kit.Remove(t, l.Path(s.library))
		wantFailure("without its library")
		if o := l.residentctl(nil, "refresh", s.program); o.Status == "exit status 0" {
			t.Errorf("refresh of %s without its library: %v", s.program, o)
		}
		wantFailure("after a refresh")
		l.put(mine, s.library)
		l.wantStart("with its library", s, startsNormally, "mine", s.library)
		l.do("refresh", s.program)
		l.wantStart("refreshed", s, startsResident, "mine", s.library)
	}
}

// TestLifeProfiled: perf hard-links what it has seen into its cache of build ids, libc too.
func TestLifeProfiled(t *testing.T) {
	perf := kit.Installed(t, "perf")
	l := newLife(t, perf)
	l.add()
	ids := l.ids()
	libc := l.Path("/lib/x86_64-linux-gnu/libc.so.6")
	record := l.Outcome(t, l.Command(perf, "record", "--buildid-all", "-e", "cpu-clock", "-o", "/root/perf.data", l.glibc.program))
	if record.Status != "exit status 0" {
		t.Skipf("perf record does not work here: %v", record)
	}
	info, err := os.Stat(libc)
	l.must(err)
	if links := info.Sys().(*syscall.Stat_t).Nlink; links < 2 {
		t.Fatalf("perf has made no link to %s", libc)
	}
	l.lives(isRenewed, isUnaffected, ids)
}

// TestRefreshStampsBoot: after a boot each start looks at the CPU by itself, until a refresh
// has done so for all.
func TestRefreshStampsBoot(t *testing.T) {
	l := newLife(t)
	l.add()
	stamp := func() string {
		content, err := os.ReadFile(filepath.Join(l.store().Dir, "boot"))
		l.must(err)
		return string(content)
	}
	was := stamp()
	l.do("refresh")
	if now := stamp(); now != was {
		t.Errorf("in the same boot the stamp was %s, and is %s", was, now)
	}
	l.Reboot(t)
	l.do("refresh")
	if now := stamp(); !strings.HasPrefix(now, kit.NextBoot) || strings.Contains(was, strings.Fields(now)[2]) {
		t.Errorf("after a boot the stamp was %s, and is %s", was, now)
	}
}

// TestLifeUpgraded: gc after an upgrade of residentctl takes images of an older format, and
// leaves what was asked for to refresh.
func TestLifeUpgraded(t *testing.T) {
	l := newLife(t)
	l.add()
	both((*living).age)(l)
	l.do("gc")
	for _, s := range l.subjects() {
		plain := l.Outcome(t, l.Command(s.program))
		if run := l.Outcome(t, l.Command("/usr/bin/residentctl", "run", s.program)); !cmp.Equal(plain, run) {
			t.Errorf("run %s: %v, want %v", s.program, run, plain)
		}
	}
	l.do("refresh")
	for _, s := range l.subjects() {
		l.wantStart("after gc and refresh", s, startsResident, "mine", s.library)
	}
}

// age makes of a program's image and record what a residentctl of the last format of plans
// would have left.
func (l *living) age(s subject) {
	l.Helper()
	path := l.store().Plan(l.T, l.Path(s.program))
	p, err := plan.Read(path)
	l.must(err)
	l.must(os.WriteFile(path, version4(l.T, p), 0))
	r, err := registry.Open(filepath.Join(l.store().Dir, "registry.db"), registry.Options{Existing: true})
	l.must(err)
	rec, err := r.Get(l.id(s))
	l.must(err)
	var deps fingerprint.Dependencies
	l.must(json.Unmarshal(rec.Deps, &deps))
	for i := range deps.Checks {
		deps.Checks[i].Answers, deps.Checks[i].SHA256 = nil, ""
	}
	rec.Deps, err = json.Marshal(deps)
	l.must(err)
	rec.PlanSums = nil
	_, err = r.Put(rec)
	l.must(err)
}

// version4 is a plan in version 4 of the format: its header has no tables of what
// ld.so.cache answers.
func version4(t *testing.T, p *plan.Plan) []byte {
	t.Helper()
	for i := range p.Checks {
		p.Checks[i].Answers = nil
	}
	raw, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var head plan.Header
	first, end := int(unsafe.Offsetof(head.Answers)), int(unsafe.Offsetof(head.Layouts))
	for at := int(unsafe.Offsetof(head.Files)); at <= int(unsafe.Offsetof(head.Strings)); at += int(unsafe.Sizeof(head.Files)) {
		offset := binary.LittleEndian.Uint32(raw[at:])
		binary.LittleEndian.PutUint32(raw[at:], offset-uint32(end-first))
	}
	raw = slices.Delete(raw, first, end)
	binary.LittleEndian.PutUint32(raw[unsafe.Offsetof(head.Version):], 4)
	binary.LittleEndian.PutUint64(raw[unsafe.Offsetof(head.Size):], uint64(len(raw)))
	binary.LittleEndian.PutUint64(raw[unsafe.Offsetof(head.Sum):], xxhash.Sum64(raw[unsafe.Offsetof(head.Program):]))
	return raw
}
