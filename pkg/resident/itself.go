package resident

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/residentctl/residentctl/pkg/fingerprint"
)

// selfExe is what a program opens that looks at its own path or reads its own file.
const selfExe = "/proc/self/exe"

// binDirectories are the directories of programs that know where their files are without
// looking at their own path.
var binDirectories = []string{"/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"}

// looksAtItself reports whether a program may look at /proc/self/exe: it has that name
// in its file or in a library, or is in none of the usual directories for programs. It is
// started normally where /proc/self/exe cannot be set (plan.FlagNeedsExe). The C library
// and the dynamic linker have the name for $ORIGIN only, which is settled before the stop
// point.
func looksAtItself(deps *fingerprint.Dependencies) (bool, error) {
	real, err := filepath.EvalSymlinks(deps.Program.Path)
	if err != nil || !slices.Contains(binDirectories, filepath.Dir(real)) {
		return true, err
	}
	for _, f := range append([]fingerprint.File{deps.Program}, deps.Libraries...) {
		if f.ID == deps.Linker.ID || strings.HasPrefix(filepath.Base(f.Path), "libc.") {
			continue
		}
		if found, err := fileContains(f.Path, selfExe); found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// looksAtItself is the same of the program that is being added, found out once.
func (a *adding) looksAtItself(deps *fingerprint.Dependencies) (looks bool, err error) {
	if a.looks == nil {
		looks, err = looksAtItself(deps)
		if err != nil {
			return false, err
		}
		a.looks = &looks
	}
	return *a.looks, nil
}

// fileContains looks for a short text in a file of any size.
func fileContains(path, text string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	buf, kept := make([]byte, 1<<20), 0
	for {
		n, err := io.ReadFull(f, buf[kept:])
		if bytes.Contains(buf[:kept+n], []byte(text)) {
			return true, nil
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("read %s: %w", path, err)
		}
		kept = copy(buf, buf[len(buf)-len(text):])
	}
}

// readsItself reports whether a program is known to read its own file through
// /proc/self/exe. By binfmt_misc even a normal start cannot always set that.
func readsItself(program string) (bool, error) {
	for _, known := range []func(program string) (bool, error){
		// Archives with their unpacker in front (PyInstaller, makeself's in C,
		// "single executables"): it reads what follows its own end.
		readsOwnEnd,
		// Sanitizers: reports name functions and lines by the program's
		// symbols, which libbacktrace reads from there (fileline.c).
		isSanitized,
		// Others that read sections or symbols of their own.
		readsOwnSections,
	} {
		if is, err := known(program); is || err != nil {
			return is, err
		}
	}
	return false, nil
}

// readsOwnEnd: there is something after the end of the ELF file, and the program
// knows how to open itself.
func readsOwnEnd(program string) (bool, error) {
	f, err := os.Open(program)
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	end, err := elfEnd(f)
	if err != nil || info.Size() <= end {
		return false, err
	}
	return fileContains(program, selfExe)
}

// isSanitized: the program has a sanitizer's runtime, in a library or in itself.
func isSanitized(program string) (bool, error) {
	f, err := elf.Open(program)
	if err != nil {
		return false, err
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return false, err
	}
	symbols, err := f.DynamicSymbols()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return false, err
	}
	return slices.ContainsFunc(libraries, func(name string) bool {
		return hasPrefix(name, "libasan.", "libtsan.", "liblsan.", "libubsan.", "libhwasan.")
	}) || slices.ContainsFunc(symbols, func(s elf.Symbol) bool {
		return hasPrefix(s.Name, "__asan_init", "__tsan_init", "__lsan_", "__ubsan_handle_", "__hwasan_init", "__msan_init")
	}), nil
}

// readsOwnSections: the program knows how to open itself, and has libbacktrace in it
// (fileline.c), or a section that is in no segment and not of a compiler, linker or
// debugger (objcopy --add-section).
func readsOwnSections(program string) (bool, error) {
	f, err := elf.Open(program)
	if err != nil {
		return false, err
	}
	defer f.Close()
	own := slices.ContainsFunc(f.Sections, func(s *elf.Section) bool {
		return s.Type == elf.SHT_PROGBITS && s.Flags&elf.SHF_ALLOC == 0 && s.Size > 0 && !hasPrefix(s.Name, toolSections...)
	})
	for _, read := range []func() ([]elf.Symbol, error){f.DynamicSymbols, f.Symbols} {
		symbols, err := read()
		if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
			return false, err
		}
		own = own || slices.ContainsFunc(symbols, func(s elf.Symbol) bool { return s.Name == "backtrace_create_state" })
	}
	if !own {
		return false, nil
	}
	return fileContains(program, selfExe)
}

// toolSections begin the names of sections for tools: of GCC, Clang and Rust, the
// link editors, annobin, dwz, debuggers, SystemTap.
var toolSections = []string{".comment", ".debug", ".zdebug", ".gdb_index", ".gnu", ".GCC.command.line", ".stab", ".note",
	".annobin", ".llvm", ".BTF", ".SUNW_ctf", ".ctf", ".rustc", ".ident", ".stapsdt"}

func hasPrefix(s string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

// elfEnd is where an ELF file ends, in bytes, by its headers: after the last of
// the tables, segments and sections (elf(5)). The tables are at most 4 MiB, since
// their lengths have 16 bits.
func elfEnd(r io.ReaderAt) (int64, error) {
	var head elf.Header64
	if err := binary.Read(io.NewSectionReader(r, 0, 64), binary.LittleEndian, &head); err != nil {
		return 0, fmt.Errorf("read ELF header: %w", err)
	}
	segments, sections := make([]elf.Prog64, head.Phnum), make([]elf.Section64, head.Shnum)
	end := uint64(64)
	until := func(off, size uint64) {
		if off+size >= off {
			end = max(end, off+size)
		}
	}
	until(head.Phoff, uint64(binary.Size(segments)))
	err := binary.Read(io.NewSectionReader(r, int64(head.Phoff), int64(binary.Size(segments))), binary.LittleEndian, segments)
	for _, s := range segments {
		until(s.Off, s.Filesz)
	}
	if head.Shoff != 0 {
		until(head.Shoff, uint64(binary.Size(sections)))
		err = errors.Join(err, binary.Read(io.NewSectionReader(r, int64(head.Shoff), int64(binary.Size(sections))), binary.LittleEndian, sections))
	}
	for _, s := range sections {
		if elf.SectionType(s.Type) != elf.SHT_NOBITS {
			until(s.Off, s.Size)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("read ELF tables: %w", err)
	}
	return int64(min(end, 1<<62)), nil
}
