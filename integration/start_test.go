package integration

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
)

// A command is a program's command line and what surrounds it.
type command struct {
	name    string
	args    []string
	stdin   string             // through a pipe; empty: /dev/null
	env     []string           // added to the environment that all have
	shell   string             // what a shell does before it executes the program
	inputs  map[string]string  // files that the working folder holds before
	outputs []string           // files that it holds afterwards, compared
	noise   []noise            // what differs in every start, however it is made
	differs map[string][]noise // what may differ from a plain start by the ways of these names
	// Whether a start that a shell has prepared is resident, as situation has it.
	normal  string
	special map[string]string
}

// noise is a part of the output that is no two times the same.
type noise struct {
	pattern     *regexp.Regexp
	replacement string
}

// An outcome is all that a start leaves behind.
type outcome struct {
	Stdout, Stderr, Status string
	Outputs                map[string]string // SHA-256 of each
}

// A user is who starts a program.
type user struct {
	name  string
	id    uint32
	group uint32 // besides the one of the same id; 0: none
}

var (
	root   = user{name: "root"}
	nobody = user{name: "nobody", id: 65534}
	users  = []user{root, nobody}
)

func (u user) groups() []uint32 {
	if u.group == 0 {
		return nil
	}
	return []uint32{u.group}
}

// A store is a residentctl store and the command that fills it. XDG_DATA_HOME
// makes it the user's own, for everybody whom a test starts.
type store struct {
	t           *testing.T
	residentctl string
	dataHome    string
	dir         string
}

// newStore is an empty store in a folder below dataHome.
func newStore(t *testing.T, dataHome string) *store {
	t.Helper()
	requireCRIU(t)
	if err := os.MkdirAll(dataHome, 0o755); err != nil {
		t.Fatal(err)
	}
	return &store{
		t:           t,
		residentctl: residentctl(t),
		dataHome:    dataHome,
		dir:         filepath.Join(dataHome, "residentctl"),
	}
}

// sharedStore is the one of the whole test process.
func sharedStore(t *testing.T) *store {
	t.Helper()
	return newStore(t, filepath.Join(temporary, "shared"))
}

// folder is a new folder that every user may enter; T.TempDir's is the owner's.
func folder(t *testing.T) string {
	t.Helper()
	path, err := os.MkdirTemp(temporary, "test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(path) })
	return path
}

// command is `residentctl --store DIR ARG…`.
func (s *store) command(args ...string) *exec.Cmd {
	return exec.Command(s.residentctl, append([]string{"--store", s.dir}, args...)...)
}

// do runs `residentctl --store DIR ARG…`, which must succeed.
func (s *store) do(t *testing.T, args ...string) string {
	t.Helper()
	c := s.command(args...)
	var stderr strings.Builder
	c.Stderr = &stderr
	stdout, err := c.Output()
	unchanged.Check(t)
	if err != nil {
		t.Fatalf("residentctl %s: %v\n%s%s", strings.Join(args, " "), err, stdout, stderr.String())
	}
	return string(stdout)
}

// launcher is the launcher file of a program, by a name that it was made resident by.
func (s *store) launcher(program string) string {
	s.t.Helper()
	path := filepath.Join(s.launchers(program), program)
	if _, err := os.Stat(path); err != nil {
		s.t.Fatalf("the launcher file of %s: %v", program, err)
	}
	return path
}

// launchers is the directory of all launcher files of a program.
func (s *store) launchers(program string) string {
	s.t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(program, &st); err != nil {
		s.t.Fatalf("stat %s: %v", program, err)
	}
	return filepath.Join(s.dir, "launchers", fmt.Sprintf("%d-%d", st.Dev, st.Ino))
}

// environment is the same for every start; nothing of the tester's own is in it.
func (s *store) environment(home string) []string {
	return []string{
		"PATH=/usr/local/bin:/usr/bin:/bin",
		"HOME=" + home,
		"LANG=C.UTF-8",
		"SHELL=/bin/sh",
		"TERM=dumb",
		"XDG_DATA_HOME=" + s.dataHome,
	}
}

// start starts the program in a fresh working folder, always the same one, and
// waits for its end.
func (s *store) start(t *testing.T, w way, u user, program string, c command) outcome {
	t.Helper()
	unchanged.Check(t)
	work := filepath.Join(temporary, "work")
	c.prepare(t, work, u)

	path, argv0, args := w.argv(s, program)
	args = append(args, c.args...)
	if c.shell != "" {
		args = append([]string{"-c", c.shell + "\n" + `exec -a "$0" "$@"`, argv0, path}, args...)
		path, argv0 = "/bin/bash", "bash"
	}
	path, argv0, args = w.surround(s, u, path, argv0, args)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Args[0] = argv0
	cmd.Dir = work
	cmd.Env = append(s.environment(filepath.Join(work, "home")), c.env...)
	if w.env != nil {
		cmd.Env = append(cmd.Env, w.env(s, program)...)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.id, Gid: u.id, Groups: u.groups()}}
	cmd.WaitDelay = 5 * time.Second
	if c.stdin != "" {
		cmd.Stdin = strings.NewReader(c.stdin)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := w.run(s, u, cmd)
	unchanged.Check(t)
	if cmd.ProcessState == nil || ctx.Err() != nil {
		t.Fatalf("%s of %s as %s: %v (%v)", w.name, program, u.name, err, ctx.Err())
	}

	result := outcome{
		Stdout:  c.quiet(stdout.String()),
		Stderr:  c.quiet(stderr.String()),
		Status:  cmd.ProcessState.String(),
		Outputs: map[string]string{},
	}
	for _, name := range c.outputs {
		content, err := os.ReadFile(filepath.Join(work, name))
		if err != nil {
			result.Outputs[name] = err.Error()
			continue
		}
		result.Outputs[name] = fmt.Sprintf("%x", sha256.Sum256(content))
	}
	return result
}

// prepare makes the working folder and the home folder in it, the user's own.
func (c command) prepare(t *testing.T, work string, u user) {
	t.Helper()
	if err := os.RemoveAll(work); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{work, filepath.Join(work, "home")} {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, int(u.id), int(u.id)); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range c.inputs {
		if err := os.WriteFile(filepath.Join(work, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func (c command) quiet(text string) string {
	for _, n := range c.noise {
		text = n.pattern.ReplaceAllString(text, n.replacement)
	}
	return text
}

// requireResident fails unless the program, started that way in the situation that
// the shell prepares, has an image's pages mapped at its end, which
// scripts/bench.d/spawn looks for.
func (s *store) requireResident(t *testing.T, w way, u user, program string, c command) {
	t.Helper()
	if w.normal != "" {
		return // it never is
	}
	if u != root && !w.ownExe && cannotSetExe != "" {
		return // it is not if the program looks at itself
	}
	spawn := filepath.Join(temporary, "spawn")
	compile(t, spawn, "../scripts/bench.d/spawn.c")
	examined := w
	examined.argv = func(s *store, program string) (string, string, []string) {
		path, _, args := w.argv(s, program)
		return spawn, "spawn", append([]string{"resident", path}, args...)
	}
	if got := s.start(t, examined, u, program, c); got.Status != "exit status 0" {
		c.env = append(c.env, "RESIDENTCTL_EXPLAIN=1")
		t.Errorf("%s as %s was not resident:\n%s%s", w.name, u.name, got.Stderr, s.start(t, w, u, program, c).Stderr)
	}
}
