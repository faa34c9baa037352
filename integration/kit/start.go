package kit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/residentctl/residentctl/internal/unchanged"
	"github.com/residentctl/residentctl/pkg/criuwrap"
)

// A Command is a program's command line and what surrounds it.
type Command struct {
	Name    string
	Args    []string
	Stdin   string             // through a pipe; empty: /dev/null
	Env     []string           // added to the environment that all have
	Shell   string             // what a shell does before it executes the program
	Inputs  map[string]string  // files that the working directory holds before
	Outputs []string           // files that it holds afterwards, compared
	Noise   []Noise            // what differs in every start, however it is made
	Differs map[string][]Noise // what may differ from a plain start by the ways of these names
	// Whether a start that a shell has prepared is resident, as situation has it.
	Normal  string
	Special map[string]string
}

// Noise is a part of the output that is no two times the same.
type Noise struct {
	Pattern     *regexp.Regexp
	Replacement string
}

// An Outcome is all that a start leaves behind.
type Outcome struct {
	Stdout, Stderr, Status string
	Outputs                map[string]string // SHA-256 of each
}

// A User is who starts a program.
type User struct {
	Name  string
	ID    uint32
	Group uint32 // besides the one of the same id; 0: none
}

var (
	// Root and Nobody are the users of most tests.
	Root   = User{Name: "root"}
	Nobody = User{Name: "nobody", ID: 65534}
	Users  = []User{Root, Nobody}
)

func (u User) groups() []uint32 {
	if u.Group == 0 {
		return nil
	}
	return []uint32{u.Group}
}

// A Store is a residentctl store and the command that fills it. XDG_DATA_HOME
// makes it the user's own, for every user that a test starts programs as.
type Store struct {
	t           testing.TB
	Residentctl string
	DataHome    string
	Dir         string
}

// NewStore returns an empty store in a directory below dataHome.
func NewStore(t testing.TB, dataHome string) *Store {
	t.Helper()
	RequireCRIU(t)
	if err := os.MkdirAll(dataHome, 0o755); err != nil {
		t.Fatal(err)
	}
	return &Store{
		t:           t,
		Residentctl: Residentctl(t),
		DataHome:    dataHome,
		Dir:         filepath.Join(dataHome, "residentctl"),
	}
}

// SharedStore returns the one of the whole test process.
func SharedStore(t testing.TB) *Store {
	t.Helper()
	return NewStore(t, filepath.Join(Temporary, "shared"))
}

// Command returns `residentctl --store DIR ARG…`.
func (s *Store) Command(args ...string) *exec.Cmd {
	return exec.Command(s.Residentctl, append([]string{"--store", s.Dir}, args...)...)
}

// Do runs `residentctl --store DIR ARG…`, which must succeed.
func (s *Store) Do(t testing.TB, args ...string) string {
	t.Helper()
	c := s.Command(args...)
	var stderr strings.Builder
	c.Stderr = &stderr
	stdout, err := c.Output()
	unchanged.Check(t)
	if err != nil {
		t.Fatalf("residentctl %s: %v\n%s%s", strings.Join(args, " "), err, stdout, stderr.String())
	}
	return string(stdout)
}

// Launcher returns the launcher file of a program, by a name that it was made resident by.
func (s *Store) Launcher(program string) string {
	s.t.Helper()
	path := filepath.Join(s.Launchers(program), program)
	if _, err := os.Stat(path); err != nil {
		s.t.Fatalf("the launcher file of %s: %v", program, err)
	}
	return path
}

// Launchers returns the directory of all launcher files of a program.
func (s *Store) Launchers(program string) string {
	s.t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(program, &st); err != nil {
		s.t.Fatalf("stat %s: %v", program, err)
	}
	return filepath.Join(s.Dir, "launchers", fmt.Sprintf("%d-%d", st.Dev, st.Ino))
}

// Environment returns the same for every start; nothing of the tester's own is in it.
func (s *Store) Environment(home string) []string {
	return []string{
		"PATH=/usr/local/bin:/usr/bin:/bin",
		"HOME=" + home,
		"LANG=C.UTF-8",
		"SHELL=/bin/sh",
		"TERM=dumb",
		"XDG_DATA_HOME=" + s.DataHome,
	}
}

// Start starts the program in a fresh working directory, always the same one, and
// waits for its end. Where CRIU cannot restore it because its process id is taken, it
// waits for that.
func (s *Store) Start(t testing.TB, w Way, u User, program string, c Command) Outcome {
	t.Helper()
	for {
		o := s.startOnce(t, w, u, program, c)
		if _, refused := w.refused(o); !refused || !strings.Contains(o.Stderr, pidTaken) {
			return o
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (s *Store) startOnce(t testing.TB, w Way, u User, program string, c Command) Outcome {
	t.Helper()
	unchanged.Check(t)
	work := filepath.Join(Temporary, "work")
	c.prepare(t, work, u)

	path, argv0, args := w.Argv(s, program)
	args = append(args, c.Args...)
	if c.Shell != "" {
		args = append([]string{"-c", c.Shell + "\n" + `exec -a "$0" "$@"`, argv0, path}, args...)
		path, argv0 = "/bin/bash", "bash"
	}
	path, argv0, args = w.surround(s, u, path, argv0, args)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Args[0] = argv0
	cmd.Dir = work
	cmd.Env = append(s.Environment(filepath.Join(work, "home")), c.Env...)
	if w.Env != nil {
		cmd.Env = append(cmd.Env, w.Env(s, program)...)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.ID, Gid: u.ID, Groups: u.groups()}}
	cmd.WaitDelay = 5 * time.Second
	if c.Stdin != "" {
		cmd.Stdin = strings.NewReader(c.Stdin)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := w.run(s, u, cmd)
	unchanged.Check(t)
	if cmd.ProcessState == nil || ctx.Err() != nil {
		t.Fatalf("%s of %s as %s: %v (%v)", w.Name, program, u.Name, err, ctx.Err())
	}

	result := Outcome{
		Stdout:  c.Quiet(stdout.String()),
		Stderr:  c.Quiet(stderr.String()),
		Status:  cmd.ProcessState.String(),
		Outputs: map[string]string{},
	}
	for _, name := range c.Outputs {
		content, err := os.ReadFile(filepath.Join(work, name))
		if err != nil {
			result.Outputs[name] = err.Error()
			continue
		}
		result.Outputs[name] = fmt.Sprintf("%x", sha256.Sum256(content))
	}
	return result
}

// prepare makes the working directory and the home directory in it, the user's own.
func (c Command) prepare(t testing.TB, work string, u User) {
	t.Helper()
	if err := os.RemoveAll(work); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{work, filepath.Join(work, "home")} {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, int(u.ID), int(u.ID)); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range c.Inputs {
		if err := os.WriteFile(filepath.Join(work, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Quiet replaces the noise in what a start has written.
func (c Command) Quiet(text string) string {
	for _, n := range c.Noise {
		text = n.Pattern.ReplaceAllString(text, n.Replacement)
	}
	return text
}

// RequireResident fails unless the program, started that way in the situation that
// the shell prepares, has an image's pages mapped at its end, which
// scripts/bench.d/spawn looks for.
func (s *Store) RequireResident(t testing.TB, w Way, u User, program string, c Command) {
	t.Helper()
	if w.Normal != "" || w.Restores {
		return // it never is, or always
	}
	if u != Root && !w.OwnExe && CannotSetExe != "" {
		return // it is not if the program looks at itself
	}
	spawn := filepath.Join(Temporary, "spawn")
	Compile(t, spawn, "../scripts/bench.d/spawn.c")
	examined := w
	examined.Argv = func(s *Store, program string) (string, string, []string) {
		path, _, args := w.Argv(s, program)
		return spawn, "spawn", append([]string{"resident", path}, args...)
	}
	if got := s.Start(t, examined, u, program, c); got.Status != "exit status 0" {
		c.Env = append(c.Env, "RESIDENTCTL_EXPLAIN=1")
		t.Errorf("%s as %s was not resident:\n%s%s", w.Name, u.Name, got.Stderr, s.Start(t, w, u, program, c).Stderr)
	}
}

// Image returns what CRIU wrote for a resident program.
func (s *Store) Image(t testing.TB, program string) *criuwrap.Image {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(s.Dir, "images", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		image, err := criuwrap.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(image.MM.ExeFile) == filepath.Base(program) {
			return image
		}
	}
	t.Fatalf("%s has no image of %s", s.Dir, program)
	return nil
}

// Plan returns the file that a start of the program finds through the index.
func (s *Store) Plan(t testing.TB, program string) string {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(program, &st); err != nil {
		t.Fatal(err)
	}
	plan, err := filepath.EvalSymlinks(filepath.Join(s.Dir, "index", fmt.Sprintf("%d-%d", st.Dev, st.Ino)))
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// Pages returns CRIU's file with the image's memory.
func (s *Store) Pages(t testing.TB, program string) string {
	t.Helper()
	pages, err := filepath.Glob(filepath.Join(filepath.Dir(s.Plan(t, program)), "pages-*.img"))
	if err != nil || len(pages) != 1 {
		t.Fatalf("pages beside the plan: %q, %v; want one file", pages, err)
	}
	return pages[0]
}

// Shims returns the directory that is to stand first in PATH.
func (s *Store) Shims() string { return filepath.Join(s.Dir, "shims") }
