package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// The completions are tables made from the command definitions and start residentctl only
// for the names of resident programs. The ones that come with the command line library ask
// the program itself, by a word at the end of the line, which run and exec would pass on to a
// program that they start.

// An argumentKind says what a command's arguments or an option's value are.
type argumentKind struct {
	Kind  string
	Words string // of takesWord
}

const (
	takesNothing  = "nothing"
	takesCommand  = "command"      // of residentctl
	takesLine     = "command-line" // of another program
	takesProgram  = "program"      // by a path or by a name in PATH
	takesResident = "resident"     // a program of the store
	takesFile     = "file"
	takesDir      = "directory"
	takesWord     = "word" // one of Words
)

// wordList is a placeholder that lists the words which it stands for.
var wordList = regexp.MustCompile(`^\[?([a-z]+(?:\|[a-z]+)+)\]?$`)

// takenBy is what a command's usage line says of its arguments.
func takenBy(c *cli.Command) argumentKind {
	usage := c.ArgsUsage
	switch words := wordList.FindStringSubmatch(usage); {
	case words != nil:
		return argumentKind{takesWord, strings.ReplaceAll(words[1], "|", " ")}
	case usage == "":
		return argumentKind{Kind: takesNothing}
	case strings.Contains(usage, "SHELL"):
		return argumentKind{takesWord, strings.Join(shellNames(), " ")}
	case strings.Contains(usage, "ARG"):
		return argumentKind{Kind: takesLine}
	case strings.Contains(usage, "ID|"), c.Name == "disable", c.Name == "which":
		return argumentKind{Kind: takesResident}
	case strings.Contains(usage, "PROGRAM"):
		return argumentKind{Kind: takesProgram}
	case strings.Contains(usage, "COMMAND"):
		return argumentKind{Kind: takesCommand}
	}
	return argumentKind{Kind: takesFile}
}

// Takes is what an option's value is, by the placeholder in the help.
func (o docOption) Takes() argumentKind {
	switch {
	case wordList.MatchString(o.Value):
		return argumentKind{takesWord, strings.ReplaceAll(o.Value, "|", " ")}
	case o.Value == "DIR":
		return argumentKind{Kind: takesDir}
	case o.Value == "FILE", o.Value == "PATH":
		return argumentKind{Kind: takesFile}
	}
	return argumentKind{Kind: takesNothing}
}

// completionWords are the functions of the completions' templates.
var completionWords = map[string]any{
	"quoted": quoted, "zshOption": zshOption, "zshArguments": zshArguments,
	"fishQuoted": fishQuoted, "fishOption": fishOption, "fishArguments": fishArguments,
}

// quoted is a text as one word of a shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// brief is an option's usage for a line of a menu: without the default.
func brief(text string) string {
	text, _, _ = strings.Cut(text, " (default: ")
	return text
}

// zshText escapes what ends a part of a specification of _arguments (zshcompsys(1)).
func zshText(text string) string {
	return strings.NewReplacer(`\`, `\\`, `:`, `\:`, `[`, `\[`, `]`, `\]`).Replace(brief(text))
}

// zshOption are the specifications of an option for _arguments, one for each name.
func zshOption(o docOption) string {
	var all []string
	for _, name := range o.Names {
		spec := "(" + strings.Join(o.Names, " ") + ")" + name
		if o.Names[0] == "--help" {
			spec = "(- *)" + name
		}
		if o.Value != "" {
			spec += "="
		}
		spec += "[" + zshText(o.Usage) + "]"
		if o.Value != "" {
			spec += ":" + zshText(o.Value) + ":" + zshAction(o.Takes())
		}
		all = append(all, quoted(spec))
	}
	return strings.Join(all, " ")
}

func zshAction(a argumentKind) string {
	switch a.Kind {
	case takesCommand:
		return "_residentctl_commands"
	case takesProgram:
		return "_residentctl_programs"
	case takesResident:
		return "_residentctl_residents"
	case takesFile:
		return "_files"
	case takesDir:
		return "_files -/"
	case takesWord:
		return "(" + a.Words + ")"
	}
	return " "
}

// zshArguments are the specifications of a command's arguments for _arguments.
func zshArguments(c docCommand) string {
	switch c.Takes.Kind {
	case takesNothing:
		return ""
	case takesLine:
		return `'(-)1:program:_residentctl_programs' '*::argument:_residentctl_line'`
	}
	number := "1"
	if strings.Contains(c.ArgsUsage, "…") {
		number = "*"
	}
	return quoted(number + ":" + zshText(c.ArgsUsage) + ":" + zshAction(c.Takes))
}

// fishOption are the arguments of fish's complete for an option.
func fishOption(o docOption) string {
	var b strings.Builder
	for _, name := range o.Names {
		if long, ok := strings.CutPrefix(name, "--"); ok {
			b.WriteString("-l " + long + " ")
		} else {
			b.WriteString("-s " + strings.TrimPrefix(name, "-") + " ")
		}
	}
	switch a := o.Takes(); {
	case o.Value == "":
	case a.Kind == takesWord:
		b.WriteString("-x -a " + fishQuoted(a.Words) + " ")
	case a.Kind == takesDir:
		b.WriteString("-x -a '(__fish_complete_directories)' ")
	case a.Kind == takesFile:
		b.WriteString("-r -F ")
	default:
		b.WriteString("-x ")
	}
	return b.String() + "-d " + fishQuoted(brief(o.Usage))
}

// fishArguments are the arguments of fish's complete for a command's arguments.
func fishArguments(c docCommand) string {
	switch c.Takes.Kind {
	case takesLine:
		return "-x -a '(__residentctl_line)'"
	case takesProgram:
		return "-F -a '(__fish_complete_command)'"
	case takesResident:
		return "-a '(__residentctl_residents)'"
	case takesFile:
		return "-F"
	case takesWord:
		return "-a " + fishQuoted(c.Takes.Words)
	}
	return ""
}

func fishQuoted(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
}

// completers are scripts that print what a shell offers for the line in $LINE, one a line.
var completers = map[string]string{
	// What readline does itself is printed as the option that asks for it. Its words are
	// split at = and blanks, as COMP_WORDBREAKS has it.
	"bash": `
compopt() { printf '%s\n' "$*"; }
. "$DOC/residentctl.bash"
read -ra COMP_WORDS <<<"${LINE//=/ = }"
[[ $LINE != *[\ =] ]] || { [[ $LINE != *' ' ]] || COMP_WORDS+=(''); }
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$LINE COMP_POINT=${#LINE}
_residentctl residentctl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
((${#COMPREPLY[@]} == 0)) || printf '%s\n' "${COMPREPLY[@]}"`,
	"fish": `source $DOC/residentctl.fish; complete -C $LINE | string replace -r '\t.*' ''`,
}

func TestCompletions(t *testing.T) {
	for _, tc := range []struct{ line, offered, not string }{
		{"residentctl ", "add run exec list verify", "--store perl"},
		{"residentctl r", "run refresh remove", "add"},
		{"residentctl --", "--store --format --help --version", "--strict add"},
		{"residentctl --store /x --format json li", "list", "add"},
		{"residentctl add --", "--follow --layouts --memory-limit --store --help", "--check"},
		{"residentctl add --fo", "--follow --format", "--store"},
		{"residentctl add ca", "cat", "list"},
		{"residentctl list -", "-q --quiet --library", "--follow"},
		{"residentctl --format ", "table json", "add"},
		{"residentctl list --format j", "json", "table"},
		{"residentctl help ", "add run help", "cat"},
		{"residentctl help v", "verify version", "add"},
		{"residentctl verify --engine ", "link criu", "direct"},
		{"residentctl run --engine d", "direct", "criu"},
		{"residentctl run --", "--strict --explain --engine --store", "--auto"},
		{"residentctl exec --auto --a", "--after --auto", "--strict"},
		{"residentctl exec --after 5 -- ca", "cat", "--auto"},
		{"residentctl run --strict ca", "cat", "list --strict"},
		{"residentctl run cat --", "", "--strict --explain"},
		{"residentctl add --layouts ", "", "--store cat"},
		{"residentctl gc ", "", "cat add"},
	} {
		for shell, script := range completers {
			if _, err := exec.LookPath(shell); err != nil {
				continue
			}
			words := complete(t, shell, script, tc.line)
			for word := range strings.FieldsSeq(tc.offered) {
				if !slices.Contains(words, word) {
					t.Errorf("%s: %q: %s is not offered: %q", shell, tc.line, word, words)
				}
			}
			for word := range strings.FieldsSeq(tc.not) {
				if slices.Contains(words, word) {
					t.Errorf("%s: %q: %s is offered", shell, tc.line, word)
				}
			}
		}
	}
}

// In the value of an option that is written with =, readline completes what follows the =.
func TestCompletionAfterEqualSign(t *testing.T) {
	for _, line := range []string{"residentctl list --format=", "residentctl --format=j"} {
		if words := complete(t, "bash", completers["bash"], line); !slices.Contains(words, "json") {
			t.Errorf("%q: %q", line, words)
		}
	}
}

// Nothing that completion does may start the program of the line.
func TestCompletionStartsNothing(t *testing.T) {
	dir := t.TempDir()
	trap := filepath.Join(dir, "residentctl")
	if err := os.WriteFile(trap, []byte("#!/bin/sh\n: >"+dir+"/started\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for _, line := range []string{"residentctl ", "residentctl add --", "residentctl run ca", "residentctl run cat ", "residentctl run cat --x"} {
		complete(t, "bash", completers["bash"], line)
	}
	if _, err := os.Stat(dir + "/started"); err == nil {
		t.Error("residentctl was started")
	}
}

func complete(t *testing.T, shell, script, line string) []string {
	t.Helper()
	doc, err := filepath.Abs("../../docs/completions")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(shell, "-c", script)
	cmd.Env = append(os.Environ(), "DOC="+doc, "LINE="+line)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil && stderr.Len() > 0 {
		t.Errorf("%s: %q: %v\n%s", shell, line, err, stderr.String())
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}
