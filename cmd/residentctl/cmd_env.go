package main

import (
	"os"
	"path/filepath"
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
		ArgsUsage: "[SHELL]",
		Description: `Prints a line for the given shell, by its name or path, or for the shell in $SHELL.
It knows ` + strings.Join(shellNames(), ", ") + `.
Put the line at the end of the file that your shell reads when it starts, or try it out:

   eval "$(residentctl env bash)"      in bash, and likewise in zsh and sh
   residentctl env fish | source       in fish

The line adds the directories of your own store and of the system's, if these stores
exist. A directory that is already in PATH stays where it is, so scripts can read the
line too (.zshenv, BASH_ENV, config.fish).`,
		Flags:              []cli.Flag{g.storeFlag()},
		CustomHelpTemplate: cli.CommandHelpTemplate + exitStatusPart(exitDone, exitUsage, exitStore),
		Action: func(c *cli.Context) error {
			args, err := arguments(c)
			if err != nil {
				return err
			}
			shell, err := shellOf(args)
			if err != nil {
				return err
			}
			dirs, err := g.shimDirectories()
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

// shellOf is the shell whose line is meant: that of the argument, or of $SHELL.
func shellOf(args []string) (string, error) {
	if len(args) == 0 {
		shell, _ := intercept.Shell(os.Getenv("SHELL"))
		return shell, nil
	}
	if len(args) > 1 {
		return "", usagef("env", "env takes one shell")
	}
	shell, known := intercept.Shell(args[0])
	if !known {
		return "", usagef("env", "the shell must be one of %s, not %q", strings.Join(shellNames(), ", "), args[0])
	}
	return shell, nil
}

func shellNames() (names []string) {
	for _, s := range intercept.Shells {
		names = append(names, s.Name)
	}
	return names
}

// shimDirectories are those of the stores that run would look in; where there is none
// yet, that of the one that add would make.
func (g *globals) shimDirectories() ([]string, error) {
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
