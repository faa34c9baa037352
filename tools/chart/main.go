// Command chart draws what a resident start gains, from the JSON of scripts/bench, as SVG.
//
//	chart JSON SVG light|dark
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"os"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// programs are those of the chart, as far as they were measured.
var programs = []string{"c-main", "cxx-main", "perl", "bash", "git", "ffmpeg"}

// Lengths in pixels. Nothing depends on how wide a text is, so another font does no harm.
const (
	width    = 800
	head     = 84  // title and legend
	names    = 136 // the column of the programs' names
	bar      = 14
	barGap   = 2
	groupGap = 20
	foot     = 6
	longest  = 1.16 // the ratio at the right edge, with space for a bar's label
)

// measured is an element of the JSON.
type measured struct {
	Program string
	Command string
	Ways    map[string]struct {
		Median float64 `json:"median_us"`
	}
	Ratios map[string]struct{ Median float64 }
}

// A theme has the colours of a page and a colour for each way.
type theme struct {
	text, muted             color.Color
	plain, launcher, static color.Color
}

var themes = map[string]theme{
	"light": {rgb(0x1f2328), rgb(0x59636e), rgb(0xd1d9e0), rgb(0x0969da), rgb(0x818b98)},
	"dark":  {rgb(0xf0f6fc), rgb(0x9198a1), rgb(0x3d444d), rgb(0x4493f8), rgb(0x7d8590)},
}

func rgb(c uint32) color.Color { return color.RGBA{uint8(c >> 16), uint8(c >> 8), uint8(c), 255} }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "chart: error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: chart JSON SVG light|dark")
	}
	colours, ok := themes[args[2]]
	if !ok {
		return fmt.Errorf("no theme is called %s", args[2])
	}
	content, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var all []measured
	if err := json.Unmarshal(content, &all); err != nil {
		return fmt.Errorf("read %s: %w", args[0], err)
	}
	svg, err := chart(chosen(all), colours)
	if err != nil {
		return err
	}
	return os.WriteFile(args[1], svg, 0o644)
}

func chosen(all []measured) (some []measured) {
	for _, name := range programs {
		if i := slices.IndexFunc(all, func(m measured) bool { return m.Program == name }); i >= 0 {
			some = append(some, all[i])
		}
	}
	return some
}

// A row is a bar with its label. Its y is that of its centre, from the top.
type row struct {
	y, ratio float64
	label    string
	colour   color.Color
	bold     bool
}

// chart draws a group of bars for each program.
func chart(all []measured, t theme) ([]byte, error) {
	p := plot.New()
	p.HideAxes()
	p.BackgroundColor = nil // the page's
	p.X.Padding, p.Y.Padding = 0, 0
	p.X.Min, p.X.Max = -names*longest/(width-names), longest
	top := 0.0
	for _, m := range all {
		rows := t.rows(m, &top)
		middle := (rows[0].y + rows[len(rows)-1].y) / 2
		if err := errors.Join(add(p, t, rows), label(p, p.X.Min, middle, m.Command, style(14, false, t.text))); err != nil {
			return nil, err
		}
		top += groupGap
	}
	height := top - groupGap + foot
	p.Y.Min, p.Y.Max = -height, 0 // y grows upwards there

	c := vgsvg.New(width, vg.Length(head+height))
	page := draw.New(c)
	t.title(page)
	p.Draw(draw.Crop(page, 0, 0, 0, -head))
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return nil, err
	}
	return finish(b.String()), nil
}

// rows are a program's bars, from *top on, which they move down.
func (t theme) rows(m measured, top *float64) (rows []row) {
	next := func(ratio float64, label string, colour color.Color, bold bool) {
		rows = append(rows, row{*top + bar/2, ratio, label, colour, bold})
		*top += bar + barGap
	}
	next(1, "1 = "+milliseconds(m.Ways["plain"].Median), t.plain, false)
	next(m.Ratios["launcher"].Median, fmt.Sprintf("%.2f", m.Ratios["launcher"].Median), t.launcher, true)
	if static, ok := m.Ratios["static"]; ok {
		next(static.Median, fmt.Sprintf("%.2f", static.Median), t.static, false)
	}
	*top -= barGap
	return rows
}

// milliseconds has two or three significant digits.
func milliseconds(us float64) string {
	digits := 0
	switch {
	case us < 2000:
		digits = 2
	case us < 20000:
		digits = 1
	}
	return strconv.FormatFloat(us/1000, 'f', digits, 64) + " ms"
}

// add puts bars and their labels into the plot.
func add(p *plot.Plot, t theme, rows []row) error {
	for _, r := range rows {
		b, err := plotter.NewBarChart(plotter.Values{r.ratio}, bar)
		if err != nil {
			return err
		}
		b.Horizontal, b.XMin, b.Color, b.LineStyle.Width = true, -r.y, r.colour, 0
		p.Add(b)
		colour := t.muted
		if r.bold {
			colour = t.text
		}
		if err := label(p, r.ratio+0.01, r.y, r.label, style(12, r.bold, colour)); err != nil {
			return err
		}
	}
	return nil
}

func label(p *plot.Plot, x, y float64, s string, style text.Style) error {
	l, err := plotter.NewLabels(plotter.XYLabels{XYs: []plotter.XY{{X: x, Y: -y}}, Labels: []string{s}})
	if err != nil {
		return err
	}
	l.TextStyle[0] = style
	l.Offset.Y = 1 // figures have no descenders
	p.Add(l)
	return nil
}

func style(size float64, bold bool, c color.Color) text.Style {
	f := font.From(plot.DefaultFont, vg.Length(size))
	f.Variant = "Sans"
	if bold {
		f.Weight = 3 // golang.org/x/image/font, WeightBold
	}
	return text.Style{Color: c, Font: f, XAlign: draw.XLeft, YAlign: draw.YCenter, Handler: plot.DefaultTextHandler}
}

// title draws the title and the legend above the plot.
func (t theme) title(page draw.Canvas) {
	y := page.Max.Y
	page.FillText(style(18, true, t.text), vg.Point{X: 0, Y: y - 14}, "Time to start a program, compared with a plain exec")
	x := vg.Length(0)
	for _, entry := range []struct {
		colour color.Color
		text   string
		width  vg.Length
	}{
		{t.plain, "plain exec", 102}, {t.launcher, "resident", 94}, {t.static, "static build", 110},
	} {
		page.FillPolygon(entry.colour, square(x, y-48))
		page.FillText(style(13, false, t.text), vg.Point{X: x + 18, Y: y - 48}, entry.text)
		x += entry.width
	}
	page.FillText(style(13, false, t.muted), vg.Point{X: x + 8, Y: y - 48}, "shorter is faster; medians of whole runs, from fork to exit")
}

// square is a legend's, around a line of text at height y.
func square(x, y vg.Length) []vg.Point {
	const side = 12
	return []vg.Point{{X: x, Y: y - side/2}, {X: x + side, Y: y - side/2}, {X: x + side, Y: y + side/2}, {X: x, Y: y + side/2}}
}

// finish makes points pixels, and names fonts like Liberation Sans, which few machines
// have: these two have the same metrics.
func finish(svg string) []byte {
	first, rest, _ := strings.Cut(svg, "viewBox")
	svg = strings.ReplaceAll(first, `pt"`, `"`) + "viewBox" + rest
	return []byte(strings.ReplaceAll(svg, "font-family:Liberation Sans", "font-family:Liberation Sans,Arial,Helvetica,sans-serif"))
}
