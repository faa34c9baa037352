package ptrace

import (
	"fmt"
	"sync"

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
	insn   uint64 // the address of a SYSCALL instruction, 0 as long as none was looked for
	group  int    // the process group to go back to, 0 if that is its own
	mu     sync.Mutex
	ended  bool
}

// Process returns a stopped process of the tracer's, with its registers and what it has
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

// Maps returns the process's mappings.
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

// FloatControl is that of package ptrace for the process.
func (p *Process) FloatControl() (x87 uint16, sse uint32, err error) {
	err = p.tracer.Do(func() error {
		x87, sse, err = FloatControl(p.PID)
		return err
	})
	return x87, sse, err
}

// Call has the process make a system call (Tracer.Inject). An error of the call's is its
// unix.Errno.
func (p *Process) Call(nr uint64, args ...uint64) (result uint64, err error) {
	err = p.tracer.Do(func() (err error) {
		if p.insn == 0 {
			maps, err := p.Maps()
			if err != nil {
				return err
			}
			if p.insn, err = FindSyscall(p.PID, maps); err != nil {
				return err
			}
		}
		result, err = p.tracer.Inject(p.PID, p.insn, nr, args...)
		return err
	})
	return result, err
}

// SetStackPointer sets the stack pointer.
func (p *Process) SetStackPointer(sp uint64) error {
	regs := p.Regs
	regs.Rsp = sp
	regs.Orig_rax = ^uint64(0) // no system call to restart
	err := p.tracer.Do(func() error { return p.tracer.SetRegs(p.PID, &regs) })
	if err == nil {
		p.Regs = regs
	}
	return err
}

// SetSignalMask has the process block these signals, as a bit mask, and no others.
func (p *Process) SetSignalMask(mask uint64) error {
	return p.tracer.Do(func() error { return SetSignalMask(p.PID, mask) })
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
