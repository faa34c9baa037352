// Package launcher holds the native program that becomes a resident program: it has been
// executed in the caller's place, carries out the plan and leaves nothing of itself
// behind. Its source is in src. What is committed and embedded is one flat piece of
// position-independent code, a few KiB.
//
// The code is wrapped in three ways. File makes a launcher file, the executable that
// stands for one program. Front makes one that reads residentctl's own `run` command line.
// Cover adds it to a dynamic linker. In residentctl itself the same code is part of the
// text (package front), where it runs before there is a Go runtime.
package launcher

import (
	"bytes"
	"debug/elf"
	_ "embed"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/plan"
)

//go:generate ../../scripts/build-launcher

// Code is the launcher: its first byte is the entry of a launcher file, its
// byte 16 the entry of the front door (src/start_amd64.S).
//
//go:embed launcher_amd64.bin
var Code []byte

const (
	headersLen = 192 // ELF header and program headers, rounded up to a cache line

	configMark  = "RESCONF" // of every version
	configMagic = configMark + string(rune('0'+plan.Version))
)

// PlanVersion returns the version of the plans that a launcher file carries out, of
// whatever residentctl it is; 0 if it is no launcher file.
func PlanVersion(file []byte) uint32 {
	at := bytes.Index(file, []byte(configMark))
	if at < 0 || len(file) < at+len(configMagic) {
		return 0
	}
	switch v := file[at+len(configMark)]; {
	case v == '2': // a number of their own, which launcher files had for plans of version 4
		return 4
	case v > '0':
		return uint32(v - '0')
	}
	return 0
}

// config follows the code in a launcher file (src/caller.c, struct
// config). The offsets count from its own start.
type config struct {
	Magic         [8]byte
	Front         uint32
	Program, Plan uint32
	Linker        uint32
	Entry, Base   int64
	Span          uint64
	Root, Log     uint32
	Room          uint64
	Stores        [MaxStores]configStore
}

type configStore struct {
	Path, _  uint32
	Dev, Ino uint64
}

// maxRoom bounds what is left free below the initial stack, bytes: a limit of the stack
// leaves at least that, besides the arguments (fs/exec.c, setup_arg_pages).
const maxRoom = 96 << 10

// MaxStores is how many stores a launcher looks in at most.
const MaxStores = 4

// A Store is the directory of a store, and which directory that was when it was found to
// be safe: a launcher uses no other that the path may lead to by then.
type Store struct {
	Dir   string // absolute
	Inode linux.Inode
}

// File returns the launcher file of a program: an executable which starts the
// program from the plan that planName, from the store's directory, leads to (an index
// link) and, whenever that cannot be, executes the program itself, by the same path. It is
// linked at place (plan.LauncherPlace), unless that is 0 or too narrow for it, and leaves
// the room in bytes for the plan's own arguments below the initial stack (Plan.StackRoom).
func File(place uint64, s Store, planName, program string, room uint64) ([]byte, error) {
	w := wrapper{place: place}
	if room > 0 { // the program's path may be one of them
		w.config.Room = (room + uint64(len(program)) + 1 + 8 + 15) &^ 15
	}
	if w.config.Room > maxRoom {
		w.err = fmt.Errorf("%d bytes of arguments are more than a launcher holds", room)
	}
	w.stores([]Store{s})
	w.config.Program = w.path(program)
	w.config.Plan = w.name(planName)
	return w.file()
}

// Front returns an executable that understands `NAME run [--strict] [--explain]
// PROGRAM [ARG…]` and looks in the given stores, at most MaxStores. With any other
// command line it ends with status 125.
func Front(stores []Store) ([]byte, error) {
	w := wrapper{}
	w.config.Front = 1
	w.stores(stores)
	return w.file()
}

// wrapper collects what follows the code.
type wrapper struct {
	place   uint64
	config  config
	strings []byte
	err     error
}

func (w *wrapper) stores(stores []Store) {
	if len(stores) > MaxStores {
		w.err = fmt.Errorf("%d stores are more than a launcher looks in (%d)", len(stores), MaxStores)
		return
	}
	for i, s := range stores {
		w.config.Stores[i] = configStore{Path: w.path(s.Dir), Dev: s.Inode.Dev, Ino: s.Inode.Ino}
	}
}

// bytes are the code, its configuration and the paths.
func (w *wrapper) bytes() []byte {
	var b bytes.Buffer
	copy(w.config.Magic[:], configMagic)
	b.Write(Code)
	_ = binary.Write(&b, binary.LittleEndian, w.config)
	b.Write(w.strings)
	return b.Bytes()
}

// path adds a path and returns its offset from the start of the configuration.
func (w *wrapper) path(s string) uint32 {
	if s == "" || s[0] != '/' || len(s) > 4095 || strings.IndexByte(s, 0) >= 0 {
		w.err = fmt.Errorf("%q is not an absolute path that a launcher can hold", s)
	}
	return w.add(s)
}

// name is path for the name of what is in a store.
func (w *wrapper) name(s string) uint32 {
	if !filepath.IsLocal(s) || len(s) > 255 || strings.IndexByte(s, 0) >= 0 {
		w.err = fmt.Errorf("%q is not the name of a plan in a store", s)
	}
	return w.add(s)
}

func (w *wrapper) add(s string) uint32 {
	off := binary.Size(w.config) + len(w.strings)
	w.strings = append(append(w.strings, s...), 0)
	return uint32(off)
}

// file makes an ELF executable with one readable and executable segment that
// holds everything: headers, code, configuration, paths.
func (w *wrapper) file() ([]byte, error) {
	if w.err != nil {
		return nil, w.err
	}
	code := w.bytes()
	size, base := uint64(headersLen+len(code)), w.place
	if base == 0 || size > plan.LauncherSpan {
		base = plan.LauncherBase
	}
	head := elf.Header64{
		Ident:   [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:    uint16(elf.ET_EXEC),
		Machine: uint16(elf.EM_X86_64),
		Version: uint32(elf.EV_CURRENT),
		Entry:   base + headersLen,
		Phoff:   64, Ehsize: 64, Phentsize: 56, Phnum: 2,
	}
	segments := []elf.Prog64{
		{
			Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X),
			Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 4096,
		},
		// Without it the kernel would make the stack executable.
		{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16},
	}
	var b bytes.Buffer
	// Fixed-size structs into memory: Write has nothing to fail on.
	_ = binary.Write(&b, binary.LittleEndian, head)
	_ = binary.Write(&b, binary.LittleEndian, segments)
	b.Write(make([]byte, headersLen-b.Len()))
	b.Write(code)
	return b.Bytes(), nil
}
