package elfinfo

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/residentctl/residentctl/internal/linux"
)

// File is what an ELF file is.
type File struct {
	Path string
	ID   linux.FileID
	Mode uint32 // st_mode of stat(2)
	UID  uint32
	GID  uint32

	Class   elf.Class
	Machine elf.Machine
	Type    elf.Type
	PIE     bool // ET_DYN that calls itself a program (DF_1_PIE) or names a dynamic linker
	Dynamic bool // has a dynamic section

	Interp  string   // the dynamic linker, PT_INTERP; empty if none
	Needed  []string // DT_NEEDED, in order
	Filters []string // DT_FILTER and DT_AUXILIARY, in order
	SOName  string   // DT_SONAME; empty if none
	RPath   string   // DT_RPATH
	RunPath string   // DT_RUNPATH
	BuildID string   // hexadecimal; empty if none
	Entry   uint64   // link-time address
	LoadEnd uint64   // link-time end of the highest PT_LOAD, rounded up to 4096

	TextRel   bool // relocations in read-only segments
	Audit     bool // DT_AUDIT or DT_DEPAUDIT
	ExecStack bool // PT_GNU_STACK is executable or missing
	FileCaps  bool // has the attribute security.capability
	ACL       bool // has the attribute system.posix_acl_access

	data elf.Data
}

// Open reads the file at path, links followed. Its error is a *Refusal where
// the file is no ELF file that this process can read, else a failed system
// call. Programs for other machines are opened; CanBeResident refuses them.
func Open(path string) (*File, error) {
	// Looked at before it is opened: opening a pipe or a device may do
	// something.
	var st syscall.Stat_t
	if err := linux.EINTR(func() error { return syscall.Stat(path, &st) }); err != nil {
		return nil, cannotOpen(path, err)
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return nil, notRegular(path, st.Mode)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, cannotOpen(path, err)
	}
	defer f.Close()
	return read(f, path)
}

func read(f *os.File, path string) (*File, error) {
	var st syscall.Stat_t
	if err := linux.EINTR(func() error { return syscall.Fstat(int(f.Fd()), &st) }); err != nil {
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return nil, notRegular(path, st.Mode)
	}
	info, err := parse(f, st.Size)
	var errno syscall.Errno
	switch {
	case errors.Is(err, errNotELF):
		return nil, notELF(f, path, st.Size)
	case errors.As(err, &errno):
		return nil, fmt.Errorf("read %s: %w", path, err)
	case err != nil:
		return nil, corrupt(path, err)
	}
	info.Path, info.ID = path, linux.IDOf(&st)
	info.Mode, info.UID, info.GID = st.Mode, st.Uid, st.Gid
	info.PIE = info.PIE || info.Type == elf.ET_DYN && info.Interp != ""
	if info.FileCaps, err = linux.HasXattr(f, "security.capability"); err != nil {
		return nil, err
	}
	if info.ACL, err = linux.HasXattr(f, "system.posix_acl_access"); err != nil {
		return nil, err
	}
	return info, nil
}

func corrupt(path string, err error) *Refusal {
	reason := "is damaged: " + err.Error()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		reason = "is cut off: " + err.Error()
	}
	return &Refusal{Path: path, Kind: Corrupt, Reason: reason, Hint: "install it again"}
}

// Setuid reports whether the file runs as its owner.
func (f *File) Setuid() bool { return f.Mode&syscall.S_ISUID != 0 }

// Setgid reports whether the file runs as its group.
func (f *File) Setgid() bool { return f.Mode&syscall.S_ISGID != 0 }

// foreign reports whether this machine's kernel would not run the file as a
// native 64-bit program.
func (f *File) foreign() bool {
	return f.Class != elf.ELFCLASS64 || f.data != elf.ELFDATA2LSB || f.Machine != machine
}
