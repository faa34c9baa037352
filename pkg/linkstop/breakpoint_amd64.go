package linkstop

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// Debug registers in struct user (arch/x86/include/asm/user_64.h), what DR7
// holds for "break when the instruction at DR0 is about to be executed", and what
// DR6 then says.
const (
	offsetDR0 = 848
	offsetDR6 = offsetDR0 + 6*8
	offsetDR7 = offsetDR0 + 7*8
	dr7OnDR0  = 1
	dr6ByDR0  = 1
)

// A breakpoint stops one process before the instruction at addr.
type breakpoint struct {
	pid  int
	addr uint64
	kind breakKind
	// saved is the byte in the place of which an INT3 stands.
	saved [1]byte
}

// A breakKind is what stops a process at a breakpoint.
type breakKind int

const (
	byRegister breakKind = iota // a debug register; addr need not be mapped yet
	byINT3                      // an INT3 in the text
	byFault                     // that nothing is mapped there
)

// setBreakpoint uses a debug register, which dirties no page of the program's
// text, or if soft an INT3.
func setBreakpoint(pid int, addr uint64, soft bool) (*breakpoint, error) {
	b := &breakpoint{pid: pid, addr: addr, kind: byINT3}
	if !soft {
		b.kind = byRegister
		return b, pokeDebug(pid, addr, dr7OnDR0)
	}
	if err := linux.ReadMem(pid, addr, b.saved[:]); err != nil {
		return nil, err
	}
	return b, linux.WriteMem(pid, addr, []byte{0xcc})
}

// reached tells whether a stop with a signal is b's.
func (b *breakpoint) reached(sig unix.Signal, regs *unix.PtraceRegs) bool {
	switch b.kind {
	case byINT3:
		return sig == unix.SIGTRAP && regs.Rip == b.addr+1
	case byFault:
		return sig == unix.SIGSEGV && regs.Rip == b.addr
	default:
		return sig == unix.SIGTRAP && regs.Rip == b.addr
	}
}

// remove leaves the process as if b had never been there. The page that held
// an INT3 stays a copy, equal to the file's.
func (b *breakpoint) remove(regs *unix.PtraceRegs) error {
	switch b.kind {
	case byRegister:
		return pokeDebug(b.pid, 0, 0)
	case byFault:
		return nil
	}
	if err := linux.WriteMem(b.pid, b.addr, b.saved[:]); err != nil {
		return err
	}
	regs.Rip = b.addr
	return unix.PtraceSetRegs(b.pid, regs)
}

// errNoDebugRegisters says that a process did not stop where a debug register
// should have stopped it.
var errNoDebugRegisters = errors.New("the debug registers take an address, and a process does not stop there")

// debugRegisters is what softBreakpoints has found out: 0 before the first time.
var debugRegisters atomic.Int32

const (
	registersWork = iota + 1
	registersFail
)

// softBreakpoints tells whether breakpoints have to be INT3s here. It is tried
// out once, on a process that stands before its first instruction: some virtual
// machines have no debug registers, and others let them be written and never
// stop.
func (t *tracer) softBreakpoints(pid int) (bool, error) {
	if debugRegisters.Load() == 0 {
		err := t.tryDebugRegister(pid)
		var ended *EndedError
		if errors.As(err, &ended) || errors.Is(err, unix.ESRCH) {
			return false, err // it says nothing of the machine
		}
		found := int32(registersWork)
		if err != nil {
			found = registersFail
		}
		debugRegisters.Store(found)
	}
	return debugRegisters.Load() == registersFail, nil
}

// tryDebugRegister sets a debug register on the next instruction of a process and
// lets it make a single step. If the register works the process has not moved and
// DR6 says why; if not, it has executed that one instruction, and is put back.
func (t *tracer) tryDebugRegister(pid int) error {
	var before unix.PtraceRegs
	if err := unix.PtraceGetRegs(pid, &before); err != nil {
		return t.gone(pid, err)
	}
	if err := pokeDebug(pid, before.Rip, dr7OnDR0); err != nil {
		return err
	}
	if err := unix.PtraceSingleStep(pid); err != nil {
		return t.gone(pid, err)
	}
	if _, err := t.wait(pid); err != nil {
		return err
	}
	status, err := peekUser(pid, offsetDR6)
	if err == nil && status&dr6ByDR0 == 0 {
		err = errNoDebugRegisters
	}
	return errors.Join(err, pokeDebug(pid, 0, 0), unix.PtraceSetRegs(pid, &before))
}

// peekUser reads a word of a process's struct user (ptrace(2), PTRACE_PEEKUSER:
// the system call stores it where its last argument points).
func peekUser(pid int, offset uintptr) (word uint64, err error) {
	_, err = ptrace(unix.PTRACE_PEEKUSR, pid, offset, uintptr(unsafe.Pointer(&word)))
	return word, err
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

// runTo lets the breakpoint's process run until it is there. Where it has a filter, a
// call that a recorder refuses is refused.
func (t *tracer) runTo(b *breakpoint) error {
	sig := 0
	for {
		ws, err := t.cont(b.pid, sig)
		if err != nil {
			return err
		}
		switch event(ws) {
		case 0:
		case unix.PTRACE_EVENT_SECCOMP:
			if err := t.filtered(b.pid); err != nil {
				return err
			}
			sig = 0
			continue
		case unix.PTRACE_EVENT_EXEC:
			return ErrStartedNormally
		default:
			return anotherProcess()
		}
		done, err := t.atBreakpoint(b, ws)
		if done || err != nil {
			return err
		}
		sig = int(ws.StopSignal())
	}
}

// atBreakpoint tells whether a signal's stop is that of the breakpoint. Another
// SIGTRAP than that is refused, another signal is the process's own.
func (t *tracer) atBreakpoint(b *breakpoint, ws unix.WaitStatus) (bool, error) {
	sig := ws.StopSignal()
	if sig != unix.SIGTRAP && b.kind != byFault {
		return false, nil
	}
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(b.pid, &regs); err != nil {
		return false, t.gone(b.pid, err)
	}
	if b.reached(sig, &regs) {
		return true, nil
	}
	if sig == unix.SIGTRAP {
		return false, &Refusal{
			Reason: fmt.Sprintf("a SIGTRAP of its own stops it at %#x, before the stop point", regs.Rip),
			Hint:   "without a debugger it ends there; if somebody sent it the signal, try again",
		}
	}
	return false, nil
}
