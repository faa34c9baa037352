package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A build is slower if two repetitions say so, and noise does not explain them.
func TestSlower(t *testing.T) {
	narrow := func(median float64) spread { return spread{median, median - 0.02, median + 0.02} }
	wide := func(median float64) spread { return spread{median, median - 0.5, median + 0.5} }
	for name, test := range map[string]struct {
		repetitions []spread
		want        bool
	}{
		"the same":                     {[]spread{narrow(1), narrow(0.99), narrow(1.01)}, false},
		"faster":                       {[]spread{narrow(0.5), narrow(0.5), narrow(0.5)}, false},
		"slower, but not by 5 %":       {[]spread{narrow(1.04), narrow(1.04), narrow(1.04)}, false},
		"slower in one repetition":     {[]spread{narrow(1), narrow(3), narrow(1)}, false},
		"slower in two":                {[]spread{narrow(1.06), narrow(1), narrow(1.06)}, true},
		"slower in all":                {[]spread{narrow(2), narrow(2), narrow(2)}, true},
		"so noisy that it may be luck": {[]spread{wide(1.2), wide(1.2), wide(1.2)}, false},
		"noisy, and much slower":       {[]spread{wide(1.9), wide(1.9), wide(1.1)}, true},
	} {
		if got := (comparison{Rounds: 100, Repetitions: test.repetitions}).isSlower(); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}

// lines are as scripts/bench collects them.
func lines(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "lines")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, " | ", "\t")), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReportAgainst(t *testing.T) {
	path := lines(t, "c-main | C main(){} | run | 100 | 1.1 | 1.09 | 1.11\nperl | perl | run | 100 | 1 | 0.9 | 1.1\n"+
		"c-main | C main(){} | run | 100 | 1.2 | 1.19 | 1.21\nperl | perl | run | 100 | 1 | 0.9 | 1.1\n")
	var b strings.Builder
	err := report(&b, []string{"against", path}, false, false)
	const want = "command              way           new/old in each repetition: median (p25..p75)\n" +
		"C main(){}           run           1.100 (1.090..1.110)  1.200 (1.190..1.210)  slower\n" +
		"perl                 run           1.000 (0.900..1.100)  1.000 (0.900..1.100)\n"
	if b.String() != want {
		t.Errorf("got:\n%swant:\n%s", &b, want)
	}
	const problem = "starts are more than 5 % slower in at least 2 repetitions: C main(){} as run"
	if err == nil || err.Error() != problem {
		t.Errorf("got error %v, want %s", err, problem)
	}
}

const startLines = `perl | perl </dev/null | plain | 100 | 124000.0 | 1240.00 | 1200.00 | 1300.00 | 1.0000 | 1.0000 | 1.0000 | 2.0000 | 1.9000 | 2.1000
perl | perl </dev/null | launcher | 100 | 62000.0 | 620.00 | 600.00 | 650.00 | 0.5000 | 0.4900 | 0.5100 | 1.0000 | 1.0000 | 1.0000
perl | perl </dev/null | static | 100 | 94000.0 | 940.00 | 900.00 | 950.00 | 0.7600 | 0.7500 | 0.7700 | 1.5200 | 1.5100 | 1.5300
git | git --version | plain | 100 | 95000.0 | 20950.00 | 20900.00 | 20990.00 | 1.0000 | 1.0000 | 1.0000 | 2.0000 | 1.9000 | 2.1000
`

func TestReportTime(t *testing.T) {
	var b strings.Builder
	if err := report(&b, []string{"time", lines(t, startLines)}, false, false); err != nil {
		t.Fatal(err)
	}
	const want = `command                    way          median ms              p25..p75     ratio         p25..p75  to launcher
perl </dev/null            plain            1.240          1.200..1.300
                           launcher         0.620          0.600..0.650     0.500     0.490..0.510
                           static           0.940          0.900..0.950     0.760     0.750..0.770        1.520
git --version              plain           20.950        20.900..20.990

100 x perl </dev/null, seconds:  plain 0.124  launcher 0.062  static 0.094
`
	if b.String() != want {
		t.Errorf("got:\n%swant:\n%s", &b, want)
	}
}

// The JSON is what the documents' tables are made of.
func TestTablesAreOfTheJSON(t *testing.T) {
	var b strings.Builder
	if err := report(&b, []string{"time", lines(t, startLines)}, true, false); err != nil {
		t.Fatal(err)
	}
	var all []measured
	if err := json.Unmarshal([]byte(b.String()), &all); err != nil {
		t.Fatalf("%v in:\n%s", err, &b)
	}
	const head = "| program | plain | launcher file | `run` | static |\n|---|--:|--:|--:|--:|\n"
	const perl = "| `perl </dev/null` | 1.24 ms | 0.50 | | 0.76 |\n"
	const text = "a\n<!-- bench -->\nold\n<!-- /bench -->\nb\n<!-- bench perl c-main -->\n<!-- /bench -->\n"
	const want = "a\n<!-- bench -->\n" + head + perl + "| `git --version` | 21 ms | | | |\n<!-- /bench -->\nb\n" +
		"<!-- bench perl c-main -->\n" + head + perl + "<!-- /bench -->\n"
	if got := withTables(text, all); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

// Without results, as where no program is on the machine, it is JSON too.
func TestReportOfNothing(t *testing.T) {
	var b strings.Builder
	if err := report(&b, []string{"time", lines(t, "")}, true, false); err != nil {
		t.Fatal(err)
	}
	var all []measured
	if err := json.Unmarshal([]byte(b.String()), &all); err != nil || len(all) != 0 {
		t.Errorf("%q: %v", &b, err)
	}
}

func TestReportMemory(t *testing.T) {
	path := lines(t, "git | git hash-object --stdin | plain | 400\ngit | git hash-object --stdin | launcher | 100\n")
	var b strings.Builder
	if err := report(&b, []string{"memory", path}, true, false); err != nil {
		t.Fatal(err)
	}
	const want = `[
  {"program":"git","command":"git hash-object --stdin","ways":{"launcher":{"private_dirty_kib":100},"plain":{"private_dirty_kib":400}},"ratios":{"launcher":0.25}}
]
`
	if b.String() != want {
		t.Errorf("got:\n%swant:\n%s", &b, want)
	}
}

const (
	warmStartLines = `python3 | python3 to user code | plain | 15 | 4500000.0 | 300000.00 | 290000.00 | 310000.00 | 1.0000 | 1.0000 | 1.0000
python3 | python3 to user code | warm | 15 | 450000.0 | 30000.00 | 29000.00 | 31000.00 | 0.1000 | 0.0900 | 0.1100
python3 | a whole run | plain | 15 | 4500000.0 | 300000.00 | 290000.00 | 310000.00 | 1.0000 | 1.0000 | 1.0000 | 5.0000 | 4.9000 | 5.1000
python3 | a whole run | warm | 15 | 900000.0 | 60000.00 | 59000.00 | 61000.00 | 0.2000 | 0.1900 | 0.2100 | 1.1000 | 1.0900 | 1.1100
python3 | a whole run | forked | 15 | 810000.0 | 54000.00 | 53000.00 | 55000.00 | 0.1800 | 0.1700 | 0.1900 | 1.0000 | 1.0000 | 1.0000
`
	countLines = "python3 | page faults | plain | 5500\npython3 | page faults | warm | 275\n"
)

// Commands of one program are apart, and a warm start has its bound beside it.
func TestReportWarm(t *testing.T) {
	var b strings.Builder
	args := []string{"warm", lines(t, warmStartLines), lines(t, countLines)}
	if err := report(&b, args, false, false); err != nil {
		t.Fatal(err)
	}
	const want = `command                    way          median ms              p25..p75     ratio         p25..p75     to bound
python3 to user code       plain          300.000      290.000..310.000
                           warm            30.000        29.000..31.000     0.100     0.090..0.110
a whole run                plain          300.000      290.000..310.000
                           warm            60.000        59.000..61.000     0.200     0.190..0.210        1.100
                           forked          54.000        53.000..55.000     0.180     0.170..0.190

page faults  plain 5500  warm 275  ratio 0.050
`
	if b.String() != want {
		t.Errorf("got:\n%swant:\n%s", &b, want)
	}
	b.Reset()
	if err := report(&b, args, true, false); err != nil {
		t.Fatal(err)
	}
	var r warmResults
	if err := json.Unmarshal([]byte(b.String()), &r); err != nil || len(r.Starts) != 2 || len(r.Counts) != 1 {
		t.Errorf("%v, %d starts and %d counts in:\n%s", err, len(r.Starts), len(r.Counts), &b)
	}
	if bound := r.Starts[1].Ratios["warm"].ToBound; bound == nil || bound.Median != 1.1 {
		t.Errorf("ratio to the bound: got %v, want 1.1", bound)
	}
}
