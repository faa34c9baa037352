package conformance

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/residentctl/residentctl/integration/kit"
)

// withoutSources is the exit status of scripts/suites when it cannot get a suite.
const withoutSources = 77

// TestSuites runs a slice of the upstream suites that scripts/suites runs whole.
func TestSuites(t *testing.T) {
	slice := kit.Today(t, 3)
	for i, test := range []struct {
		name string
		run  func(t *testing.T)
	}{{"resident", suitesResident}, {"under exec", suitesUnderExec}, {"warm", suitesWarm}} {
		if slice.Has(i) {
			t.Run(test.name, test.run)
		}
	}
}

func suitesResident(t *testing.T) {
	suitesSlice(t, "perl", "bash")
}

// suitesWarm runs some of CPython's own tests from a warm image.
func suitesWarm(t *testing.T) { suitesSlice(t, "python") }

// suitesSlice runs slices of the suites, which must all be the same plain and resident.
func suitesSlice(t *testing.T, suites ...string) {
	kit.RequireCRIU(t)
	output, status := runSuites(t, append([]string{"--slice", "--residentctl", kit.Residentctl(t)}, suites...)...)
	switch {
	case status == withoutSources && slices.Contains(strings.Split(os.Getenv("RESIDENTCTL_TEST_REQUIRE"), ","), "suites"):
		t.Fatalf("RESIDENTCTL_TEST_REQUIRE says that the suites' sources can be had:\n%s", output)
	case status == withoutSources:
		lines := strings.Split(strings.TrimSpace(output), "\n")
		t.Skip(lines[len(lines)-1])
	case status != 0:
		t.Fatalf("exit status %d\n%s", status, output)
	}
	summary := regexp.MustCompile(`(?m)^suites: (\w+): (\d+) of (\d+) test files pass .*, 0 differ resident; .* (\d+) of them resident`)
	found := summary.FindAllStringSubmatch(output, -1)
	if len(found) != len(suites) {
		t.Fatalf("%d suites instead of %d say that all is the same:\n%s", len(found), len(suites), output)
	}
	for _, match := range found {
		t.Log(match[0])
	}
}

// suitesUnderExec runs some of bash's own tests in a tree of exec.
func suitesUnderExec(t *testing.T) {
	kit.RequireCRIU(t)
	output, status := runSuites(t, "--exec", "--rounds", "1", "--residentctl", kit.Residentctl(t),
		"--tests", "run-arith,run-array,run-comsub,run-exp-tests,run-glob-test,run-globstar,run-input-test,run-parser,run-quote,run-redir,run-type", "bash")
	if status == withoutSources {
		t.Skip("no sources")
	}
	for _, want := range []string{
		`(?m)^suites: bash: \d+ of \d+ test files pass .*, 0 differ exec; (\d+) starts plain; (\d+) under exec, (\d+) of them resident$`,
		`(?m)^suites: bash: under exec in \d+\.\d\d of the plain time .* and \d+\.\d\d of the processor time .*, medians of 1 rounds$`,
	} {
		if !regexp.MustCompile(want).MatchString(output) {
			t.Errorf("the output lacks %s", want)
		}
	}
	if status != 0 || t.Failed() {
		t.Errorf("exit status %d:\n%s", status, output)
	}
}

// TestSuitesNoticeDifferences: a program that does not do the same is found out.
func TestSuitesNoticeDifferences(t *testing.T) {
	kit.RequireCRIU(t)
	// In the place of bash's launcher file it puts one that forgets how to glob.
	const pretender = `#!/bin/sh -eu
		[ "$1 $3 $4" = "--store add --even-if-slower" ]
		store=$2 program=$5
		id=$(stat -Lc %d-%i "$program")
		mkdir -p "$store/images/one" "$store/index" "$store/launchers/$id/$(dirname "$program")"
		: >"$store/images/one/pages-1.img"
		: >"$store/images/one/plan"
		ln -s ../images/one/plan "$store/index/$id"
		printf '#!/bin/sh\nexec %s -f "$@"\n' "$program" >"$store/launchers/$id/$program"
		chmod 755 "$store/launchers/$id/$program"
	`
	fake := filepath.Join(kit.Dir(t), "residentctl")
	if err := os.WriteFile(fake, []byte(pretender), 0o755); err != nil {
		t.Fatal(err)
	}
	output, status := runSuites(t, "--tests", "run-globstar,run-quote", "--residentctl", fake, "bash")
	if status == withoutSources {
		t.Skip("no sources")
	}
	for _, want := range []string{
		"suites: bash: run-globstar differs (plain -, resident +):\n@@ -1 +1 @@\n-1\tok\n+1\tnot ok",
		"suites: bash: most starts should have been resident",
		" 0 of them resident",
	} {
		if !strings.Contains(output, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if status != 1 || t.Failed() {
		t.Errorf("exit status %d, want 1:\n%s", status, output)
	}
}

// runSuites gives what scripts/suites writes and its exit status.
func runSuites(t *testing.T, args ...string) (output string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "scripts/suites", args...)
	cmd.Dir = ".."
	cmd.WaitDelay = 5 * time.Second
	combined, err := cmd.CombinedOutput()
	if ctx.Err() != nil || cmd.ProcessState == nil {
		t.Fatalf("scripts/suites: %v (%v)\n%s", err, ctx.Err(), combined)
	}
	return string(combined), cmd.ProcessState.ExitCode()
}
