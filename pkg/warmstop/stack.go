package warmstop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// Where a template's stack is moved to: between the programs, which are at the beginning of the
// address space or at 0x55…, and the libraries (0x7f…; 0x2a… where the stack's limit is infinite,
// arch/x86/mm/mmap.c, mmap_base). The kernel itself puts nothing there, and package plan has its
// launchers at 0x20….
const (
	stackFrom = 0x100000000000
	stackTo   = 0x1f0000000000
	stackSpan = 1 << 30 // more than a stack has before its program runs
)

// Moved reports whether an address is where templates' stacks are moved to.
func Moved(addr uint64) bool { return addr >= stackFrom && addr < stackTo+stackSpan }

// moveStack moves the stack of a process that is at its exec stop, to an address at random.
func (t *Template) moveStack(pid int, insn uint64, regs ptrace.Regs) error {
	old, ok := linux.FindMapping(t.Maps, regs.Rsp)
	if !ok || old.Path != "[stack]" {
		return errors.New("the stack pointer is not on the stack")
	}
	if old.Prot&unix.PROT_EXEC != 0 {
		return problem.Refusef("it wants an executable stack")
	}
	to := stackFrom + rand.Uint64N((stackTo-stackFrom)/linux.PageSize)*linux.PageSize
	if _, err := t.tracer.Inject(pid, insn, unix.SYS_MREMAP, old.Start, old.Len(), old.Len(),
		unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, to); err != nil {
		return fmt.Errorf("move the stack: %w", err)
	}
	by := to - old.Start
	regs.Rsp += by
	block := make([]byte, to+old.Len()-regs.Rsp)
	if err := linux.ReadMem(pid, regs.Rsp, block); err != nil {
		return err
	}
	// What the kernel has left on it points into it: arguments, environment, auxiliary vector.
	// Below the first string all are words.
	stack, _, err := linux.ParseStack(regs.Rsp-by, block)
	if err != nil {
		return err
	}
	for at := range (stack.AuxvEnd - stack.SP) / 8 {
		word := block[at*8:]
		if v := binary.LittleEndian.Uint64(word); v >= old.Start && v < old.End {
			binary.LittleEndian.PutUint64(word, v+by)
		}
	}
	if err := linux.WriteMem(pid, regs.Rsp, block[:stack.AuxvEnd-stack.SP]); err != nil {
		return err
	}
	regs.Orig_rax = ^uint64(0)
	if err := t.tracer.SetRegs(pid, &regs); err != nil {
		return err
	}
	t.Stack, t.Auxv, err = linux.ParseStack(regs.Rsp, block)
	return err
}
