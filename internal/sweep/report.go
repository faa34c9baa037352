package sweep

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/residentctl/residentctl/internal/plural"
)

// result is what became of one name of a program.
type result struct {
	Program string    `json:"program"`
	Cases   []verdict `json:"cases,omitempty"`
	Refused string    `json:"refused,omitempty"` // why it was not made resident
	NotRun  string    `json:"not_run,omitempty"` // why it is never run
	Failure string    `json:"failure,omitempty"` // why it could not be swept
}

// summary are the counts, by programs: each under its worst case.
type summary struct {
	Programs  int            `json:"programs"`
	Equal     int            `json:"equal"`
	Noise     int            `json:"equal_but_for_noise"` // of those that are equal
	Refused   map[string]int `json:"refused"`             // by reason
	Noisy     int            `json:"noisy"`
	Timeouts  int            `json:"time_out_both_ways"`
	Known     int            `json:"different_for_a_known_reason"`
	Different int            `json:"different"`
	NotRun    int            `json:"not_run"`
	Failed    int            `json:"failed"`
	Starts    int            `json:"starts"` // plain and resident ones
	Seconds   float64        `json:"seconds"`
}

// report collects results and prints them.
type report struct {
	mu      sync.Mutex
	json    bool
	total   int
	began   time.Time
	results []result
	sum     summary
	width   int // of the terminal for progress, or 0
}

func newReport(s *sweeper) *report {
	r := &report{json: s.JSON, began: time.Now(), sum: summary{Refused: map[string]int{}}}
	for _, f := range s.Files {
		r.total += len(f.Names)
	}
	if os.Getenv("TERM") != "dumb" {
		r.width, _, _ = term.GetSize(int(os.Stderr.Fd()))
	}
	return r
}

// kind is the worst one of a result's cases.
func (r result) kind() kind {
	worst := equal
	order := []kind{equal, timeout, noisy, known, different}
	for _, v := range r.Cases {
		if slices.Index(order, v.Kind) > slices.Index(order, worst) {
			worst = v.Kind
		}
	}
	return worst
}

// add takes one result and reports at once what differs.
func (r *report) add(res result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results = append(r.results, res)
	r.count(res)
	if r.json {
		return
	}
	r.progress("")
	if res.Failure != "" {
		fmt.Printf("failed: %s: %s\n", res.Program, res.Failure)
	}
	for _, v := range res.Cases {
		if v.Kind == different {
			fmt.Printf("different: %s: %s\n", v.commandLine(), v.What)
		}
	}
	r.progress(fmt.Sprintf("%d/%d programs, %d different, %s", r.sum.Programs, r.total, r.sum.Different, res.Program))
}

func (r *report) count(res result) {
	r.sum.Programs++
	for _, v := range res.Cases {
		r.sum.Starts += 2 * v.Starts
	}
	switch {
	case res.Failure != "":
		r.sum.Failed++
	case res.NotRun != "":
		r.sum.NotRun++
	case res.Refused != "":
		r.sum.Refused[res.Refused]++
	case res.kind() == different:
		r.sum.Different++
	case res.kind() == known:
		r.sum.Known++
	case res.kind() == noisy:
		r.sum.Noisy++
	case res.kind() == timeout:
		r.sum.Timeouts++
	default:
		r.sum.Equal++
		if slices.ContainsFunc(res.Cases, func(v verdict) bool { return v.Noise }) {
			r.sum.Noise++
		}
	}
}

// progress writes over the last line of a terminal.
func (r *report) progress(text string) {
	if r.width > 1 {
		fmt.Fprintf(os.Stderr, "\r\x1b[K%s", text[:min(len(text), r.width-1)])
	}
}

// finish prints what is reported once, and returns the exit status.
func (r *report) finish() int {
	r.sum.Seconds = time.Since(r.began).Round(100 * time.Millisecond).Seconds()
	slices.SortFunc(r.results, func(a, b result) int { return strings.Compare(a.Program, b.Program) })
	status := exitEqual
	if r.sum.Different > 0 || r.sum.Failed > 0 {
		status = exitDifferent
	}
	if r.json {
		e := json.NewEncoder(os.Stdout)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if e.Encode(struct {
			Summary summary  `json:"summary"`
			Results []result `json:"results"`
		}{r.sum, r.results}) != nil {
			return exitImpossible
		}
		return status
	}
	r.progress("")
	for _, res := range r.results {
		for _, v := range res.Cases {
			if v.Kind == noisy || v.Kind == timeout || v.Kind == known {
				fmt.Println(strings.TrimSuffix(fmt.Sprintf("%s: %s: %s", v.Kind, v.commandLine(), v.What), ": "))
			}
		}
		switch {
		case res.Refused != "":
			fmt.Printf("refused: %s: %s\n", res.Program, res.Refused)
		case res.NotRun != "":
			fmt.Printf("not run: %s: it %s\n", res.Program, res.NotRun)
		}
	}
	fmt.Println(r.sum)
	return status
}

// String returns the summary's line.
func (s summary) String() string {
	refused := 0
	var reasons []string
	for reason, n := range s.Refused {
		refused += n
		reasons = append(reasons, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(reasons)
	by := ""
	if refused > 0 {
		by = " (" + strings.Join(reasons, "; ") + ")"
	}
	failed := ""
	if s.Failed > 0 {
		failed = fmt.Sprintf(", %d failed", s.Failed)
	}
	return fmt.Sprintf("%s: %d equal (%d of them but for noise), %d refused%s, %d never run, %d noisy, %d time out both ways, %d different for a known reason, %d different%s; %s in %.0f s",
		plural.Count(s.Programs, "program"), s.Equal, s.Noise, refused, by, s.NotRun, s.Noisy, s.Timeouts, s.Known, s.Different, failed, plural.Count(s.Starts, "start"), s.Seconds)
}

func (v verdict) commandLine() string {
	return strings.Join(append([]string{v.Program}, v.Args...), " ")
}

var (
	paths   = regexp.MustCompile(`(/[\w.+-]+)+`)
	numbers = regexp.MustCompile(`0x[0-9a-f]+|\b[0-9]+\b`)
)

// reasonOf is a refusal without what is the one program's own, so that refusals
// can be counted.
func reasonOf(refusal, program string) string {
	refusal = strings.TrimLeft(strings.ReplaceAll(refusal, program, ""), ": ")
	return numbers.ReplaceAllString(paths.ReplaceAllString(refusal, "PATH"), "N")
}
