package main

import (
	"reflect"
	"testing"
)

func TestParseResident(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want residentLine // the zero one: refused
	}{
		{[]string{"perl", "-l"}, residentLine{programs: []string{"perl", "-l"}}},
		{[]string{"-f", "a", "b"}, residentLine{force: true, programs: []string{"a", "b"}}},
		{[]string{"-fd", "a"}, residentLine{force: true, remove: true, programs: []string{"a"}}},
		{[]string{"-x", "12ab"}, residentLine{id: "12ab", programs: []string{}}},
		{[]string{"-x12ab"}, residentLine{id: "12ab", programs: []string{}}},
		{[]string{"-fx", "12ab"}, residentLine{force: true, id: "12ab", programs: []string{}}},
		{[]string{"-l"}, residentLine{list: true, programs: []string{}}},
		{[]string{"-R"}, residentLine{removeAll: true, programs: []string{}}},
		{[]string{"--", "-l"}, residentLine{programs: []string{"-l"}}},
		{[]string{"-f", "--", "run"}, residentLine{force: true, programs: []string{"run"}}},
		{[]string{"--help"}, residentLine{help: true, programs: []string{}}},
		{[]string{"-x", ""}, residentLine{}},
		{[]string{"-x", "12", "a"}, residentLine{}},
		{[]string{"-l", "a"}, residentLine{}},
		{[]string{"-d", "-R", "a"}, residentLine{}},
		{[]string{"-Rx", "12"}, residentLine{}},
		{nil, residentLine{}},
		{[]string{"-f"}, residentLine{}},
	} {
		line, err := parseResident(tc.args)
		refused := reflect.DeepEqual(tc.want, residentLine{})
		if (err != nil) != refused || !refused && !reflect.DeepEqual(line, tc.want) {
			t.Errorf("%q: %+v, %v; want %+v", tc.args, line, err, tc.want)
		}
	}
}
