package main

import (
	"fmt"
	"io"
)

// printStarts prints a line per program and way. Some ratios are near 1, hence the
// third digit.
func printStarts(w io.Writer, all []measured) {
	fmt.Fprintf(w, "%-26s %-12s %9s %21s   %7s  %15s", "command", "way", "median ms", "p25..p75", "ratio", "p25..p75")
	if second := secondRatio(all); second != "" {
		fmt.Fprintf(w, "  %11s", second)
	}
	fmt.Fprintln(w)
	for _, m := range all {
		for i, way := range m.order {
			t := m.Ways[way]
			fmt.Fprintf(w, "%-26s %-12s %9.3f %21s", first(i, m.Command), way, t.Median/1000,
				fmt.Sprintf("%.3f..%.3f", t.P25/1000, t.P75/1000))
			if r, ok := m.Ratios[way]; ok {
				fmt.Fprintf(w, "   %7.3f  %15s", r.Median, fmt.Sprintf("%.3f..%.3f", r.P25, r.P75))
				if r.ToLauncher != nil && way != "launcher" {
					fmt.Fprintf(w, "  %11.3f", r.ToLauncher.Median)
				}
				if r.ToBound != nil {
					fmt.Fprintf(w, "  %11.3f", r.ToBound.Median)
				}
			}
			fmt.Fprintln(w)
		}
	}
	printPerl(w, all)
}

// printPerl prints the test that the idea was first measured with, in 2004.
func printPerl(w io.Writer, all []measured) {
	for _, m := range all {
		if m.Program != "perl" {
			continue
		}
		fmt.Fprintf(w, "\n%d x %s, seconds:", m.Rounds, m.Command)
		for _, way := range m.order {
			fmt.Fprintf(w, "  %s %.3f", way, m.Ways[way].Total/1e6)
		}
		fmt.Fprintln(w)
	}
}

// secondRatio is the title of the ratios to another way than plain, or "" without any.
func secondRatio(all []measured) string {
	for _, m := range all {
		for _, r := range m.Ratios {
			switch {
			case r.ToLauncher != nil:
				return "to launcher"
			case r.ToBound != nil:
				return "to bound"
			}
		}
	}
	return ""
}

func printMemory(w io.Writer, all []dirty) {
	fmt.Fprintf(w, "%-42s %-9s %18s %7s\n", "command", "way", "private dirty KiB", "ratio")
	for _, d := range all {
		for i, way := range d.order {
			fmt.Fprintf(w, "%-42s %-9s %18.0f", first(i, d.Command), way, d.Ways[way].PrivateDirty)
			if r, ok := d.Ratios[way]; ok {
				fmt.Fprintf(w, " %7.2f", r)
			}
			fmt.Fprintln(w)
		}
	}
}

// printComparisons prints a line per program and way, with all repetitions.
func printComparisons(w io.Writer, all []comparison) {
	fmt.Fprintf(w, "%-20s %-12s  %s\n", "command", "way", "new/old in each repetition: median (p25..p75)")
	for i, c := range all {
		name := c.Command
		if i > 0 && all[i-1].Command == name {
			name = ""
		}
		fmt.Fprintf(w, "%-20s %-12s", name, c.Way)
		for _, s := range c.Repetitions {
			fmt.Fprintf(w, "  %.3f (%.3f..%.3f)", s.Median, s.P25, s.P75)
		}
		if c.Slower {
			fmt.Fprint(w, "  slower")
		}
		fmt.Fprintln(w)
	}
}

// first is the text in a group's first line, and nothing in the others.
func first(i int, text string) string {
	if i > 0 {
		return ""
	}
	return text
}
