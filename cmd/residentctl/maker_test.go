package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/intercept"
)

// The line at the end names the most frequent reasons for normal starts, and promises no
// time.
func TestAutoSummaryNamesReasons(t *testing.T) {
	starts := map[linux.Inode]*intercept.Starts{
		{Dev: 1, Ino: 2}: {Resident: 20, Normal: 4, Unfit: 2},
		{Dev: 1, Ino: 3}: {Normal: 1},
	}
	for _, c := range []struct {
		name    string
		maker   maker
		reasons map[string]int
		want    string
	}{
		{
			"only resident starts", maker{added: 1}, nil,
			"residentctl: 20 of 27 starts were resident; 1 program made resident meanwhile\n",
		},
		{
			"a variable", maker{}, map[string]int{"MALLOC_CHECK_ is set": 2, "it is not resident": 5},
			"residentctl: 20 of 27 starts were resident, others normal (5: it is not resident; 2: MALLOC_CHECK_ is set); " +
				"0 programs made resident meanwhile\n",
		},
		{
			"more than three", maker{}, map[string]int{"a": 1, "this has changed": 2, "b": 1, "this now comes first in the search for libraries": 3, "c": 1},
			"residentctl: 20 of 27 starts were resident, others normal (3: another file now comes first in the search for libraries; " +
				"2: a file that it depends on has changed; 1: a; 2: others); 0 programs made resident meanwhile\n",
		},
		{
			"in the background, refused", maker{added: 2, later: 3, refused: 1}, nil,
			"residentctl: 20 of 27 starts were resident; 2 programs made resident meanwhile, 3 in the background from now on, " +
				"1 refused that users other than root may change\n",
		},
		{
			"a reason with a control character", maker{}, map[string]int{"LD_\x1b[2J is set": 1},
			"residentctl: 20 of 27 starts were resident, others normal (1: LD_" + printable("\x1b") + "[2J is set); 0 programs made resident meanwhile\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.maker.summary(&intercept.Outcome{Programs: starts, Reasons: c.reasons}); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
	failed := maker{failed: errors.New("no")}
	if got := failed.summary(&intercept.Outcome{}); !strings.HasPrefix(got, "residentctl: cannot make resident what the command executes: no\n") {
		t.Errorf("%q", got)
	}
}
