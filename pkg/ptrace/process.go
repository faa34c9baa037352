package ptrace

import (
	"fmt"
	"sync"
	"unsafe"

	"github.com/residentctl/residentctl/internal/linux"
)

// A Process is stopped where StartAt or Attach has stopped it. It must be given
// up with Kill or Release; should this process end before, it is killed.
type Process struct {
	PID  int
	Regs Regs // Fs_base among them

	// What it has registered with the kernel.
	Rseq                  RseqConfig
	RobustHead, RobustLen uint64

	tracer *Tracer
	mu     sync.Mutex
	ended  bool
}

// Process is a stopped process of the tracer's, with its registers and what it has
// registered with the kernel. From now on the tracer belongs to it.
func (t *Tracer) Process(pid int) (p *Process, err error) {
	p = &Process{PID: pid, tracer: t}
	if p.Regs, err = t.Regs64(pid); err != nil {
		return nil, err
	}
	if p.Rseq, err = Rseq(pid); err != nil {
		return nil, fmt.Errorf("read the rseq registration: %w", err)
	}
	if p.RobustHead, p.RobustLen, err = RobustList(pid); err != nil {
		return nil, err
	}
	return p, nil
}

// Maps are the process's mappings.
func (p *Process) Maps() ([]linux.Mapping, error) { return linux.ReadMaps(p.PID) }

// ReadMem fills buf with the process's memory from addr on.
func (p *Process) ReadMem(addr uint64, buf []byte) error { return linux.ReadMem(p.PID, addr, buf) }

// Stack reads the process's initial stack, which its stack pointer must still
// point to.
func (p *Process) Stack() (linux.InitialStack, linux.Auxv, error) {
	maps, err := p.Maps()
	if err != nil {
		return linux.InitialStack{}, nil, err
	}
	stack, auxv, _, err := linux.ReadStack(p.PID, p.Regs.Rsp, maps)
	return stack, auxv, err
}

// FloatControl are the control words of the floating-point units, which unlike
// their data are alive between two functions: x87's and SSE's (struct
// user_fpregs_struct, arch/x86/include/asm/user_64.h).
func (p *Process) FloatControl() (x87 uint16, sse uint32, err error) {
	var regs struct {
		cwd    uint16
		_      [22]byte
		mxcsr  uint32
		unused [484]byte
	}
	const getFPRegs = 14 // PTRACE_GETFPREGS
	err = p.tracer.Do(func() error {
		_, err := ptrace(getFPRegs, p.PID, 0, uintptr(unsafe.Pointer(&regs)))
		return err
	})
	if err != nil {
		err = fmt.Errorf("read the floating-point registers of process %d: %w", p.PID, err)
	}
	return regs.cwd, regs.mxcsr, err
}

// Kill ends and reaps the process. It may be called more than once.
func (p *Process) Kill() error {
	p.tracer.Kill()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.tracer.End()
		p.ended = true
	}
	return nil
}
