package linkstop

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// Debug registers in struct user (arch/x86/include/asm/user_64.h), and what
// DR7 holds for "break when the instruction at DR0 is about to be executed".
const (
	offsetDR0 = 848
	offsetDR7 = offsetDR0 + 7*8
	dr7OnDR0  = 1
)

// A breakpoint stops one process before the instruction at addr.
type breakpoint struct {
	pid  int
	addr uint64
	// saved is the byte in the place of which an INT3 stands, if soft.
	saved [1]byte
	soft  bool
}

// setBreakpoint uses a debug register, which dirties no page of the program's
// text, or where there is none (some virtual machines) an INT3.
func setBreakpoint(pid int, addr uint64, soft bool) (*breakpoint, error) {
	b := &breakpoint{pid: pid, addr: addr, soft: soft}
	if !soft {
		err := pokeDebug(pid, addr, dr7OnDR0)
		if err == nil {
			return b, nil
		}
		if err == unix.ESRCH {
			return nil, err
		}
		b.soft = true
	}
	if err := linux.ReadMem(pid, addr, b.saved[:]); err != nil {
		return nil, err
	}
	return b, linux.WriteMem(pid, addr, []byte{0xcc})
}

// reached tells whether a stop with SIGTRAP is b's.
func (b *breakpoint) reached(regs *unix.PtraceRegs) bool {
	if b.soft {
		return regs.Rip == b.addr+1
	}
	return regs.Rip == b.addr
}

// remove leaves the process as if b had never been there. The page that held
// an INT3 stays a copy, equal to the file's.
func (b *breakpoint) remove(regs *unix.PtraceRegs) error {
	if !b.soft {
		return pokeDebug(b.pid, 0, 0)
	}
	if err := linux.WriteMem(b.pid, b.addr, b.saved[:]); err != nil {
		return err
	}
	regs.Rip = b.addr
	return unix.PtraceSetRegs(b.pid, regs)
}

func pokeDebug(pid int, dr0, dr7 uint64) error {
	// The kernel checks an address when it is enabled, so it comes first; and
	// it does not let go of DR0 while DR7 uses it.
	first, second := [2]uint64{offsetDR0, dr0}, [2]uint64{offsetDR7, dr7}
	if dr7 == 0 {
		first, second = second, first
	}
	for _, w := range [][2]uint64{first, second} {
		if _, err := ptrace(unix.PTRACE_POKEUSR, pid, uintptr(w[0]), uintptr(w[1])); err != nil {
			return err
		}
	}
	return nil
}

// runTo lets the breakpoint's process run until it is there.
func (t *tracer) runTo(b *breakpoint) error {
	sig := 0
	for {
		ws, err := t.cont(b.pid, sig)
		if err != nil {
			return err
		}
		switch event(ws) {
		case 0:
		case unix.PTRACE_EVENT_EXEC:
			return ErrStartedNormally
		default:
			return refusef("it starts another process before the stop point")
		}
		done, err := t.atBreakpoint(b, ws)
		if done || err != nil {
			return err
		}
		sig = int(ws.StopSignal())
	}
}

// atBreakpoint tells whether a signal's stop is that of the breakpoint. Another
// SIGTRAP than that is an error, another signal is the process's own.
func (t *tracer) atBreakpoint(b *breakpoint, ws unix.WaitStatus) (bool, error) {
	if ws.StopSignal() != unix.SIGTRAP {
		return false, nil
	}
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(b.pid, &regs); err != nil {
		return false, t.gone(b.pid, err)
	}
	if !b.reached(&regs) {
		return false, fmt.Errorf("stopped at %#x instead of %#x", regs.Rip, b.addr)
	}
	return true, nil
}
