package resident

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/registry"
)

func TestTreeOf(t *testing.T) {
	dir, err := os.MkdirTemp("", "tree-") // not t.TempDir's, which is for one user
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, folder := range []string{"usr", "usr/bin", "opt", "private"} {
		if err := os.MkdirAll(at(folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(at("usr/bin/java-17"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{
		"bin": "usr/bin", "usr/bin/java": at("opt/java"), "opt/java": "../bin/java-17", "private/java": "../usr/bin/java-17",
		"elsewhere": "/etc/passwd", "usr/bin/other": "/bin/true",
	} {
		if err := os.Symlink(to, at(link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(at("private"), 0o700); err != nil {
		t.Fatal(err)
	}
	id, err := linux.StatID(at("usr/bin/java-17"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name    string
		names   []string
		files   map[string][]string
		links   map[string]string
		folders []string // beside those that lead to usr/bin
		gone    bool
	}{
		{"its own", []string{"usr/bin/java-17"}, map[string][]string{"usr/bin/java-17": {"usr/bin/java-17"}}, nil, nil, false},
		{"a link of another name", []string{"usr/bin/java"},
			map[string][]string{"usr/bin/java-17": {"usr/bin/java", "usr/bin/java-17"}},
			map[string]string{"usr/bin/java": "usr/bin/java-17"}, nil, false},
		{"through a folder's link", []string{"bin/java-17"},
			map[string][]string{"usr/bin/java-17": {"bin/java-17", "usr/bin/java-17"}},
			map[string]string{"bin": "usr/bin"}, nil, false},
		{"another folder", []string{"opt/java", "bin/java"},
			map[string][]string{"usr/bin/java-17": {"opt/java", "bin/java", "usr/bin/java-17"}},
			map[string]string{"bin": "usr/bin", "opt/java": "usr/bin/java-17", "usr/bin/java": "usr/bin/java-17"}, []string{"opt"}, false},
		{"not for everybody", []string{"private/java"},
			map[string][]string{"usr/bin/java-17": {"usr/bin/java-17"}},
			map[string]string{"private/java": "usr/bin/java-17"}, []string{"private"}, false},
		{"leads elsewhere now", []string{"elsewhere"}, map[string][]string{"elsewhere": {"elsewhere"}}, nil, nil, true},
		{"gone", []string{"opt/nothing"}, map[string][]string{"opt/nothing": {"opt/nothing"}}, nil, []string{"opt"}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rec := registry.Record{Image: registry.Image{Binary: id}}
			for _, name := range tc.names {
				rec.Paths = append(rec.Paths, at(name))
			}
			rec.Program, rec.Paths = rec.Paths[0], rec.Paths[1:]
			tree := treeOf(rec)
			files, links, folders := map[string][]string{}, map[string]string{}, []string{}
			rel := func(path string) string { return strings.TrimPrefix(path, dir+"/") }
			for path, names := range tree.files {
				for _, n := range names {
					files[rel(path)] = append(files[rel(path)], rel(n))
				}
			}
			for path, to := range tree.links {
				links[rel(path)] = rel(to)
			}
			for _, f := range slices.Sorted(maps.Keys(tree.folders)) {
				if strings.HasPrefix(f, dir+"/") && !strings.HasPrefix(f, at("usr")) {
					folders = append(folders, rel(f))
				}
			}
			if diff := cmp.Diff(tc.files, files); diff != "" {
				t.Errorf("files:\n%s", diff)
			}
			if len(links)+len(tc.links) > 0 && !maps.Equal(links, tc.links) {
				t.Errorf("links: want %v, got %v", tc.links, links)
			}
			if !slices.Equal(folders, tc.folders) || tree.gone != tc.gone {
				t.Errorf("folders: want %v, got %v; gone: %v", tc.folders, folders, tree.gone)
			}
			for _, n := range tree.mirrored(at("usr/bin")) {
				if tree.own(at("usr/bin/" + n)) {
					t.Errorf("%s is its own and mirrored", n)
				}
			}
		})
	}
}

func TestFileContains(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, tc := range []struct {
		at, size int
		want     bool
	}{
		{0, 14, true}, {1<<20 - 7, 3 << 20, true}, {1<<20 - 14, 1 << 20, true}, {2<<20 - 15, 2 << 20, true}, {-1, 2 << 20, false}, {-1, 0, false},
	} {
		data := make([]byte, tc.size)
		if tc.at >= 0 {
			copy(data[tc.at:], selfExe)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := fileContains(path, selfExe); got != tc.want || err != nil {
			t.Errorf("%d of %d: %v, %v", tc.at, tc.size, got, err)
		}
	}
}

func TestReadsOwnEnd(t *testing.T) {
	own, err := os.ReadFile("/proc/self/exe") // this test holds the text too
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "program")
	for _, tc := range []struct {
		name string
		data []byte
		want bool
	}{
		{"nothing behind", own, false}, {"something behind", append(slices.Clone(own), "more"...), true},
	} {
		if err := os.WriteFile(path, tc.data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := needsExe(path); got != tc.want || err != nil {
			t.Errorf("%s: %v, %v", tc.name, got, err)
		}
	}
	for _, n := range []int{0, 10, 64, 100} {
		if err := os.WriteFile(path, own[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := needsExe(path); got || err == nil && n < 100 {
			t.Errorf("%d bytes: %v, %v", n, got, err)
		}
	}
}

func TestReadsOwnSections(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("gcc is not on this machine")
	}
	const main = `char own[] = "/proc/self/exe"; int main(void) { return *own; }`
	const library = "int backtrace_create_state(void) { return 0; }\n"
	for _, tc := range []struct {
		name, source string
		section      string
		want         bool
	}{
		{"neither", main, "", false},
		{"a section", main, "payload", true},
		{"a compiler's section", main, ".note.more", false},
		{"libbacktrace", library + main, "", true},
		{"libbacktrace, and not itself", library + "int main(void) { return 0; }", "", false},
	} {
		program := filepath.Join(t.TempDir(), "program")
		compile := exec.Command("gcc", "-g", "-O0", "-x", "c", "-o", program, "-")
		compile.Stdin = strings.NewReader(tc.source)
		if out, err := compile.CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, out)
		}
		if tc.section != "" {
			if out, err := exec.Command("objcopy", "--add-section", tc.section+"=/etc/passwd", program).CombinedOutput(); err != nil {
				t.Fatalf("objcopy: %v\n%s", err, out)
			}
		}
		if got, err := needsExe(program); got != tc.want || err != nil {
			t.Errorf("%s: %v, %v", tc.name, got, err)
		}
	}
}
