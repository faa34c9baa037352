package warm

import (
	"fmt"
	"slices"
	"strings"

	"github.com/residentctl/residentctl/pkg/warmstop"
)

// A Report is what a run of the shim has found out.
type Report struct {
	Modules  []string // that were imported, in order
	Failed   []string // those that could not be, with the reason
	Read     []string // the environment variables that were read
	ReadCPUs bool     // how many CPUs there are was asked for
	Path     []string // sys.path, without the script's directory
	Findings []warmstop.Finding
	Renewed  []warmstop.Finding // What and Module of findings that the shim makes up for at a start
}

// ParseReport reads the lines that the shim has written: each a word, and what it is about.
func ParseReport(text []byte) (*Report, error) {
	r := &Report{}
	for line := range strings.Lines(string(text)) {
		word, about, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch word {
		case "module":
			r.Modules = append(r.Modules, about)
		case "failed":
			r.Failed = append(r.Failed, strings.Replace(about, "\t", ": ", 1))
		case "env":
			name, _, _ := strings.Cut(about, "=")
			if name != "" && !slices.Contains(r.Read, name) {
				r.Read = append(r.Read, name)
			}
		case "found":
			what, detail, _ := strings.Cut(about, "\t")
			detail, module, _ := strings.Cut(detail, "\t")
			r.Findings = append(r.Findings, warmstop.Finding{What: what, Detail: detail, Module: module})
		case "renewed":
			whats, module, _ := strings.Cut(about, "\t")
			for what := range strings.FieldsSeq(whats) {
				r.Renewed = append(r.Renewed, warmstop.Finding{What: what, Module: module})
			}
		case "read":
			module, what, _ := strings.Cut(about, "\t")
			switch what {
			case "urandom":
				r.Findings = append(r.Findings, warmstop.Finding{What: warmstop.FoundRandom, Detail: "draws random bytes", Module: module})
			case "cpu_count", "sched_getaffinity":
				r.ReadCPUs = true
			}
		case "path":
			r.Path = append(r.Path, about)
		case "python", "frames", "extension", "effect", "fd", "":
			// for people who look into a report
		default:
			return nil, fmt.Errorf("the shim's report has the line %q", line)
		}
	}
	return r, nil
}
