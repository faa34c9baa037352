package main

import (
	"context"
	"io"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/internal/problem"
)

const usageText = `residentctl [--store DIR] [--format table|json] COMMAND [ARGUMENT…]

residentctl add perl
residentctl run perl -e 'print "hello\n"'`

const description = `A resident program starts from an image that was taken right after it was
linked. It skips the search for its libraries, their loading and their relocation,
and runs as if it had been executed: same process, arguments, environment,
descriptors and limits. Whenever an image cannot be used, the program is executed
normally.`

// newApp is the command table.
func newApp(g *globals) *cli.App {
	commands := []*cli.Command{
		newAddCommand(g),
		newRunCommand(g),
		newExecCommand(g),
		newListCommand(g),
		newWhichCommand(g),
		newApplyCommand(g),
		newRefreshCommand(g),
		newRemoveCommand(g),
		newEnableCommand(g),
		newDisableCommand(g),
		newStatusCommand(g),
		newEnvCommand(g),
		newInspectCommand(g),
		newVerifyCommand(g),
		newGCCommand(g),
		newPurgeCommand(g),
		newCheckCommand(g),
		newVersionCommand(g),
		newHelpCommand(),
	}
	for _, c := range commands {
		c.HideHelpCommand = true // a program may be called "help"
		c.OnUsageError = usageOf(c)
	}
	return &cli.App{
		Name:                  "residentctl",
		Usage:                 "start programs from images of their memory, taken when their libraries were loaded",
		UsageText:             usageText,
		Description:           description,
		Version:               moduleVersion(),
		Commands:              commands,
		Flags:                 []cli.Flag{g.storeFlag(), g.formatFlag(), cli.HelpFlag},
		Action:                noCommand,
		OnUsageError:          usageOf(nil),
		ExitErrHandler:        func(*cli.Context, error) {}, // exit.go does that
		CustomAppHelpTemplate: cli.AppHelpTemplate + exitStatusPart(exitDone, exitFailed, exitUsage, exitStore, exitSystem),
		Writer:                g.out,
		ErrWriter:             g.err,
	}
}

// execute runs a command line and returns the exit status.
func execute(args []string, out, err io.Writer) int {
	if isResident(args) {
		return executeResident(args, out, err)
	}
	output := &output{to: out}
	g := &globals{format: formatTable, out: output, err: err}
	app := newApp(g)
	args = arrange(app, args)
	app.Metadata = map[string]any{arrangedLine: args}
	failed := app.Run(args)
	if output.err != nil {
		failed = problem.Newf(problem.Output, "write the result: %w", output.err)
	}
	return g.fail(failed)
}

// arrangedLine is where an App's Metadata has the command line as arrange leaves it.
const arrangedLine = "line"

// output remembers what kept it from being written: not every caller of printf checks the error.
type output struct {
	to  io.Writer
	err error
}

func (o *output) Write(p []byte) (n int, err error) {
	if n, err = o.to.Write(p); err != nil && o.err == nil {
		o.err = err
	}
	return n, err
}

func newHelpCommand() *cli.Command {
	return &cli.Command{
		Name:               "help",
		Usage:              "show help for residentctl or for one command",
		ArgsUsage:          "[COMMAND]",
		CustomHelpTemplate: cli.CommandHelpTemplate + exitStatusPart(exitDone, exitUsage),
		Action: func(c *cli.Context) error {
			name := c.Args().First()
			switch {
			case name == "":
				return cli.ShowAppHelp(c)
			case c.App.Command(name) == nil:
				return noSuchCommand(c.App, name)
			}
			return cli.ShowCommandHelp(c, name)
		},
	}
}

// noCommand is what is done when the first argument is not a command.
func noCommand(c *cli.Context) error {
	if !c.Args().Present() {
		return cli.ShowAppHelp(c)
	}
	return noSuchCommand(c.App, c.Args().First())
}

func noSuchCommand(app *cli.App, name string) error {
	return problem.Newf(problem.Usage, "there is no command %q", name).
		WithHint("%s", didYouMean(name, commandNames(app), "run `residentctl help` for a list of commands"))
}

// usageOf makes a usage error of what the flag parser of a command says; nil
// stands for the command line before any command.
func usageOf(command *cli.Command) cli.OnUsageErrorFunc {
	return func(c *cli.Context, err error, _ bool) error {
		name, flags := "", c.App.Flags
		if command != nil {
			name, flags = command.Name, command.Flags
		}
		said := err.Error()
		line, _ := c.App.Metadata[arrangedLine].([]string)
		switch last, _, _ := strings.Cut(line[len(line)-1], "="); {
		case strings.HasPrefix(said, "flag provided but not defined"), strings.HasPrefix(said, "bad flag syntax"):
			unknown := usagef(name, "unknown option %s", last)
			unknown.Hint = didYouMean(last, optionNames(flags), unknown.Hint)
			return unknown
		case strings.HasPrefix(said, "flag needs an argument"):
			return usagef(name, "no value given for %s", last)
		}
		return usagef(name, "%s", optionWords.Replace(said))
	}
}

// optionWords puts what package flag says of a value into the words of the help.
var optionWords = strings.NewReplacer(" for flag -", " for --", " for -", " for --")

// arguments are a command's arguments. An empty one is a usage error.
func arguments(c *cli.Context) ([]string, error) {
	args := c.Args().Slice()
	if slices.Contains(args, "") {
		return nil, usagef(c.Command.Name, "an argument is empty")
	}
	return args, nil
}

// interruptible is a context that ends with the first SIGINT or SIGTERM, so that
// what was begun can be taken back. A second one ends residentctl at once.
func interruptible(c *cli.Context) (ctx context.Context, stop func()) {
	return interruptibleFrom(c.Context)
}

func interruptibleFrom(parent context.Context) (ctx context.Context, stop func()) {
	ctx, stop = signal.NotifyContext(parent, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
