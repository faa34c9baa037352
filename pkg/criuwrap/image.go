package criuwrap

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	"google.golang.org/protobuf/proto"
)

// PageSize is the size of a page of an image, in bytes: x86-64's.
const PageSize = 4096

// Image is what one dump of one process holds. All addresses are the process's,
// page-aligned where they bound mappings and page runs.
type Image struct {
	Dir string
	PID int // that the process had

	// From core-PID.img.
	Regs         Regs
	ClearTIDAddr uint64 // set_tid_address(2); 0 if never set
	RobustHead   uint64 // set_robust_list(2); 0 if never set
	RobustLen    uint64 // bytes
	Rseq         Rseq   // zero if not registered

	MM   MM
	VMAs []VMA // ascending, without overlap

	// Pages are the runs of pages whose content is in PagesPath, ascending,
	// without overlap, each inside VMAs. What no run covers reads as the
	// VMA's file, or as zeros. Together they are exactly the file.
	Pages     []PageRun
	PagesPath string
}

// Regs are the general registers: images/core-x86.proto, user_x86_regs_entry.
// For a process that was inside a system call OrigAX is the call's number,
// else -1.
type Regs struct {
	R15, R14, R13, R12, BP, BX, R11, R10, R9, R8 uint64
	AX, CX, DX, SI, DI, OrigAX                   uint64
	IP, CS, Flags, SP, SS                        uint64
	FSBase, GSBase                               uint64
	DS, ES, FS, GS                               uint64
}

// Rseq is the registration of rseq(2): images/rseq.proto.
type Rseq struct {
	Addr     uint64
	Len, Sig uint32 // Len in bytes
}

// MM is the kernel's description of the address space, as prctl(2)
// PR_SET_MM_MAP takes it: images/mm.proto.
type MM struct {
	StartCode, EndCode uint64
	StartData, EndData uint64
	StartStack         uint64
	StartBrk, Brk      uint64
	ArgStart, ArgEnd   uint64
	EnvStart, EnvEnd   uint64
	SavedAuxv          []uint64 // key, value, ...; AT_NULL and what follows it can be left out
	ExeFile            string   // absolute path
}

// VMA is a mapping: images/vma.proto.
type VMA struct {
	Start, End uint64
	Prot       uint32 // PROT_*
	Flags      uint32 // MAP_*
	Path       string // of the mapped file, absolute, or ""
	Offset     uint64 // of Start in the file, bytes

	// What CRIU made of it: the VMA_* bits of criu/include/image.h.
	File     bool // maps Path
	Anon     bool // anonymous
	Shared   bool // MAP_SHARED, of a file or anonymous
	Stack    bool
	Heap     bool
	VDSO     bool
	VVar     bool // [vvar] and [vvar_vclock], as one
	VSyscall bool
	// Special is any other kind: SysV shared memory, a socket's ring, AIO, a
	// memfd, a shadow stack, what a plugin made. Its content may be elsewhere.
	Special bool
}

// PageRun is a run of pages in the pages file: images/pagemap.proto.
type PageRun struct {
	Addr    uint64
	Pages   uint64 // how many
	FileOff uint64 // bytes
}

// End returns the address after the run.
func (r PageRun) End() uint64 { return r.Addr + r.Pages*PageSize }

// Open reads the image in a directory, all but the pages. Its error wraps
// ErrTruncated, ErrFormat or ErrUnsupported for an image that is not to be used,
// and fs.ErrNotExist where a file is missing.
func Open(dir string) (*Image, error) {
	im, err := read(os.DirFS(dir))
	if err != nil {
		return nil, fmt.Errorf("read the image %s: %w", dir, err)
	}
	im.Dir = dir
	im.PagesPath = filepath.Join(dir, im.PagesPath)
	return im, nil
}

func read(fsys fs.FS) (*Image, error) {
	if err := readInventory(fsys); err != nil {
		return nil, err
	}
	pid, err := readPstree(fsys)
	if err != nil {
		return nil, err
	}
	files, err := readFiles(fsys)
	if err != nil {
		return nil, err
	}
	im := &Image{PID: pid}
	if err := im.readCore(fsys); err != nil {
		return nil, err
	}
	if err := im.readMM(fsys, files); err != nil {
		return nil, err
	}
	if err := im.readPagemap(fsys); err != nil {
		return nil, err
	}
	return im, nil
}

// one reads a file that has one record.
func one(fsys fs.FS, name string, magic uint32, m proto.Message) error {
	records := 0
	err := readFile(fsys, name, magic, func(i int, record []byte) error {
		records++
		if i > 0 {
			return fmt.Errorf("%w: more than one record", ErrFormat)
		}
		return unmarshal(record, m)
	})
	if err == nil && records == 0 {
		err = fmt.Errorf("%s: %w: no record", name, ErrTruncated)
	}
	return err
}

func unmarshal(record []byte, m proto.Message) error {
	if err := proto.Unmarshal(record, m); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return nil
}

// imageVersion is CRTOOLS_IMAGES_V1_1 of criu/include/magic.h, the only one
// since CRIU 1.5.
const imageVersion = 2

func readInventory(fsys fs.FS) error {
	var m inventory.InventoryEntry
	if err := one(fsys, "inventory.img", magicInventory, &m); err != nil {
		return err
	}
	if v := m.GetImgVersion(); v != imageVersion {
		return fmt.Errorf("inventory.img: %w: version %d", ErrUnsupported, v)
	}
	return nil
}

// pstreeName is the file that holds the processes of an image.
const pstreeName = "pstree.img"

// readPstree returns the pid of the only process.
func readPstree(fsys fs.FS) (int, error) {
	pid := 0
	err := readFile(fsys, pstreeName, magicPstree, func(i int, record []byte) error {
		var m pstree.PstreeEntry
		if err := unmarshal(record, &m); err != nil {
			return err
		}
		if i > 0 {
			return fmt.Errorf("%w: more than one process", ErrUnsupported)
		}
		if n := len(m.GetThreads()); n != 1 {
			return fmt.Errorf("%w: %d threads", ErrUnsupported, n)
		}
		if p := m.GetPid(); p == 0 || p > 1<<22 { // PID_MAX_LIMIT, linux/threads.h
			return fmt.Errorf("%w: pid %d", ErrFormat, p)
		}
		pid = int(m.GetPid())
		return nil
	})
	if err == nil && pid == 0 {
		err = fmt.Errorf("%s: %w: no process", pstreeName, ErrTruncated)
	}
	return pid, err
}

// readFiles returns the paths of regular files by CRIU's file id. Since CRIU 3.3
// they stand in files.img with all other kinds.
func readFiles(fsys fs.FS) (map[uint32]string, error) {
	paths := make(map[uint32]string)
	add := func(id uint32, reg *regfile.RegFileEntry) error {
		if reg.GetId() != id || paths[id] != "" {
			return fmt.Errorf("%w: file id %d is not unique", ErrFormat, id)
		}
		paths[id] = reg.GetName()
		return nil
	}
	err := readFile(fsys, "files.img", magicFiles, func(_ int, record []byte) error {
		var m fdinfo.FileEntry
		if err := unmarshal(record, &m); err != nil {
			return err
		}
		if m.GetType() != fdinfo.FdTypes_REG || m.GetReg() == nil {
			return nil
		}
		return add(m.GetId(), m.GetReg())
	})
	if err != nil {
		return nil, err
	}
	return paths, nil
}
