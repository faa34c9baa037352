package ptrace

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

const int3 = 0xcc

// endbr64 is the instruction that begins functions built for indirect branch tracking, and does
// nothing else (Intel SDM volume 2, ENDBR64).
const endbr64 = "\xf3\x0f\x1e\xfa"

// trap is the stop of a single step.
const trap = unix.WaitStatus(unix.SIGTRAP)<<8 | 0x7f

// A called is told that a thread is about to execute the function at an address.
type called struct {
	first  byte // of the function's text
	isMark bool // the first instruction is ENDBR64
	tell   func(tid int, regs *Regs) error
}

// OnCall has WatchTree tell of each call of the function at addr. An INT3 in the text of the
// process, which all that it forks has too, stops it there. A call is missed that another thread
// makes while the first instruction is executed, unless that is ENDBR64.
func (t *Tracer) OnCall(pid int, addr uint64, tell func(tid int, regs *Regs) error) error {
	var first [len(endbr64)]byte
	if err := linux.ReadMem(pid, addr, first[:]); err != nil {
		return err
	}
	if err := linux.WriteMem(pid, addr, []byte{int3}); err != nil {
		return err
	}
	if t.calledAt == nil {
		t.calledAt = map[uint64]called{}
	}
	t.calledAt[addr] = called{first[0], string(first[:]) == endbr64, tell}
	return nil
}

// EndOnCall takes what OnCall has put into the text of one process out of it again, with the
// copy that was made of each page (madvise(2), MADV_DONTNEED).
func (t *Tracer) EndOnCall(pid int, insn uint64) error {
	for addr := range t.calledAt {
		page := addr &^ (linux.PageSize - 1)
		if _, err := t.Inject(pid, insn, unix.SYS_MADVISE, page, linux.PageSize, unix.MADV_DONTNEED); err != nil {
			return fmt.Errorf("restore the text at %#x: %w", addr, err)
		}
	}
	t.calledAt = nil
	return nil
}

// passCall reports whether a thread is stopped at a function of OnCall. If so, it has told of the
// call, and the thread has executed the function's first instruction: ws is the stop after that,
// that of a signal that came before, or its end.
func (t *Tracer) passCall(tid int) (is bool, ws unix.WaitStatus, err error) {
	regs, err := t.Regs(tid)
	if err != nil {
		return false, 0, err
	}
	addr := regs.Rip - 1
	c, known := t.calledAt[addr]
	if !known {
		return false, 0, nil
	}
	var there [1]byte
	if err := linux.ReadMem(tid, addr, there[:]); err != nil || there[0] != int3 {
		return false, 0, err // it has executed another program
	}
	if err := c.tell(tid, &regs); err != nil {
		return true, 0, err
	}
	if c.isMark {
		regs.Rip = addr + uint64(len(endbr64))
		return true, trap, t.SetRegs(tid, &regs)
	}
	regs.Rip = addr
	if err := errors.Join(t.SetRegs(tid, &regs), linux.WriteMem(tid, addr, []byte{c.first})); err != nil {
		return true, 0, err
	}
	if err := unix.PtraceSingleStep(tid); err != nil && err != unix.ESRCH {
		return true, 0, fmt.Errorf("step process %d: %w", tid, err)
	}
	ws, err = t.Wait(tid)
	if ended := (*EndedError)(nil); errors.As(err, &ended) {
		return true, ended.Status, nil
	}
	if err != nil {
		return true, 0, err
	}
	return true, ws, linux.WriteMem(tid, addr, []byte{int3})
}
