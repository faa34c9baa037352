package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// bound is the way that a warm start cannot be faster than: a fork of an interpreter that
// has the same modules.
const bound = "forked"

// warmResults are what scripts/bench --warm measures.
type warmResults struct {
	Starts []measured `json:"starts"`
	Counts []counted  `json:"counts"`
}

// counted is something other than time, such as page faults.
type counted struct {
	Program string             `json:"program"`
	What    string             `json:"what"`
	Ways    map[string]float64 `json:"ways"`
	Ratios  map[string]float64 `json:"ratios"` // to plain
	order   []string
}

// reportWarm prints starts and what the file of counts holds.
func reportWarm(w io.Writer, asJSON bool, lines records, counts []string) error {
	if len(counts) != 1 {
		return fmt.Errorf("report warm: the file of counts is missing")
	}
	other, err := readLines(counts[0])
	if err != nil {
		return err
	}
	r := warmResults{lines.warmStarts(), other.counts()}
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	printStarts(w, r.Starts)
	return printCounts(w, r.Counts)
}

// warmStarts reads what starts reads. Each command is a group of its own, and the second ratio
// is to the bound.
func (t records) warmStarts() []measured {
	all := t.group(func(last *measured, line []string) bool { return last.Program == line[0] && last.Command == line[1] })
	for _, m := range all {
		for way, r := range m.Ratios {
			r.ToBound, r.ToLauncher = r.ToLauncher, nil
			if way == bound {
				r.ToBound = nil
			}
			m.Ratios[way] = r
		}
	}
	return all
}

// counts reads: program, what, way, number. The first way is plain.
func (t records) counts() (all []counted) {
	all = []counted{}
	for _, line := range t {
		n := numbers(line)
		if len(all) == 0 || all[len(all)-1].What != line[1] {
			all = append(all, counted{line[0], line[1], map[string]float64{}, map[string]float64{}, nil})
		}
		c, way := &all[len(all)-1], line[2]
		c.order = append(c.order, way)
		c.Ways[way] = n[0]
		if way != "plain" {
			c.Ratios[way] = n[0] / c.Ways["plain"]
		}
	}
	return all
}

func printCounts(w io.Writer, all []counted) error {
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range all {
		fmt.Fprintf(t, "%s", c.What)
		for _, way := range c.order {
			fmt.Fprintf(t, "\t%s %.0f", way, c.Ways[way])
		}
		fmt.Fprintf(t, "\tratio %.3f\n", c.Ratios["warm"])
	}
	return t.Flush()
}
