package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
)

// arrangeApp has every form of option.
func arrangeApp() *cli.App {
	store, format := &cli.StringFlag{Name: "store"}, &cli.StringFlag{Name: "format"}
	return &cli.App{
		Flags: []cli.Flag{store, format},
		Commands: []*cli.Command{
			{Name: "do", Flags: []cli.Flag{
				store, format, &cli.BoolFlag{Name: "all"}, &cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}},
				&cli.BoolFlag{Name: "force", Aliases: []string{"f"}}, &cli.IntFlag{Name: "jobs", Aliases: []string{"j"}},
			}},
			{Name: "run", SkipFlagParsing: true},
		},
	}
}

func TestArrange(t *testing.T) {
	for _, tc := range []struct{ name, line, want string }{
		{"nothing", "", ""},
		{"a command alone", "do", "do --"},
		{"options first", "do --all --store d a b", "do --all --store=d -- a b"},
		{"options last", "do a b --all --store d", "do --all --store=d -- a b"},
		{"options between", "do a -q b --store=d c", "do -q --store=d -- a b c"},
		{"an option of the line before the command", "--store d --format=json do a --all", "--store=d --format=json do --all -- a"},
		{"names after dashes", "do a -- --all -q --", "do -- a --all -q --"},
		{"options, dashes at once", "do --all -- -a", "do --all -- -a"},
		{"dashes at the end", "do a --", "do -- a"},
		{"dashes before the command", "--store d -- do a --all", "--store=d do --all -- a"},
		{"a dash alone is an argument", "do --all - a -q", "do --all -q -- - a"},
		{"a value like an option", "do a --store --all", "do --store=--all -- a"},
		{"a value like the dashes", "do --store -- a", "do --store=-- -- a"},
		{"an empty value", "do a --store= --all", "do --store= --all -- a"},
		{"a value with an equals sign", "do --store a=b", "do --store=a=b --"},
		{"a boolean with a value", "do a --all=false -q=true", "do --all=false -q=true -- a"},
		{"one dash", "do a -all -store d", "do -all -store=d -- a"},
		{"joined letters", "do a -qf b", "do -q -f -- a b"},
		{"a joined value", "do a -j4 b", "do -j=4 -- a b"},
		{"joined letters and a value", "do a -qfj4 b", "do -q -f -j=4 -- a b"},
		{"joined letters and a value apart", "do a -qj 4 b", "do -q -j=4 -- a b"},
		{"help after arguments", "do a --help", "do --help"},
		{"help in letters", "do a -qh", "do -q -h"},

		// What is wrong is the last.
		{"an unknown option", "do a --al b --all", "do --al"},
		{"an unknown option before the command", "--stor d do a", "--stor"},
		{"an unknown letter", "do a -qx b", "do -q -x"},
		{"an unknown one with a value", "do a --nonsense=1 b", "do --nonsense=1"},
		{"a missing value", "do a --all --store", "do --all --store"},
		{"a missing value of a letter", "do a -qj", "do -q -j"},
		{"too many dashes", "do a ---all", "do ---all"},
		{"no name", "do --=a b", "do --=a"},

		// Nothing of it is known.
		{"an unknown command", "nonsense a --all", "nonsense a --all"},
		{"a command's own line", "--store d run a --all -- -q", "--store=d run a --all -- -q"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			line := append([]string{"residentctl"}, strings.Fields(tc.line)...)
			given := slices.Clone(line)
			got := arrange(arrangeApp(), line)
			if diff := cmp.Diff(append([]string{"residentctl"}, strings.Fields(tc.want)...), got); diff != "" {
				t.Error(diff)
			}
			if !slices.Equal(line, given) {
				t.Errorf("changed what it was given: %q", line)
			}
		})
	}
}

// TestEveryCommandTakesOptionsLast reads an option after arguments by each command that
// has one and does not read its own line.
func TestEveryCommandTakesOptionsLast(t *testing.T) {
	g := &globals{format: formatTable, out: &bytes.Buffer{}, err: &bytes.Buffer{}}
	for _, c := range newApp(g).Commands {
		if c.SkipFlagParsing {
			continue
		}
		var out, errOut bytes.Buffer
		code := execute([]string{"residentctl", c.Name, "a", "b", "--help"}, &out, &errOut)
		if code != exitDone || !strings.Contains(out.String(), "EXIT STATUS:") {
			t.Errorf("%s a b --help: status %d, %s%s", c.Name, code, &out, &errOut)
		}
	}
}

func TestNearest(t *testing.T) {
	words := []string{"add", "run", "exec", "list", "refresh", "remove", "enable", "disable", "status", "check", "version"}
	for word, want := range map[string]string{
		"list": "", "lsit": "list", "lst": "list", "ad": "add", "remvoe": "remove", "refesh": "refresh",
		"enabel": "enable", "stauts": "status", "verison": "version", "statuss": "status",
		"nonsense": "", "x": "", "": "", "ls": "", "perl": "", "versions-of-it": "",
	} {
		if got := nearest(word, words); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}
