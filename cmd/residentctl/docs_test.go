package main

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/urfave/cli/v2"
)

//go:generate go test -count=1 -run ^(TestDocumentsAreCurrent|TestSchemaIsCurrent)$ . -update

var update = flag.Bool("update", false, "write the man page, the completions and the schema instead of comparing them")

// documents are made from the command definitions, each by its template in testdata/docs.
// The other man pages are written by hand.
var documents = []string{
	"man/residentctl.1", "completions/residentctl.bash", "completions/_residentctl", "completions/residentctl.fish",
}

func TestDocumentsAreCurrent(t *testing.T) {
	for _, name := range documents {
		path := filepath.Join("../../docs", name)
		want := document(t, filepath.Base(name))
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("docs/%s is not what the command definitions give; run `make generate`", name)
		}
	}
}

// document carries out a template.
func document(t *testing.T, name string) []byte {
	t.Helper()
	tmpl := template.New(name + ".tmpl").Funcs(manWords).Funcs(completionWords)
	tmpl, err := tmpl.ParseFiles("testdata/docs/" + name + ".tmpl")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tmpl.Execute(&b, documented()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A docCommand is a command as the documents have it; the one without a name is the
// command line before any command.
type docCommand struct {
	*cli.Command
	Options []docOption
	Takes   argumentKind
}

// A docOption is an option of a command.
type docOption struct {
	Names   []string // with their dashes
	Value   string   // the placeholder of its value in the help, "" if it takes none
	Usage   string   // with the default
	Command string   // "" before any command
	Common  bool     // it is one of those before any command too
}

// OptionNames are the names of a command's options.
func (c docCommand) OptionNames() string {
	var names []string
	for _, o := range c.Options {
		names = append(names, o.Names...)
	}
	return strings.Join(names, " ")
}

// docPage is all that the templates need.
type docPage struct {
	*cli.App
	Global   docCommand
	Commands []docCommand
	Statuses any
}

// All are the command line before any command, and the commands.
func (p docPage) All() []docCommand { return append([]docCommand{p.Global}, p.Commands...) }

// CommandNames are the names of the commands.
func (p docPage) CommandNames() string {
	var names []string
	for _, c := range p.Commands {
		names = append(names, c.Name)
	}
	return strings.Join(names, " ")
}

func documented() docPage {
	app := newApp(&globals{format: formatTable, out: io.Discard, err: io.Discard})
	app.Setup()
	page := docPage{App: app, Statuses: manStatuses()}
	page.Global = docCommand{Command: &cli.Command{}, Options: docOptions("", app.VisibleFlags()), Takes: argumentKind{Kind: takesCommand}}
	for _, c := range app.VisibleCommands() {
		options := docOptions(c.Name, c.VisibleFlags())
		if !hasOption(options, "--help") {
			options = append(options, docOptions(c.Name, []cli.Flag{cli.HelpFlag})...)
		}
		for i, o := range options {
			options[i].Common = hasOption(page.Global.Options, o.Names[0])
		}
		page.Commands = append(page.Commands, docCommand{Command: c, Options: options, Takes: takenBy(c)})
	}
	return page
}

func hasOption(options []docOption, name string) bool {
	return slices.ContainsFunc(options, func(o docOption) bool { return slices.Contains(o.Names, name) })
}

// placeholder is the part of an option's usage that stands for its value (cli.Flag).
var placeholder = regexp.MustCompile("`([^`]*)`")

func docOptions(command string, flags []cli.Flag) (options []docOption) {
	for _, f := range flags {
		names, usage, _ := strings.Cut(f.String(), "\t") // as the help has it
		o := docOption{Command: command, Usage: usage}
		for name := range strings.SplitSeq(names, ", ") {
			name, _, _ = strings.Cut(name, " ")
			o.Names = append(o.Names, name)
		}
		if g, ok := f.(cli.DocGenerationFlag); ok && g.TakesValue() {
			o.Value = "VALUE"
			if m := placeholder.FindStringSubmatch(g.GetUsage()); m != nil {
				o.Value = m[1]
			}
		}
		options = append(options, o)
	}
	return options
}
