package elfinfo

import (
	"github.com/residentctl/residentctl/internal/problem"
)

// A Refusal says why a program is not made resident. Reason completes the
// sentence "PATH …"; Hint, which may be empty, says what to do instead.
type Refusal struct {
	Path   string
	Kind   Kind
	Reason string
	Hint   string
}

func (r *Refusal) Error() string { return r.Path + " " + r.Reason }

// AsProblem returns the Refusal as a problem.
func (r *Refusal) AsProblem() *problem.Problem {
	return &problem.Problem{Kind: problem.Refused, Hint: r.Hint}
}

// Kind is the class of a Refusal.
type Kind int

// The classes, in the order in which they are looked for.
const (
	NotFound      Kind = iota + 1 // there is no such file
	Unreadable                    // the caller cannot read it
	NotRegular                    // a directory, a device, a pipe
	Script                        // begins with #!
	NotELF                        // neither a script nor ELF
	Corrupt                       // ELF whose headers are cut off or contradict each other
	ForeignArch                   // for another machine, or 32-bit
	NotProgram                    // an object file or a core dump
	Setuid                        // runs as its owner
	Setgid                        // runs as its group
	FileCaps                      // file capabilities(7)
	NotExecutable                 // the caller cannot execute it
	Static                        // statically linked at fixed addresses
	StaticPIE                     // statically linked, relocates itself
	NoLinker                      // names no dynamic linker, or something that is none
	Audit                         // DT_AUDIT or DT_DEPAUDIT
	TextRel                       // relocations in its instructions
	ExecStack                     // wants an executable stack
	SearchesHere                  // its libraries are searched relative to the current directory
	OddName                       // its path cannot be kept, or is not what /proc shows
	Uncheckable                   // its dynamic linker used what no start can check
	kinds
)

var kindNames = [kinds]string{
	NotFound:      "not-found",
	Unreadable:    "unreadable",
	NotRegular:    "not-regular",
	Script:        "script",
	NotELF:        "not-elf",
	Corrupt:       "corrupt",
	ForeignArch:   "foreign-arch",
	NotProgram:    "not-program",
	Setuid:        "setuid",
	Setgid:        "setgid",
	FileCaps:      "file-caps",
	NotExecutable: "not-executable",
	Static:        "static",
	StaticPIE:     "static-pie",
	NoLinker:      "no-linker",
	Audit:         "audit",
	TextRel:       "textrel",
	ExecStack:     "execstack",
	SearchesHere:  "searches-here",
	OddName:       "odd-name",
	Uncheckable:   "uncheckable",
}

// String returns the kind's name in tables and JSON.
func (k Kind) String() string {
	if k <= 0 || k >= kinds {
		return "unknown"
	}
	return kindNames[k]
}
