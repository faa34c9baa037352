package warm

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
)

//go:embed python/shim.py
var pythonShim []byte

// Modes of the python shim.
const (
	PythonTrain    = "train"    // run a program and report what it imports
	PythonTemplate = "template" // import modules, wait at the point, run a program
)

// Kinds of programs of the python shim: how a start's arguments are read.
const (
	KindScript      = "script"
	KindInterpreter = "interpreter"
)

// A PythonConfig says what the python shim does.
type PythonConfig struct {
	Mode    string   `json:"mode"`              // PythonTrain or PythonTemplate
	Report  string   `json:"report,omitempty"`  // path of the file that is written; none if empty
	Argv    []string `json:"argv,omitempty"`    // PythonTrain: the interpreter's words: INTERP SCRIPT ARGS, or -c, -m
	Imports []string `json:"imports,omitempty"` // PythonTemplate: the modules, in order
	Exclude []string `json:"exclude,omitempty"` // PythonTemplate: modules that are not imported, nor what imports them
	Audit   []Kept   `json:"audit,omitempty"`   // PythonTemplate: what no module may have kept
	Kind    string   `json:"kind,omitempty"`    // KindScript or KindInterpreter
	Prefix  int      `json:"prefix"`            // script: how many words of argv are before the script
	Script  string   `json:"script,omitempty"`  // script: its path, whose directory is searched first
	Program string   `json:"program,omitempty"` // interpreter: the real program, for a normal start; else a name for messages
	Exit    string   `json:"exit,omitempty"`    // "full": always a normal end of the interpreter
	Point   string   `json:"point,omitempty"`   // "forkserver": requests on standard input in the point's place
}

// Kept is a value of the process that a module may keep when it is imported: a list for the
// shim, of what it is (warmstop.Finding, What), the value, and whether a string that contains it
// counts.
type Kept [3]any

// PythonShim returns a script for the python interpreter that does what cfg says.
func PythonShim(cfg PythonConfig) ([]byte, error) {
	config, err := pythonLiteral(cfg)
	if err != nil {
		return nil, fmt.Errorf("write the python shim: %w", err)
	}
	return fmt.Appendf(nil, "CONFIG = %s\n%s", config, pythonShim), nil
}

// pythonLiteral returns cfg as JSON. It is a python expression too: there are only
// strings, numbers, lists and objects, and json escapes what is not valid UTF-8.
func pythonLiteral(cfg PythonConfig) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(cfg); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(out.Bytes()), nil
}
