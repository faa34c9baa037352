package rules

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A word is one that is not written, and what is written instead. (These patterns do not
// match themselves.)
type word struct {
	pattern *regexp.Regexp
	instead string
}

var words = []word{
	{regexp.MustCompile(`(?i)\b(tell|say)s whethe[r]\b`), "reports whether"},
	{regexp.MustCompile(`(?i)\bane[w]\b`), "again, from scratch"},
	{regexp.MustCompile(`(?i)folde[r]`), "directory"},
}

// stored are lines that say such a word because it is in the registry's records.
var stored = regexp.MustCompile(`json:"folde[r]s"|"folde[r]s":`)

// TestWords: no file that is kept says a word that is not written here.
func TestWords(t *testing.T) {
	for _, file := range kept(t) {
		if file == "CHANGELOG.md" { // it tells of earlier states
			continue
		}
		content, err := os.ReadFile(filepath.Join("../..", file))
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(content), "\n") {
			for _, w := range words {
				if w.pattern.MatchString(line) && !stored.MatchString(line) {
					t.Errorf("%s:%d: write %q in %q", file, i+1, w.instead, strings.TrimSpace(line))
				}
			}
		}
	}
}

// kept are the text files of the repository, or, in an archive of it, none.
func kept(t *testing.T) (files []string) {
	list, err := exec.Command("git", "-C", "../..", "grep", "-Il", "").Output()
	if err != nil {
		t.Logf("this is no git repository: %v", err)
		return nil
	}
	return strings.Fields(string(list))
}

// Limits of what a person reads: words of a sentence, sentences of a paragraph.
const (
	mostWords     = 35
	mostSentences = 5
)

// TestSentences: what a person reads is short sentences in short paragraphs: the
// documents, and the help, of which the man pages are made.
func TestSentences(t *testing.T) {
	for _, file := range kept(t) {
		if file == "CHANGELOG.md" || !strings.HasSuffix(file, ".md") && !strings.HasPrefix(file, "docs/man/") {
			continue
		}
		content, err := os.ReadFile(filepath.Join("../..", file))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paragraphs(string(content)) {
			all := sentences(p)
			if len(all) > mostSentences && !strings.Contains(p, "|") { // a table's row is none
				t.Errorf("%s: a paragraph of %d sentences: %.70s…", file, len(all), p)
			}
			for _, s := range all {
				for _, part := range colon.Split(s, -1) { // what is before it can be read alone
					if n := len(strings.Fields(part)); n > mostWords {
						t.Errorf("%s: a sentence of %d words: %s", file, n, part)
					}
				}
			}
		}
	}
}

var (
	fence   = regexp.MustCompile("(?ms)^ *(```|~~~).*?^ *(```|~~~)$|^\\.nf$.*?^\\.fi$|^<!--.*?-->$")
	literal = regexp.MustCompile("(?m)^(    |\t).*$")
	item    = regexp.MustCompile(`^\s*([-*+]|\d+\.)\s|^\s*\||^#|^\.`)
	ending  = regexp.MustCompile(`[.!?]["')*_]*\s+|(^|\s)\|(\s|$)`)
	colon   = regexp.MustCompile(`:[*_]*\s+`)
	short   = regexp.MustCompile(`\b(e\.g|i\.e|etc|vs)\.`)
)

// paragraphs are the paragraphs, headings, list items and table rows of Markdown or a man page.
func paragraphs(text string) (all []string) {
	text = literal.ReplaceAllString(fence.ReplaceAllString(text, ""), "")
	var current []string
	end := func() {
		if len(current) > 0 {
			all = append(all, strings.Join(current, " "))
		}
		current = nil
	}
	for _, line := range strings.Split(text, "\n") {
		if item.MatchString(line) {
			end()
		}
		if line = strings.TrimSpace(item.ReplaceAllString(line, "")); line == "" {
			end()
			continue
		}
		current = append(current, line)
	}
	end()
	return all
}

// sentences are the sentences of a paragraph. The edge of a table's cell ends one too.
func sentences(paragraph string) (all []string) {
	for _, s := range ending.Split(short.ReplaceAllString(paragraph, "$1"), -1) {
		if strings.Trim(s, " -|:*_`") != "" {
			all = append(all, strings.TrimSpace(s))
		}
	}
	return all
}

func TestProse(t *testing.T) {
	const text = "# One head\n\nA b. C d\ne. F: g\n\n- x y\n- z, e.g. w.\n\n```\ncode. code.\n```\n\n| a. b | c |\n|---|---|\n"
	var got []string
	for _, p := range paragraphs(text) {
		if all := sentences(p); len(all) > 0 {
			got = append(got, strings.Join(all, "/"))
		}
	}
	want := []string{"One head", "A b/C d e/F: g", "x y", "z, e.g w.", "a/b/c"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q, want %q", got, want)
	}
}
