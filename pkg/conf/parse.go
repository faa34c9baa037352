package conf

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/residentctl/residentctl/internal/bytesize"
	"github.com/residentctl/residentctl/internal/problem"
)

// MaxLayouts is how many layouts an image may have.
const MaxLayouts = 64

// Options say how a program is to be resident.
type Options struct {
	Layouts      int    `json:"layouts,omitempty"`      // 0 if none are named
	MemoryLimit  uint64 `json:"memory_limit,omitempty"` // in bytes; 0 if none is named
	EvenIfSlower bool   `json:"even_if_slower,omitempty"`
	TrustOwner   bool   `json:"trust_owner,omitempty"`
	Shim         bool   `json:"enable,omitempty"`
	System       bool   `json:"system,omitempty"`
}

// And returns the options of two lines together.
func (o Options) And(other Options) Options {
	return Options{
		Layouts:      max(o.Layouts, other.Layouts),
		MemoryLimit:  max(o.MemoryLimit, other.MemoryLimit),
		EvenIfSlower: o.EvenIfSlower || other.EvenIfSlower,
		TrustOwner:   o.TrustOwner || other.TrustOwner,
		Shim:         o.Shim || other.Shim,
		System:       o.System || other.System,
	}
}

// A Line names programs.
type Line struct {
	File    string
	Number  int    // from 1
	Pattern string // as in path/filepath's Match
	Never   bool   // it takes programs out
	Options
}

// maxLine bounds a line, in bytes: two paths of PATH_MAX and the options.
const maxLine = 16 << 10

// Parse reads the text of the file with this name. Its error names the first line that is
// wrong.
func Parse(name, text string) (lines []Line, err error) {
	number := 0
	for line := range strings.Lines(text) {
		number++
		l, err := parseLine(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, problem.Newf(problem.Usage, "read %s: line %d: %w", name, number, err).
				WithHint("correct the line; `residentctl help apply` shows the form")
		}
		if l != nil {
			l.File, l.Number = name, number
			lines = append(lines, *l)
		}
	}
	return lines, nil
}

// parseLine returns nil for an empty line.
func parseLine(text string) (*Line, error) {
	if len(text) > maxLine {
		return nil, fmt.Errorf("it is longer than %d bytes", maxLine)
	}
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return nil, errors.New("it is not UTF-8 text")
	}
	words := splitWords(text)
	if len(words) == 0 {
		return nil, nil
	}
	l := &Line{}
	l.Pattern, l.Never = strings.CutPrefix(words[0], "!")
	if err := checkPattern(l.Pattern); err != nil {
		return nil, err
	}
	if l.Never && len(words) > 1 {
		return nil, fmt.Errorf("%q after a path with !, which takes no options", words[1])
	}
	return l, l.Options.parse(words[1:])
}

// splitWords splits a line at spaces and tabs without a backslash before them, up to a
// comment.
func splitWords(text string) (words []string) {
	text = strings.TrimSuffix(text, "\r")
	for {
		text = strings.TrimLeft(text, " \t")
		if text == "" || text[0] == '#' {
			return words
		}
		end := 0
		for end < len(text) && text[end] != ' ' && text[end] != '\t' {
			if text[end] == '\\' && end+1 < len(text) {
				end++
			}
			end++
		}
		words, text = append(words, text[:end]), text[end:]
	}
}

func checkPattern(pattern string) error {
	if !strings.HasPrefix(pattern, "/") {
		return fmt.Errorf("%q is not an absolute path", pattern)
	}
	if _, err := filepath.Match(pattern, "/"); err != nil {
		return fmt.Errorf("%q is not a valid wildcard (glob(7))", pattern)
	}
	return nil
}

// parse reads the words after a path.
func (o *Options) parse(words []string) (err error) {
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		switch word {
		case "enable":
			o.Shim = true
		case "system":
			o.System = true
		case "trust-owner":
			o.TrustOwner = true
		case "even-if-slower":
			o.EvenIfSlower = true
		case "layouts", "memory-limit":
			if len(words) == 0 {
				return fmt.Errorf("no value after %q", word)
			}
			if err := o.parseValue(word, words[0]); err != nil {
				return err
			}
			words = words[1:]
		default:
			return fmt.Errorf("unknown option %q", word)
		}
	}
	return nil
}

func (o *Options) parseValue(option, value string) (err error) {
	if option == "memory-limit" {
		if o.MemoryLimit, err = bytesize.Parse(value); err != nil {
			return fmt.Errorf("memory-limit %q: %w", value, err)
		}
		return nil
	}
	o.Layouts, err = strconv.Atoi(value)
	if err != nil || o.Layouts < 1 || o.Layouts > MaxLayouts {
		return fmt.Errorf("layouts %q: it must be a number from 1 to %d", value, MaxLayouts)
	}
	return nil
}

// String returns the words that parse understands.
func (o Options) String() string {
	var words []string
	add := func(is bool, word string) {
		if is {
			words = append(words, word)
		}
	}
	add(o.Layouts > 1, fmt.Sprintf("layouts %d", o.Layouts))
	add(o.MemoryLimit > 0, "memory-limit "+bytesize.Format(o.MemoryLimit))
	add(o.EvenIfSlower, "even-if-slower")
	add(o.TrustOwner, "trust-owner")
	add(o.Shim, "enable")
	add(o.System, "system")
	return strings.Join(words, " ")
}

// isWildcard reports whether a pattern has a character that is special to glob(7).
func isWildcard(pattern string) bool {
	for i := 0; i < len(pattern); i++ {
		switch pattern[i] {
		case '*', '?', '[':
			return true
		case '\\':
			i++
		}
	}
	return false
}

// unquote returns the path that a pattern without wildcards stands for.
func unquote(pattern string) string {
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		if pattern[i] == '\\' && i+1 < len(pattern) {
			i++
		}
		b.WriteByte(pattern[i])
	}
	return b.String()
}
