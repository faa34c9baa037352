package warmstop

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// TestExampleCompiles: the example of residentctl.h compiles as C and as C++ without a
// warning, and the point does nothing in a plain run.
func TestExampleCompiles(t *testing.T) {
	for _, test := range []struct{ name, compiler, language, standard string }{
		{"C99", "cc", "c", "-std=c99"},
		{"C", "cc", "c", "-std=gnu17"},
		{"C++", "c++", "c++", "-std=c++17"},
	} {
		for _, optimised := range []string{"-O0", "-O2"} {
			t.Run(test.name+" "+optimised, func(t *testing.T) {
				compiler, err := exec.LookPath(test.compiler)
				if err != nil {
					t.Skipf("no compiler: %v", err)
				}
				program := filepath.Join(t.TempDir(), "primes")
				compile := exec.Command(compiler, "-x", test.language, test.standard, optimised, "-Wall", "-Wextra", "-Werror",
					"-I../../include", "-o", program, "../../docs/examples/point.c")
				if out, err := compile.CombinedOutput(); err != nil {
					t.Fatalf("%v: %v\n%s", compile.Args, err, out)
				}
				const want = "9999991: prime\n9999993: not prime\n"
				if out, err := exec.Command(program, "9999991", "9999993").CombinedOutput(); err != nil || string(out) != want {
					t.Errorf("%v\n%s\nwant\n%s", err, out, want)
				}
			})
		}
	}
}
