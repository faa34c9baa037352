package rules

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/residentctl/residentctl/"

// layers are the packages from top to bottom: each imports only what stands
// further down, or beside it.
var layers = [][]string{
	{"cmd/residentctl", "internal/sweep"},
	{"pkg/resident", "pkg/intercept"},
	{"pkg/readers"},
	{"pkg/registry", "pkg/store", "pkg/criuwrap", "pkg/linkstop", "pkg/inherit", "pkg/launcher/front", "pkg/binfmt", "pkg/warmstop", "pkg/warm"},
	{"pkg/fingerprint", "pkg/ptrace"},
	{"pkg/launcher"},
	{"pkg/plan", "pkg/plan/planheader", "pkg/elfinfo", "pkg/ldcache", "pkg/conf"},
	{"internal/unchanged", "internal/seeded", "internal/fixture"}, // of tests only
	{"internal/owners"},
	{"internal/linux", "internal/descriptors", "internal/ordered", "internal/plural", "internal/problem", "internal/bytesize"},
}

// only says who alone may import something.
var only = map[string][]string{
	"github.com/checkpoint-restore/go-criu": {"pkg/criuwrap"},
	"go.etcd.io/bbolt":                      {"pkg/registry"},
	"github.com/urfave/cli":                 {"cmd/residentctl"},
	"github.com/jedib0t/go-pretty":          {"cmd/residentctl"},
}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		pkg := strings.TrimPrefix(words[0], module)
		seen++
		for _, imported := range words[1:] {
			if own, ok := strings.CutPrefix(imported, module); ok && layer(own) < layer(pkg) {
				t.Errorf("%s imports %s, which stands above it", pkg, own)
			}
			for what, who := range only {
				if strings.HasPrefix(imported, what) && !slices.Contains(who, pkg) {
					t.Errorf("%s imports %s; only %v may", pkg, imported, who)
				}
			}
		}
		if layer(pkg) < 0 && pkg != "internal/rules" && !strings.HasPrefix(pkg, "integration") && !strings.HasPrefix(pkg, "scripts/") {
			t.Errorf("%s is in no layer", pkg)
		}
	}
	if seen < len(layers) {
		t.Errorf("only %d packages were found", seen)
	}
}

// tracing is what x/sys/unix and syscall have of ptrace(2).
var tracing = regexp.MustCompile(`\b(unix|syscall)\.(Ptrace|PTRACE_|SYS_PTRACE)`)

// Only pkg/ptrace stops processes; others use it.
func TestOnlyPtraceTraces(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .GoFiles}} {{$.Dir}}/{{.}}{{end}}`, module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		pkg := strings.TrimPrefix(words[0], module)
		if pkg == "pkg/ptrace" || pkg == "internal/linux" {
			continue
		}
		for _, file := range words[1:] {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if what := tracing.Find(text); what != nil {
				t.Errorf("%s uses %s…; only pkg/ptrace may", filepath.Base(file)+" of "+pkg, what)
			}
		}
	}
}

func layer(pkg string) int {
	return slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, pkg) })
}
