package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// A spread is a median and its quartiles: of a time in microseconds, or a ratio.
type spread struct {
	Median float64 `json:"median"`
	P25    float64 `json:"p25"`
	P75    float64 `json:"p75"`
}

// measured is how long a program's starts took.
type measured struct {
	Program string           `json:"program"`
	Command string           `json:"command"`
	Rounds  int              `json:"rounds"`
	Ways    map[string]times `json:"ways"`
	Ratios  map[string]ratio `json:"ratios"` // to plain, of the same round
	order   []string         // of the ways
}

// times are microseconds.
type times struct {
	Median float64 `json:"median_us"`
	P25    float64 `json:"p25"`
	P75    float64 `json:"p75"`
	Total  float64 `json:"total_us"`
}

type ratio struct {
	spread
	ToLauncher *spread `json:"to_launcher,omitempty"`
	ToBound    *spread `json:"to_bound,omitempty"`
}

// dirty is how much memory of a process is its own while it waits for input.
type dirty struct {
	Program string             `json:"program"`
	Command string             `json:"command"`
	Ways    map[string]kib     `json:"ways"`
	Ratios  map[string]float64 `json:"ratios"` // to plain
	order   []string
}

type kib struct {
	PrivateDirty float64 `json:"private_dirty_kib"`
}

// A comparison is of the starts of two builds in one way: ratios new/old.
type comparison struct {
	Program     string   `json:"program"`
	Command     string   `json:"command"`
	Way         string   `json:"way"`
	Rounds      int      `json:"rounds"` // of each repetition
	Repetitions []spread `json:"repetitions"`
	Slower      bool     `json:"slower"`
}

// records are lines, as their fields.
type records [][]string

func readLines(path string) (records, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var t records
	for line := range strings.Lines(string(content)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) < 4 {
			return nil, fmt.Errorf("read %s: no measurement: %q", path, line)
		}
		for _, f := range fields[3:] {
			if _, err := strconv.ParseFloat(f, 64); err != nil {
				return nil, fmt.Errorf("read %s: %q: %w", path, line, err)
			}
		}
		t = append(t, fields)
	}
	return t, nil
}

// numbers are a line's fields from the fourth on, as many as there are and zeros.
func numbers(line []string) (n [11]float64) {
	for i, f := range line[3:min(len(line), 3+len(n))] {
		n[i], _ = strconv.ParseFloat(f, 64) // readLines has tried it
	}
	return n
}

// starts reads: program, command, way, rounds, total, median, p25, p75, and the ratio's
// median, p25, p75, and these of the ratio to the launcher.
func (t records) starts() []measured {
	return t.group(func(last *measured, line []string) bool { return last.Program == line[0] })
}

// group reads lines of starts; same reports whether a line goes on with the last command.
func (t records) group(same func(last *measured, line []string) bool) (all []measured) {
	for _, line := range t {
		n := numbers(line)
		if len(all) == 0 || !same(&all[len(all)-1], line) {
			all = append(all, measured{line[0], line[1], int(n[0]), map[string]times{}, map[string]ratio{}, nil})
		}
		m, way := &all[len(all)-1], line[2]
		m.order = append(m.order, way)
		m.Ways[way] = times{Total: n[1], Median: n[2], P25: n[3], P75: n[4]}
		if way == "plain" {
			continue
		}
		r := ratio{spread: spread{n[5], n[6], n[7]}}
		if len(line) > 11 {
			r.ToLauncher = &spread{n[8], n[9], n[10]}
		}
		m.Ratios[way] = r
	}
	return all
}

// memory reads: program, command, way, KiB. The first way is plain.
func (t records) memory() (all []dirty) {
	for _, line := range t {
		n := numbers(line)
		if len(all) == 0 || all[len(all)-1].Program != line[0] {
			all = append(all, dirty{line[0], line[1], map[string]kib{}, map[string]float64{}, nil})
		}
		d, way := &all[len(all)-1], line[2]
		d.order = append(d.order, way)
		d.Ways[way] = kib{n[0]}
		if way != "plain" {
			d.Ratios[way] = n[0] / d.Ways["plain"].PrivateDirty
		}
	}
	return all
}

// comparisons reads: program, command, way, rounds, and the ratio's median, p25, p75; a
// line for each repetition.
func (t records) comparisons() (all []comparison) {
	index := map[[2]string]int{}
	for _, line := range t {
		n, key := numbers(line), [2]string{line[0], line[2]}
		i, ok := index[key]
		if !ok {
			i = len(all)
			index[key] = i
			all = append(all, comparison{Program: line[0], Command: line[1], Way: line[2], Rounds: int(n[0])})
		}
		all[i].Repetitions = append(all[i].Repetitions, spread{n[1], n[2], n[3]})
	}
	for i := range all {
		all[i].Slower = all[i].isSlower()
	}
	return all
}
