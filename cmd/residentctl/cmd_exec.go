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
		Description: `Becomes the command, in a mount namespace in which the dynamic linker is
covered by a copy of itself that looks for images first. Everything else runs
as always, and no file of the system changes. Options end at the command.

For root that is all: capabilities and groups stay, setuid programs work. An
ordinary user gets a user namespace with just the own user and group ids, which
is said once, the first time. In it
 - programs that are setuid, setgid or have file capabilities gain nothing outside
   of it: su, sudo, passwd, ping, mount, newuidmap;
 - supplementary groups still open files, but id(1) calls them "nogroup", chgrp,
   newgrp and install -g to one fail (Invalid argument), and cp -p, tar and rsync
   leave the own group where they would have kept such a one;
 - files of all others, root's too, are shown as those of "nobody".
A COMMAND that is such a program is executed normally, with one line that says so.
Whoever has ambient capabilities (a service) would lose them there, so the
command is executed normally then.

A package manager cannot replace the C library inside: the covered file is busy.
So one that is the COMMAND itself is executed normally, if it is root's; one that
the command executes works, but for packages that bring a dynamic linker. dpkg
says "unable to make backup link of '…/ld-linux-x86-64.so.2' … Invalid cross-device
link" then, and leaves that package as it was: install it outside. What is
installed outside meanwhile, the C library too, is seen inside at once.

What copies the dynamic linker inside (an initramfs, an AppDir, a chroot that is
being filled) copies the covering one. That works as a linker anywhere, but is not
the file that the C library's package has: make such copies outside.

Programs that are linked with another dynamic linker than glibc's for x86-64
(musl, 32-bit), and static ones, start as always.

residentctl can be called inside. What has to link programs (add, enable, refresh,
verify, part of check) is refused to an ordinary user there: do it outside.

With --auto programs that the tree has executed normally for the third time (see
--after) are made resident meanwhile, in the store that add would use; one that has
a stale image is made again, with the options that it was added with. Then
residentctl stays beside the command as its parent. At the end it says in one
line on standard error how many starts were resident and why others were not, and in
one before it why nothing can be made resident, if so (without CRIU, for example; with
--strict that fails with 125 before the command); -q silences both.
It counts what comes to the covered linker: starts of programs that are linked with
glibc, also those that could not be resident (LD_PRELOAD), but not those that a shim, a
launcher file, run or enable --system makes from an image before.

The store keeps the counts. So what short commands (a hook, a prompt, a single test)
have executed normally for the third time in all becomes resident too: by another
residentctl, which goes on for at most a minute after the command has ended. It uses
idle CPU and disk only, is alone in its store, has none of the command's files open, and
may be killed at any time. --no-background does without it. A program of which that has
failed is tried again after twice as many normal starts.

While a program is made resident its file cannot be written to
("Text file busy"). So those are left out that the command might write to: which the
caller may write, if they were changed, or anything was in their directory, since the
command began, or if they lie below the current directory. Run by root, --auto makes resident only
what root alone can change (see add), and the line counts what it refused. In a store
that is another's, such as root's, nothing is made resident, which it says; starts are
made from the images there.

Where ld.so.cache, the dynamic linker or the C library have other times than when exec
last looked, it first renews what needs nothing but new times, as refresh does: for at
most 20 ms, the programs that are used most first. The next call takes up the rest.

Inside of another exec the images stay those of the outer one. One line says so if
other stores, or --auto, are asked for; with --strict that fails with 125.

Where the kernel does not allow it, the command is executed normally, with one
line on standard error that says why and what can be done.`,
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
	program, err := findProgram(o.argv[0])
	if err != nil {
		return err
	}
	stores, err := storesToSearch(o.store)
	if err == nil && o.store != "" {
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
		hint = join(hint, "without --strict the command is executed normally")
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
