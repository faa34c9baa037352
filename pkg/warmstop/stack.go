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
	if err := t.describeStack(pid, insn, regs.Rsp, by); err != nil {
		return err
	}
	regs.Orig_rax = ^uint64(0)
	if err := t.tracer.SetRegs(pid, &regs); err != nil {
		return err
	}
	t.Stack, t.Auxv, err = linux.ParseStack(regs.Rsp, block)
	return err
}

// describeStack tells the kernel where arguments and environment are now, for
// /proc/PID/cmdline and the stack's name in /proc/PID/maps (prctl(2), PR_SET_MM_MAP).
func (t *Template) describeStack(pid int, insn, sp, by uint64) error {
	stat, err := linux.StatFields(pid) // proc_pid_stat(5)
	if err != nil {
		return err
	}
	now, err := t.tracer.Inject(pid, insn, unix.SYS_BRK, 0)
	if err != nil {
		return err
	}
	mm := linux.MMMap{
		StartCode: stat[26], EndCode: stat[27], StartData: stat[45], EndData: stat[46], StartBrk: stat[47], Brk: now,
		StartStack: sp, ArgStart: stat[48] + by, ArgEnd: stat[49] + by, EnvStart: stat[50] + by, EnvEnd: stat[51] + by,
		ExeFD: linux.NoFD,
	}
	raw := mm.Bytes()
	at := (sp - 1024) &^ 15 // nothing but zeros is below a fresh stack pointer
	if err := linux.WriteMem(pid, at, raw); err != nil {
		return err
	}
	if _, err := t.tracer.Inject(pid, insn, unix.SYS_PRCTL, unix.PR_SET_MM, unix.PR_SET_MM_MAP, at, uint64(len(raw))); err != nil {
		return fmt.Errorf("describe the moved stack: %w", err)
	}
	return linux.WriteMem(pid, at, make([]byte, len(raw)))
}
