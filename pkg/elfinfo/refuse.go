package elfinfo

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/residentctl/residentctl/internal/linux"
)

// CanBeResident returns nil if nothing in the file speaks against making it
// resident for the calling process, else a *Refusal. Whether the program's
// libraries allow it shows only when it has been started.
func (f *File) CanBeResident() error {
	refuse := func(kind Kind, reason, hint string) error {
		return &Refusal{Path: f.Path, Kind: kind, Reason: reason, Hint: hint}
	}
	const (
		staticHint = "leave it as it is: a static program has no linking to save"
		privHint   = "leave it as it is: the kernel gives such a program its privileges only when it executes the program itself"
		asBefore   = "leave it as it is: it starts normally, as before"
	)
	switch {
	case f.foreign():
		return refuse(ForeignArch, fmt.Sprintf("is for another kind of machine (%s)", f.arch()), "use a 64-bit program of this machine")
	case f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN:
		return refuse(NotProgram, fmt.Sprintf("is not a program (ELF type %s)", f.Type), "name the program that was made from it")
	case f.Setuid():
		return refuse(Setuid, "is setuid", privHint)
	case f.Setgid():
		return refuse(Setgid, "is setgid", privHint)
	case f.FileCaps:
		return refuse(FileCaps, "has file capabilities", privHint)
	case linux.CanExecute(f.Path) != nil:
		return refuse(NotExecutable, "cannot be executed by you, or is on a file system mounted noexec", "try to execute it, and set its mode with chmod(1) or mount with exec")
	case f.Interp == "" && f.Type == elf.ET_EXEC:
		return refuse(Static, "is statically linked", staticHint)
	case f.Interp == "" && (f.PIE || !f.Dynamic):
		return refuse(StaticPIE, "is statically linked (static-pie)", staticHint)
	case f.Interp == "":
		return refuse(NoLinker, "names no dynamic linker; it is a library, not a program", "name a program that uses it")
	case f.Audit:
		return refuse(Audit, "asks the dynamic linker for an audit library (DT_AUDIT)", asBefore)
	case f.TextRel:
		return refuse(TextRel, "has relocations in its instructions (DT_TEXTREL)", "compile it with -fPIC or -fPIE")
	case f.ExecStack:
		return refuse(ExecStack, "wants an executable stack", "link it with -z noexecstack")
	}
	if !strings.HasPrefix(f.Interp, "/") {
		return refuse(SearchesHere, fmt.Sprintf("names its dynamic linker %s relative to the current directory", f.Interp), "link it with -Wl,--dynamic-linker and an absolute path")
	}
	if wrong := f.wrongLinker(); wrong != "" {
		return refuse(NoLinker, fmt.Sprintf("needs the dynamic linker %s%s", f.Interp, wrong), "repair it: it does not start without residentctl either")
	}
	if odd := oddName(f.Path); odd != "" {
		return refuse(OddName, odd, "give it an ordinary name")
	}
	return nil
}

// wrongLinker says what is wrong with the dynamic linker, or nothing.
func (f *File) wrongLinker() string {
	linker, err := Open(f.Interp)
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		return ", which " + refusal.Reason
	case err != nil:
		return fmt.Sprintf(": %v", errnoOf(err))
	case linker.foreign():
		return fmt.Sprintf(", which is for another kind of machine (%s)", linker.arch())
	case linker.Type != elf.ET_DYN:
		return ", which is no dynamic linker but a program"
	case linux.CanExecute(f.Interp) != nil:
		return ", which cannot be executed"
	}
	return ""
}

// oddName says what is wrong with a program's path, or nothing: the registry keeps
// text, and /proc/PID/maps shows a line's end as \012, and after the path of a file
// that has no name any more " (deleted)" (fs/seq_file.c, seq_path; fs/d_path.c).
func oddName(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		real = path
	}
	for _, p := range []string{path, real} {
		switch {
		case !utf8.ValidString(p):
			return fmt.Sprintf("has a name that is not UTF-8 (%q)", p)
		case strings.HasSuffix(p, " (deleted)"), strings.Contains(p, `\012`), strings.Contains(p, "\n"):
			return fmt.Sprintf("has a name that /proc does not show as it is (%q)", p)
		}
	}
	return ""
}

// arch names what the file was made for, for people.
func (f *File) arch() string {
	name := strings.ToLower(strings.TrimPrefix(f.Machine.String(), "EM_"))
	if f.Class == elf.ELFCLASS32 {
		return name + ", 32-bit"
	}
	return name
}

func cannotOpen(path string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR):
		r := &Refusal{Path: path, Kind: NotFound, Reason: "does not exist", Hint: "check the path"}
		if target, err := os.Readlink(path); err == nil {
			r.Reason = fmt.Sprintf("is a link to %s, which does not exist", target)
		}
		return r
	case errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENAMETOOLONG):
		return &Refusal{Path: path, Kind: NotFound, Reason: fmt.Sprintf("cannot be looked up: %v", errnoOf(err)), Hint: "check the path"}
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return &Refusal{Path: path, Kind: Unreadable, Reason: "cannot be read by you",
			Hint: "make its file readable: a resident program is mapped from it"}
	}
	return &fs.PathError{Op: "open", Path: path, Err: errnoOf(err)}
}

// errnoOf is the system call's error in err, without the words around it.
func errnoOf(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

func notRegular(path string, mode uint32) error {
	what := map[uint32]string{
		syscall.S_IFDIR:  "a directory",
		syscall.S_IFIFO:  "a pipe",
		syscall.S_IFSOCK: "a socket",
		syscall.S_IFCHR:  "a device",
		syscall.S_IFBLK:  "a device",
	}[mode&syscall.S_IFMT]
	return &Refusal{Path: path, Kind: NotRegular, Reason: "is " + what, Hint: "name a program"}
}

// notELF distinguishes a script from other files.
func notELF(f *os.File, path string, size int64) error {
	head := make([]byte, min(size, 256)) // include/uapi/linux/binfmts.h: BINPRM_BUF_SIZE
	n, err := f.ReadAt(head, 0)
	if n < len(head) {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if !bytes.HasPrefix(head, []byte("#!")) {
		return &Refusal{Path: path, Kind: NotELF, Reason: "is not an ELF program",
			Hint: "add the program that runs such a file, if there is one"}
	}
	interp := scriptInterpreter(head)
	if interp == "" {
		return &Refusal{Path: path, Kind: Script, Reason: "is a script without an interpreter",
			Hint: "add the shell that runs it instead"}
	}
	return &Refusal{Path: path, Kind: Script, Reason: "is a script, run by " + interp,
		Hint: "use add --follow if it is a wrapper; otherwise add its interpreter: residentctl add " + interp}
}

// scriptInterpreter is the program that runs a script which begins with head:
// the one after "#!", or the one that env(1) is told to find.
func scriptInterpreter(head []byte) string {
	line, _, _ := bytes.Cut(head[2:], []byte("\n"))
	words := strings.Fields(string(line))
	if len(words) == 0 {
		return ""
	}
	if strings.HasSuffix(words[0], "/env") {
		if command := commandOfEnv(words[1:]); command != "" {
			return command
		}
	}
	return words[0]
}

// commandOfEnv is the command among env's arguments: after its options, of which
// -S may have the first word with it and others one after them, and variables.
func commandOfEnv(words []string) string {
	for i := 0; i < len(words); i++ {
		word := words[i]
		for _, split := range []string{"-S", "--split-string="} {
			if rest, ok := strings.CutPrefix(word, split); ok && rest != "" {
				word = rest
			}
		}
		switch {
		case word == "-u" || word == "-C" || word == "--unset" || word == "--chdir":
			i++
		case !strings.HasPrefix(word, "-") && !strings.Contains(word, "="):
			return word
		}
	}
	return ""
}
