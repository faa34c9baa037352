package rules

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	inlineCode = regexp.MustCompile("`[^`\n]*`")
	// Of a link or an image, with or without a title; the target is what counts.
	mdLink   = regexp.MustCompile(`\]\(<?([^)\s>]+)>?(?:\s+"[^"]*")?\)`)
	linkText = regexp.MustCompile(`!?\[([^\]]*)\]\([^)]*\)`)
	heading  = regexp.MustCompile(`(?m)^#{1,6}\s+(.*?)\s*#*$`)
	scheme   = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*:`)
	// What a forge leaves out of the anchor of a heading.
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// TestLinks: each relative link of a document leads to a file that exists, and its
// anchor to a heading.
func TestLinks(t *testing.T) {
	for _, file := range kept(t) {
		if !strings.HasSuffix(file, ".md") {
			continue
		}
		for _, target := range links(read(t, file)) {
			if why := broken(t, file, target); why != "" {
				t.Errorf("%s: the link to %s: %s", file, target, why)
			}
		}
	}
}

// links are the targets of a document's relative links.
func links(text string) (targets []string) {
	for _, m := range mdLink.FindAllStringSubmatch(inlineCode.ReplaceAllString(fence.ReplaceAllString(text, ""), ""), -1) {
		if !scheme.MatchString(m[1]) && !strings.HasPrefix(m[1], "/") {
			targets = append(targets, m[1])
		}
	}
	return targets
}

// broken says why a link in a file leads nowhere, or is "".
func broken(t *testing.T, file, target string) string {
	path, anchor, _ := strings.Cut(target, "#")
	if path == "" {
		path = file
	} else {
		path = filepath.Join(filepath.Dir(file), path)
	}
	if _, err := os.Stat(filepath.Join("../..", path)); err != nil {
		return "there is no such file"
	}
	if anchor == "" || !strings.HasSuffix(path, ".md") {
		return ""
	}
	if !anchors(read(t, path))[anchor] {
		return "there is no such heading"
	}
	return ""
}

// anchors are the names that a forge gives to the headings of a document.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		name := strings.ToLower(linkText.ReplaceAllString(m[1], "$1"))
		name = strings.ReplaceAll(notInAnchor.ReplaceAllString(name, ""), " ", "-")
		unique := name
		for i := 1; all[unique]; i++ {
			unique = fmt.Sprintf("%s-%d", name, i)
		}
		all[unique] = true
	}
	return all
}

func read(t *testing.T, file string) string {
	content, err := os.ReadFile(filepath.Join("../..", file))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestAnchors(t *testing.T) {
	got := anchors("# One `head`\n\n```\n# no head\n```\n\n## /proc/self/exe\n## run --engine criu #\n## [A](b.md), c_d\n## One head\n")
	for _, want := range []string{"one-head", "procselfexe", "run---engine-criu", "a-c_d", "one-head-1"} {
		if !got[want] {
			t.Errorf("there is no %q in %v", want, got)
		}
	}
	if len(got) != 5 {
		t.Errorf("%d anchors: %v", len(got), got)
	}
}

func TestLinkTargets(t *testing.T) {
	const text = "[a](b.md#c), ![d](e.svg \"f\"), [`g`](h), `[no](i)`, [j](https://k.example/l), [m](mailto:n@o), [p](#q)\n\n```\n[no](r)\n```\n"
	if got, want := strings.Join(links(text), " "), "b.md#c e.svg h #q"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
