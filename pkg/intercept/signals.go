package intercept

import (
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/pkg/launcher/front"
)

// RestoreSignals sets for the calling thread the signal mask that this process was
// started with, and ignores the signals that it was started to ignore; an exec
// passes both on. It is called just before one, and the goroutine stays on its
// thread.
//
// The Go runtime catches every signal, and what is caught becomes the default in
// an exec; only SIGHUP and SIGINT it lets be ignored. It also unblocks some, such
// as SIGCHLD.
//
// Descriptors 0, 1 and 2 that were closed will be closed again. A `run` that the
// front door carries out needs none of this. A residentctl that is linked without the
// front door knows none of it.
func RestoreSignals() {
	runtime.LockOSThread()
	for _, fd := range front.Closed() {
		unix.CloseOnExec(fd)
	}
	ignored, mask := inheritedSignals()
	for _, sig := range ignored {
		ignore(sig)
	}
	if mask != nil {
		_ = unix.PthreadSigmask(unix.SIG_SETMASK, mask, nil)
	}
}

// inheritedSignals are the signals that this process was started to ignore, and its
// first thread's mask then. The front door has noted them down; without it they are not
// known, and mask is nil.
func inheritedSignals() (ignored []int, mask *unix.Sigset_t) {
	ignoring, blocked, ok := front.Signals()
	if !ok {
		return nil, nil
	}
	for sig := 1; sig <= 64; sig++ {
		if ignoring>>(sig-1)&1 != 0 {
			ignored = append(ignored, sig)
		}
	}
	mask = &unix.Sigset_t{}
	mask.Val[0] = blocked
	return ignored, mask
}

// ignoreInherited ignores what this process was started to ignore, for a command that will
// be its child, and returns the mask that it was started with. SIGCHLD is left out: a
// process that ignores it cannot wait for a child.
func ignoreInherited() (mask *unix.Sigset_t) {
	ignored, mask := inheritedSignals()
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

// dispose is signal(2) without the runtime's knowledge. It returns the previous disposition.
func dispose(sig int, handler uintptr) disposition {
	d := disposition{handler: handler}
	return d.put(sig)
}

func (d disposition) put(sig int) (before disposition) {
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&d)), uintptr(unsafe.Pointer(&before)), 8, 0, 0)
	return before
}
