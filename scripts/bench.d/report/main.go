// Command report prints what scripts/bench has measured: lines of fields that are
// separated by tabs, as measured.go says, or with table bench's own JSON.
//
//	report [-json] time LINES
//	report [-json] memory LINES
//	report [-json] warm LINES COUNTS
//	report [-json] against LINES               fails if the new build's starts are slower
//	report [-check] table JSON [DOCUMENT]      writes the tables in the documents
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	asJSON := flag.Bool("json", false, "print JSON")
	check := flag.Bool("check", false, "fail if a document's table is not that of the JSON, instead of writing it")
	flag.Parse()
	if err := report(os.Stdout, flag.Args(), *asJSON, *check); err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(1)
	}
}

func report(w io.Writer, args []string, asJSON, check bool) error {
	if len(args) > 1 && args[0] == "table" {
		return writeTables(args[1], args[2:], check)
	}
	if len(args) != 2 && (len(args) != 3 || args[0] != "warm") {
		return errors.New("usage: report [-json] time|memory|warm|against LINES [COUNTS], or report [-check] table JSON [DOCUMENT]")
	}
	lines, err := readLines(args[1])
	if err != nil {
		return err
	}
	switch args[0] {
	case "time":
		return write(w, asJSON, lines.starts(), printStarts)
	case "warm":
		return reportWarm(w, asJSON, lines, args[2:])
	case "memory":
		return write(w, asJSON, lines.memory(), printMemory)
	case "against":
		all := lines.comparisons()
		return errors.Join(write(w, asJSON, all, printComparisons), slower(all))
	}
	return fmt.Errorf("report: no report is called %s", args[0])
}

// write prints results as JSON, an element a line, or as text.
func write[T any](w io.Writer, asJSON bool, results []T, text func(io.Writer, []T)) error {
	if !asJSON {
		text(w, results)
		return nil
	}
	separator := ""
	fmt.Fprint(w, "[")
	for _, r := range results {
		one, err := json.Marshal(r)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\n  %s", separator, one)
		separator = ","
	}
	_, err := fmt.Fprintln(w, "\n]")
	return err
}
