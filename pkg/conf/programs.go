package conf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Program is one that files name.
type Program struct {
	Path    string
	Literal bool // a line names it alone, so that it is a failure if it cannot be resident
	Absent  bool // nothing is there
	Options
}

// Programs returns the programs that the files name, by path, without those that a line with !
// takes out.
func (c *Config) Programs() []Program {
	found := map[string]Program{}
	note := func(path string, literal, absent bool, o Options) {
		p := found[path]
		found[path] = Program{path, p.Literal || literal, absent, p.Options.And(o)}
	}
	for _, l := range c.Lines {
		if !l.Never {
			l.programs(note)
		}
	}
	never := c.never()
	var all []Program
	for path, p := range found {
		if !never.takesOut(path) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b Program) int { return strings.Compare(a.Path, b.Path) })
	return all
}

// programs notes what a line names.
func (l *Line) programs(note func(path string, literal, absent bool, o Options)) {
	if isWildcard(l.Pattern) {
		paths, _ := filepath.Glob(filepath.Clean(l.Pattern)) // checked when it was read
		for _, path := range paths {
			if isProgram(path) {
				note(path, false, false, l.Options)
			}
		}
		return
	}
	path := filepath.Clean(unquote(l.Pattern))
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		note(path, true, errors.Is(err, fs.ErrNotExist), l.Options)
		return
	}
	entries, _ := os.ReadDir(path)
	for _, e := range entries {
		if file := filepath.Join(path, e.Name()); isProgram(file) {
			note(file, false, false, l.Options)
		}
	}
}

// isProgram reports whether a path leads to a file that may be executed at all.
func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// Never reports whether a line with ! names the program at path, by this path or by the one
// that its links lead to.
func (c *Config) Never(path string) bool { return c.never().takesOut(path) }

// rules are patterns, each also with the links in its directory resolved.
type rules []string

func (c *Config) never() (r rules) {
	for _, l := range c.Lines {
		if !l.Never {
			continue
		}
		pattern := filepath.Clean(l.Pattern)
		r = append(r, pattern)
		dir, base := filepath.Split(pattern)
		if isWildcard(dir) {
			continue
		}
		if real, err := filepath.EvalSymlinks(unquote(dir)); err == nil {
			r = append(r, filepath.Join(quote(real), base))
		}
	}
	return r
}

// takesOut reports whether a rule names a path or a directory that it is in, or what these
// lead to.
func (r rules) takesOut(path string) bool {
	if len(r) == 0 {
		return false
	}
	names := []string{path}
	if real, err := filepath.EvalSymlinks(path); err == nil && real != path {
		names = append(names, real)
	}
	for _, name := range names {
		for ; name != "/" && name != "."; name = filepath.Dir(name) {
			if slices.ContainsFunc(r, func(pattern string) bool { ok, _ := filepath.Match(pattern, name); return ok }) {
				return true
			}
		}
	}
	return false
}

// quote returns the pattern that stands for a path alone.
func quote(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}
