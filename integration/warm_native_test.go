package integration

import (
	"path/filepath"
	"testing"

	"github.com/residentctl/residentctl/integration/kit"
)

// TestWarmPoint: a program that calls the point itself, compiled as C and as C++, with and
// without optimisation.
func TestWarmPoint(t *testing.T) {
	kit.RequireCRIU(t)
	for _, test := range []struct {
		name, source string
		args         []string
	}{
		{"C -O0", "warm-point", []string{"-std=gnu11", "-O0"}},
		{"C -O2", "warm-point", []string{"-std=gnu11", "-O2"}},
		{"C++ -O0", "warm-point-cxx", []string{"-O0"}},
		{"C++ -O2", "warm-point-cxx", []string{"-O2"}},
		{"not position-independent", "warm-point", []string{"-O2", "-no-pie"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			program := filepath.Join(kit.Dir(t), "warm-point")
			kit.Compile(t, program, kit.FixtureSource(test.source),
				append([]string{"-I../include", "-D_GNU_SOURCE", "-Werror", "-lm"}, test.args...)...)
			w := newWarmed(t, program)
			w.add(t)
			w.try(t, []warmCase{
				{name: "no arguments"},
				{args: []string{"20", "3", "", "more"}, env: []string{"VALUE=a value", "OTHER=another"}},
				{name: "a variable that was read before", env: []string{"EARLY=1"}, normal: otherEnvironment},
				{name: "on a terminal", terminals: 7},
				{name: "before a pipe", terminals: 5},
				{name: "7 MB of stack", args: []string{"110"}, options: []string{"--limit", kit.LimitStack, "8388608"}},
				{name: "too much stack", args: []string{"140"}, options: []string{"--limit", kit.LimitStack, "8388608"}},
				{name: "ignored", options: []string{"--ignore", "1", "--ignore", "12", "--block", kit.SigINT}},
				{name: "another stack limit", options: []string{"--limit", kit.LimitStack, "4194304"}, normal: "the stack limit is another one"},
				{name: "many arguments", options: []string{"--arguments", "20000", "50"}},
				{name: "no argument at all", options: []string{"--no-arguments"}},
				{name: "descriptors", options: []string{"--open", "3", "--close", "0"}},
				{name: "seccomp", options: []string{"--filter-errno", "169"}, normal: "filtered (seccomp)"},
				{name: "AT_SECURE", options: []string{"--real-user", "65534"}, normal: saysNothing},
			})
		})
	}
}
