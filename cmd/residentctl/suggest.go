package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/registry"
)

// didYouMean puts before a hint what may have been meant by a word that is none of
// those; the hint alone if no other is near.
func didYouMean(word string, among []string, hint string) string {
	near := nearest(word, among)
	if near == "" {
		return hint
	}
	return strings.TrimSuffix(fmt.Sprintf("did you mean %s? %s", near, hint), " ")
}

// nearest is the first of the other words from which this one differs least, "" if every
// one differs in more than a third of its letters.
func nearest(word string, among []string) string {
	best, least := "", 0
	for _, other := range among {
		d := edits(word, other)
		if d > 0 && d*3 <= max(len(word), len(other)) && (best == "" || d < least) {
			best, least = other, d
		}
	}
	return best
}

// edits is how many letters must be put in, left out, replaced or swapped with their
// neighbour to make b of a: the optimal string alignment distance.
func edits(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replaced := last[j-1]
			if a[i-1] != b[j-1] {
				replaced++
			}
			row[j] = min(replaced, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}

// commandNames are those of the commands that the help shows.
func commandNames(app *cli.App) (names []string) {
	for _, c := range app.VisibleCommands() {
		names = append(names, c.Name)
	}
	return names
}

// optionNames are the long names of options, with their dashes.
func optionNames(flags []cli.Flag) (names []string) {
	for _, f := range flags {
		names = append(names, "--"+f.Names()[0])
	}
	return append(names, "--help")
}

// seeHelp is the hint of an error in the command line of run or exec: its own, and the
// command that shows the help.
func seeHelp(err error, command string) string {
	return strings.TrimLeft(problem.HintOf(err)+" see `residentctl help "+command+"`", " ")
}

// notInPath puts before the hint of a program that PATH does not lead to which one may
// have been meant. Another error's hint stays as it is.
func notInPath(err error, hint string) string {
	var refusal *elfinfo.Refusal
	if !errors.As(err, &refusal) || refusal.Kind != elfinfo.NotFound || strings.Contains(refusal.Path, "/") {
		return hint
	}
	return didYouMean(refusal.Path, programsInPath(), hint)
}

// notResident adds to an error about a query that names no entry which resident program
// may have been meant. Other errors stay as they are.
func (g *globals) notResident(query string, err error) error {
	if !errors.Is(err, registry.ErrNotFound) {
		return err
	}
	stores, openErr := g.openToRead()
	var names []string
	for _, s := range stores {
		m, ok := s.lister.(entryStore)
		if !ok || openErr != nil {
			continue
		}
		records, _ := m.Entries()
		for _, rec := range records {
			for _, name := range rec.Names() {
				if !strings.Contains(query, "/") {
					name = filepath.Base(name)
				}
				names = append(names, name)
			}
		}
	}
	_, hint := diagnose(err)
	return &problem.Problem{Kind: problem.KindOf(err), Err: err, Hint: didYouMean(query, names, hint)}
}

// programsInPath are the names of what is in the directories of PATH. Those that the
// caller cannot read are left out.
func programsInPath() (names []string) {
	for dir := range strings.SplitSeq(os.Getenv("PATH"), ":") {
		entries, err := os.ReadDir(dir)
		for i := 0; err == nil && i < len(entries); i++ {
			names = append(names, entries[i].Name())
		}
	}
	return names
}
