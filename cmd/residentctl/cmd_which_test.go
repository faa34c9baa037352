package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/resident"
)

// TestWhichLooksInRunsOrder: the launcher file is that of the first store from which a
// start is resident, and what a call does is said of each store.
func TestWhichLooksInRunsOrder(t *testing.T) {
	if _, err := criuwrap.Find(); err != nil || os.Geteuid() != 0 || testing.Short() {
		t.Skipf("needs root and CRIU, and is not short: %v", err)
	}
	ctx := context.Background()
	var stores []listedStore
	var ids []string
	for _, name := range []string{"own", "system"} {
		dir := filepath.Join(t.TempDir(), name)
		m, err := resident.Open(dir, true)
		if err != nil {
			t.Fatal(err)
		}
		added, err := m.Add(ctx, "cat", resident.AddOptions{EvenIfSlower: true})
		if err != nil {
			t.Fatal(err)
		}
		stores, ids = append(stores, listedStore{m, dir}), append(ids, added.Record.ID)
	}
	find := func() (printed, said string) {
		var out, errOut bytes.Buffer
		g := &globals{format: formatTable, out: &out, err: &errOut}
		if err := (&which{stores: stores}).run(ctx, g, []string{"cat"}); err != nil {
			t.Fatal(err)
		}
		return out.String(), errOut.String()
	}
	if printed, said := find(); !strings.HasPrefix(printed, stores[0].dir+"/") || strings.Count(said, ": resident\n") != 2 {
		t.Errorf("both current: %s%s", printed, said)
	}
	if err := os.Remove(filepath.Join(stores[0].dir, "images", ids[0], "plan")); err != nil {
		t.Fatal(err)
	}
	printed, said := find()
	lines := strings.Split(said, "\n")
	if !strings.HasPrefix(printed, stores[1].dir+"/") || strings.Count(printed, "\n") != 1 || len(lines) != 3 ||
		!strings.Contains(lines[0], stores[0].dir) || !strings.Contains(lines[0], ": normal: ") ||
		!strings.Contains(lines[1], stores[1].dir) || !strings.HasSuffix(lines[1], ": resident") {
		t.Errorf("the first damaged: %s%s", printed, said)
	}
}

func TestNormalByEnvironment(t *testing.T) {
	for v, normal := range map[string]bool{
		"LD_LIBRARY_PATH=": true, "LD_X=1": true, "GLIBC_TUNABLES=a": true, "MALLOC_CHECK_=3": true, "RESIDENTCTL_OFF=1": true,
		"RESIDENTCTL_OFF=0": false, "RESIDENTCTL_OFF=": false, "PATH=LD_X=1": false, "LD": false, "GLIBC_TUNABLES_=a": false,
	} {
		if why := normalByEnvironment([]string{"A=b", v}); (why != "") != normal {
			t.Errorf("%s: %q", v, why)
		}
	}
}
