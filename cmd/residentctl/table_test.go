package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A column begins at the same place in every row, also in one without cells at its end, and
// no row is padded.
func TestTableColumnsDoNotJump(t *testing.T) {
	var out bytes.Buffer
	table := (&globals{out: &out}).newTable("ADDRESS", "FROM", "NOTHING", "OF")
	table.indent = "  "
	table.row("0x1000", "a", "", "anonymous")
	table.row("0x20000", "fresh memory")
	table.row("0x3", "b\tc", "", strings.Repeat("long ", 70)+"name")
	table.row("0x4", "日本", "", "wide")
	if err := table.print(); err != nil {
		t.Fatal(err)
	}
	want := "" +
		"  ADDRESS  FROM          OF\n" +
		"  0x1000   a             anonymous\n" +
		"  0x20000  fresh memory\n" +
		"  0x3      b\uFFFDc           " + strings.Repeat("long ", 70) + "name\n" +
		"  0x4      日本          wide\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestTableFitsTheTerminal(t *testing.T) {
	for _, tc := range []struct {
		widths   []int
		terminal int
		want     []int
	}{
		{[]int{12, 100, 300}, 0, []int{12, 100, 300}}, // a pipe
		{[]int{12, 20, 30}, 80, []int{12, 20, 30}},
		{[]int{12, 0, 300}, 80, []int{12, 0, 66}},
		{[]int{12, 100, 300}, 80, []int{12, 32, 32}},
		{[]int{11, 11, 11}, 20, []int{11, 11, 11}}, // nothing is left to be cut
	} {
		if got := fit(tc.widths, tc.terminal); !slices.Equal(got, tc.want) {
			t.Errorf("%v in %d: %v, want %v", tc.widths, tc.terminal, got, tc.want)
		}
	}
}

func TestCut(t *testing.T) {
	for _, tc := range []struct {
		cell  string
		width int
		want  string
	}{
		{"", 5, ""},
		{"short", 5, "short"},
		{"a reason that is long", 8, "a reaso…"},
		{"/usr/lib/x/bin/perl", 9, "…bin/perl"},
		{"日本語", 5, "日本…"},
		{"日本語", 4, "日…"},
	} {
		if got := cut(tc.cell, tc.width); got != tc.want {
			t.Errorf("%q in %d: %q, want %q", tc.cell, tc.width, got, tc.want)
		}
	}
}
