package rules

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestVersionScript: scripts/version names the newest release, and the commit where
// that is not the release itself.
func TestVersionScript(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git")
	}
	const (
		unreleased = "# Changelog\n\n## [Unreleased]\n\n- something\n"
		released   = unreleased + "\n## [0.2.0] - 2026-01-02\n\n## [0.1.0] - 2025-01-02\n"
		commit     = `\+[0-9a-f]{12}`
	)
	for _, tc := range []struct {
		name, changelog string
		steps           []string // git's arguments, or "edit", "archive", "bury"
		want            string
	}{
		{"no repository", unreleased, nil, `0\.1\.0-dev`},
		{"no repository, a release", released, nil, `0\.2\.0`},
		{"no commit", unreleased, []string{"init -q"}, `0\.1\.0-dev`},
		{"commit", unreleased, []string{"init -q", "add .", "commit -qm x"}, `0\.1\.0-dev` + commit},
		{"changed", unreleased, []string{"init -q", "add .", "commit -qm x", "edit"}, `0\.1\.0-dev` + commit + `\.dirty`},
		{"commit after a release", released, []string{"init -q", "add .", "commit -qm x", "tag v0.2.0", "commit -qm y --allow-empty"}, `0\.2\.0` + commit},
		{"tag", released, []string{"init -q", "add .", "commit -qm x", "tag v0.2.0"}, `0\.2\.0`},
		{"tag of another version", released, []string{"init -q", "add .", "commit -qm x", "tag v0.1.0"}, `0\.2\.0` + commit},
		{"tag, changed", released, []string{"init -q", "add .", "commit -qm x", "tag v0.2.0", "edit"}, `0\.2\.0` + commit + `\.dirty`},
		{"archive", unreleased, []string{"init -q", "add .", "commit -qm x", "archive"}, `0\.1\.0-dev` + commit},
		{"archive of a tag", released, []string{"init -q", "add .", "commit -qm x", "tag v0.2.0", "archive"}, `0\.2\.0`},
		{"in another repository", released, []string{"init -q", "add .", "commit -qm x", "bury"}, `0\.2\.0`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			tree := func(dir string) {
				script, err := os.ReadFile("../../scripts/version")
				if err != nil {
					t.Fatal(err)
				}
				// In a source archive git archive has filled them in.
				script = regexp.MustCompile(`(?m)^commit='.*' tag='.*'$`).
					ReplaceAllLiteral(script, []byte(`commit='$Format:%H$' tag='$Format:%(describe:tags,match=v*)$'`))
				for path, text := range map[string]string{
					"scripts/version": string(script), "CHANGELOG.md": tc.changelog, ".gitattributes": "scripts/version export-subst\n",
				} {
					if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o755); err != nil {
						t.Fatal(err)
					}
				}
			}
			do := func(name string, args ...string) string {
				cmd := exec.Command(name, args...)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir),
					"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org")
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%s %q: %v\n%s", name, args, err, out)
				}
				return string(out)
			}
			tree(dir)
			for _, step := range tc.steps {
				switch step {
				case "edit":
					tree(dir)
					if err := os.WriteFile(filepath.Join(dir, "CHANGELOG.md"), []byte(tc.changelog+"more\n"), 0o644); err != nil {
						t.Fatal(err)
					}
				case "archive":
					out := t.TempDir()
					do("sh", "-c", `git archive HEAD | tar -x -C "$1"`, "sh", out)
					dir = out
				case "bury":
					dir = filepath.Join(dir, "inside")
					tree(dir)
				default:
					do("git", strings.Fields(step)...)
				}
			}
			got := strings.TrimSpace(do("scripts/version"))
			if !regexp.MustCompile("^" + tc.want + "$").MatchString(got) {
				t.Errorf("the version is %s, want %s", got, tc.want)
			}
		})
	}
}
