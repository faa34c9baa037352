package warm

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

// A Script is a file that begins with #!, and what the kernel executes for it
// (fs/binfmt_script.c, load_script).
type Script struct {
	Path        string
	Interpreter string   // absolute: what is executed in the end
	Argv        []string // of that, in front of the script's path: its own name, and an option
	ByEnv       bool     // env(1) executes it
	ByPATH      bool     // and has found it in PATH
	Misses      []string // where env would have found it before, and there is nothing
}

// IsPython reports whether a path is, by its name, that of an interpreter of python.
func IsPython(path string) bool { return isPython.MatchString(filepath.Base(path)) }

// maxFirstLine is how much of a script the kernel reads (include/uapi/linux/binfmts.h,
// BINPRM_BUF_SIZE).
const maxFirstLine = 256

// isPython matches the names of python's interpreters.
var isPython = regexp.MustCompile(`^python(3(\.[0-9]+)?)?$`)

// ReadScript reads the first line of the script at path, an absolute path. Where that names
// env(1), the interpreter is looked up in the directories of pathVar, the value of PATH. The
// errors are problem.Refused where it is not python's, or no script.
func ReadScript(path, pathVar string) (*Script, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, maxFirstLine))
	if err != nil {
		return nil, err
	}
	line, _, whole := bytes.Cut(head, []byte("\n"))
	if !bytes.HasPrefix(line, []byte("#!")) || !whole {
		return nil, problem.Refusef("%s is no script: it does not begin with #!", path)
	}
	name, option, _ := strings.Cut(strings.TrimSpace(string(line[2:])), " ")
	s := &Script{Path: path, Interpreter: name, Argv: []string{name}}
	if option = strings.TrimSpace(option); option != "" {
		s.Argv = append(s.Argv, option)
	}
	if filepath.Base(name) == "env" {
		if err := s.viaEnv(pathVar); err != nil {
			return nil, err
		}
	}
	if option := s.optionNotKnown(); option != "" {
		return nil, problem.Refusef("%s is started with the option %q, with which python does not run it as usual", path, option)
	}
	if !filepath.IsAbs(s.Interpreter) || !IsPython(s.Interpreter) {
		return nil, problem.Refusef("%s is a script for %s, and only python's can have a warm image", path, s.Interpreter)
	}
	return s, nil
}

// knownOptions are the options without a value that leave python's way to its main program as it
// is (python3(1)): not -i, -v, -x and those that name another program.
const knownOptions = "bBdEIOPqsSu"

// optionNotKnown is the first option in front of the script that is none of knownOptions, -X or -W.
func (s *Script) optionNotKnown() string {
	for _, word := range s.Argv[1:] {
		letters, isOption := strings.CutPrefix(word, "-")
		if !isOption || strings.HasPrefix(word, "-X") || strings.HasPrefix(word, "-W") {
			continue
		}
		if strings.Trim(letters, knownOptions) != "" || letters == "" {
			return word
		}
	}
	return ""
}

// viaEnv finds the interpreter as env(1) does, which has been given its name, or with -S some
// words.
func (s *Script) viaEnv(pathVar string) error {
	words := s.Argv[1:]
	if len(words) == 1 && strings.HasPrefix(words[0], "-S") {
		words = strings.Fields(strings.TrimPrefix(words[0], "-S"))
	}
	if len(words) == 0 || strings.ContainsAny(strings.Join(words, ""), `='"\$#`) || strings.HasPrefix(words[0], "-") {
		return problem.Refusef("%s is started by env with %q, which is not understood", s.Path, strings.Join(s.Argv[1:], " "))
	}
	s.Argv, s.ByEnv = words, true
	if strings.Contains(words[0], "/") {
		s.Interpreter = words[0]
		return nil
	}
	s.ByPATH = true
	for _, dir := range filepath.SplitList(pathVar) {
		at := filepath.Join(dir, words[0])
		if !filepath.IsAbs(at) {
			return problem.Refusef("%s is looked up in PATH, which has the relative directory %q", words[0], dir)
		}
		if info, err := os.Stat(at); err == nil && info.Mode().IsRegular() && linux.CanExecute(at) == nil {
			s.Interpreter = at
			return nil
		}
		s.Misses = append(s.Misses, at)
	}
	return problem.Newf(problem.Program, "%s is not found in PATH, where %s looks for it", words[0], s.Path)
}
