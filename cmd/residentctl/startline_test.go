package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseExec(t *testing.T) {
	for _, tc := range []struct {
		line string // its words
		want startLine
		err  string // part of it
	}{
		{line: "make", want: startLine{argv: []string{"make"}}},
		{line: "make --strict -h", want: startLine{argv: []string{"make", "--strict", "-h"}}},
		{line: "--strict --auto make", want: startLine{strict: true, auto: true, argv: []string{"make"}}},
		{line: "-q -- -make --", want: startLine{quiet: true, argv: []string{"-make", "--"}}},
		{line: "--quiet --after 7 make", want: startLine{quiet: true, after: 7, argv: []string{"make"}}},
		{line: "--after=7 make", want: startLine{after: 7, argv: []string{"make"}}},
		{line: "--store d make", want: startLine{store: "d", argv: []string{"make"}}},
		{line: "--store=d=e make", want: startLine{store: "d=e", argv: []string{"make"}}},
		{line: "--inside 1-2:/a --inside=1-3:/b=c --inside-ignore-child -- make",
			want: startLine{inside: []string{"1-2:/a", "1-3:/b=c"}, ignoreChild: true, argv: []string{"make"}}},
		{line: "--help --nonsense", want: startLine{help: true}},
		{line: "-h", want: startLine{help: true}},
		{line: "", err: "no command given"},
		{line: "--", err: "no command given"},
		{line: "--auto", err: "no command given"},
		{line: "--after x make", err: `--after must be a number of 1 or more, not "x"`},
		{line: "--after 0 make", err: `--after must be a number of 1 or more, not "0"`},
		{line: "--after", err: "option --after needs a number"},
		{line: "--store", err: "option --store needs a directory"},
		{line: "--store= make", err: "option --store needs a directory"},
		{line: "--auto=yes make", err: "unknown option --auto=yes"},
		{line: "--explain make", err: "unknown option --explain"},
		{line: "-auto make", err: "unknown option -auto"},
		{line: "-quiet make", err: "unknown option -quiet"},
		{line: "--q make", err: "unknown option --q"},
	} {
		t.Run(tc.line, func(t *testing.T) {
			got, err := parseExec(strings.Fields(tc.line))
			if tc.err != "" {
				if err == nil || err.Error() != tc.err {
					t.Fatalf("error %v, want %q", err, tc.err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(startLine{})); diff != "" || err != nil {
				t.Errorf("error %v, line (-want +got):\n%s", err, diff)
			}
		})
	}
}

// spellings are the ways to give an option.
func (o startOption) spellings() (ways [][]string) {
	names := []string{"--" + o.name}
	if o.alias != "" {
		names = append(names, "-"+o.alias)
	}
	value := o.value
	if strings.Contains(value, " ") || value == "" {
		value = "/" // a directory that is root's alone, for --store
	}
	for _, name := range names {
		switch {
		case o.needs == "":
			ways = append(ways, []string{name})
		default:
			ways = append(ways, []string{name, value}, []string{name + "=" + value})
		}
	}
	return ways
}

// The front door's parsers, option_words and run_options in front.c, know the same options
// in the same form as the Go side's, but for those that startOptions leaves to Go.
func TestFrontDoorKnowsTheSameOptions(t *testing.T) {
	bin := buildFrontDoor(t, "../../pkg/launcher/front/testdata/gosays")
	program := filepath.Join(t.TempDir(), "program")
	raw, err := os.ReadFile("/bin/sleep") // names itself for want of an operand; scripts are Go's to explain
	if err == nil {
		err = os.WriteFile(program, raw, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	says := func(limit string, words ...string) string {
		script := limit + `; exec "$0" "$@"`
		out, _ := exec.Command("/bin/bash", append([]string{"-c", script, bin}, words...)...).CombinedOutput()
		return string(out)
	}
	commands := map[startCommands]string{cmdRun: "run", cmdExec: "exec"}
	for _, o := range startOptions {
		for bit, command := range commands {
			if o.of&bit == 0 {
				continue
			}
			for _, way := range o.spellings() {
				words := append(append([]string{command}, way...), program)
				t.Run(strings.Join(words[:len(words)-1], " "), func(t *testing.T) {
					// Without room for Go the command is executed, or named as what is not.
					out := says("ulimit -d 50000", words...)
					if known := strings.Contains(out, program); known != o.early {
						t.Errorf("where limits leave Go no room: %q", out)
					}
					out = says(":", words...)
					if known := !strings.HasPrefix(out, "go ["); known != (o.early && bit == cmdRun) {
						t.Errorf("before Go: %q", out)
					}
				})
			}
		}
	}
}

// And they know no others: every option that front.c compares with is in the table, or is
// one of those of residentctl that come before the command.
func TestFrontDoorKnowsNoOtherOptions(t *testing.T) {
	source, err := os.ReadFile("../../pkg/launcher/src/front.c")
	if err != nil {
		t.Fatal(err)
	}
	known := []string{"--", "--format"}
	for _, o := range startOptions {
		if o.early {
			known = append(known, "--"+o.name, "-"+o.alias)
		}
	}
	found := regexp.MustCompile(`"(-[-a-z]+)=?"`).FindAllSubmatch(source, -1)
	if len(found) == 0 {
		t.Error("front.c names no option")
	}
	for _, m := range found {
		if word := string(m[1]); !slices.Contains(known, word) {
			t.Errorf("front.c knows %s, and startOptions does not", word)
		}
	}
}

// buildFrontDoor builds a command with the front door as its entry, as scripts/build does.
func buildFrontDoor(t *testing.T, pkg string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a Go program")
	}
	script, err := os.ReadFile("../../scripts/build")
	if err != nil {
		t.Fatal(err)
	}
	flags := regexp.MustCompile(`(?m)^LDFLAGS="(.*)"$`).FindSubmatch(script)
	if flags == nil {
		t.Fatal("scripts/build has no line LDFLAGS=")
	}
	bin := filepath.Join(t.TempDir(), "command")
	build := exec.Command("go", "build", "-ldflags", string(flags[1]), "-o", bin, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, msg)
	}
	return bin
}
