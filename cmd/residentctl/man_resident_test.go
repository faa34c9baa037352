package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/pkg/conf"
)

// The man pages that are written by hand name every option that there is.
func TestHandWrittenPagesNameEveryOption(t *testing.T) {
	all := conf.Options{Layouts: 2, MemoryLimit: 1 << 30, EvenIfSlower: true, TrustOwner: true, Shim: true, System: true}
	words := regexp.MustCompile(`[a-z-]+[a-z]`).FindAllString(all.String(), -1)
	letters := regexp.MustCompile(`(?m)^   (-\w)`).FindAllString(residentUsage, -1)
	for page, options := range map[string][]string{"resident.conf.5": words, "resident.8": letters} {
		text, err := os.ReadFile("../../docs/man/" + page)
		if err != nil {
			t.Fatal(err)
		}
		if len(options) < 5 {
			t.Errorf("%s: only the options %q were found", page, options)
		}
		for _, o := range options {
			option := minus(strings.TrimSpace(o))
			if !regexp.MustCompile(`(?m)^\.BI? ` + regexp.QuoteMeta(option) + `(\\~ |$)`).Match(text) {
				t.Errorf("%s does not explain %s", page, option)
			}
		}
	}
}
