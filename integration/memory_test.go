package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAddBoundsMemory: a program that has much memory of its own before it starts is
// refused, unless that is allowed.
func TestAddBoundsMemory(t *testing.T) {
	requireCRIU(t)
	t.Setenv("TMPDIR", folder(t))
	s := newStore(t, folder(t))
	glutton := func(size string) string {
		program := filepath.Join(folder(t), "glutton")
		compile(t, program, fixtureSource("glutton"), "-Wl,-z,now", "-DMEBIBYTES="+size)
		return program
	}
	refused := func(program, want string, options ...string) {
		t.Helper()
		cmd, stderr := s.wrapped(nil, nil, append(append([]string{s.residentctl, "--store", s.dir, "add", "--even-if-slower"}, options...), program)...)
		stdout, _ := cmd.Output()
		if status := cmd.ProcessState.ExitCode(); status != statusFailed || !strings.Contains(stderr.String(), want) ||
			!strings.Contains(stderr.String(), "hint: if it is to have so much, allow it: `residentctl add --memory-limit SIZE`") {
			t.Errorf("status %d\n%s%s", status, stdout, stderr)
		}
	}
	refused(glutton("400"), "it has 400 MiB of memory of its own when it is linked, more than the limit of 256 MiB")
	program := glutton("20")
	refused(program, "it has 20 MiB of memory of its own when it is linked, more than the limit of 16 MiB", "--memory-limit", "16M")
	s.do(t, "add", "--even-if-slower", "--memory-limit", "24M", program)
	s.wantResident(t, program)
}

// TestMemoryLimitIsRemembered: what add or enable was told to accept, refresh and verify
// accept too, also where the image does not show how much the program maps.
func TestMemoryLimitIsRemembered(t *testing.T) {
	requireCRIU(t)
	s := newStore(t, folder(t))
	dir := folder(t)
	program, library := filepath.Join(dir, "vast"), filepath.Join(dir, "libvast.so")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	compile(t, library, write("library.c", "static char vast[600 << 20];\nchar *get(void) { return vast; }\n"), "-shared", "-fPIC")
	compile(t, program, write("program.c", "char *get(void);\nint main(void) { return *get(); }\n"), library, "-Wl,-rpath,"+dir)
	accepted := func(limit string) {
		t.Helper()
		s.do(t, "verify", program)
		s.do(t, "refresh", "--all")
		s.do(t, "verify", program)
		if said := s.do(t, "inspect", program); !strings.Contains(said, limit) {
			t.Errorf("inspect does not say %q:\n%s", limit, said)
		}
	}
	if r := finish(t, s.command("add", program)); r.code != statusFailed || !strings.Contains(r.stderr, "it maps more than 512 MiB to write to") {
		t.Fatalf("%v", r)
	}
	s.do(t, "add", "--even-if-slower", "--memory-limit", "400M", program)
	accepted("400 MiB")
	for _, args := range [][]string{{}, {"--memory-limit", "300M"}, {"--memory-limit", "500M"}} {
		if said := s.do(t, append(append([]string{"add"}, args...), program)...); !strings.Contains(said, "already resident") {
			t.Errorf("it is made again: %s", said)
		}
	}
	accepted("500 MiB")
	s.do(t, "remove", program)
	s.do(t, "enable", "--even-if-slower", "--memory-limit", "400M", program)
	accepted("400 MiB")
}
