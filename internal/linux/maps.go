package linux

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mapping is one line of /proc/PID/maps.
type Mapping struct {
	Start, End uint64
	Prot       int  // PROT_READ, PROT_WRITE, PROT_EXEC of mmap(2)
	Shared     bool // MAP_SHARED
	Offset     uint64
	// Dev is encoded as stat(2) does. On file systems with devices of their
	// own (btrfs, overlayfs) it is not what stat says about the same file.
	Dev     uint64
	Ino     uint64
	Path    string // a file's path, a name in brackets ([stack]), or ""
	Deleted bool   // the file has no name any more; Path is its last one
}

// Len returns the number of bytes that m covers.
func (m Mapping) Len() uint64 { return m.End - m.Start }

// Contains reports whether addr lies in m.
func (m Mapping) Contains(addr uint64) bool { return addr >= m.Start && addr < m.End }

// TableSpan is how much of the address space one page of a page table of the last level
// describes, in bytes (arch/x86/include/asm/pgtable_64_types.h, PMD_SIZE).
const TableSpan = 2 << 20

// VDSO is the path of the vDSO's code (vdso(7)) in /proc/PID/maps.
const VDSO = "[vdso]"

// Kernel reports whether the kernel itself made m, as every process has it:
// the vDSO, its data pages and [vsyscall].
func (m Mapping) Kernel() bool {
	return m.Path == VDSO || m.Path == "[vsyscall]" ||
		m.Path == "[vvar]" || strings.HasPrefix(m.Path, "[vvar_")
}

// String returns m as a person wants to read it in a message.
func (m Mapping) String() string {
	name := m.Path
	if name == "" {
		name = "anonymous"
	}
	return fmt.Sprintf("%x-%x %s", m.Start, m.End, name)
}

// FindMapping returns the mapping of maps, which are in order, that holds addr.
func FindMapping(maps []Mapping, addr uint64) (Mapping, bool) {
	for _, m := range maps {
		if m.Contains(addr) {
			return m, true
		}
	}
	return Mapping{}, false
}

// ReadMaps reads the mappings of a process, which should be stopped: the
// kernel makes the list piece by piece.
func ReadMaps(pid int) ([]Mapping, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	maps, err := ParseMaps(text)
	if err != nil {
		return nil, fmt.Errorf("read /proc/%d/maps: %w", pid, err)
	}
	return maps, nil
}

// ParseMaps reads the text of /proc/PID/maps (proc_pid_maps(5), written by
// show_map_vma in the kernel's fs/proc/task_mmu.c).
func ParseMaps(text []byte) ([]Mapping, error) {
	maps := make([]Mapping, 0, bytes.Count(text, []byte{'\n'}))
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		m, err := parseMapping(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		maps = append(maps, m)
	}
	return maps, nil
}

// parseMapping reads "start-end perms offset major:minor inode      path".
func parseMapping(line string) (m Mapping, err error) {
	var fields [5]string
	rest := line
	for i := range fields {
		fields[i], rest, _ = strings.Cut(rest, " ")
	}
	hex := func(s string, bits int) uint64 {
		v, e := strconv.ParseUint(s, 16, bits)
		if e != nil && err == nil {
			err = e
		}
		return v
	}
	start, end, _ := strings.Cut(fields[0], "-")
	m.Start, m.End = hex(start, 64), hex(end, 64)
	m.Offset = hex(fields[2], 64)
	major, minor, _ := strings.Cut(fields[3], ":")
	m.Dev = unix.Mkdev(uint32(hex(major, 32)), uint32(hex(minor, 32)))
	if err != nil {
		return Mapping{}, err
	}
	if m.Prot, m.Shared, err = parsePerms(fields[1]); err != nil {
		return Mapping{}, err
	}
	if m.Ino, err = strconv.ParseUint(fields[4], 10, 64); err != nil {
		return Mapping{}, err
	}
	if m.End <= m.Start {
		return Mapping{}, fmt.Errorf("empty address range %q", fields[0])
	}
	// seq_path escapes the newline and nothing else here.
	path := strings.ReplaceAll(strings.TrimLeft(rest, " "), `\012`, "\n")
	m.Path, m.Deleted = strings.CutSuffix(path, " (deleted)")
	return m, nil
}

// parsePerms reads four letters such as "r-xp".
func parsePerms(s string) (prot int, shared bool, _ error) {
	if len(s) != 4 {
		return 0, false, fmt.Errorf("permissions %q", s)
	}
	letters := [3]struct {
		letter byte
		prot   int
	}{{'r', unix.PROT_READ}, {'w', unix.PROT_WRITE}, {'x', unix.PROT_EXEC}}
	for i, l := range letters {
		switch s[i] {
		case l.letter:
			prot |= l.prot
		case '-':
		default:
			return 0, false, fmt.Errorf("permissions %q", s)
		}
	}
	if s[3] != 'p' && s[3] != 's' {
		return 0, false, fmt.Errorf("permissions %q", s)
	}
	return prot, s[3] == 's', nil
}
