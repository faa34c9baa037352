package sweep

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// verdict is what the comparison of one program's one command line came to.
type verdict struct {
	Program string   `json:"program"`
	Args    []string `json:"args"`
	Kind    kind     `json:"kind"`
	What    string   `json:"what,omitempty"` // what differs, or was found out
	Noise   bool     `json:"noise,omitempty"`
	Starts  int      `json:"starts"` // of each kind
	normal  bool     // the program was not started from its image
}

type kind string

const (
	equal     kind = "equal"
	timeout   kind = "time out both ways"
	noisy     kind = "noisy"
	known     kind = "different for a known reason"
	different kind = "different"
)

// mayDiffer are programs that show, without arguments, something in which starts
// differ that are right. Their exit status must be the same all the same.
var mayDiffer = map[string]string{
	"lsfd":   ownFiles,
	"lsof":   ownFiles,
	"ctstat": wholeKernel,
	"lnstat": wholeKernel,
	"rtstat": wholeKernel,
	"vmstat": wholeKernel,
}

const ownFiles = "it lists the files that it maps itself, and one of those is the image"

const wholeKernel = "it shows what the whole kernel counts, in all namespaces"

// mostStarts of each kind are made before plain starts are said to be noisy, or
// resident ones to differ.
const mostStarts = 5

// judge compares plain starts with resident starts, made in turn. It is settled
// if further starts cannot change it.
//
// Two starts that are equal byte for byte are enough. Otherwise the plain starts
// show what is noise: where words of their outputs differ among themselves, and
// only there, a resident start may have another word of the same kind. All
// resident starts must fit all plain ones.
func judge(program string, args []string, plains, residents []outcome) (v verdict, settled bool) {
	v.Program, v.Args, v.Starts = program, args, len(plains)
	for _, r := range residents {
		if r.Normally != "" {
			v.Kind, v.What, v.normal = different, "no resident start: "+r.Normally, true
			return v, true
		}
	}
	last := len(plains) >= mostStarts
	v.Kind = equal
	if plains[0].Status == statusTimeout {
		v.Kind = timeout
	}
	if plains[0] == residents[0] && v.Starts == 1 {
		return v, true
	}
	if v.Starts == 1 && v.Kind != timeout {
		return v, false
	}
	v.Noise = true
	m, err := learn(plains)
	if err != nil {
		v.Kind, v.What = noisy, err.Error()
		return v, last
	}
	misfits, why := 0, mayDiffer[filepath.Base(program)]
	for i := len(residents) - 1; i >= 0; i-- {
		if err := m.fits(residents[i]); err != nil {
			misfits++
			v.What = err.Error() // the first one's at the end
		}
	}
	if misfits == 0 {
		return v, true
	}
	if why != "" && len(args) == 0 && sameStatus(plains, residents) {
		v.Kind, v.What = known, why
		return v, last
	}
	v.Kind = different
	if misfits < len(residents) {
		v.What += fmt.Sprintf(" (in %d of %d starts)", misfits, len(residents))
	}
	return v, last
}

func sameStatus(plains, residents []outcome) bool {
	return !slices.ContainsFunc(append(slices.Clone(plains), residents...), func(o outcome) bool {
		return o.Status != plains[0].Status
	})
}

// mask is what plain starts have in common.
type mask struct {
	status         string
	stdout, stderr text
}

// text is one of the outputs.
type text struct {
	slots []slot
	// A time limit comes at any point of it, so that it may end earlier or later.
	open bool
}

// slot is one token of an output: all the plain starts have it, or each has its own.
type slot struct {
	text  string         // of the first plain start
	noise *regexp.Regexp // what stands there, if the plain starts differ
	line  int
}

// A token is a number, a word, white space or another character. A space that pads
// a number is as long as the number is short, so it may be noise as well.
var tokens = regexp.MustCompile(`[0-9]+(?:[.,:][0-9]+)*(?:e[-+][0-9]{2})?\b|[\pL\pN_]+|[ \t]+|(?s:.)`)

// kinds of noise, the narrowest first.
var noises = []*regexp.Regexp{
	regexp.MustCompile(`^[0-9][0-9.,:e+-]*$`), // numbers: pids, times, sizes
	regexp.MustCompile(`^(0x)?[0-9a-f]+$`),    // addresses, hashes
	regexp.MustCompile(`^[ \t]+$`),
	regexp.MustCompile(`^[\pL\pN_]+$`), // temporary names, names of days
	regexp.MustCompile(`(?s)^.$`),
}

// learn makes the mask; its error says why the plain starts have too little in
// common.
func learn(plains []outcome) (*mask, error) {
	m := &mask{status: plains[0].Status}
	var stdouts, stderrs []string
	for _, p := range plains {
		if p.Status != m.status {
			return nil, fmt.Errorf("plain starts end with %s and with %s", m.status, p.Status)
		}
		stdouts, stderrs = append(stdouts, p.Stdout), append(stderrs, p.Stderr)
	}
	var err error
	cut := m.status == statusTimeout
	if m.stdout, err = learnText(stdouts, cut); err != nil {
		return nil, fmt.Errorf("stdout of plain starts: %w", err)
	}
	if m.stderr, err = learnText(stderrs, cut); err != nil {
		return nil, fmt.Errorf("stderr of plain starts: %w", err)
	}
	return m, nil
}

func learnText(texts []string, open bool) (text, error) {
	var all [][]string
	for _, t := range texts {
		all = append(all, tokens.FindAllString(t, -1))
	}
	// The longest one, where they need not have one length.
	longest := slices.MaxFunc(all, func(a, b []string) int { return len(a) - len(b) })
	slots := make([]slot, len(longest))
	line := 1
	for i, first := range longest {
		slots[i] = slot{text: first, line: line}
		values := []string{first}
		for _, other := range all {
			if i < len(other) && other[i] != first {
				values = append(values, other[i])
			}
		}
		if len(values) > 1 {
			if slots[i].noise = noiseOf(values); slots[i].noise == nil {
				return text{}, fmt.Errorf("line %d: %q and %q", line, first, values[1])
			}
		}
		if first == "\n" {
			line++
		}
	}
	for _, other := range all {
		if len(other) != len(slots) && !open {
			return text{}, fmt.Errorf("%d words and %d", len(slots), len(other))
		}
	}
	return text{slots, open}, nil
}

// noiseOf is the narrowest kind that all of the values are of.
func noiseOf(values []string) *regexp.Regexp {
next:
	for _, n := range noises {
		for _, v := range values {
			if !n.MatchString(v) {
				continue next
			}
		}
		return n
	}
	return nil
}

// fits says what keeps an outcome from being one of a plain start.
func (m *mask) fits(o outcome) error {
	if o.Status != m.status {
		return fmt.Errorf("status: plain %q, resident %q%s", m.status, o.Status, lastLine(o.Stderr))
	}
	if err := m.stdout.fits(o.Stdout); err != nil {
		return fmt.Errorf("stdout %w", err)
	}
	if err := m.stderr.fits(o.Stderr); err != nil {
		return fmt.Errorf("stderr %w", err)
	}
	return nil
}

func lastLine(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return fmt.Sprintf(", stderr %.200q", last)
	}
	return ""
}

func (t text) fits(output string) error {
	words := tokens.FindAllString(output, -1)
	if t.open && len(words) > 0 {
		n := min(len(words), len(t.slots))
		words, t.slots = words[:n], t.slots[:n]
	}
	for i, s := range t.slots {
		if i >= len(words) {
			return fmt.Errorf("ends in line %d: plain %q, resident nothing", s.line, around(slotTexts(t.slots), i))
		}
		if words[i] != s.text && (s.noise == nil || !s.noise.MatchString(words[i])) {
			return fmt.Errorf("line %d: plain %q, resident %q", s.line, around(slotTexts(t.slots), i), around(words, i))
		}
	}
	if len(words) > len(t.slots) {
		return fmt.Errorf("goes on: plain nothing, resident %q", around(words, len(t.slots)))
	}
	return nil
}

func slotTexts(slots []slot) []string {
	texts := make([]string, len(slots))
	for i, s := range slots {
		texts[i] = s.text
	}
	return texts
}

// around is the part of a line in which a token stands.
func around(words []string, at int) string {
	from, to := at, at+1
	for from > 0 && at-from < 24 && words[from-1] != "\n" {
		from--
	}
	for to < len(words) && to-at < 24 && words[to] != "\n" {
		to++
	}
	return strings.Join(words[from:to], "")
}
