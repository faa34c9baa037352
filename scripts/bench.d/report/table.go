package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// marked is where a document has a table: after a comment, which may name programs.
var marked = regexp.MustCompile(`(?s)(<!-- bench((?: [a-z0-9-]+)*) -->\n).*?(<!-- /bench -->\n)`)

// writeTables replaces the tables in documents by those of the JSON in file.
func writeTables(file string, documents []string, check bool) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var all []measured
	if err := json.Unmarshal(content, &all); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	for _, document := range documents {
		old, err := os.ReadFile(document)
		if err != nil {
			return err
		}
		text := []byte(withTables(string(old), all))
		if bytes.Equal(old, text) {
			continue
		}
		if check {
			return errors.New(document + ": its table is not that of " + file + ": run `make chart`")
		}
		if err := os.WriteFile(document, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func withTables(text string, all []measured) string {
	return marked.ReplaceAllStringFunc(text, func(place string) string {
		parts := marked.FindStringSubmatch(place)
		return parts[1] + markdown(all, strings.Fields(parts[2])) + parts[3]
	})
}

// columns are the ways in a document's table, in order.
var columns = []struct{ way, title string }{
	{"launcher", "launcher file"}, {"run", "`run`"}, {"static", "static"},
}

// markdown is the table of some programs, or without names of all: plain's times, and
// the ratios of the other ways to it.
func markdown(all []measured, names []string) string {
	var b strings.Builder
	b.WriteString("| program | plain |")
	for _, c := range columns {
		fmt.Fprintf(&b, " %s |", c.title)
	}
	b.WriteString("\n|---|--:|" + strings.Repeat("--:|", len(columns)) + "\n")
	for _, m := range all {
		if len(names) > 0 && !slices.Contains(names, m.Program) {
			continue
		}
		fmt.Fprintf(&b, "| `%s` | %s ms |", m.Command, significant(m.Ways["plain"].Median/1000))
		for _, c := range columns {
			if r, ok := m.Ratios[c.way]; ok {
				fmt.Fprintf(&b, " %.2f |", r.Median)
			} else {
				b.WriteString(" |")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

// significant is a number of milliseconds with two or three digits that say something.
func significant(ms float64) string {
	switch {
	case ms < 2:
		return fmt.Sprintf("%.2f", ms)
	case ms < 20:
		return fmt.Sprintf("%.1f", ms)
	}
	return fmt.Sprintf("%.0f", ms)
}
