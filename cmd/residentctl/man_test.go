package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// manWords are the functions of the man page's template. They return requests and text of
// man(7), in groff's and mandoc's common language (groff_char(7), mandoc_char(7)).
var manWords = map[string]any{
	"sentence": sentence, "prose": prose, "synopsis": synopsis, "term": optionTerm, "explained": explained,
	"codes": exitCodes, "common": common, "roff": roff, "upper": strings.ToUpper,
}

type manStatus struct {
	Code int
	Text string
}

func manStatuses() (all []manStatus) {
	for _, s := range statuses {
		all = append(all, manStatus{s.code, s.text})
	}
	return all
}

var (
	optionWord = regexp.MustCompile(`(^|[\s"(\[|,])(-[-\w=]*)`)
	backquoted = regexp.MustCompile("`([^`]*)`")
	whole      = regexp.MustCompile(`[\w.~]*[/_][\w./…-]*`)
	listItem   = regexp.MustCompile(`^ *- `)
)

// roff escapes text. A hyphen that begins an option becomes a minus, which can be copied
// from the page and found in it; others stay hyphens. Paths and variables are not hyphenated.
func roff(text string) string {
	text = strings.ReplaceAll(text, `\`, `\e`)
	text = whole.ReplaceAllString(text, `\%$0`)
	text = optionWord.ReplaceAllStringFunc(text, minus)
	return characters(text)
}

func minus(text string) string { return strings.ReplaceAll(text, "-", `\-`) }

// characters escapes what is special in a line of text, apart from backslashes and hyphens.
func characters(text string) string {
	var b strings.Builder
	for _, c := range text {
		switch {
		case c == '…':
			b.WriteString("...")
		case c == '\'':
			b.WriteString(`\(aq`)
		case c == '^':
			b.WriteString(`\(ha`)
		case c == '~':
			b.WriteString(`\(ti`)
		case c >= utf8.RuneSelf:
			fmt.Fprintf(&b, `\[u%04X]`, c)
		default:
			b.WriteRune(c)
		}
	}
	if strings.HasPrefix(b.String(), ".") {
		return `\&` + b.String()
	}
	return b.String()
}

// literal escapes a line that can be copied.
func literal(text string) string {
	return characters(minus(strings.ReplaceAll(text, `\`, `\e`)))
}

// sentence makes a sentence of a usage line.
func sentence(text string) string {
	first, size := utf8.DecodeRuneInString(text)
	return bold(roff(string(unicode.ToUpper(first))+text[size:])) + "."
}

// bold sets what is between backquotes in bold type.
func bold(text string) string { return backquoted.ReplaceAllString(text, `\fB${1}\fP`) }

// prose sets a description: paragraphs, lists whose items begin with a dash, and indented
// lines, which are examples.
func prose(text string) string {
	var b strings.Builder
	inList := false
	for block := range strings.SplitSeq(text, "\n\n") {
		b.WriteString(".PP\n")
		inExample := false
		for line := range strings.Lines(block) {
			line = strings.TrimSuffix(line, "\n")
			indented := strings.HasPrefix(line, " ")
			example := indented && !inList && !listItem.MatchString(line)
			switch {
			case example != inExample && example:
				b.WriteString(".RS 4\n.EX\n")
			case example != inExample:
				b.WriteString(".EE\n.RE\n.PP\n")
			case inList && !indented:
				b.WriteString(".PP\n")
			}
			inExample = example
			switch {
			case example:
				b.WriteString(literal(strings.TrimPrefix(line, "   ")) + "\n")
				continue
			case listItem.MatchString(line):
				b.WriteString(".IP \\(bu 3\n")
				line = listItem.ReplaceAllString(line, "")
			}
			inList = indented
			b.WriteString(bold(roff(strings.TrimSpace(line))) + "\n")
		}
		if inExample {
			b.WriteString(".EE\n.RE\n")
		}
		inList = false
	}
	return strings.TrimPrefix(strings.TrimSuffix(b.String(), "\n"), ".PP\n")
}

// synopsis sets the placeholders of a usage line.
func synopsis(text string) string {
	return capitals.ReplaceAllString(literal(text), `\fI$0\fP`)
}

var capitals = regexp.MustCompile(`\b[A-Z]+\b`)

// optionTerm is an option's names and the placeholder of its value.
func optionTerm(o docOption) string {
	var names []string
	for _, n := range o.Names {
		names = append(names, `\fB`+minus(n)+`\fP`)
	}
	if o.Value == "" {
		return strings.Join(names, ", ")
	}
	value := `\fI` + o.Value + `\fP`
	if strings.Contains(o.Value, "|") {
		value = `\fB` + strings.ReplaceAll(o.Value, "|", `\fP|\fB`) + `\fP`
	}
	return strings.Join(names, ", ") + " " + value
}

// common are the options that a command shares with others.
func common(options []docOption) string {
	var all []string
	for _, o := range options {
		if o.Common {
			all = append(all, optionTerm(o))
		}
	}
	return strings.Join(all, ", ")
}

// explained is what an option does.
func explained(o docOption) string {
	text := sentence(o.Usage)
	if o.Value == "" || strings.Contains(o.Value, "|") {
		return text
	}
	return regexp.MustCompile(`\b`+o.Value+`\b`).ReplaceAllString(text, `\fI$0\fP`)
}

// exitCodes are the exit statuses that the help of a command lists.
func exitCodes(c docCommand) string {
	_, part, _ := strings.Cut(c.CustomHelpTemplate, "\nEXIT STATUS:\n")
	var all []string
	for line := range strings.Lines(part) {
		code, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if code == "else" {
			code = "otherwise " + roff(strings.TrimSpace(text))
		}
		all = append(all, code)
	}
	return strings.Join(all, ", ")
}

// TestManPagesAreWellFormed has groff(1), and mandoc(1) where there is one, read the man pages.
func TestManPagesAreWellFormed(t *testing.T) {
	pages, err := filepath.Glob("../../docs/man/*.[1358]")
	if err != nil || len(pages) == 0 {
		t.Fatalf("man pages %q, %v", pages, err)
	}
	for _, page := range pages {
		for _, reader := range [][]string{
			{"groff", "-man", "-Tutf8", "-ww", "-z", "-rCHECKSTYLE=3"}, {"mandoc", "-T", "lint", "-W", "warning"},
		} {
			if _, err := exec.LookPath(reader[0]); err != nil {
				continue // either is enough
			}
			out, err := exec.Command(reader[0], append(reader[1:], page)...).CombinedOutput()
			complaints := regexp.MustCompile(`(?m)^.*missing date.*\n`).ReplaceAllString(string(out), "")
			if complaints != "" || err != nil && len(out) == 0 {
				t.Errorf("%s: %s: %v\n%s", reader[0], page, err, complaints)
			}
		}
	}
}

func TestProse(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"It is\nso.", "It is\nso."},
		{"A half-made --store=x, -q\n.x", "A half-made \\-\\-store=x, \\-q\n\\&.x"},
		{"Of /a/b and A_B", "Of \\%/a/b and \\%A_B"},
		{"One\n\nTwo `a --b`", "One\n.PP\nTwo \\fBa \\-\\-b\\fP"},
		{"Try:\n\n   a \\ 'b-c'\n   d\n\nSo.", "Try:\n.PP\n.RS 4\n.EX\na \\e \\(aqb\\-c\\(aq\nd\n.EE\n.RE\n.PP\nSo."},
		{"Is:\n  - a\n    b…\n - c\nSo.", "Is:\n.IP \\(bu 3\na\nb...\n.IP \\(bu 3\nc\n.PP\nSo."},
	} {
		if got := prose(tc.text); got != tc.want {
			t.Errorf("%q is set as\n%s\nwant\n%s", tc.text, got, tc.want)
		}
	}
}
