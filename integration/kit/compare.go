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
// every user; of programs of the distribution only the first through a shim.
func (s *Store) Compare(t *testing.T, program string, commands []Command) {
	t.Helper()
	s.Do(t, "add", "--even-if-slower", program)
	type start struct {
		way, user string
		command   int
	}
	// Plain starts come before all others: a way may be set up for the whole machine.
	plainly := map[start]Outcome{}
	ways := WaysTo(t, program, EveryWay)
	those := func(w Way) []Command {
		switch {
		case w.Name == Strictly.Name:
			return nil // as run
		case (w.Name == ByShim.Name || w.Normal != "") && !strings.HasPrefix(program, Temporary):
			return commands[:1]
		}
		return commands
	}
	for _, w := range ways {
		for _, u := range w.By(Users) {
			for i, c := range those(w) {
				w, id := w.Reference(), start{w.Reference().Name, u.Name, i}
				if _, there := plainly[id]; there {
					continue
				}
				plainly[id] = s.Start(t, w, u, program, c)
				if o := plainly[id]; strings.Contains(o.Stdout, "FAILED: ") || o.Status == "exit status 125" {
					t.Fatalf("%s, %s: the fixture fails in a plain start:\n%s%s", c.Name, u.Name, o.Stdout, o.Stderr)
				}
			}
		}
	}
	for _, w := range append(ways, Strictly) {
		t.Run(w.Name, func(t *testing.T) {
			w.Ready(t, s, program)
			for _, u := range w.By(Users) {
				// A sanitizer's reports want /proc/self/exe: a normal start where the
				// kernel does not let it be set.
				if u == Root || w.Name == ByExec.Name || !sanitized.MatchString(program) {
					s.RequireResident(t, w, u, program, commands[0])
				}
				for i, c := range those(w) {
					t.Run(c.Name+", "+u.Name, func(t *testing.T) {
						want, got := plainly[start{w.Reference().Name, u.Name, i}], s.Start(t, w, u, program, c)
						if why, refused := w.refused(got); refused {
							s.wantAlsoNormal(t, why, u, program, c)
							return
						}
						if diff := w.Diff(u, c, want, got); diff != "" {
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
					})
				}
			}
		})
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
