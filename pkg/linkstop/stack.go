package linkstop

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// twinShift is how far down the twin's strings lie: not a multiple of the page
// size, so that no address agrees even in its lowest bits.
const twinShift = 0x3450

// twinStack is the twin's initial stack.
func twinStack(s linux.InitialStack, auxv linux.Auxv, block []byte) ([]byte, linux.InitialStack, error) {
	return anotherStack(s, auxv, block, "--twin", "RESIDENTCTL_TWIN=1")
}

// anotherStack makes another initial stack out of block, which is that of s: all
// strings twinShift lower, one more variable and, unless it is "", one more argument,
// other AT_RANDOM bytes. It returns the new stack's bytes, which end at
// s.End-twinShift, and its description.
func anotherStack(s linux.InitialStack, auxv linux.Auxv, block []byte, arg, variable string) ([]byte, linux.InitialStack, error) {
	extra := []byte(arg + "\x00" + variable + "\x00")
	extra = append(extra, make([]byte, -len(extra)&7)...)
	variableAt := uint64(len(arg) + 1)
	word := func(addr uint64) uint64 { return binary.LittleEndian.Uint64(block[addr-s.SP:]) }
	moved := func(addr uint64) uint64 {
		if s.Contains(addr) {
			return addr - twinShift
		}
		return addr
	}

	// From the top: the old strings, the extra ones, the vectors.
	strings := append([]byte(nil), block[s.AuxvEnd-s.SP:]...)
	for i := range 16 {
		strings[s.Random-s.AuxvEnd+uint64(i)] ^= byte(0x5a + 7*i)
	}
	extraAt := s.AuxvEnd - twinShift - uint64(len(extra))
	vectors := []uint64{s.Argc}
	for p := s.Argv; p < s.Envp-8; p += 8 {
		vectors = append(vectors, moved(word(p)))
	}
	if arg != "" {
		vectors[0]++
		vectors = append(vectors, extraAt)
	}
	vectors = append(vectors, 0)
	for p := s.Envp; p < s.Auxv-8; p += 8 {
		vectors = append(vectors, moved(word(p)))
	}
	vectors = append(vectors, extraAt+variableAt, 0)
	for _, e := range auxv {
		vectors = append(vectors, e.Type, moved(e.Value))
	}
	vectors = append(vectors, linux.ATNull, 0)

	sp := (extraAt - uint64(len(vectors)*8)) &^ 15 // the psABI's alignment
	stack := make([]byte, 0, s.End-twinShift-sp)
	for _, v := range vectors {
		stack = binary.LittleEndian.AppendUint64(stack, v)
	}
	stack = append(stack, make([]byte, extraAt-sp-uint64(len(stack)))...)
	stack = append(stack, extra...)
	stack = append(stack, strings...)
	twin, _, err := linux.ParseStack(sp, stack)
	if err != nil {
		return nil, twin, fmt.Errorf("make another initial stack: %w", err)
	}
	return stack, twin, nil
}

// makeTwin clones the template, which has not executed an instruction yet, and
// gives the clone, twin or binder, another initial stack and stack limit. CLONE_PARENT makes it
// our child, so that the template never has one, and we reap it.
func makeTwin(t *ptrace.Tracer, pid int, insn uint64, sp uint64, stack []byte, limit uint64) (twin int, err error) {
	regs, err := t.Regs(pid)
	if err != nil {
		return 0, err
	}
	ret, err := t.Inject(pid, insn, unix.SYS_CLONE, unix.CLONE_PARENT|uint64(unix.SIGCHLD), 0, 0, 0, 0)
	if err != nil {
		return 0, fmt.Errorf("clone the template: %w", err)
	}
	twin = int(ret)
	// A new tracee begins with SIGSTOP (ptrace(2), PTRACE_O_TRACEFORK).
	if _, err := t.Wait(twin); err != nil {
		return 0, fmt.Errorf("start a copy of the template: %w", err)
	}
	if err := setStackLimit(twin, limit); err != nil {
		return 0, err
	}
	if err := linux.WriteMem(twin, sp, stack); err != nil {
		return 0, err
	}
	regs.Rsp, regs.Orig_rax = sp, ^uint64(0)
	if err := t.SetRegs(twin, &regs); err != nil {
		return 0, err
	}
	return twin, nil
}

// stackLimits are the sentinels for RLIMIT_STACK of template and twin: odd
// multiples of the page size, so that glibc, which rounds up to pages, keeps
// them as they are, and so rare that the default thread stack size, which is
// made from them, is found by its value. They lie far above the usual 8 MiB
// because the kernel keeps that much room below the stack free of mappings
// (mmap_base, arch/x86/mm/mmap.c): a caller that starts the image with less has room
// for certain. A hard limit below is respected.
func stackLimits(hard uint64) (template, twin uint64, err error) {
	template, twin = 0x407b000, 0x3f0d000
	if hard < template {
		pages := hard / linux.PageSize
		template = (pages - 1) | 1
		twin = (pages / 2) | 1
		if pages < 64 {
			return 0, 0, problem.Refusef("the hard limit of its stack is %d KiB only", hard>>10).
				WithHint("raise the hard limit (`ulimit -Hs` shows it), which only root can do")
		}
		template, twin = template*linux.PageSize, twin*linux.PageSize
	}
	return template, twin, nil
}

// setStackLimit sets the soft limit of a process's stack.
func setStackLimit(pid int, soft uint64) error {
	var lim unix.Rlimit
	err := unix.Prlimit(pid, unix.RLIMIT_STACK, nil, &lim)
	if err == nil {
		lim.Cur = soft
		err = unix.Prlimit(pid, unix.RLIMIT_STACK, &lim, nil)
	}
	if err != nil {
		return fmt.Errorf("limit the stack: %w", err)
	}
	return nil
}
