package intercept

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Shells whose line PathLine knows.
var Shells = []string{"sh", "fish", "csh"}

// Shell is the one of Shells that understands the same as the shell at path; sh
// for those that are unknown, as most read its language.
func Shell(path string) string {
	switch filepath.Base(path) {
	case "fish":
		return "fish"
	case "csh", "tcsh":
		return "csh"
	}
	return "sh"
}

// PathLine is what makes a shell look into folders before those in PATH.
func PathLine(shell string, dirs []string) (string, error) {
	for _, dir := range dirs {
		if strings.ContainsAny(dir, ":\n") {
			return "", fmt.Errorf("%q cannot stand in PATH", dir)
		}
	}
	switch shell {
	case "sh":
		return "export PATH=" + quote(strings.Join(dirs, ":"), `'\''`) + `:"$PATH"`, nil
	case "fish":
		var words []string
		for _, dir := range dirs {
			// In fish's single quotes a backslash is one only before these two
			// characters (fish-language, "Quotes").
			words = append(words, quote(strings.ReplaceAll(dir, `\`, `\\`), `\'`))
		}
		return "set -gx PATH " + strings.Join(words, " ") + " $PATH", nil
	case "csh":
		// History is substituted in quotes too (csh(1), "History substitutions").
		joined := strings.ReplaceAll(quote(strings.Join(dirs, ":"), `'\''`), "!", `\!`)
		return "setenv PATH " + joined + `:"$PATH"`, nil
	}
	return "", fmt.Errorf("the shell must be one of %s", strings.Join(Shells, ", "))
}

// quote puts text in single quotes, and in the place of each in it escaped.
func quote(text, escaped string) string {
	return "'" + strings.ReplaceAll(text, "'", escaped) + "'"
}

// PathPosition tells where a folder stands in PATH: 1 is the first place, 0 means
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
