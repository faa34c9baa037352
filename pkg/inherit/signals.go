package inherit

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/pkg/launcher/front"
)

// lastSignal is the highest number of a signal (signal(7)).
const lastSignal = 64

// giveSignals gives the process the signals that this process was executed to ignore,
// its mask then, and the blocked signals that are pending. Without the front door, which
// has noted them, all are as in a process with nothing of the kind.
func (g *giving) giveSignals() error {
	ignored, mask, known := front.Signals()
	if !known {
		return nil
	}
	for sig := uint64(1); sig <= lastSignal; sig++ {
		if !has(ignored, sig) {
			continue
		}
		const sigIgn = 1
		action := binary.LittleEndian.AppendUint64(nil, sigIgn)
		action = append(action, make([]byte, 24)...) // struct sigaction, include/linux/signal_types.h
		if err := g.callWith(action, 1, unix.SYS_RT_SIGACTION, sig, 0, 0, 8); err != nil {
			return fmt.Errorf("ignore %s: %w", unix.SignalName(unix.Signal(sig)), err)
		}
	}
	if err := g.SetSignalMask(mask); err != nil {
		return err
	}
	return g.givePending(mask)
}

// has reports whether a mask has a signal in it.
func has(mask, sig uint64) bool { return mask>>(sig-1)&1 != 0 }

// A siginfo is a siginfo_t (include/uapi/asm-generic/siginfo.h).
type siginfo [128]byte

// givePending moves the pending signals of this mask, with what came with them. The
// process sends them to itself, so it may say that they are from anywhere
// (rt_sigqueueinfo(2)).
func (g *giving) givePending(mask uint64) error {
	own, err := readStatus("self")
	if err != nil {
		return err
	}
	thread, err := strconv.ParseUint(own["SigPnd"], 16, 64) // of the first thread's alone
	if err != nil {
		return err
	}
	pid := uint64(g.PID)
	for {
		sig, info, ok := takePending(mask)
		switch {
		case !ok:
			return nil
		case has(thread, sig):
			err = g.callWith(info[:], 3, unix.SYS_RT_TGSIGQUEUEINFO, pid, pid, sig, 0)
		default:
			err = g.callWith(info[:], 2, unix.SYS_RT_SIGQUEUEINFO, pid, sig, 0)
		}
		if err != nil {
			return fmt.Errorf("send pending %s: %w", unix.SignalName(unix.Signal(sig)), err)
		}
	}
}

// takePending takes a pending signal of this mask, if there is one (sigtimedwait(2)).
func takePending(mask uint64) (sig uint64, info siginfo, ok bool) {
	var now unix.Timespec
	got, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&mask)),
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&now)), unsafe.Sizeof(mask), 0, 0)
	return uint64(got), info, errno == 0
}
