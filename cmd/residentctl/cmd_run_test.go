package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/pkg/store"
)

func TestParseRun(t *testing.T) {
	for _, tc := range []struct {
		line string // its words
		want startLine
		err  string // part of it
	}{
		{line: "perl", want: startLine{argv: []string{"perl"}}},
		{line: "perl --strict -h", want: startLine{argv: []string{"perl", "--strict", "-h"}}},
		{line: "--strict --explain perl", want: startLine{strict: true, explain: true, argv: []string{"perl"}}},
		{line: "--store d perl", want: startLine{store: "d", argv: []string{"perl"}}},
		{line: "--store=d perl", want: startLine{store: "d", argv: []string{"perl"}}},
		{line: "-- -perl --", want: startLine{argv: []string{"-perl", "--"}}},
		{line: "--engine criu perl", want: startLine{engine: "criu", argv: []string{"perl"}}},
		{line: "--engine=exec -- perl", want: startLine{engine: "exec", argv: []string{"perl"}}},
		{line: "--engine direct perl", want: startLine{engine: "direct", strict: true, argv: []string{"perl"}}},
		{line: "--engine fast perl", err: "must be auto"},
		{line: "--engine", err: "needs a name"},
		{line: "--strict --engine exec perl", err: "exclude each other"},
		{line: "--help perl", want: startLine{help: true}},
		{line: "-h", want: startLine{help: true}},
		{line: "", err: "no program"},
		{line: "--", err: "no program"},
		{line: "--strict", err: "no program"},
		{line: "--store", err: "needs a directory"},
		{line: "--store= perl", err: "needs a directory"},
		{line: "--strict=yes perl", err: "unknown option --strict=yes"},
		{line: "-x perl", err: "unknown option -x"},
		{line: "- perl", err: "unknown option -"},
	} {
		t.Run(tc.line, func(t *testing.T) {
			got, err := parseRun(strings.Fields(tc.line))
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(startLine{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStoresToSearch(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "")
	for _, tc := range []struct {
		name, home, named string
		euid              int
		want              []string
	}{
		{"own and system", "/home/me", "", 1000, []string{"/home/me/.local/share/residentctl", store.SystemDir()}},
		{"no home", "", "", 1000, []string{store.SystemDir()}},
		{"named", "/home/me", "/there", 1000, []string{"/there"}},
		{"root looks into no HOME", "/home/me", "", 0, []string{store.SystemDir()}},
		{"named by root", "/home/me", "/there", 0, []string{"/there"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("HOME", tc.home)
			got, err := storesFor(tc.euid, tc.named)
			if diff := cmp.Diff(tc.want, got); diff != "" || err != nil {
				t.Errorf("error %v, stores (-want +got):\n%s", err, diff)
			}
		})
	}
}
