package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/store"
)

// A startLine is a command line of run or exec.
type startLine struct {
	help    bool
	strict  bool
	explain bool
	engine  string // "" for engineAuto
	auto    bool
	after   int // 0 for defaultAfter
	quiet   bool

	noBackground bool
	background   bool // this is what makes programs resident after a command

	store string // as given, "" for the default ones

	inside      []string // the mounts that are still to be made, in a user namespace
	ignoreChild bool     // SIGCHLD is to be ignored

	argv []string // the program, as given, and its arguments
}

// startCommands is a set of the commands that start a program.
type startCommands uint8

const (
	cmdRun startCommands = 1 << iota
	cmdExec
)

// A startOption is an option of run or exec. Package flag does not parse them, since what
// follows the program's name is the program's.
type startOption struct {
	of    startCommands
	name  string
	alias string // of one letter, "" for none
	needs string // what kind of value it takes, "" for none
	usage string // its line in the help, in cli.Flag's form; "" for those by which exec calls itself
	value string // its value if it is not given, as the help has it
	early bool   // the front door, which parses before there is a Go runtime, knows it (front.c)
	set   func(l *startLine, value string) error
}

// startOptions are the options of run and exec in the order of the help. The help and the
// parser are made from them, and a test holds the launcher's parsers against them.
var startOptions = []startOption{
	{
		of: cmdRun, name: "strict", early: true, set: flagOf(func(l *startLine) *bool { return &l.strict }),
		usage: "fail with status 125 and the reason instead of executing the program normally",
	},
	{
		of: cmdRun, name: "explain", early: true, set: flagOf(func(l *startLine) *bool { return &l.explain }),
		usage: "print on standard error how the program was started and why, as RESIDENTCTL_EXPLAIN=1 does",
	},
	{
		of: cmdRun, name: "engine", needs: "name", set: setEngine,
		usage: "choose how to start it: `auto|direct|criu|exec`", value: engineAuto,
	},
	{
		of: cmdExec, name: "strict", early: true, set: flagOf(func(l *startLine) *bool { return &l.strict }),
		usage: "fail with status 125 and the reason instead of executing the command normally",
	},
	{
		of: cmdExec, name: "auto", early: true, set: flagOf(func(l *startLine) *bool { return &l.auto }),
		usage: "make resident what the command executes often",
	},
	{
		of: cmdExec, name: "after", needs: "number", early: true, set: setAfter,
		usage: "with --auto: make a program resident after `N` normal starts", value: strconv.Itoa(defaultAfter),
	},
	{
		of: cmdExec, name: "quiet", alias: "q", early: true, set: flagOf(func(l *startLine) *bool { return &l.quiet }),
		usage: "do not print what differs in a user namespace, nor the lines of --auto at the end",
	},
	{
		of: cmdExec, name: "no-background", early: true, set: flagOf(func(l *startLine) *bool { return &l.noBackground }),
		usage: "with --auto: make nothing resident after the command has ended",
	},
	{of: cmdExec, name: backgroundOption, set: flagOf(func(l *startLine) *bool { return &l.background })},
	{of: cmdExec, name: insideOption, needs: "file", set: addInside},
	{of: cmdExec, name: ignoreChildOption, set: flagOf(func(l *startLine) *bool { return &l.ignoreChild })},
	{
		of: cmdRun | cmdExec, name: "store", needs: "directory", early: true, set: setStore,
		usage: storeUsage, value: storeDefault,
	},
}

// The options by which exec calls itself in the namespace that was made for it: with each
// file of what is still to be mounted there, and whether SIGCHLD is ignored.
const (
	insideOption      = "inside"
	ignoreChildOption = "inside-ignore-child"
)

// backgroundOption is the option by which exec calls itself to make programs resident.
const backgroundOption = "background"

// defaultAfter is how often a program is executed normally before exec --auto
// makes it resident. Making it costs as much as some hundred starts save; what
// a build has executed three times it executes hundreds of times.
const defaultAfter = 3

// storeUsage and storeDefault are what the help of every command says of --store.
const storeUsage = "work on the store in `DIR`"

var storeDefault = store.SystemDir() + " for root, else ~/.local/share/residentctl"

func flagOf(field func(*startLine) *bool) func(*startLine, string) error {
	return func(l *startLine, _ string) error {
		*field(l) = true
		return nil
	}
}

func setStore(l *startLine, value string) error {
	l.store = value
	return nil
}

func setEngine(l *startLine, value string) error {
	if !slices.Contains(engines, value) {
		return fmt.Errorf("option --engine must be %s, %s, %s or %s", engineAuto, engineDirect, engineCRIU, engineExec)
	}
	l.engine = value
	return nil
}

func setAfter(l *startLine, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		return fmt.Errorf("--after must be a number of 1 or more, not %q", value)
	}
	l.after = n
	return nil
}

func addInside(l *startLine, value string) error {
	l.inside = append(l.inside, value)
	return nil
}

// startFlags are the options for the help of one of the commands.
func startFlags(of startCommands) (flags []cli.Flag) {
	for _, o := range startOptions {
		switch {
		case o.of&of == 0 || o.usage == "":
		case o.needs != "":
			flags = append(flags, &cli.StringFlag{Name: o.name, Usage: o.usage, DefaultText: o.value})
		case o.alias != "":
			flags = append(flags, &cli.BoolFlag{Name: o.name, Aliases: []string{o.alias}, Usage: o.usage, DisableDefaultText: true})
		default:
			flags = append(flags, &cli.BoolFlag{Name: o.name, Usage: o.usage, DisableDefaultText: true})
		}
	}
	return flags
}

// parseStart reads the options of one of the commands, up to the program's name. With
// --help what follows that is not read.
func parseStart(of startCommands, args []string) (l startLine, err error) {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") && !l.help {
		word := args[0]
		args = args[1:]
		if word == "--" {
			break
		}
		if args, err = l.parseOption(of, word, args); err != nil {
			return l, err
		}
	}
	l.argv = args
	return l, nil
}

// parseOption reads the option in word. Its value may be the first of the arguments after
// it; it returns those that follow.
func (l *startLine) parseOption(of startCommands, word string, args []string) ([]string, error) {
	if word == "--help" || word == "-h" {
		l.help = true
		return nil, nil
	}
	name, value, given := strings.Cut(word, "=")
	i := slices.IndexFunc(startOptions, func(o startOption) bool { return o.of&of != 0 && o.isCalled(name) })
	if i < 0 || given && startOptions[i].needs == "" {
		return nil, problem.Errorf("unknown option %s", word).WithHint("%s", didYouMean(name, optionNames(startFlags(of)), ""))
	}
	o := startOptions[i]
	if o.needs != "" && !given && len(args) > 0 {
		value, args = args[0], args[1:]
	}
	if o.needs != "" && value == "" {
		return nil, fmt.Errorf("option %s needs a %s", name, o.needs)
	}
	return args, o.set(l, value)
}

// isCalled reports whether a word of the command line, without a value in it, is the option.
func (o startOption) isCalled(word string) bool {
	return word == "--"+o.name || o.alias != "" && word == "-"+o.alias
}

func parseRun(args []string) (startLine, error) {
	l, err := parseStart(cmdRun, args)
	switch {
	case err != nil || l.help:
		return l, err
	case l.strict && l.engine == engineExec:
		return l, errors.New("--strict and --engine exec exclude each other")
	case len(l.argv) == 0:
		return l, errors.New("no program given")
	}
	l.strict = l.strict || l.engine == engineDirect
	return l, nil
}

func parseExec(args []string) (startLine, error) {
	l, err := parseStart(cmdExec, args)
	if err == nil && !l.help && len(l.argv) == 0 {
		err = errors.New("no command given")
	}
	return l, err
}
