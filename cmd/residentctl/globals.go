package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/pkg/resident"
	"github.com/residentctl/residentctl/pkg/store"
)

// globals is what every command works with: the global options and the output.
type globals struct {
	store  text // the store's directory as given, "" for the default one
	format format
	out    io.Writer
	err    io.Writer
}

// storeFlag and formatFlag are accepted before the command and after it; both
// set the same variable.
func (g *globals) storeFlag() cli.Flag {
	return &cli.GenericFlag{
		Name:        "store",
		Value:       &g.store,
		Usage:       storeUsage,
		DefaultText: storeDefault,
	}
}

func (g *globals) formatFlag() cli.Flag {
	return &cli.GenericFlag{Name: "format", Value: &g.format, Usage: "print results as `table|json`"}
}

// text is an option's value that is any text but the empty one.
type text string

func (t *text) String() string { return string(*t) }

// Set is called by the flag parser.
func (t *text) Set(s string) error {
	if s == "" {
		return errors.New("must not be empty")
	}
	*t = text(s)
	return nil
}

// format is how results are printed.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
)

func (f *format) String() string { return string(*f) }

// Set is called by the flag parser.
func (f *format) Set(s string) error {
	switch format(s) {
	case formatTable, formatJSON:
		*f = format(s)
		return nil
	}
	return fmt.Errorf("must be %s or %s", formatTable, formatJSON)
}

// storeDir is the directory of the store that the command works on.
func (g *globals) storeDir() (string, error) {
	if g.store != "" {
		return string(g.store), nil
	}
	dir, err := store.Default()
	if err != nil {
		return "", storeError(err)
	}
	return dir, nil
}

// open opens the store that the command works on.
func (g *globals) open(create bool) (*resident.Manager, error) {
	dir, err := g.storeDir()
	if err != nil {
		return nil, err
	}
	if create && g.store != "" {
		err = store.MayMake(dir)
	}
	if err != nil {
		return nil, storeError(err)
	}
	m, err := resident.Open(dir, create)
	if err != nil {
		return nil, storeError(err)
	}
	return m, nil
}

// printJSON writes v, indented, to standard output.
func (g *globals) printJSON(v any) error {
	e := json.NewEncoder(g.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printf writes to standard output.
func (g *globals) printf(format string, args ...any) {
	fmt.Fprintf(g.out, format, args...)
}
