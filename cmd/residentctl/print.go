package main

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/residentctl/residentctl/internal/plural"
)

// shortIDLen is how much of an id is shown to people: as much as a registry
// demands of one.
const shortIDLen = 12

// nothingResident is what commands say that work on every entry of these stores, where
// there is none.
func nothingResident(dirs ...string) string {
	where := ""
	if len(dirs) > 0 {
		where = " in " + printable(strings.Join(dirs, " or "))
	}
	return "nothing is resident" + where + "; add one with `residentctl add PROGRAM`"
}

func shortID(id string) string { return id[:min(len(id), shortIDLen)] }

// count is a number of things in words: "1 library", "5 libraries".
func count(n int, thing string) string { return plural.Count(n, thing) }

// formatBytes is a size for people: "512 B", "180 KiB", "1.3 MiB".
func formatBytes(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	size, unit := float64(n)/1024, 0
	for size >= 1024 && unit < 3 {
		size, unit = size/1024, unit+1
	}
	name := [...]string{"KiB", "MiB", "GiB", "TiB"}[unit]
	if size < 10 && unit > 0 {
		return fmt.Sprintf("%.1f %s", size, name)
	}
	return fmt.Sprintf("%.0f %s", size, name)
}

// printable replaces what a terminal would take for a command, such as a line
// break in a file's name.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) && r != ' ' {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
