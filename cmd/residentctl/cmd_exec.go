package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/resident"
	"github.com/residentctl/residentctl/pkg/store"
)

// newExecCommand runs a command tree in which each exec is looked at by the
// launcher.
func newExecCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "exec",
		Usage:     "run a command; whatever it executes starts from its image if it is resident",
		ArgsUsage: "[--] COMMAND [ARG…]",
		Description: `Becomes the command, in a mount namespace in which the dynamic linker is covered by
a copy of itself that looks for images first. Nothing else changes, and no file of
the system is modified. Options end at the command.

For root that is all: capabilities and groups stay, and setuid programs work. For an
ordinary user, exec creates a user namespace with only the user's own user and group
id, and prints a line about it the first time. In this namespace
 - programs that are setuid, setgid or have file capabilities gain no privileges
   outside of it: su, sudo, passwd, ping, mount, newuidmap
 - supplementary groups still open files, but id(1) shows them as "nogroup"
 - chgrp, newgrp and install -g to such a group fail (Invalid argument), and cp -p,
   tar and rsync leave the user's own group where they would have kept it
 - files of all other users, root included, are shown as owned by "nobody"
A COMMAND that is itself setuid, setgid or has file capabilities is executed normally,
and one line says so. A caller with ambient capabilities (a service) would lose them in
the namespace, so its command is executed normally too.

A package manager cannot replace the C library inside, because the covered file is
busy. Run by root, a COMMAND that is itself a package manager is executed normally.
One that the command executes works, except for packages that contain a dynamic
linker. dpkg then reports "unable to make backup link of '…/ld-linux-x86-64.so.2' …
Invalid cross-device link" and leaves that package as it was.

Install such a package outside. Everything that is installed outside meanwhile, the
C library included, is visible inside at once.

Programs that copy the dynamic linker inside (into an initramfs, an AppDir or a
chroot) copy the covering one. The copy works as a linker anywhere, but it is not the
file of the C library's package: make such copies outside.

Programs that use another dynamic linker than glibc's for x86-64 (musl, 32-bit), and
static programs, start as always.

residentctl can be called inside. There it refuses to link programs for an ordinary
user (add, enable, refresh, verify, part of check): run these commands outside.

With --auto, a program that the command and its children have executed normally for
the third time (see --after) is made resident while the command runs, in the store
that add would use. A stale image is made again, with the options that the program
was added with. residentctl stays as the parent process of the command.

At the end it prints one line on standard error: how many starts were resident, and
why others were not. If nothing can be made resident (without CRIU, for example), a
line before that says why; with --strict, exec fails with 125 before it runs the
command instead. -q silences both lines.

The line counts every start that reaches the covered linker: those of programs that
are linked with glibc, even if they had to start normally (LD_PRELOAD is set, for
example). It does not count starts that a shim, a launcher file, run or enable --system makes from an image
before that.

The store keeps the counts. So a program that several short commands (a hook, a
prompt, a single test) have executed normally for the third time in all becomes
resident too. A second residentctl process does this, for at most a minute after the
command has ended. --no-background turns this off.

That process uses idle CPU and disk time only, is the only one of its kind in the
store, has none of the command's files open, and can be killed at any time. If a
program could not be made resident, it is tried again after twice as many normal
starts.

While a program is made resident, its file cannot be written to ("Text file busy").
So --auto leaves out programs that the command might write to. Of the programs that
the caller can write, these are the ones below the current directory, and those that
changed, or whose directory changed, since the command began.

Run by root, --auto makes resident only what root alone can change (see add), and the
line at the end counts what it refused. In another user's store, such as root's, it
makes nothing resident and says so; starts still use the images in that store.

If ld.so.cache, the dynamic linker or the C library have changed their times since the
last exec, exec first renews the images that need nothing but new times, as refresh
does. It spends at most 20 ms on this and begins with the most used programs. The
next exec continues.

Inside another exec, the images stay those of the outer one. If other stores or
--auto are asked for, one line says so; with --strict, exec fails with 125.

Where the kernel does not allow the namespace, the command is executed normally. One
line on standard error then says why and what can be done.`,
		SkipFlagParsing: true, // parseExec does it: the command's options are not ours
		Flags:           startFlags(cmdExec),
		CustomHelpTemplate: cli.CommandHelpTemplate + exitStatusPart(exitRun, exitCannotRun, exitNotFound) +
			"   else the command's own\n",
		Action: func(c *cli.Context) error {
			o, err := parseExec(c.Args().Slice())
			if err != nil {
				return runError(err, seeHelp(err, "exec"))
			}
			if o.help {
				return cli.ShowSubcommandHelp(c)
			}
			if o.store == "" {
				o.store = string(g.store)
			}
			if o.background {
				return runBackground(o)
			}
			return runExec(o, g.err)
		},
	}
}

// runExec becomes the command, or with --auto stays beside it.
func runExec(o startLine, stderr io.Writer) error {
	intercept.SurviveBrokenPipe()
	stores, storesErr := storesToSearch(o.store)
	program, err := findProgram(o.argv[0], stores)
	if err != nil {
		return err
	}
	if err = storesErr; err == nil && o.store != "" {
		err = store.MayMake(o.store)
	}
	if o.inside == nil {
		renewForExec(o.store)
	}
	tree := &intercept.Tree{
		Program: program, Argv: o.argv, Strict: o.strict,
		Store: o.store, Stores: counting(stores),
		Again:    o.again,
		Normally: func(why error) { sayNormally(stderr, o.argv[0], why) },
	}
	if !o.quiet {
		tree.Differs = func() {
			fmt.Fprintf(stderr, "residentctl: in the user namespace that exec makes %s (said once; see `residentctl help exec`)\n", intercept.Differs)
		}
	}
	switch {
	case o.inside != nil:
		err = tree.BecomeInside(o.inside, o.ignoreChild)
	case err != nil:
		err = tree.BecomeNormally(err)
	case o.auto:
		return runAuto(tree, o, stderr)
	default:
		err = tree.Become()
	}
	return notExecuted(program, err)
}

// renewForExec renews images in the store to which add would add, if files that they
// depend on have new times. What is wrong there the command's starts show.
func renewForExec(dir string) {
	if intercept.Around() != nil {
		return
	}
	if dir == "" {
		var err error
		if dir, err = store.Default(); err != nil {
			return
		}
	}
	_ = resident.RenewWithin(dir, resident.RenewBudget)
}

// again is the command line of exec where the namespace is made already.
func (o startLine) again(mounts []string, ignoreChild bool) ([]string, error) {
	self, err := os.Executable()
	args := []string{self, "exec"}
	if o.strict {
		args = append(args, "--strict")
	}
	if ignoreChild {
		args = append(args, "--"+ignoreChildOption)
	}
	for _, m := range mounts {
		args = append(args, "--"+insideOption, m)
	}
	return append(append(args, "--"), o.argv...), err
}

// sayNormally says why the command is executed normally.
func sayNormally(stderr io.Writer, command string, why error) {
	what := why.Error()
	if !errors.Is(why, intercept.ErrWithin) {
		what = fmt.Sprintf("no resident starts in %s: %s", command, what)
	}
	fmt.Fprintf(stderr, "residentctl: %s\n", printable(join(what, problem.HintOf(why))))
}

// notExecuted is the error of a command that was not executed.
func notExecuted(program string, err error) error {
	var normal *intercept.NormalError
	if !errors.As(err, &normal) {
		return cannotRun(program, err)
	}
	hint := problem.HintOf(err)
	if !errors.Is(err, intercept.ErrWithin) {
		hint = join(hint, "leave out --strict to execute the command normally")
	}
	return runError(err, hint)
}

// join makes one line of what is said and what more there is to say.
func join(first, second string) string {
	if first == "" || second == "" {
		return first + second
	}
	return first + "; " + second
}
