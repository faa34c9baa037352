package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// arrange puts a command line into the order that package flag wants: options, "--",
// arguments. Options may follow arguments, up to a "--" of the caller's, as GNU
// getopt(3) has it; options of one letter may be joined, to each other and to a value.
// run and exec read their own lines, which stay as they are. An option that is unknown
// or lacks its value is put at the end, for package flag to refuse and usageOf to name.
func arrange(app *cli.App, line []string) []string {
	globals, rest, faulty := flagTable(app.Flags, cli.HelpFlag, cli.VersionFlag).sort(line[1:], false)
	arranged := append(line[:1:1], globals...)
	if faulty || len(rest) == 0 {
		return arranged
	}
	c := app.Command(rest[0])
	if c == nil || c.SkipFlagParsing {
		return append(arranged, rest...)
	}
	options, arguments, faulty := flagTable(c.Flags, cli.HelpFlag).sort(rest[1:], true)
	arranged = append(append(arranged, rest[0]), options...)
	if faulty || slices.Contains(options, "--help") || slices.Contains(options, "-h") {
		return arranged // package cli takes an argument of --help for a topic
	}
	return append(append(arranged, "--"), arguments...)
}

// options are those of a command by each of their names, without dashes.
type options map[string]cli.Flag

func flagTable(flags []cli.Flag, more ...cli.Flag) options {
	table := options{}
	for _, f := range append(more, flags...) {
		for _, name := range f.Names() {
			table[name] = f
		}
	}
	return table
}

// sort takes the options out of the words, up to "--", and returns the arguments that
// are left. Unless they are mixed, the first argument ends the options as well. With an
// option that cannot be read, which is the last of those returned, it is faulty.
func (table options) sort(words []string, mixed bool) (found, arguments []string, faulty bool) {
	for len(words) > 0 {
		word := words[0]
		switch {
		case word == "--":
			return found, append(arguments, words[1:]...), false
		case isOption(word):
			option, left, ok := table.take(word, words[1:])
			found, words = append(found, option), left
			if !ok {
				return found, nil, true
			}
		case mixed:
			arguments, words = append(arguments, word), words[1:]
		default:
			return found, words, false
		}
	}
	return found, arguments, false
}

// isOption reports whether a word is an option; "-" alone is an argument.
func isOption(word string) bool { return len(word) > 1 && word[0] == '-' }

// take reads the option that a word begins with. Its value may be the first of the words
// after it. It returns the option as package flag takes it, and the words that are left.
func (table options) take(word string, after []string) (option string, left []string, ok bool) {
	long, isLong := strings.CutPrefix(word, "--")
	name, _, given := strings.Cut(long, "=")
	if !isLong {
		name, _, given = strings.Cut(word[1:], "=")
	}
	f := table[name]
	if f == nil && !isLong && table[word[1:2]] != nil { // joined letters
		if name, f = word[1:2], table[word[1:2]]; takesValue(f) {
			return "-" + name + "=" + word[2:], after, true
		}
		return "-" + name, append([]string{"-" + word[2:]}, after...), true
	}
	switch {
	case f == nil, takesValue(f) && !given && len(after) == 0:
		return word, nil, false
	case takesValue(f) && !given:
		return word + "=" + after[0], after[1:], true
	}
	return word, after, true
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}
