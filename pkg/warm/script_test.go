package warm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/internal/problem"
)

func TestReadScript(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"python3": 0o755, "none/python3": 0o644} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	found := filepath.Join(dir, "python3")
	path := filepath.Join(dir, "script")
	for _, tc := range []struct {
		head, path, interpreter string
		argv                    []string
		err                     string
	}{
		{head: "#!/usr/bin/python3\n", interpreter: "/usr/bin/python3", argv: []string{"/usr/bin/python3"}},
		{head: "#! /usr/bin/python3.11 -Es \n", interpreter: "/usr/bin/python3.11", argv: []string{"/usr/bin/python3.11", "-Es"}},
		{head: "#!/usr/bin/env python3\n", path: dir + "/none:" + dir, interpreter: found, argv: []string{"python3"}},
		{head: "#!/usr/bin/env -S python3 -I\n", path: dir, interpreter: found, argv: []string{"python3", "-I"}},
		{head: "#!/usr/bin/env -S /usr/bin/python3 -I\n", interpreter: "/usr/bin/python3", argv: []string{"/usr/bin/python3", "-I"}},
		{head: "#!/usr/bin/env python3\n", path: "/nowhere", err: "not found in PATH"},
		{head: "#!/usr/bin/env python3\n", path: "x", err: "relative directory"},
		{head: "#!/usr/bin/env A=1 python3\n", path: dir, err: "not understood"},
		{head: "#!/usr/bin/env -i python3\n", path: dir, err: "not understood"},
		{head: "#!/usr/bin/env\n", path: dir, err: "not understood"},
		{head: "#!/usr/bin/python3 -X utf8\n", interpreter: "/usr/bin/python3", argv: []string{"/usr/bin/python3", "-X utf8"}},
		{head: "#!/usr/bin/python3 -i\n", err: `the option "-i"`},
		{head: "#!/usr/bin/python3 -Ev\n", err: `the option "-Ev"`},
		{head: "#!/usr/bin/python3 -E -s\n", err: `the option "-E -s"`},
		{head: "#!/usr/bin/perl\n", err: "script for /usr/bin/perl"},
		{head: "#!python3\n", err: "only python's"},
		{head: "\x7fELF\n", err: "no script"},
		{head: "#!/" + strings.Repeat("x", 300) + "\n", err: "no script"},
		{head: "", err: "no script"},
	} {
		if err := os.WriteFile(path, []byte(tc.head), 0o755); err != nil {
			t.Fatal(err)
		}
		s, err := ReadScript(path, tc.path)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) || problem.KindOf(err) != problem.Refused && problem.KindOf(err) != problem.Program {
				t.Errorf("%q: error %v, want %q", tc.head, err, tc.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", tc.head, err)
			continue
		}
		if s.ByEnv != strings.Contains(tc.head, "/env ") {
			t.Errorf("%q: executed by env: %v", tc.head, s.ByEnv)
		}
		if s.Interpreter != tc.interpreter || !slices.Equal(s.Argv, tc.argv) {
			t.Errorf("%q: %s %q, want %s %q", tc.head, s.Interpreter, s.Argv, tc.interpreter, tc.argv)
		}
	}
}
