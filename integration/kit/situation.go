package kit

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/pkg/intercept"
)

// A Situation is what surrounds a start, made the same for a plain and a
// resident one.
type Situation struct {
	Name    string
	Options []string // of fixtures/situation.c
	Script  string   // what root does before in a mount namespace of its own
	Shell   string   // what a shell does before that
	Argv0   string   // in place of the program's path; launcher file only
	Args    []string
	Env     []string
	Stdin   string
	Users   []User // nil: all
	Ways    []Way  // nil: EveryWay
	Noise   []Noise
	// Normal is why the start has to be a normal one, or by CRIU is refused; "" means that
	// it has to be resident, "-" that it may be either.
	Normal string
	// Special is the same where it is otherwise by the ways of these names.
	Special map[string]string
	Differs map[string][]Noise // as Command's
	// Fails says that a plain start ends by a signal.
	Fails bool
}

var (
	// OnlyRoot and the others are for Situation.Users and Ways.
	OnlyRoot   = []User{Root}
	OnlyNobody = []User{Nobody}
	OnlyRun    = []Way{ByRun}
	// Exactly are those which leave argv[0], and whether there is one, to the caller.
	Exactly = []Way{ByLauncher, ByExec}
)

// NoRoom is why a start is a normal one that the stack could grow into.
const NoRoom = "the stack limit leaves no room"

// special is what a way has instead, if it does.
func special(w Way, normal string, byWay map[string]string) string {
	if other, ok := byWay[w.Name]; ok {
		return other
	}
	if w.Normal != "" && normal != Either {
		return w.Normal
	}
	return normal
}

// Either is Situation.Normal where it does not matter which way a start goes.
const Either = "-"

var (
	// NotToBeRandom: a program that the kernel has mapped is moved to its image's addresses, which a
	// debugger that switched randomisation off would not see.
	NotToBeRandom = map[string]string{"exec": "address space randomisation is off for it"}
	// WithinAnother: under exec an ordinary user is in a user namespace already, where root's files
	// are known to be shown as another's.
	WithinAnother = map[string]string{"exec": ""}
	// ExeIsNotSet: an ordinary user has a child set /proc/self/exe from a page of code that is made for
	// that. Under exec and by binfmt_misc no start needs it.
	ExeIsNotSet = map[string]string{"launcher": "it looks at itself", "run": "it looks at itself", "shim": "it looks at itself"}
	// NotByCRIU: it needs all of root's capabilities, the network namespace's loopback
	// interface and the /proc of its own pid namespace.
	NotByCRIU = map[string]string{"criu": "criu restore: "}
)

// In wraps a way: the situation's tool executes what the way would.
func (w Way) In(t testing.TB, sit Situation) Way {
	tool := Fixture(t, "situation")
	inner := w.Argv
	w.Argv = func(s *Store, program string) (string, string, []string) {
		path, argv0, args := inner(s, program)
		if sit.Argv0 != "" {
			argv0 = sit.Argv0
		}
		if len(sit.Options) > 0 || sit.Argv0 != "" {
			args = slices.Concat(sit.Options, []string{"--", path, argv0}, args)
			path, argv0 = tool, "situation"
		}
		if sit.Script != "" {
			args = slices.Concat([]string{"-m", "--propagation", "private", "/bin/bash", "-c",
				"set -e\n" + sit.Script + "\n" + `exec -a "$0" "$@"`, argv0, path}, args)
			path, argv0 = "/usr/bin/unshare", "unshare"
		}
		return path, argv0, args
	}
	return w
}

// Try starts the resident program in each situation in every way, and compares
// with a plain start. One more start each shows whether it was a resident one,
// and if it had to be normal, why. Of many situations one in three of these is made each day.
func (s *Store) Try(t *testing.T, program string, situations []Situation) {
	t.Helper()
	type start struct {
		way, user string
		situation int
	}
	// Plain starts come before all others: a way may be set up for the whole machine.
	plainly := map[start]Outcome{}
	ways, slice := WaysTo(t, program, EveryWay), Today(t, min(3, len(situations)))
	each := func(do func(w Way, sit Situation, u User, c Command, id start)) {
		for way, w := range ways {
			for i, sit := range situations {
				if !sit.goes(w) {
					continue
				}
				who := sit.Users
				if who == nil {
					who = Users
				}
				for _, u := range w.By(who) {
					if !slice.Has(way, slices.Index(Users, u), i) {
						continue
					}
					do(w, sit, u, Command{Name: sit.Name, Args: sit.Args, Env: sit.Env, Stdin: sit.Stdin, Shell: sit.Shell,
						Noise: sit.Noise, Differs: sit.Differs},
						start{w.Reference().Name, u.Name, i})
				}
			}
		}
	}
	each(func(w Way, sit Situation, u User, c Command, id start) {
		if _, there := plainly[id]; there {
			return
		}
		got := s.Start(t, w.Reference().In(t, sit), u, program, c)
		if strings.Contains(got.Stdout, "FAILED: ") || got.Status == "exit status 125" {
			t.Fatalf("%s, %s: a plain start fails, %s:\n%s%s", sit.Name, u.Name, got.Status, got.Stdout, got.Stderr)
		}
		if strings.HasPrefix(got.Status, "signal: ") && !sit.Fails {
			t.Fatalf("%s, %s: a plain start is killed, %s", sit.Name, u.Name, got.Status)
		}
		plainly[id] = got
	})
	for _, only := range ways {
		if !slices.ContainsFunc(situations, func(sit Situation) bool { return sit.goes(only) }) {
			continue
		}
		t.Run(only.Name, func(t *testing.T) {
			only.Ready(t, s, program)
			each(func(w Way, sit Situation, u User, c Command, id start) {
				if w.Name != only.Name {
					return
				}
				t.Run(sit.Name+", "+u.Name, func(t *testing.T) {
					w := w.In(t, sit)
					got := s.Start(t, w, u, program, c)
					normal := special(w, sit.Normal, sit.Special)
					if why, refused := w.refused(got); refused {
						if reason := sit.Special[w.Name]; normal == "" || !strings.Contains(why, reason) {
							t.Errorf("%s is refused: %s", w.Name, why)
						}
						return
					}
					if diff := w.Diff(u, c, plainly[id], got); diff != "" {
						t.Errorf("plain (-) and %s (+) differ:\n%s", w.Name, diff)
					}
					if normal == Either || normal == "" && w.Restores {
						return
					}
					c.Env = append(slices.Clip(c.Env), "RESIDENTCTL_EXPLAIN=1")
					said := s.Start(t, w, u, program, c).Stderr
					if how, why := ExplanationOf(said, program); (how == "resident start") != (normal == "") ||
						normal != "" && !strings.Contains(why, normal) {
						t.Errorf("%s: %q, want a start that is %s\n%s", w.Name, how+": "+why, kind(normal), said)
					}
				})
			})
		})
	}
}

// goes reports whether the situation is tried in a way.
func (sit Situation) goes(w Way) bool {
	return sit.Ways == nil || slices.ContainsFunc(sit.Ways, func(other Way) bool { return other.Name == w.Name })
}

func kind(normal string) string {
	if normal == "" {
		return "resident"
	}
	return "normal: " + normal
}

var explained = regexp.MustCompile(`(?m)^residentctl: (?:error: )?(\S+): (resident start|started normally|no resident start): (.*)$`)

// Explanation returns what --explain says: how the program was started, and why.
func Explanation(stderr string) (how, why string) {
	match := explained.FindStringSubmatch(stderr)
	if match == nil {
		return "nothing said", ""
	}
	return match[2], match[3]
}

// Add makes the program resident, however long it takes: these fixtures do
// little, and what is measured while other tests run tells nothing.
func (s *Store) Add(t testing.TB, program string) {
	t.Helper()
	s.Do(t, "add", "--even-if-slower", program)
}

// Signals, limits and personalities by number, as fixtures/situation.c takes them
// (signal(7), asm-generic/resource.h, linux/personality.h).
const (
	SigINT, SigUSR1, SigCHLD, SigRTMIN    = "2", "10", "17", "40"
	LimitData, LimitStack, LimitCore      = "2", "3", "4"
	LimitDescriptors, LimitAS             = "7", "9"
	NoRandomisation, PageZero             = "0x0040000", "0x0100000"
	ReadImpliesExec, CompatLayout, Uname2 = "0x0400000", "0x0200000", "0x0020000"
	CapNetBind                            = "10"
)

// CannotSetExe is why ordinary users cannot set /proc/self/exe, "" where they can. prctl(2),
// PR_SET_MM_MAP: that takes a capability, which is had in a user namespace.
var CannotSetExe = func() string {
	if intercept.MayMakeUserNamespaces() {
		return ""
	}
	return "ordinary users cannot make user namespaces"
}()
