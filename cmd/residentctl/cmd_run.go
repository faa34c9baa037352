package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/resident"
	"github.com/residentctl/residentctl/pkg/store"
)

// newRunCommand is run for the cases that the front door (package front) leaves
// over: root named a store that needs a closer look, the program was not found, the
// usage is wrong, or a script is to be explained; or residentctl was linked without it. It
// ends in the same launcher.
func newRunCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "run a program, from its image if it is resident",
		ArgsUsage: "PROGRAM [ARG…]",
		Description: `Becomes the program: no process of residentctl remains. A program that is not
resident, or whose image is stale, is executed normally. Options end at the
program's name. Without --store, run searches your own store and then the system's;
for root both are the same.

--engine chooses how the program is started:
 - "auto": from its image if possible, otherwise normally
 - "direct": from its image or not at all, as with --strict
 - "exec": normally, without looking for an image
 - "criu": with CRIU's own restore of the first layout, or not at all

The programs that pyenv, rbenv or asdf put into PATH are scripts. They choose a program
by directory and environment, so run executes the script normally. --explain names the
program that the script chooses here. "add --follow" makes that program resident, and
"exec" starts it from its image when the script executes it.

CRIU's restore needs root or the capabilities that CRIU requires. The program gets
what an exec gives it, except that it is a child of residentctl, which waits for it
and ends as it does:
 - its process id is the one that was dumped, which must be free
 - it leads no process group, and the caller's children are not its own
 - it ends when residentctl is killed (PR_SET_PDEATHSIG)
 - /proc/self/exe is the name under which it was made resident
 - it holds none of the caller's record locks (fcntl(2))
 - a signal to residentctl's whole process group reaches it twice`,
		SkipFlagParsing: true, // parseRun does it: the program's options are not ours
		Flags:           startFlags(cmdRun),
		CustomHelpTemplate: cli.CommandHelpTemplate + exitStatusPart(exitRun, exitCannotRun, exitNotFound) +
			"   else the program's own\n",
		Action: func(c *cli.Context) error {
			o, err := parseRun(c.Args().Slice())
			if err != nil {
				return runError(err, seeHelp(err, "run"))
			}
			if o.help {
				return cli.ShowSubcommandHelp(c)
			}
			if o.store == "" {
				o.store = string(g.store)
			}
			stores, err := storesToSearch(o.store)
			if err != nil {
				return runError(err, "")
			}
			if o.engine == engineCRIU {
				return runCRIU(c.Context, o, stores, g.err)
			}
			return runRun(c.Context, o, stores, g.err)
		},
	}
}

// storesToSearch are the directories of the stores in which the launcher looks:
// the one that was named, or the caller's own and the system's. Root's own is the
// system's: HOME and XDG_DATA_HOME may be another user's (su, sudo -E).
func storesToSearch(named string) ([]string, error) { return storesFor(os.Geteuid(), named) }

func storesFor(euid int, named string) ([]string, error) {
	if named != "" {
		dir, err := filepath.Abs(named)
		if err != nil {
			return nil, fmt.Errorf("find the store %s: %w", named, err)
		}
		return []string{dir}, nil
	}
	own, err := store.UserDir()
	if err != nil || euid == 0 { // a user without a home has no store
		return []string{store.SystemDir()}, nil
	}
	return []string{own, store.SystemDir()}, nil
}

// runRun becomes the program. When it returns, with an error, there was none.
func runRun(ctx context.Context, o startLine, stores []string, errOut io.Writer) error {
	program, err := findProgram(o.argv[0], stores)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(stores, func(dir string) bool { return store.NamedPathOf(dir, o.argv[0]) == program }) {
		o.argv = append([]string{program}, o.argv[1:]...) // PATH does not lead there
	}
	why := errors.New("--engine exec asks for it")
	if o.engine != engineExec {
		why = chosen(ctx, o, program)
	}
	intercept.RestoreSignals() // not before: chosen waits for children
	// From here on everything ends in an exec.
	if why == nil {
		why = mayStartFrom(stores)
	}
	if why == nil {
		why = execLauncher(o, stores)
	}
	if o.strict {
		return runError(fmt.Errorf("%s: no resident start: %w", program, why), "")
	}
	if o.explain || explainByEnvironment() {
		fmt.Fprintf(errOut, "residentctl: %s: started normally: %v\n", program, why)
	}
	return cannotRun(program, intercept.Execute(program, o.argv))
}

// chosen says, for --explain and --strict, that the program is a version manager's script,
// and which program that executes here: asking costs as much as starting it. Nil of any
// other program.
func chosen(ctx context.Context, o startLine, program string) error {
	if !o.explain && !o.strict {
		return nil
	}
	manager := resident.VersionManager(program)
	if manager == "" {
		return nil
	}
	why := fmt.Errorf("it is %s's, which chooses a program by directory and environment", manager)
	if o.explain && !o.strict { // so it is to be executed in any case
		if to, err := resident.Follow(ctx, program, true); err == nil {
			why = fmt.Errorf("%w, here %s", why, to)
		}
	}
	return fmt.Errorf("%w; `residentctl add --follow %s` makes that resident, and `residentctl exec %[2]s` starts it from its image",
		why, o.argv[0])
}

// mayStartFrom says why root must not start anything from one of these stores: another
// user could have put it there. The launcher looks at the store's own files only.
func mayStartFrom(stores []string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, dir := range stores {
		if _, err := store.Open(dir); errors.Is(err, store.ErrUnsafe) {
			return err
		}
	}
	return nil
}

// explainByEnvironment: the launcher's ask_environment reads it the same way.
func explainByEnvironment() bool {
	v := os.Getenv("RESIDENTCTL_EXPLAIN")
	return v != "" && v != "0"
}

// findProgram finds what execvp(3) would execute, or in one of the stores an interpreter with
// a name of its own. What it lets pass the
// launcher finds too: a regular file that the caller may execute.
func findProgram(name string, stores []string) (string, error) {
	program, err := name, error(nil)
	if !strings.Contains(name, "/") {
		program, err = resident.LookPathIn(name, stores...)
	}
	var refusal *elfinfo.Refusal
	if errors.As(err, &refusal) {
		kind := problem.CannotRun
		if refusal.Kind == elfinfo.NotFound {
			kind = problem.NotFound
		}
		return "", &problem.Problem{Kind: kind, Err: refusal, Hint: refusal.Hint}
	}
	if err != nil {
		return "", runError(err, "")
	}
	info, err := os.Stat(program)
	switch {
	case err != nil:
		return "", cannotRun(program, err)
	case info.IsDir():
		return "", cannotRun(program, syscall.EISDIR)
	case !info.Mode().IsRegular():
		return "", cannotRun(program, syscall.EACCES)
	}
	if err := linux.CanExecute(program); err != nil {
		return "", cannotRun(program, err)
	}
	return program, nil
}

// cannotRun is the error of an exec, or of what was asked before it, with the
// status that env(1) ends with.
func cannotRun(program string, err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		err = errno // without the name of the system call
	}
	switch {
	case !errors.Is(err, fs.ErrNotExist):
		return problem.Newf(problem.CannotRun, "%s cannot be executed: %w", program, err)
	case exists(program):
		return problem.Newf(problem.NotFound, "%s cannot be executed: the interpreter that it names does not exist", program)
	}
	return problem.Newf(problem.NotFound, "%s does not exist", program)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
