package intercept

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/launcher/front"
)

// RestoreSignals gives the calling thread the signal mask that this process was
// started with, and ignores the signals that it was started to ignore; an exec
// passes both on. It is called just before one, and the goroutine stays on its
// thread.
//
// The Go runtime catches every signal, and what is caught becomes the default in
// an exec; only SIGHUP and SIGINT it lets be ignored. It also unblocks some, such
// as SIGCHLD.
//
// Descriptors 0, 1 and 2 that were closed will be closed again. A `run` that the
// front door carries out needs none of this.
func RestoreSignals() {
	runtime.LockOSThread()
	for _, fd := range front.Closed() {
		unix.CloseOnExec(fd)
	}
	ignored, mask, err := inheritedSignals()
	if err != nil {
		return
	}
	for _, sig := range ignored {
		ignore(sig)
	}
	if mask != nil {
		_ = unix.PthreadSigmask(unix.SIG_SETMASK, mask, nil)
	}
}

// inheritedSignals are the signals that this process was started to ignore, and its
// first thread's mask then, nil if it is not known. The front door has noted them down.
// In a residentctl that is linked without it they stand in two variables of the Go
// runtime, but for those that it leaves alone (runtime.sigtable, _SigDefault), and are
// found through the symbol table, at ten times the cost; nobody knows them where there
// is no symbol table either (-s).
func inheritedSignals() (ignored []int, mask *unix.Sigset_t, err error) {
	if ignoring, blocked, ok := front.Signals(); ok {
		for sig := 1; sig <= 64; sig++ {
			if ignoring>>(sig-1)&1 != 0 {
				ignored = append(ignored, sig)
			}
		}
		mask = &unix.Sigset_t{}
		mask.Val[0] = blocked
		return ignored, mask, nil
	}
	vars, err := runtimeVariables("runtime.fwdSig", "runtime.initSigmask")
	if err != nil {
		return nil, nil, err
	}
	dispositions, first := vars[0], vars[1] // [65]uintptr and [2]uint32
	const sigIgn = 1
	for sig := 1; 8*sig+8 <= len(dispositions); sig++ {
		if binary.NativeEndian.Uint64(dispositions[8*sig:]) == sigIgn {
			ignored = append(ignored, sig)
		}
	}
	if len(first) == 8 {
		mask = &unix.Sigset_t{}
		mask.Val[0] = binary.NativeEndian.Uint64(first)
	}
	return ignored, mask, nil
}

// ignoreInherited ignores what this process was started to ignore, for a command that will
// be its child, and returns the mask that it was started with. SIGCHLD is left out: a
// process that ignores it cannot wait for a child.
func ignoreInherited() (mask *unix.Sigset_t) {
	ignored, mask, _ := inheritedSignals()
	for _, sig := range ignored {
		if syscall.Signal(sig) != syscall.SIGCHLD {
			signal.Ignore(syscall.Signal(sig))
		}
	}
	return mask
}

// startAsInherited starts a child which finds the signal mask and the first three
// descriptors as this process was given them. What it is to ignore is for the
// caller to say with os/signal.
func startAsInherited(argv []string, mask *unix.Sigset_t, attr *os.ProcAttr) (*os.Process, error) {
	runtime.LockOSThread() // whose mask it is
	defer runtime.UnlockOSThread()
	if mask != nil {
		var before unix.Sigset_t
		if unix.PthreadSigmask(unix.SIG_SETMASK, mask, &before) == nil {
			defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil) }()
		}
	}
	attr.Files = []*os.File{os.Stdin, os.Stdout, os.Stderr}
	for _, fd := range front.Closed() {
		attr.Files[fd] = nil
	}
	return os.StartProcess(argv[0], argv, attr)
}

// SurviveBrokenPipe keeps what residentctl says from killing it where nobody reads
// that: a failed write to descriptor 1 or 2 does so as long as no one catches SIGPIPE
// (os/signal, "SIGPIPE"). In what is executed it is as it was inherited.
func SurviveBrokenPipe() {
	catch(make(chan os.Signal, 1), syscall.SIGPIPE)
}

// ignore is signal(sig, SIG_IGN), also for those that os/signal does not handle.
func ignore(sig int) {
	const sigIgn = 1
	dispose(sig, sigIgn)
}

// dieBy ends this process by a signal as the kernel would, without the runtime's own
// handler, which for some prints where the program stood and exits with 2. It
// comes back if the signal does not kill.
func dieBy(sig syscall.Signal) {
	const sigDfl = 0
	runtime.LockOSThread()
	dispose(int(sig), sigDfl)
	set := unix.Sigset_t{}
	set.Val[0] = 1 << (sig - 1)
	_ = unix.PthreadSigmask(unix.SIG_UNBLOCK, &set, nil)
	// To this thread, so that it has come when the call is done.
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), sig)
}

// stopBy stops this process by a signal, as the kernel would. It comes back when it is
// continued, or if the signal does not stop: SIGTSTP in an orphaned process group.
func stopBy(sig syscall.Signal) {
	const sigDfl = 0
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := dispose(int(sig), sigDfl)
	set, mask := unix.Sigset_t{}, unix.Sigset_t{}
	set.Val[0] = 1 << (sig - 1)
	_ = unix.PthreadSigmask(unix.SIG_UNBLOCK, &set, &mask)
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), sig)
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &mask, nil)
	before.put(int(sig))
}

// disposition is the kernel's struct sigaction, include/linux/signal_types.h.
type disposition struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

// dispose is signal(2) without the runtime's knowledge. It gives what was before.
func dispose(sig int, handler uintptr) disposition {
	d := disposition{handler: handler}
	return d.put(sig)
}

func (d disposition) put(sig int) (before disposition) {
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&d)), uintptr(unsafe.Pointer(&before)), 8, 0, 0)
	return before
}

// runtimeVariables reads variables of the running program by their symbols.
func runtimeVariables(names ...string) ([][]byte, error) {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	base, err := loadedAt(f)
	if err != nil {
		return nil, err
	}
	values := make([][]byte, len(names))
	for i, name := range names {
		s, err := findSymbol(f, name)
		if err != nil {
			return nil, err
		}
		values[i] = make([]byte, min(s.Size, 4096))
		if err := linux.ReadMem(os.Getpid(), base+s.Value, values[i]); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// findSymbol finds a symbol by its name's place in the string table. To decode
// all symbols, as f.Symbols does, takes 6 ms here instead of 1.
func findSymbol(f *elf.File, name string) (sym elf.Sym64, err error) {
	table, strings := f.Section(".symtab"), f.Section(".strtab")
	if table == nil || strings == nil {
		return sym, elf.ErrNoSymbols
	}
	text, err := strings.Data()
	if err != nil {
		return sym, err
	}
	entries, err := table.Data()
	if err != nil {
		return sym, err
	}
	at := bytes.Index(text, []byte("\x00"+name+"\x00")) + 1
	for ; at > 0 && len(entries) >= elf.Sym64Size; entries = entries[elf.Sym64Size:] {
		if int(f.ByteOrder.Uint32(entries)) == at {
			_, err = binary.Decode(entries, f.ByteOrder, &sym)
			return sym, err
		}
	}
	return sym, elf.ErrNoSymbols
}

// loadedAt is by how much the running program's addresses differ from those in
// its file.
func loadedAt(f *elf.File) (uint64, error) {
	data, err := os.ReadFile("/proc/self/auxv")
	if err != nil {
		return 0, err
	}
	auxv, err := linux.ParseAuxv(data)
	if err != nil {
		return 0, err
	}
	return auxv.Value(linux.ATEntry) - f.Entry, nil
}
