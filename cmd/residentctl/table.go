package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	prettytable "github.com/jedib0t/go-pretty/v6/table"
	prettytext "github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

// columnGap is between two columns of a table.
const columnGap = "  "

// leastColumn is the width, in columns of the terminal, below which no column is cut.
const leastColumn = 11

// table is what all tables of the command line are printed by: columns that begin below
// each other, cut to the width of a terminal, and whole anywhere else.
type table struct {
	g      *globals
	indent string
	rows   [][]string // the first one is the heading, which may be missing
}

func (g *globals) newTable(heading ...string) *table { return &table{g: g, rows: [][]string{heading}} }

// row adds a row.
func (t *table) row(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = printable(fmt.Sprint(c))
	}
	t.rows = append(t.rows, row)
}

// empty reports whether there is no row but the heading.
func (t *table) empty() bool { return len(t.rows) < 2 }

// print writes the table. What is empty at the end of a row takes no room, nor does a column
// that is empty in all rows.
func (t *table) print() error {
	w := prettytable.NewWriter()
	w.SuppressTrailingSpaces()
	style := w.Style()
	style.Box = prettytable.BoxStyle{PaddingRight: columnGap}
	style.Format.Header = prettytext.FormatDefault
	style.Options = prettytable.OptionsNoBordersAndSeparators
	widths := fit(t.widths(), terminalWidth(t.g.out)-len(t.indent))
	var columns []prettytable.ColumnConfig
	for i, width := range widths {
		columns = append(columns, prettytable.ColumnConfig{Number: i + 1, WidthMax: width, WidthMaxEnforcer: cut, Hidden: width == 0})
	}
	w.SetColumnConfigs(columns)
	for _, cells := range t.rows {
		if len(cells) == 0 {
			continue
		}
		row := prettytable.Row{}
		for _, c := range cells {
			row = append(row, c)
		}
		w.AppendRow(row)
	}
	var text strings.Builder
	for line := range strings.Lines(w.Render() + "\n") {
		text.WriteString(t.indent + line)
	}
	_, err := io.WriteString(t.g.out, text.String())
	return err
}

// widths are those of the columns, 0 for one that no row has something in.
func (t *table) widths() (widths []int) {
	used := []bool{}
	for n, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths, used = append(widths, 0), append(used, false)
			}
			widths[i] = max(widths[i], prettytext.StringWidthWithoutEscSequences(cell))
			used[i] = used[i] || cell != "" && (n > 0 || t.empty())
		}
	}
	for i := range widths {
		if !used[i] {
			widths[i] = 0
		}
	}
	return widths
}

// fit makes the widest columns narrower until all fit into so many columns of a terminal;
// 0 or less is no terminal.
func fit(widths []int, terminal int) []int {
	widths = slices.Clone(widths)
	total := -len(columnGap)
	for _, w := range widths {
		if w > 0 {
			total += w + len(columnGap)
		}
	}
	for terminal > 0 && total > terminal {
		widest := 0
		for i, w := range widths {
			if w >= widths[widest] {
				widest = i
			}
		}
		if widths[widest] <= leastColumn {
			break
		}
		widths[widest]--
		total--
	}
	return widths
}

// cut makes a cell fit into so many columns. Of a path the end stays, which says most.
func cut(cell string, width int) string {
	const dots = "…"
	if prettytext.StringWidthWithoutEscSequences(cell) <= width {
		return cell
	}
	runes := []rune(cell)
	for len(runes) > 0 && prettytext.StringWidthWithoutEscSequences(string(runes)) > width-1 {
		if cell[0] == '/' {
			runes = runes[1:]
		} else {
			runes = runes[:len(runes)-1]
		}
	}
	if cell[0] == '/' {
		return dots + string(runes)
	}
	return string(runes) + dots
}

// terminalWidth is the number of columns of the terminal that w is, or 0.
func terminalWidth(w io.Writer) int {
	if o, ok := w.(*output); ok {
		w = o.to
	}
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return cmp.Or(width, 80) // a terminal that was not told its size
}
