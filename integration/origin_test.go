package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/integration/kit"
)

// TestOwnDirectory calls a program whose libraries are searched relative to itself in
// every way that leads to its file. Which libraries those are is told by
// /proc/self/exe, the resolved path: so a start is resident wherever that is in the
// directory of what was made resident, and the same file in another directory is started
// with the libraries there.
func TestOwnDirectory(t *testing.T) {
	kit.RequireCRIU(t)
	dir := kit.Dir(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	link := func(make func(string, string) error, from, to string) {
		t.Helper()
		if err := make(from, in(to)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"here", "elsewhere", "links"} {
		if err := os.Mkdir(in(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	library := filepath.Join("fixtures", "libconstructors.c")
	flags := []string{"-shared", "-fPIC", "-Wl,-soname,libconstructors.so"}
	kit.Compile(t, in("here/libconstructors.so"), library, flags...)
	kit.Compile(t, in("elsewhere/libconstructors.so"), library, append(flags, `-DMARK="elsewhere"`)...)
	kit.Compile(t, in("here/own"), filepath.Join("fixtures", "constructors.c"), in("here/libconstructors.so"), "-Wl,-rpath,$ORIGIN")
	link(os.Link, in("here/own"), "here/same")
	link(os.Link, in("here/own"), "elsewhere/own")
	link(os.Symlink, "here", "linked")
	link(os.Symlink, "../here/own", "links/own")
	link(os.Symlink, "../here/own", "links/named")
	link(os.Symlink, "../here/own", "links/turned")
	link(os.Symlink, "../elsewhere/own", "here/trap")

	const relative = "it finds its libraries relative to itself"
	const otherName = "only starts by the name that it was made resident by"
	type call struct {
		from, program, path string
		normal, nobodys     string // why it is a normal start, for root and for an ordinary user; "" if it is none
	}
	try := func(t *testing.T, s *kit.Store, calls ...call) {
		for _, c := range calls {
			for _, u := range kit.Users {
				start := func(program string, argv ...string) kit.Outcome {
					cmd := exec.Command(program)
					cmd.Args, cmd.Dir = argv, c.from
					cmd.Env = append(s.Environment("/"), "PATH="+c.path)
					cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.ID, Gid: u.ID}}
					var stdout, stderr bytes.Buffer
					cmd.Stdout, cmd.Stderr = &stdout, &stderr
					_ = cmd.Run()
					return kit.Outcome{Stdout: stdout.String(), Stderr: stderr.String(), Status: cmd.ProcessState.String()}
				}
				want := start("/usr/bin/env", "env", c.program, "last")
				if diff := cmp.Diff(want, start(s.Residentctl, "residentctl", "run", "--store", s.Dir, c.program, "last")); diff != "" {
					t.Errorf("%+v as %s: plain (-) and run (+) differ:\n%s", c, u.Name, diff)
				}
				normal := c.normal
				if u != kit.Root {
					normal = c.nobodys
				}
				got := start(s.Residentctl, "residentctl", "run", "--strict", "--store", s.Dir, c.program, "last")
				if normal == "" && got.Status != "exit status 0" || normal != "" && !strings.Contains(got.Stderr, normal) {
					t.Errorf("%+v as %s: run --strict: %s, %s", c, u.Name, got.Status, got.Stderr)
				}
			}
		}
	}

	t.Run("by its path", func(t *testing.T) {
		s := kit.NewStore(t, kit.Dir(t))
		s.Do(t, "add", "--even-if-slower", in("here/own"))
		try(t, s, []call{
			{from: "/", program: in("here/own")},
			{from: in("here"), program: "./own"},
			{from: in("here"), program: "own", path: ".:/bin"},
			{from: in("here"), program: "own", path: ":/bin"},
			{from: dir, program: "own", path: "nowhere:linked:/bin"},
			{from: dir, program: "here/../here//own"},
			{from: "/", program: in("linked/own")},
			{from: "/", program: in("links/own")},
			{from: in("links"), program: "./own"},
			{from: in("links"), program: "./named", nobodys: otherName},
			{from: in("here"), program: "./same", nobodys: otherName},
			{from: in("here"), program: "./trap", normal: relative, nobodys: otherName},
			{from: "/", program: in("elsewhere/own"), normal: relative, nobodys: relative},
			{from: in("elsewhere"), program: "./own", normal: relative, nobodys: relative},
		}...)

		// By their launcher files, and under exec.
		s.Do(t, "add", in("links/named"))
		for _, name := range []string{"here/own", "links/named"} {
			for _, u := range kit.Users {
				s.RequireResident(t, kit.ByLauncher, u, in(name), kit.Command{})
				s.RequireResident(t, kit.ByExec, u, in(name), kit.Command{})
			}
		}
		try(t, s, call{from: "/", program: in("links/named")})
	})
	t.Run("by a link", func(t *testing.T) {
		s := kit.NewStore(t, kit.Dir(t))
		s.Do(t, "add", "--even-if-slower", in("links/turned"))
		try(t, s, call{from: "/", program: in("links/turned")}, call{from: in("links"), program: "./turned"},
			call{from: "/", program: in("here/own"), nobodys: otherName})
		kit.Remove(t, in("links/turned"))
		link(os.Symlink, "../elsewhere/own", "links/turned")
		try(t, s, call{from: "/", program: in("links/turned"), normal: relative, nobodys: relative})
	})
}
