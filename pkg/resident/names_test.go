package resident

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/residentctl/residentctl/internal/problem"
)

// A hard link elsewhere has other libraries if they are searched beside it; a
// link of the other kind has not, and one in the same directory neither.
func TestSameOrigin(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("no gcc")
	}
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(in("p.c"), []byte("int main(void) { return 0; }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(in("elsewhere"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string][]string{"plain": nil, "origin": {"-Wl,-rpath,$ORIGIN/../lib"}} {
		if out, err := exec.Command(gcc, append([]string{"-o", in(name), in("p.c")}, flags...)...).CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, out)
		}
		for link, make := range map[string]func(string, string) error{
			name + "-hard": os.Link, name + "-soft": os.Symlink,
			"elsewhere/" + name + "-hard": os.Link, "elsewhere/" + name + "-soft": os.Symlink,
		} {
			if err := make(in(name), in(link)); err != nil {
				t.Fatal(err)
			}
			err := sameOrigin(in(name), in(link))
			if link == "elsewhere/origin-hard" {
				if problem.KindOf(err) != problem.Refused || problem.HintOf(err) == "" {
					t.Errorf("%s: %v", link, err)
				}
			} else if err != nil {
				t.Errorf("%s: %v", link, err)
			}
		}
	}
}
