package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/resident"
)

// What a start saves is looked for in all stores that it may come from.
func TestGains(t *testing.T) {
	if _, err := criuwrap.Find(); err != nil || os.Geteuid() != 0 || testing.Short() {
		t.Skipf("needs root and CRIU, and is not short: %v", err)
	}
	own, system := filepath.Join(t.TempDir(), "own"), filepath.Join(t.TempDir(), "system")
	if _, err := resident.Open(own, true); err != nil {
		t.Fatal(err)
	}
	m, err := resident.Open(system, true)
	if err != nil {
		t.Fatal(err)
	}
	added, err := m.Add(context.Background(), "cat", resident.AddOptions{EvenIfSlower: true})
	if err != nil {
		t.Fatal(err)
	}
	rec := added.Record
	b := rec.Binary.Inode()
	want := time.Duration(rec.Timing.ExecNS - rec.Timing.ResidentNS)
	if got := gains([]string{own, "/nowhere", system}); len(got) != 1 || got[b] != want {
		t.Errorf("%v, want %v of %v", got, want, b)
	}
}
