package resident

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

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
		{"nothing after it", own, false}, {"something after it", append(slices.Clone(own), "more"...), true},
	} {
		if err := os.WriteFile(path, tc.data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readsItself(path); got != tc.want || err != nil {
			t.Errorf("%s: %v, %v", tc.name, got, err)
		}
	}
	for _, n := range []int{0, 10, 64, 100} {
		if err := os.WriteFile(path, own[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readsItself(path); got || err == nil && n < 100 {
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
		if got, err := readsItself(program); got != tc.want || err != nil {
			t.Errorf("%s: %v, %v", tc.name, got, err)
		}
	}
}
