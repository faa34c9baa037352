package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A situation is what surrounds a start, made the same for a plain and a
// resident one.
type situation struct {
	name    string
	options []string // of fixtures/situation.c
	script  string   // what root does before in a mount namespace of its own
	shell   string   // what a shell does before that
	argv0   string   // in the place of the program's path; launcher file only
	args    []string
	env     []string
	stdin   string
	users   []user // nil: all
	ways    []way  // nil: everyWay
	noise   []noise
	// normal is why the start has to be a normal one; "" means that it has to be
	// resident, "-" that it may be either.
	normal string
	// special is the same where it is otherwise by the ways of these names.
	special map[string]string
	differs map[string][]noise // as command's
	// fails says that a plain start ends by a signal.
	fails bool
}

var (
	onlyRoot   = []user{root}
	onlyNobody = []user{nobody}
	onlyRun    = []way{byRun}
	// exactly are those which leave argv[0], and whether there is one, to the caller.
	exactly = []way{byLauncher, byExec}
)

// noRoom is why a start is a normal one that the stack could grow into.
const noRoom = "the stack limit leaves no room"

// special is what a way has instead, if it does.
func special(w way, normal string, byWay map[string]string) string {
	if other, ok := byWay[w.name]; ok {
		return other
	}
	if w.normal != "" && normal != either {
		return w.normal
	}
	return normal
}

// either is situation.normal where it does not matter which way a start goes.
const either = "-"

var (
	// A program that the kernel has mapped is moved to its image's addresses, which a
	// debugger that switched randomisation off would not see.
	notToBeRandom = map[string]string{"exec": "its addresses are not to be random"}
	// Under exec an ordinary user is in a user namespace already, where root's files
	// are known to be shown as another's.
	withinAnother = map[string]string{"exec": ""}
	// An ordinary user has a child set /proc/self/exe from a page of code that is made for
	// that. Under exec and by binfmt_misc no start needs it.
	exeIsNotSet = map[string]string{"launcher": "it looks at itself", "run": "it looks at itself", "shim": "it looks at itself"}
)

// in wraps a way: the situation's tool executes what the way would.
func (w way) in(t *testing.T, sit situation) way {
	tool := fixture(t, "situation")
	inner := w.argv
	w.argv = func(s *store, program string) (string, string, []string) {
		path, argv0, args := inner(s, program)
		if sit.argv0 != "" {
			argv0 = sit.argv0
		}
		if len(sit.options) > 0 || sit.argv0 != "" {
			args = slices.Concat(sit.options, []string{"--", path, argv0}, args)
			path, argv0 = tool, "situation"
		}
		if sit.script != "" {
			args = slices.Concat([]string{"-m", "--propagation", "private", "/bin/bash", "-c",
				"set -e\n" + sit.script + "\n" + `exec -a "$0" "$@"`, argv0, path}, args)
			path, argv0 = "/usr/bin/unshare", "unshare"
		}
		return path, argv0, args
	}
	return w
}

// try starts the resident program in each situation in every way, and compares
// with a plain start. One more start each tells whether it was a resident one,
// and if it had to be normal, why.
func (s *store) try(t *testing.T, program string, situations []situation) {
	t.Helper()
	type start struct {
		way, user string
		situation int
	}
	// Plain starts come before all others: a way may be set up for the whole machine.
	plainly := map[start]outcome{}
	each := func(do func(w way, sit situation, u user, c command, id start)) {
		for _, w := range waysTo(t, program, everyWay) {
			for i, sit := range situations {
				if !sit.goes(w) {
					continue
				}
				who := sit.users
				if who == nil {
					who = users
				}
				for _, u := range who {
					do(w, sit, u, command{name: sit.name, args: sit.args, env: sit.env, stdin: sit.stdin, shell: sit.shell,
						noise: sit.noise, differs: sit.differs},
						start{w.reference().name, u.name, i})
				}
			}
		}
	}
	each(func(w way, sit situation, u user, c command, id start) {
		if _, there := plainly[id]; there {
			return
		}
		got := s.start(t, w.reference().in(t, sit), u, program, c)
		if strings.Contains(got.Stdout, "FAILED: ") || got.Status == "exit status 125" {
			t.Fatalf("%s, %s: a plain start fails, %s:\n%s%s", sit.name, u.name, got.Status, got.Stdout, got.Stderr)
		}
		if strings.HasPrefix(got.Status, "signal: ") && !sit.fails {
			t.Fatalf("%s, %s: a plain start is killed, %s", sit.name, u.name, got.Status)
		}
		plainly[id] = got
	})
	for _, only := range waysTo(t, program, everyWay) {
		if !slices.ContainsFunc(situations, func(sit situation) bool { return sit.goes(only) }) {
			continue
		}
		t.Run(only.name, func(t *testing.T) {
			only.ready(t, s, program)
			each(func(w way, sit situation, u user, c command, id start) {
				if w.name != only.name {
					return
				}
				t.Run(sit.name+", "+u.name, func(t *testing.T) {
					w := w.in(t, sit)
					if diff := w.diff(u, c, plainly[id], s.start(t, w, u, program, c)); diff != "" {
						t.Errorf("plain (-) and %s (+) differ:\n%s", w.name, diff)
					}
					normal := special(w, sit.normal, sit.special)
					if normal == either {
						return
					}
					c.env = append(slices.Clip(c.env), "RESIDENTCTL_EXPLAIN=1")
					got := s.start(t, w, u, program, c).Stderr
					if how, why := explanationOf(got, program); (how == "resident start") != (normal == "") ||
						normal != "" && !strings.Contains(why, normal) {
						t.Errorf("%s: %q, want a start that is %s\n%s", w.name, how+": "+why, kind(normal), got)
					}
				})
			})
		})
	}
}

// goes tells whether the situation is tried in a way.
func (sit situation) goes(w way) bool {
	return sit.ways == nil || slices.ContainsFunc(sit.ways, func(other way) bool { return other.name == w.name })
}

func kind(normal string) string {
	if normal == "" {
		return "resident"
	}
	return "normal: " + normal
}

var explained = regexp.MustCompile(`(?m)^residentctl: (?:error: )?(\S+): (resident start|started normally|no resident start): (.*)$`)

// explanation is what --explain says: how the program was started, and why.
func explanation(stderr string) (how, why string) {
	match := explained.FindStringSubmatch(stderr)
	if match == nil {
		return "nothing said", ""
	}
	return match[2], match[3]
}

// linkTo is a link to the file by another name, in a folder of its own.
func linkTo(t *testing.T, target, name string) string {
	t.Helper()
	link := filepath.Join(folder(t), name)
	symlink(t, target, link)
	return link
}

func symlink(t *testing.T, target, link string) {
	t.Helper()
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
}

// add makes the program resident, however long it takes: these fixtures do
// little, and what is measured while other tests run tells nothing.
func (s *store) add(t *testing.T, program string) {
	t.Helper()
	s.do(t, "add", "--even-if-slower", program)
}
