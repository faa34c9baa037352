package warm

import (
	"slices"
	"testing"

	"github.com/residentctl/residentctl/pkg/plan"
)

func TestEnvironment(t *testing.T) {
	own := []string{"PATH=/bin", "SECRET=1", "LC_ALL=C", "LANG=C", "TERM=vt100", "RESIDENTCTL_EXPLAIN=1", "PYTHONPATH=/x", "LANGX"}
	got := Environment(own, []string{"TERM", "RESIDENTCTL_EXPLAIN", "NOTSET"})
	want := []string{"PATH=/bin", "LC_ALL=C", "LANG=C", "TERM=vt100", "PYTHONPATH=/x"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestChecks(t *testing.T) {
	got := Checks([]string{"PATH=/bin", "HOME=/root", "TERM=vt100", "LC_ALL=C"}, []string{"TERM", "NO_COLOR", "LC_ALL"})
	for _, want := range []plan.EnvCheck{
		{Text: "HOME=/root", Kind: plan.EnvExact}, {Text: "TERM=vt100", Kind: plan.EnvExact}, {Text: "LC_ALL=C", Kind: plan.EnvExact},
		{Text: "NO_COLOR=", Kind: plan.EnvPrefix}, {Text: "PYTHON", Kind: plan.EnvPrefix}, {Text: "LC_", Kind: plan.EnvPrefix},
	} {
		if !slices.Contains(got, want) {
			t.Errorf("no %v in %v", want, got)
		}
	}
	for _, c := range got {
		if c.Text == "PATH=/bin" || c.Text == "TERM=" {
			t.Errorf("%v is compared", c)
		}
	}
	kinds := slices.IndexFunc(got, func(c plan.EnvCheck) bool { return c.Kind == plan.EnvPrefix })
	if slices.ContainsFunc(got[kinds:], func(c plan.EnvCheck) bool { return c.Kind == plan.EnvExact }) {
		t.Errorf("exact ones do not come first: %v", got)
	}
}
