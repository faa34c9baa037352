package ptrace

import (
	"errors"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
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

// A Breakpoint stops one process before the instruction at addr.
type Breakpoint struct {
	pid  int
	addr uint64
	kind breakKind
	// saved is the byte that the INT3 has replaced.
	saved [1]byte
}

// A breakKind is what stops a process at a breakpoint.
type breakKind int

const (
	byRegister breakKind = iota // a debug register; addr need not be mapped yet
	byINT3                      // an INT3 in the text
	byFault                     // that nothing is mapped there
)

// SetBreakpoint has a process stop before the instruction at addr. It uses a debug register, which dirties no page of the program's
// text, or if soft an INT3.
func SetBreakpoint(pid int, addr uint64, soft bool) (*Breakpoint, error) {
	b := &Breakpoint{pid: pid, addr: addr, kind: byINT3}
	if !soft {
		b.kind = byRegister
		return b, pokeDebug(pid, addr, dr7OnDR0)
	}
	if err := linux.ReadMem(pid, addr, b.saved[:]); err != nil {
		return nil, err
	}
	return b, linux.WriteMem(pid, addr, []byte{int3})
}

// FaultAt returns the breakpoint at an address where nothing is mapped: the process
// stops by the fault.
func FaultAt(pid int, addr uint64) *Breakpoint {
	return &Breakpoint{pid: pid, addr: addr, kind: byFault}
}

// reached reports whether a stop with a signal is b's.
func (b *Breakpoint) reached(sig unix.Signal, regs *Regs) bool {
	switch b.kind {
	case byINT3:
		return sig == unix.SIGTRAP && regs.Rip == b.addr+1
	case byFault:
		return sig == unix.SIGSEGV && regs.Rip == b.addr
	default:
		return sig == unix.SIGTRAP && regs.Rip == b.addr
	}
}

// Remove leaves the process as if b had never been there. The page that held
// an INT3 stays a copy, equal to the file's.
func (b *Breakpoint) Remove(regs *Regs) error {
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

// debugRegisters is what SoftBreakpoints has found out: 0 before the first time.
var debugRegisters atomic.Int32

const (
	registersWork = iota + 1
	registersFail
)

// SoftBreakpoints reports whether breakpoints have to be INT3s here. It is tried
// out once, on a process that is before its first instruction: some virtual
// machines have no debug registers, and others let them be written and never
// stop.
func (t *Tracer) SoftBreakpoints(pid int) (bool, error) {
	if debugRegisters.Load() == 0 {
		err := t.TryDebugRegister(pid)
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

// TryDebugRegister sets a debug register on the next instruction of a process and
// lets it make a single step. If the register works the process has not moved and
// DR6 says why; if not, it has executed that one instruction, and is put back.
func (t *Tracer) TryDebugRegister(pid int) error {
	before, err := t.Regs(pid)
	if err != nil {
		return err
	}
	if err := pokeDebug(pid, before.Rip, dr7OnDR0); err != nil {
		return err
	}
	if err := unix.PtraceSingleStep(pid); err != nil {
		return t.gone(pid, err)
	}
	if _, err := t.Wait(pid); err != nil {
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

// whenMapped lets a process run from system call to system call until there is
// code at addr, and sets an INT3 there.
func (t *Tracer) whenMapped(pid int, addr uint64) (*Breakpoint, error) {
	sig := 0
	for {
		if linux.ReadMem(pid, addr, make([]byte, 1)) == nil {
			return SetBreakpoint(pid, addr, true)
		}
		ws, err := t.toSyscall(pid, sig)
		if err != nil {
			return nil, err
		}
		sig = 0
		switch {
		case AtExec(ws):
			return nil, ErrStartedNormally
		case event(ws) != 0:
			return nil, anotherProcess()
		case !isSyscall(ws):
			sig = int(ws.StopSignal())
		}
	}
}

// RunTo lets the breakpoint's process run until it is there. Where it has a filter,
// that is asked about each call before which it has stopped the process. The errors
// are ErrStartedNormally if the process executes another program before, *EndedError,
// problem.Refused and the filter's.
func (t *Tracer) RunTo(b *Breakpoint) error {
	sig := 0
	for {
		ws, err := t.Cont(b.pid, sig)
		if err != nil {
			return err
		}
		switch event(ws) {
		case 0:
		case unix.PTRACE_EVENT_SECCOMP:
			call, err := t.syscall(b.pid)
			if err == nil {
				err = t.ask(b.pid, call)
			}
			if err != nil {
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

// WatchTo is RunTo that calls look at both ends of each system call of the process,
// whose error ends it. To make a process, and to execute one, is look's to refuse.
func (t *Tracer) WatchTo(b *Breakpoint, look func(SyscallInfo) error) error {
	sig := 0
	for {
		ws, err := t.toSyscall(b.pid, sig)
		if err != nil {
			return err
		}
		sig = 0
		switch {
		case isSyscall(ws):
			call, err := t.syscall(b.pid)
			if err == nil {
				err = look(call)
			}
			if err != nil {
				return err
			}
		case event(ws) != 0:
			return anotherProcess()
		default:
			done, err := t.atBreakpoint(b, ws)
			if done || err != nil {
				return err
			}
			sig = int(ws.StopSignal())
		}
	}
}

// atBreakpoint reports whether a signal's stop is that of the breakpoint. Another
// SIGTRAP than that is refused, another signal is the process's own.
func (t *Tracer) atBreakpoint(b *Breakpoint, ws unix.WaitStatus) (bool, error) {
	sig := ws.StopSignal()
	if sig != unix.SIGTRAP && b.kind != byFault {
		return false, nil
	}
	regs, err := t.Regs(b.pid)
	if err != nil {
		return false, err
	}
	if b.reached(sig, &regs) {
		return true, nil
	}
	if sig == unix.SIGTRAP {
		return false, problem.Refusef("a SIGTRAP of its own stops it at %#x, before the stop point", regs.Rip).
			WithHint("try again if another process sent the signal; without a debugger the program ends there")
	}
	return false, nil
}
