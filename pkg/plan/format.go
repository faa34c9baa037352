// Package plan holds the launcher's plan: the flat file that says how a program that has
// just been executed puts a process image that CRIU dumped back in place.
//
// The nouns. A plan has a Kind (how far the program had come) and a stop point (Stop), and
// consists of independent tables. They say what must be true of the caller, of the files
// and of the machine (Files, Checks, Directories, Misses, CPUID and the scalar fields of
// Caller), what to map (Maps, Anon), which words to correct (Fixups), which pages to make
// read-only afterwards (Protects), what to register with the kernel (Kernel), and where to
// jump (Entry).
//
// The flow. Compile makes a Plan from a stopped template and CRIU's images. Encode writes
// it as the bytes that the launcher maps. Decode reads it back and checks every bound. The
// structs in this file are the format: planheader writes the launcher's C header from
// them, which asserts their offsets.
package plan

//go:generate go run ./planheader -o ../launcher/src/plan.h

import "github.com/residentctl/residentctl/internal/linux"

// Magic opens every plan.
const Magic = "RESPLAN\x00"

// Version is the format's version. A launcher that finds another one starts
// the program normally. Version 4 has FlagNeedsExe for every program that may look at
// itself, version 5 what ld.so.cache answers, version 6 images of kind warm, version 7 those
// for terminals.
const Version = 7

// Kinds of image: how far the program had come when the template was dumped.
const (
	// KindLinked is an image taken just after dynamic linking, before any
	// constructor. Its registers are dead but for the entry and the stack
	// pointer, and the stack is the kernel's own.
	KindLinked = 1
	// KindWarm is an image taken inside of a system call that the program makes when
	// it has done its own start-up. Its stack is part of the image, at an address of its
	// own, and the kernel's holds only what the new process was given.
	KindWarm = 2
)

// A Table is a part of the plan: Count elements at the byte offset Off.
type Table struct {
	Off   uint32
	Count uint32
}

// Header is at the plan's first byte.
type Header struct {
	Magic   [8]byte
	Version uint32
	Kind    uint32
	Size    uint64 // of the whole plan, bytes
	Sum     uint64 // XXH64, seed 0, of everything after this word

	// Offsets into Strings.
	Program uint32 // the program's absolute path
	Real    uint32 // the same with links resolved
	ID      uint32 // the image's id, for messages
	Flags   uint32

	Files       Table // File
	Anon        Table // Map: anonymous mappings
	Maps        Table // Map: file mappings, each File has a run of them
	Protects    Table // Protect
	Fixups      Table // Fixup
	Checks      Table // Check
	Directories Table // Directory
	Misses      Table // uint32: offsets of paths in Strings, each Directory has a run
	Answers     Table // Answer: those of the Check that has answers
	Entries     Table // CacheEntry, each Answer has a run of them
	Layouts     Table // uint32: offsets of the names, from the store's directory, of plans of the same program at other addresses
	CPUID       Table // CPUID
	Strings     Table // bytes: NUL-terminated paths

	// The rest is empty but in plans of kind warm.
	Args     Table // uint32: offsets of the strings that take the place of argv[0], none for it to stay
	Env      Table // Variable: EnvExact first
	Copies   Table // Map: what of CRIU's pages is read into anonymous mappings
	Signals  Table // SignalAction
	Populate Table // Map: what to populate for writing before the program runs

	Caller Caller
	VDSO   VDSO
	MM     MM
	Kernel Kernel
	Entry  Entry
	Stop   Stop
	Warm   Warm
}

// Flags of a plan.
const (
	// FlagCheckExec: some users who can read the program cannot execute it,
	// so a start has to ask access(2).
	FlagCheckExec = 1 << 0
	// FlagKeepBrk: the image holds a heap (musl), so the program break stays
	// where it was instead of being placed again.
	FlagKeepBrk = 1 << 1
	// FlagOwnPath: libraries are searched relative to the program ($ORIGIN), so
	// the image is for whatever path leads to the directory of Real, and not for hard
	// links in others.
	FlagOwnPath = 1 << 2
	// FlagNeedsExe: the program may look at itself through /proc/self/exe, so it
	// is started only where that can be set.
	FlagNeedsExe = 1 << 3
	// FlagSetExe: and ordinary users may make user namespaces, so a caller who cannot
	// set /proc/self/exe has a child do it in one.
	FlagSetExe = 1 << 4
	// FlagSlowFaults: where the image was made page faults are so slow that it pays
	// to map text before it is touched. The launcher does not look at it.
	FlagSlowFaults = 1 << 5
	// FlagProgramArg: the path of the program that is started follows Args. So the
	// kernel starts a script (fs/binfmt_script.c, load_script).
	FlagProgramArg = 1 << 6
)

// Caller is what must be true of the process that starts the program, because
// the dynamic linker's decisions in the image were made from it. The fields
// are auxv entries (getauxval(3)).
type Caller struct {
	HWCap       uint64 // AT_HWCAP
	HWCap2      uint64 // AT_HWCAP2
	PageSize    uint64 // AT_PAGESZ
	ClockTick   uint64 // AT_CLKTCK
	Flags       uint64 // AT_FLAGS
	MinSigStack uint64 // AT_MINSIGSTKSZ
	RseqSize    uint64 // AT_RSEQ_FEATURE_SIZE
	RseqAlign   uint64 // AT_RSEQ_ALIGN
	XCR0        uint64 // XGETBV(0)
	// MapsEnd is the end of the highest mapping of the image: the caller's
	// stack, grown to its limit, must stay above it.
	MapsEnd uint64
	BootID  [40]byte // /proc/sys/kernel/random/boot_id when CPU and vDSO were looked at; 36 characters, NULs
	// MachineSum stands for the CPU and the vDSO (fingerprint.MachineSum). It is
	// compared with the store's boot stamp.
	MachineSum uint64
	BootMark   uint64 // linux.BootMark at the same time as BootID, or 0
}

// VDSO is where the image expects the kernel's vDSO and its data pages.
type VDSO struct {
	Addr     uint64 // of the first data page ([vvar])
	Code     uint64 // of [vdso], what AT_SYSINFO_EHDR is in the image
	Len      uint64 // of all of them together, bytes
	Parts    [4]uint64
	BuildID  [32]byte // the vDSO's build-id note's bytes
	BuildOff uint32   // where in [vdso] they stand
	BuildLen uint32
}

// MM is what the process's memory map looks like in /proc/PID/stat, for
// PR_SET_MM_MAP (prctl(2)).
type MM struct {
	StartCode, EndCode, StartData, EndData uint64
	// BrkBase is where the program break starts before the kernel's
	// randomisation is added; with FlagKeepBrk it is where it starts.
	BrkBase uint64
	Brk     uint64 // with FlagKeepBrk: the current break
}

// Kernel is what the dynamic linker had registered with the kernel. A zero
// address means that it had not.
type Kernel struct {
	FSBase     uint64 // arch_prctl(2) ARCH_SET_FS
	TIDAddr    uint64 // set_tid_address(2)
	RobustHead uint64 // set_robust_list(2)
	RobustLen  uint64
	RseqAddr   uint64 // rseq(2)
	RseqLen    uint32
	RseqSig    uint32
}

// Entry is where the launcher jumps, with which registers, and what stands on
// the new auxiliary vector.
type Entry struct {
	RIP uint64
	// RSP is the stack pointer, 0 where it is the initial stack's. The eight bytes below
	// it get RIP, from which the last instruction of the launcher returns.
	RSP                          uint64
	RBX, RBP, R12, R13, R14, R15 uint64
	// Gadget is the address of a `syscall; ret` in the image's own text,
	// through which the launcher unmaps itself.
	Gadget uint64
	// SigReturn is the address of the C library's `mov $15,%eax; syscall`
	// (rt_sigreturn), or 0 where there is none.
	SigReturn                              uint64
	Phdr, Phent, Phnum, Base, ProgramEntry uint64 // AT_PHDR, AT_PHENT, AT_PHNUM, AT_BASE, AT_ENTRY
}

// FileID is stat(2)'s tuple, as linux.StatID returns it.
type FileID = linux.FileID

// File is a file that the image maps: the program, a library, the dynamic
// linker, or CRIU's pages. Maps are the run [FirstMap, FirstMap+Maps).
type File struct {
	Path     uint32
	Flags    uint32
	FirstMap uint32
	Maps     uint32
	ID       FileID
}

// Flags of a File.
const (
	// FileProgram is the program itself, which has several names perhaps.
	FileProgram = 1 << 0
	// FilePages is CRIU's pages image: it is named from the store's directory, and its
	// owner and mode are checked too.
	FilePages = 1 << 1
	// FileLinker is the dynamic linker, whose path may be covered.
	FileLinker = 1 << 2
	// FileExe is what /proc/self/exe is to name: the program, or the interpreter of a
	// program that is a script.
	FileExe = 1 << 3
)

// Map is one mmap(2) at a fixed address.
type Map struct {
	Addr, Len, Off uint64
	Prot, Flags    uint32
}

// Protect is one mprotect(2) after the words have been corrected.
type Protect struct {
	Addr, Len uint64
	Prot      uint32
	_         uint32
}

// Fixup is one word of the image that belongs to the process: Size bytes (4 or
// 8) at Addr get the value of Kind.
type Fixup struct {
	Addr uint64
	Kind uint32
	Size uint32
}

// Kinds of Fixup: what the word is in the new process.
const (
	FixSP        = iota // the initial stack pointer, &argc
	FixArgv             // &argv[0]
	FixEnvp             // &envp[0]
	FixAuxv             // the auxiliary vector
	FixPlatform         // AT_PLATFORM
	FixRandom           // AT_RANDOM
	FixExecfn           // AT_EXECFN
	FixArgc             // argc
	FixTID              // the thread's id
	FixCanary           // the stack protector's canary: AT_RANDOM's first word, lowest byte 0
	FixGuard            // the pointer guard: AT_RANDOM's second word
	FixStackSize        // the default thread stack size, from RLIMIT_STACK
	FixIgnored          // warm: the signals that the caller ignores, bit n-1 for signal n
	FixFlags            // warm: StartExplain and StartStrict
	FixKinds            // how many there are
)

// The bits of FixFlags.
const (
	StartExplain = 1 << 0 // the start is to be explained
	StartStrict  = 1 << 1 // a normal start is an error
)

// Check is a file that the dynamic linker looked at and that the image does
// not map (ld.so.cache, a configuration). With ID.Ino 0 it must not exist; then a warm plan's
// may be in the working directory, by a relative path.
type Check struct {
	Path uint32
	// Answers is 0, or their number if the file is ld.so.cache: then another file will do
	// that gives the same answers. At most one Check has any.
	Answers uint32
	ID      FileID
}

// Answer is what ld.so.cache has for a name: the entries [FirstEntry, FirstEntry+Entries)
// (pkg/ldcache, Lookup).
type Answer struct {
	Name       uint32
	FirstEntry uint32
	Entries    uint32
}

// CacheEntry is a library that ld.so.cache lists (pkg/ldcache, Entry).
type CacheEntry struct {
	Path      uint32
	Subdir    uint32 // the empty string but for a glibc-hwcaps subdirectory
	OSVersion uint32
	_         uint32
	HWCap     uint64
}

// Directory is a directory in which the dynamic linker looked for files and did not
// find them. While its times are unchanged they are still not there, else each
// of [FirstMiss, FirstMiss+Misses) is looked for.
type Directory struct {
	Path      uint32
	FirstMiss uint32
	Misses    uint32
	Flags     uint32
	ID        FileID // Size is not compared
}

// DirectoryExact is the flag of a Directory whose times have to be unchanged, whatever is
// missing in it.
const DirectoryExact = 1 << 0

// Variable is what must be true of the caller's environment.
type Variable struct {
	Text uint32
	Kind uint32
}

// Kinds of Variable.
const (
	// EnvExact: the text is NAME=value, and this is the first value that the
	// environment has for NAME (getenv(3)).
	EnvExact = 1
	// EnvPrefix: no string of the environment begins with the text, but for the variables
	// that an EnvExact names.
	EnvPrefix = 2
)

// SignalAction is a signal's disposition, set unless the caller ignores the signal:
// struct kernel_sigaction of rt_sigaction(2) (asm/signal.h, struct sigaction).
type SignalAction struct {
	Signal                         uint32
	_                              uint32
	Handler, Flags, Restorer, Mask uint64
}

// Warm is what else must be true of the caller for an image of kind warm.
type Warm struct {
	// Executed is the offset in Strings of the path by which the interpreter is executed, where
	// an exec of the program ends with one of that (env(1)); 0 if the program itself is.
	Executed uint32
	_        uint32

	StackLimit uint64 // the soft limit of RLIMIT_STACK, bytes
	PID        uint64 // of the template, which no process that is started may have
	// CPUs is the template's CPU affinity (sched_getaffinity(2)), CPUsLen its length as
	// the kernel gives it, bytes; 0 if it is not compared.
	CPUs    [128]byte
	CPUsLen uint32
	// Terminals are the standard streams, bit 0 for 0, of which it matters whether they are
	// terminals. For each set of those that are, LayoutCounts layouts from the number
	// FirstLayouts on serve it; if there are none the start is a normal one. Number 0 is the
	// layout of the plan itself.
	Terminals    uint32
	FirstLayouts [8]uint8
	LayoutCounts [8]uint8
	// NetNS is the inode of the network namespace (/proc/self/ns/net, namespaces(7)); 0 if it
	// is not compared.
	NetNS uint64
	// Host is the host's name (uname(2), nodename), NULs behind it; empty if it is not compared.
	Host [72]byte
	// Umask is the umask(2), with UmaskCompared; 0 if it is not compared.
	Umask uint32
	_     uint32
}

// UmaskCompared is in Warm.Umask where that is compared.
const UmaskCompared = 1 << 31

// CPUID is what the instruction said where the image was made; Mask says which
// bits of it must be the same.
type CPUID struct {
	Leaf, Subleaf uint32
	Mask          [4]uint32 // EAX, EBX, ECX, EDX
	Value         [4]uint32
}
