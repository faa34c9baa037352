package resident

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/registry"
)

func TestWarmAsWished(t *testing.T) {
	type warm = registry.Warm
	for _, tc := range []struct {
		name               string
		now, earlier, want *warm
	}{
		{"neither", nil, nil, nil},
		{"earlier only", nil, &warm{Accept: []string{"exec"}}, &warm{Accept: []string{"exec"}}},
		{"now only", &warm{Train: []string{"x"}}, nil, &warm{Train: []string{"x"}}},
		{"what was accepted stays", &warm{Accept: []string{"write"}}, &warm{Accept: []string{"exec", "write"}, Train: []string{"a"}},
			&warm{Accept: []string{"write", "exec"}, Train: []string{"a"}}},
		{"other training and modules", &warm{Train: []string{"b"}, Imports: []string{"m"}}, &warm{Train: []string{"a"}, Imports: []string{"n"}, Interpreter: "/p"},
			&warm{Train: []string{"b"}, Imports: []string{"m"}, Interpreter: "/p"}},
	} {
		got := warmAsWished(tc.now, tc.earlier)
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
		if tc.earlier != nil && tc.now == nil && !sameWarm(got, tc.earlier) {
			t.Errorf("%s: it is another wish", tc.name)
		}
	}
	if !sameWarm(&warm{Accept: []string{"a", "b"}, Train: []string{}}, &warm{Accept: []string{"b", "a"}}) {
		t.Error("the order of what is accepted matters")
	}
	if sameWarm(&warm{}, nil) || sameWarm(&warm{Imports: []string{"a", "b"}}, &warm{Imports: []string{"b", "a"}}) {
		t.Error("different wishes are the same")
	}
}

// A file that comes into a directory of which any entry counts changes what depends on it.
func TestChangedInExactDirectory(t *testing.T) {
	dir := t.TempDir()
	modules := filepath.Join(dir, "modules")
	if err := os.Mkdir(modules, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(modules, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for changed, want := range map[string]bool{
		modules + "/new.pth": true, dir + "/link/gone.py": true, modules + "/below/x.py": false, dir + "/other.py": false,
	} {
		if got := newChanged([]string{changed}).has(modules + "/"); got != want {
			t.Errorf("%s: %v, want %v", changed, got, want)
		}
	}
}

// Nothing that the user has not asked for makes or renews a warm image.
func TestWarmIsAskedFor(t *testing.T) {
	m, err := Open(filepath.Join(t.TempDir(), "store"), true)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(program, []byte("#!/usr/bin/python3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	rec := registry.Record{Wish: registry.Wish{Program: program, Warm: &registry.Warm{}, Reason: "none yet"}}
	if _, err := m.registry.Put(rec); err != nil {
		t.Fatal(err)
	}
	if made, err := m.Serve(context.Background(), program); made || err != nil {
		t.Errorf("Serve: %v, %v", made, err)
	}
	if _, err := m.Add(context.Background(), program, AddOptions{Unasked: true}); problem.KindOf(err) != problem.Refused || problem.HintOf(err) == "" {
		t.Errorf("Add: %v", err)
	}
	rec.Kind = registry.KindWarm
	if _, err := renewable(context.Background(), rec); err == nil || dated(rec) {
		t.Errorf("it can be renewed: %v", err)
	}
}

// Named interpreters are found by their name where PATH leads to no program.
func TestLookPathIn(t *testing.T) {
	m, err := Open(filepath.Join(t.TempDir(), "store"), true)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.store.WriteNamed("python3-x", "/usr/bin/python3"); err != nil {
		t.Fatal(err)
	}
	if got, err := LookPathIn("python3-x", "/nowhere", m.dir); got != m.store.NamedPath("python3-x") || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for _, name := range []string{"python3-y", ".."} {
		if got, err := LookPathIn(name, m.dir); err == nil {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// A warm plan's mappings are those of a linked one but for shared files and the stack.
func TestAsLinked(t *testing.T) {
	const private, shared, write = 0x2, 0x1, 0x2 // MAP_PRIVATE, MAP_SHARED, PROT_WRITE
	for _, tc := range []struct{ flags, prot, want uint32 }{
		{private, write, private}, {shared, 1, private}, {shared, write, shared}, {private | 0x100, write, private}, // MAP_GROWSDOWN
	} {
		if got := asLinked(plan.Map{Flags: tc.flags, Prot: tc.prot}); got != tc.want {
			t.Errorf("%#x prot %d: %#x, want %#x", tc.flags, tc.prot, got, tc.want)
		}
	}
}
