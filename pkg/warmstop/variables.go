package warmstop

import (
	"debug/elf"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// maxVariable bounds the name of an environment variable, in bytes.
const maxVariable = 1024

// watchVariables has the program's calls of getenv(3) told, once its C library is there. That of
// secure_getenv(3), and the C library's own, go through the same function (glibc,
// stdlib/secure-getenv.c).
func (r *recorder) watchVariables() error {
	maps, err := linux.ReadMaps(r.first)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(maps, func(m linux.Mapping) bool { return m.Offset == 0 && isLibc(m.Path) })
	if i < 0 {
		return nil
	}
	value, err := valueOf(maps[i].Path, "getenv")
	if err != nil {
		return err
	}
	addr := maps[i].Start + value
	if m, ok := linux.FindMapping(maps, addr); !ok || m.Prot&unix.PROT_EXEC == 0 {
		return nil // the dynamic linker is not done with it
	}
	tracer := r.tracer
	r.tracer = nil
	return tracer.OnCall(r.first, addr, func(tid int, regs *ptrace.Regs) error {
		name, err := linux.ReadString(tid, regs.Rdi, maxVariable)
		if err == nil && !slices.Contains(r.variables, name) {
			r.variables = append(r.variables, name)
		}
		return nil // a name that cannot be read: the call fails with it too
	})
}

// isLibc reports whether a file is glibc's C library: libc.so.6, or libc-2.31.so before 2.34.
func isLibc(path string) bool {
	name := filepath.Base(path)
	return name == "libc.so.6" || strings.HasPrefix(name, "libc-2.")
}

// valueOf is the value of a symbol that a library defines.
func valueOf(path, name string) (uint64, error) {
	f, err := elf.Open(path)
	if err != nil {
		return 0, fmt.Errorf("read the symbols of %s: %w", path, err)
	}
	defer f.Close()
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return 0, fmt.Errorf("read the symbols of %s: %w", path, err)
	}
	i := slices.IndexFunc(symbols, func(s elf.Symbol) bool { return s.Name == name && s.Section != elf.SHN_UNDEF })
	if i < 0 {
		return 0, fmt.Errorf("%s has no symbol %s", path, name)
	}
	return symbols[i].Value, nil
}
