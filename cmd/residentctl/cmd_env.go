package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/resident"
	"github.com/residentctl/residentctl/pkg/store"
)

func newEnvCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "env",
		Usage:     "print the line that puts the shims first in PATH",
		ArgsUsage: "[" + strings.Join(intercept.Shells, "|") + "]",
		Description: `Prints a line for the shell that is named, or for that in $SHELL; sh is also for
bash, zsh and ksh, csh for tcsh. Put it at the end of the file that your shell
reads when it starts, or try it out:

   eval "$(residentctl env)"           in sh
   residentctl env fish | source       in fish

The folders are those of your own store and of the system's, if they are there. One
that is in PATH already stays where it is, so the line may be read for every script
too (.zshenv, BASH_ENV, config.fish).`,
		Flags:              []cli.Flag{g.storeFlag()},
		CustomHelpTemplate: cli.CommandHelpTemplate + exitStatusPart(exitDone, exitUsage, exitStore),
		Action: func(c *cli.Context) error {
			args, err := arguments(c)
			if err != nil {
				return err
			}
			shell := intercept.Shell(os.Getenv("SHELL"))
			switch {
			case len(args) > 1:
				return usagef("env", "one shell is enough")
			case len(args) == 1 && !slices.Contains(intercept.Shells, args[0]):
				return usagef("env", "the shell must be one of %s, and not %q", strings.Join(intercept.Shells, ", "), args[0])
			case len(args) == 1:
				shell = args[0]
			}
			dirs, err := g.shimFolders()
			if err != nil {
				return err
			}
			line, err := intercept.PathLine(shell, dirs)
			if err != nil {
				return storeError(err)
			}
			g.printf("%s\n", line)
			return nil
		},
	}
}

// shimFolders are those of the stores that run would look in; where there is none
// yet, that of the one that add would make.
func (g *globals) shimFolders() ([]string, error) {
	stores, err := g.openToRead()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, s := range stores {
		if m, ok := s.lister.(*resident.Manager); ok && m.ShimsDir() != "" {
			dirs = append(dirs, m.ShimsDir())
		}
	}
	if len(dirs) > 0 {
		return dirs, nil
	}
	dir, err := g.storeDir()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	return []string{store.ShimsDirOf(dir)}, nil
}
