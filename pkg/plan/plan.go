package plan

import (
	"fmt"
	"slices"

	"github.com/residentctl/residentctl/pkg/ldcache"
)

// Plan is a plan in memory: the format's tables, with paths as strings.
type Plan struct {
	Kind  uint32
	Flags uint32
	Path  string // the program's absolute path
	Real  string // the same with links resolved
	ID    string // the image's id

	Files       []MappedFile // Program first, Pages last
	Anon        []Map
	Protects    []Protect
	Fixups      []Fixup
	Checks      []CheckedFile
	Directories []SearchedDirectory
	CPUID       []CPUID
	Layouts     []string // the names, from the store's directory, of plans of the same program at other addresses

	// Only of kind warm.
	Executed string   // the path that the process is called by, AT_EXECFN, if that is not Path
	Args     []string // what takes the place of argv[0], with FlagProgramArg and the program's path
	Env      []EnvCheck
	Copies   []Map // of Pages, into mappings of Anon
	Signals  []SignalAction
	Populate []Map // for writing, as Prot says

	Caller Caller
	VDSO   VDSO
	MM     MM
	Kernel Kernel
	Entry  Entry
	Stop   Stop
	Warm   Warm
}

// MappedFile is a file and what is mapped of it.
type MappedFile struct {
	Path  string
	Flags uint32
	ID    FileID
	Maps  []Map
}

// CheckedFile is a file that must be as it was; with ID.Ino 0 it must not
// exist.
type CheckedFile struct {
	Path    string
	ID      FileID
	Answers []CacheAnswer // of ld.so.cache: another file with the same ones will do
}

// CacheAnswer is what ld.so.cache has for a name.
type CacheAnswer struct {
	Name    string
	Entries []ldcache.Entry
}

// SearchedDirectory is a directory, and the paths that were looked for in it and not found.
type SearchedDirectory struct {
	Path   string
	ID     FileID
	Misses []string
	Exact  bool // it has to be unchanged, whatever is missing in it
}

// EnvCheck is what must be true of the caller's environment.
type EnvCheck struct {
	Text string
	Kind uint32 // EnvExact or EnvPrefix
}

// Program returns the program's file, of which nothing is mapped if it is a script.
func (p *Plan) Program() *MappedFile { return &p.Files[0] }

// Pages returns what is mapped of CRIU's pages, which are named from the store's directory.
func (p *Plan) Pages() *MappedFile { return &p.Files[len(p.Files)-1] }

// Exe returns what is mapped of the executable that /proc/self/exe is to name.
func (p *Plan) Exe() *MappedFile {
	return &p.Files[slices.IndexFunc(p.Files, func(f MappedFile) bool { return f.Flags&FileExe != 0 })]
}

// StackRoom returns how many bytes a start needs below the initial stack for Args, besides
// those for the program's path: the launcher puts them in argv[0]'s place, and moves what is
// below down (pkg/launcher/src/warm.c, rebuild).
func (p *Plan) StackRoom() uint64 {
	if len(p.Args) == 0 {
		return 0
	}
	// AT_RANDOM's bytes and AT_PLATFORM's string, of at most 64 bytes together, and what
	// it takes to align them and the vector.
	room := uint64(64 + 2*16)
	for _, a := range p.Args {
		room += uint64(len(a)) + 1 + 8
	}
	return room
}

// Mappings returns the number of mmap calls in the plan.
func (p *Plan) Mappings() int {
	n := len(p.Anon)
	for _, f := range p.Files {
		n += len(f.Maps)
	}
	return n
}

// maxSize bounds a plan, in bytes: the launcher takes none that is larger than 16 MiB
// (pkg/launcher/src/caller.c, PLAN_MAX), and with the gap it needs no more room than that. A program with 10,000 mappings has half a MiB.
const maxSize = 16<<20 - planGap

// DamagedError says that bytes are not a plan.
type DamagedError struct {
	What string
}

func (e *DamagedError) Error() string { return "damaged plan: " + e.What }

func damaged(format string, args ...any) error {
	return &DamagedError{fmt.Sprintf(format, args...)}
}
