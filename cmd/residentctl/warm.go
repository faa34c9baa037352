package main

import (
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/resident"
	"github.com/residentctl/residentctl/pkg/warmstop"
)

// warmFlags are those of add that are about warm images.
type warmFlags struct {
	warm bool
	name string
}

// warmName is what a named entry may be called: it becomes a file's name and a command.
var warmName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// give puts the flags into the options of an add of these programs.
func (w *warmFlags) give(c *cli.Context, opts *resident.AddOptions, programs []string) error {
	imports, train, accept := commas(c.StringSlice("import")), c.StringSlice("train"), commas(c.StringSlice("accept"))
	switch {
	case !w.warm && (w.name != "" || len(imports)+len(train)+len(accept) > 0):
		return usagef("add", "--name, --import, --train and --accept are for --warm")
	case !w.warm:
		return nil
	case opts.Follow:
		return usagef("add", "--warm does not go with --follow")
	case (w.name == "") != (len(imports) == 0):
		return usagef("add", "--name and --import go together")
	case w.name != "" && (len(train) > 0 || len(programs) > 1):
		return usagef("add", "--name is for one interpreter, which needs no --train")
	case w.name != "" && !warmName.MatchString(w.name):
		return usagef("add", "--name must be letters, digits, dots, dashes and underscores")
	}
	for _, what := range accept {
		if !slices.Contains(warmstop.Acceptable, what) {
			return usagef("add", "--accept %s: it must be one of %s", what, strings.Join(warmstop.Acceptable, ", "))
		}
	}
	opts.Warm, opts.Name = &registry.Warm{Imports: imports, Train: train, Accept: accept}, w.name
	return nil
}

// commas are the parts of some words, separated by commas, each once.
func commas(words []string) []string {
	var parts []string
	for _, word := range words {
		for part := range strings.SplitSeq(word, ",") {
			if part = strings.TrimSpace(part); part != "" && !slices.Contains(parts, part) {
				parts = append(parts, part)
			}
		}
	}
	return parts
}
