package intercept

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/residentctl/residentctl/pkg/store"
)

// Shells are those that a caller may name, each with the one of sh, fish and csh whose
// line it understands.
var Shells = []struct{ Name, Reads string }{
	{"bash", "sh"}, {"zsh", "sh"}, {"sh", "sh"}, {"dash", "sh"}, {"ksh", "sh"}, {"mksh", "sh"},
	{"fish", "fish"}, {"csh", "csh"}, {"tcsh", "csh"}, {"bsd-csh", "csh"},
}

// Shell returns the shell whose line the shell at path understands: sh, fish or csh. Of one that
// is unknown it is sh, as most read its language.
func Shell(path string) (reads string, known bool) {
	for _, s := range Shells {
		if s.Name == filepath.Base(path) {
			return s.Reads, true
		}
	}
	return "sh", false
}

// PathLine returns the line that makes a shell, one that Shell returns, look into
// directories before those in PATH. A directory that is in PATH stays where it is: a shell
// that reads the line for each script would put it in front of a wrapper again and again
// that calls the next program of its name.
//
// Bash remembers where it has found a command and fails when that shim is gone. With
// checkhash it then searches PATH again (bash(1), shopt), as other shells do anyway.
func PathLine(shell string, dirs []string) (string, error) {
	var parts []string
	for _, dir := range slices.Backward(dirs) { // the last that is put in front is the first
		if err := store.FitsPath(dir); err != nil {
			return "", err
		}
		part, err := pathPart(shell, dir)
		if err != nil {
			return "", err
		}
		parts = append(parts, part)
	}
	if shell == "sh" {
		parts = append(parts, `[ -z "${BASH_VERSION-}" ] || shopt -s checkhash`)
	}
	return strings.Join(parts, "; "), nil
}

// pathPart is PathLine for one directory.
func pathPart(shell, dir string) (string, error) {
	switch shell {
	case "sh":
		q := quote(dir, `'\''`)
		// An empty PATH would leave an empty directory, which is the current one.
		return fmt.Sprintf(`case ":${PATH-}:" in *:%s:*) ;; *) export PATH=%s"${PATH:+:$PATH}" ;; esac`, q, q), nil
	case "fish":
		// In fish's single quotes a backslash is one only before these two
		// characters (fish-language, "Quotes").
		q := quote(strings.ReplaceAll(dir, `\`, `\\`), `\'`)
		return fmt.Sprintf("contains -- %s $PATH; or set -gx PATH %s $PATH", q, q), nil
	case "csh":
		// History is substituted in quotes too (csh(1), "History substitutions"), and
		// tcsh takes a bracket in them for a pattern's.
		q := strings.ReplaceAll(quote(dir, `'\''`), "!", `\!`)
		pattern := strings.ReplaceAll(q, "[", "'?'")
		return fmt.Sprintf(`if (! (":${PATH}:" =~ *:%s:*)) setenv PATH %s:"$PATH"`, pattern, q), nil
	}
	return "", fmt.Errorf("no line is known for %s", shell)
}

// quote puts text in single quotes, and in place of each in it escaped.
func quote(text, escaped string) string {
	return "'" + strings.ReplaceAll(text, "'", escaped) + "'"
}

// PathPosition returns the position of a directory in PATH: 1 is the first place, 0 means
// that it is not there.
func PathPosition(dir string) int {
	return 1 + slices.IndexFunc(filepath.SplitList(os.Getenv("PATH")), func(d string) bool {
		if d == "" {
			return false
		}
		if filepath.Clean(d) == filepath.Clean(dir) {
			return true
		}
		a, err := os.Stat(d)
		if err != nil {
			return false
		}
		b, err := os.Stat(dir)
		return err == nil && os.SameFile(a, b)
	})
}
