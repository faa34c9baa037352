package kit

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// WantResident fails unless a start of the program is a resident one.
func (s *Store) WantResident(t testing.TB, program string) {
	t.Helper()
	if got := s.Start(t, Strictly, Root, program, Command{}); got.Status != "exit status 0" {
		t.Fatalf("run --strict: %s\n%s%s", got.Status, got.Stdout, got.Stderr)
	}
}

// WantNormalStart fails unless a start of the program is a normal one which works.
func (s *Store) WantNormalStart(t testing.TB, u User, program string, c Command) {
	t.Helper()
	want := s.Start(t, Plain, u, program, c)
	for _, w := range ResidentWays {
		if diff := cmp.Diff(want, s.Start(t, w, u, program, c)); diff != "" {
			t.Errorf("plain (-) and %s (+) differ as %s:\n%s", w.Name, u.Name, diff)
		}
	}
	got := s.Start(t, Strictly, u, program, c)
	if got.Status != "exit status 125" || !strings.Contains(got.Stderr, "residentctl: ") {
		t.Errorf("run --strict as %s: %s, want exit status 125 and a reason\n%s", u.Name, got.Status, got.Stderr)
	}
}

// sanitized are the names of the fixtures with a sanitizer's runtime.
var sanitized = regexp.MustCompile(`/instrumented-.*(sanitizer|undefined)`)

// Compare makes the program resident and compares every command in every way for
// every user, one in three of these starts each day; of programs of the distribution only
// the first command through a shim.
func (s *Store) Compare(t *testing.T, program string, commands []Command) {
	t.Helper()
	s.CompareFirst(t, program, commands, func(w Way, _ User) int {
		if (w.Name == ByShim.Name || w.Normal != "") && !strings.HasPrefix(program, Temporary) {
			return 1
		}
		return len(commands)
	})
}

// CompareFirst is Compare with so many of the commands by a way for a user.
func (s *Store) CompareFirst(t *testing.T, program string, commands []Command, first func(Way, User) int) {
	t.Helper()
	s.Do(t, "add", "--even-if-slower", program)
	slice := Today(t, 3)
	type start struct {
		u User
		c int // the command's number
	}
	ways, starts := WaysTo(t, program, EveryWay), map[string][]start{}
	for i, w := range ways {
		for j, u := range w.By(Users) {
			for c := range first(w, u) {
				if slice.Has(i, j, c) {
					starts[w.Name] = append(starts[w.Name], start{u, c})
				}
			}
		}
	}
	// Plain starts come before all others: a way may be set up for the whole machine.
	plainly := map[string]map[start]Outcome{}
	for _, w := range ways {
		w, starts := w.Reference(), starts[w.Name]
		if plainly[w.Name] == nil {
			plainly[w.Name] = map[start]Outcome{}
		}
		for _, st := range starts {
			if _, there := plainly[w.Name][st]; !there {
				plainly[w.Name][st] = s.startPlainly(t, w, st.u, program, commands[st.c])
			}
		}
	}
	for _, w := range ways {
		if len(starts[w.Name]) == 0 {
			continue
		}
		t.Run(w.Name, func(t *testing.T) {
			w.Ready(t, s, program)
			s.requireResident(t, w, program, commands[0])
			for _, st := range starts[w.Name] {
				c := commands[st.c]
				t.Run(c.Name+", "+st.u.Name, func(t *testing.T) {
					s.compareOne(t, w, st.u, program, c, plainly[w.Reference().Name][st])
				})
			}
		})
	}
	t.Run(Strictly.Name, func(t *testing.T) { s.requireResident(t, Strictly, program, commands[0]) })
}

// startPlainly is Start, by a way in which no fixture may fail.
func (s *Store) startPlainly(t *testing.T, w Way, u User, program string, c Command) Outcome {
	t.Helper()
	o := s.Start(t, w, u, program, c)
	if strings.Contains(o.Stdout, "FAILED: ") || o.Status == "exit status 125" {
		t.Fatalf("%s, %s: the fixture fails in a plain start:\n%s%s", c.Name, u.Name, o.Stdout, o.Stderr)
	}
	return o
}

// requireResident is RequireResident for each user.
func (s *Store) requireResident(t *testing.T, w Way, program string, c Command) {
	t.Helper()
	for _, u := range w.By(Users) {
		// A sanitizer's reports want /proc/self/exe: a normal start where the kernel does not
		// let it be set.
		if u == Root || w.Name == ByExec.Name || !sanitized.MatchString(program) {
			s.RequireResident(t, w, u, program, c)
		}
	}
}

// compareOne compares a start with the plain one. One that a shell has prepared also has to
// be resident or normal, as the command says.
func (s *Store) compareOne(t *testing.T, w Way, u User, program string, c Command, plainly Outcome) {
	t.Helper()
	got := s.Start(t, w, u, program, c)
	if why, refused := w.refused(got); refused {
		s.wantAlsoNormal(t, why, u, program, c)
		return
	}
	if diff := w.Diff(u, c, plainly, got); diff != "" {
		t.Errorf("plain (-) and %s (+) differ:\n%s", w.Name, diff)
	}
	if c.Shell == "" {
		return // the first tells for all
	}
	switch normal := special(w, c.Normal, c.Special); {
	case normal == Either, w.Restores:
	case normal == "":
		s.RequireResident(t, w, u, program, c)
	default:
		c.Env = append(slices.Clip(c.Env), "RESIDENTCTL_EXPLAIN=1")
		got := s.Start(t, w, u, program, c).Stderr
		if how, why := ExplanationOf(got, program); how != "started normally" || !strings.Contains(why, normal) {
			t.Errorf("%s: %q, want a start that is %s\n%s", w.Name, how+": "+why, kind(normal), got)
		}
	}
}

// wantAlsoNormal fails unless the launcher starts normally what CRIU refuses to start, but
// for the limits in which residentctl, a Go program, or CRIU has no room.
func (s *Store) wantAlsoNormal(t testing.TB, why string, u User, program string, c Command) {
	t.Helper()
	if strings.HasPrefix(why, "residentctl needs ") || strings.Contains(why, "CRIU needs ") {
		return
	}
	c.Env = append(slices.Clip(c.Env), "RESIDENTCTL_EXPLAIN=1")
	if how, _ := ExplanationOf(s.Start(t, ByLauncher, u, program, c).Stderr, program); how != "started normally" {
		t.Errorf("%s is refused (%s), and by %s it is a %s", program, why, ByLauncher.Name, how)
	}
}

// Installed returns the distribution's program of that name, whatever PATH may name
// first. It skips a test whose program is not on this machine.
func Installed(t testing.TB, name string) string {
	t.Helper()
	for _, directory := range []string{"/usr/bin/", "/bin/"} {
		if _, err := os.Stat(directory + name); err == nil {
			return directory + name
		}
	}
	t.Skipf("%s is not on this machine", name)
	return ""
}

// Verified is what is looked at of `verify --format json`.
type Verified struct {
	ID          string
	OK          bool
	Failures    []string
	Pages       int
	Differences []struct {
		Class string
		Words int
		Fixup bool
	}
}

// Verify runs verify on one program.
func (s *Store) Verify(t testing.TB, program, engine string) Verified {
	t.Helper()
	cmd := s.Command("--format", "json", "verify", "--engine", engine, program)
	var messages strings.Builder
	cmd.Stderr = &messages
	out, err := cmd.Output()
	var results []Verified
	if jsonErr := json.Unmarshal(out, &results); jsonErr != nil || len(results) != 1 {
		t.Fatalf("verify %s: %v, %s%s", program, err, out, messages.String())
	}
	r := results[0]
	if r.OK != (err == nil) || !r.OK && cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("verify %s: %v, and ok is %v: %s", program, err, r.OK, messages.String())
	}
	return r
}
