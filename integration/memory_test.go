package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
)

// TestAddBoundsMemory: a program that has much memory of its own before it starts is
// refused, unless that is allowed.
func TestAddBoundsMemory(t *testing.T) {
	kit.RequireCRIU(t)
	t.Setenv("TMPDIR", kit.Dir(t))
	s := kit.NewStore(t, kit.Dir(t))
	glutton := func(size string) string {
		program := filepath.Join(kit.Dir(t), "glutton")
		kit.Compile(t, program, kit.FixtureSource("glutton"), "-Wl,-z,now", "-DMEBIBYTES="+size)
		return program
	}
	refused := func(program, want string, options ...string) {
		t.Helper()
		cmd, stderr := wrapped(s, nil, nil, append(append([]string{s.Residentctl, "--store", s.Dir, "add", "--even-if-slower"}, options...), program)...)
		stdout, _ := cmd.Output()
		if status := cmd.ProcessState.ExitCode(); status != statusFailed || !strings.Contains(stderr.String(), want) ||
			!strings.Contains(stderr.String(), "hint: raise the limit: `residentctl add --memory-limit SIZE`") {
			t.Errorf("status %d\n%s%s", status, stdout, stderr)
		}
	}
	refused(glutton("400"), "it has 400 MiB of memory of its own when it is linked, more than the limit of 256 MiB")
	program := glutton("20")
	refused(program, "it has 20 MiB of memory of its own when it is linked, more than the limit of 16 MiB", "--memory-limit", "16M")
	s.Do(t, "add", "--even-if-slower", "--memory-limit", "24M", program)
	s.WantResident(t, program)
}

// TestMemoryLimitIsRemembered: what add or enable was told to accept, refresh and verify
// accept too, also where the image does not show how much the program maps.
func TestMemoryLimitIsRemembered(t *testing.T) {
	kit.RequireCRIU(t)
	s := kit.NewStore(t, kit.Dir(t))
	dir := kit.Dir(t)
	program, library := filepath.Join(dir, "vast"), filepath.Join(dir, "libvast.so")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	kit.Compile(t, library, write("library.c", "static char vast[600 << 20];\nchar *get(void) { return vast; }\n"), "-shared", "-fPIC")
	kit.Compile(t, program, write("program.c", "char *get(void);\nint main(void) { return *get(); }\n"), library, "-Wl,-rpath,"+dir)
	accepted := func(limit string) {
		t.Helper()
		s.Do(t, "verify", program)
		s.Do(t, "refresh", "--all")
		s.Do(t, "verify", program)
		if said := s.Do(t, "inspect", program); !strings.Contains(said, limit) {
			t.Errorf("inspect does not say %q:\n%s", limit, said)
		}
	}
	if r := kit.Finish(t, s.Command("add", program)); r.Code != statusFailed || !strings.Contains(r.Stderr, "it maps more than 512 MiB to write to") {
		t.Fatalf("%v", r)
	}
	s.Do(t, "add", "--even-if-slower", "--memory-limit", "400M", program)
	accepted("400 MiB")
	for _, args := range [][]string{{}, {"--memory-limit", "300M"}, {"--memory-limit", "500M"}} {
		if said := s.Do(t, append(append([]string{"add"}, args...), program)...); !strings.Contains(said, "already resident") {
			t.Errorf("it is made again: %s", said)
		}
	}
	accepted("500 MiB")
	s.Do(t, "remove", program)
	s.Do(t, "enable", "--even-if-slower", "--memory-limit", "400M", program)
	accepted("400 MiB")
}
