package inherit

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/linkstop"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// An Exec is what execve(2) would be given.
type Exec struct {
	Path      string // as the caller writes it
	Argv, Env []string
}

// A Caller is this process, as far as an exec of a program hands it on.
type Caller struct {
	exec   Exec
	limits limits
}

// NewCaller returns this process before the exec. From then on it may have, and its children
// with it, as many descriptors as the hard limit allows: CRIU needs some of its own.
//
// The error is a problem for what keeps a program from being started from an image.
func NewCaller(ctx context.Context, exec Exec) (*Caller, error) {
	if err := refused(exec.Env); err != nil {
		return nil, err
	}
	all, err := readLimits(ctx)
	if err != nil {
		return nil, err
	}
	raised := all[unix.RLIMIT_NOFILE]
	raised.Cur = raised.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised); err != nil {
		return nil, fmt.Errorf("raise the limit of open files: %w", err)
	}
	return &Caller{exec, all}, nil
}

// giving is a Give under way.
type giving struct {
	*ptrace.Process
	*Caller
	plan  *plan.Plan
	stack stack
	low   uint64 // where its mapping begins; a page of nothing from there on
}

// Give makes the stopped process what an exec by this process would have made. It stands
// where CRIU has restored it, at the stop point of an image with this plan. It is called
// on this process's first thread, of which some of what an exec hands on is.
//
// The error is a problem for what the kernel does not let be given, and else the
// kernel's. The process must be killed then.
func (c *Caller) Give(ctx context.Context, process *ptrace.Process, p *plan.Plan) error {
	g := &giving{Process: process, Caller: c, plan: p}
	for _, step := range []struct {
		what string
		give func() error
	}{
		{"stack", g.giveStack},
		{"descriptors and working directory", g.giveDescriptors},
		{"description for /proc", g.describe},
		{"attributes", g.giveAttributes},
		{"timers", g.giveTimers},
		{"signals", g.giveSignals},
		{"credentials", g.giveCredentials},
		{"limits", g.giveLimits},
		{"words of its own", g.correct},
	} {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := step.give(); err != nil {
			return fmt.Errorf("give process %d its %s: %w", g.PID, step.what, err)
		}
	}
	return nil
}

// giveStack replaces the stack. The new one ends where the kernel has put the end of this
// process's, which is as random as this system wants it.
func (g *giving) giveStack() error {
	maps, err := g.Maps()
	if err != nil {
		return err
	}
	own, err := linux.ReadMaps(os.Getpid())
	if err != nil {
		return err
	}
	v, err := g.vectors()
	if err != nil {
		return err
	}
	if g.stack, err = newStack(endOfStack(own), v); err != nil {
		return err
	}
	limit := g.limits[unix.RLIMIT_STACK].Cur
	if err := g.stack.fits(maps, limit); err != nil {
		return err
	}
	old, _ := linux.FindMapping(maps, g.Regs.Rsp)
	if _, err := g.Call(unix.SYS_MUNMAP, old.Start, old.Len()); err != nil {
		return fmt.Errorf("unmap the old one: %w", err)
	}
	g.low = g.stack.low(limit)
	const flags = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_STACK | unix.MAP_GROWSDOWN | unix.MAP_FIXED_NOREPLACE
	if _, err := g.Call(unix.SYS_MMAP, g.low, g.stack.End-g.low, unix.PROT_READ|unix.PROT_WRITE, flags, ^uint64(0), 0); err != nil {
		return fmt.Errorf("map %d bytes: %w", g.stack.End-g.low, err)
	}
	if err := linux.WriteMem(g.PID, g.stack.SP, g.stack.block); err != nil {
		return err
	}
	return g.SetStackPointer(g.stack.SP)
}

// endOfStack is the end of the initial stack in these mappings.
func endOfStack(maps []linux.Mapping) uint64 {
	for _, m := range maps {
		if m.Path == stackName {
			return m.End
		}
	}
	return 0
}

// vectors are those of an exec. The restored auxiliary vector describes the image and the
// machine, which is the one that the image was made on, and this process's the caller.
func (g *giving) vectors() (v vectors, err error) {
	old, auxv, err := g.Stack()
	if err != nil {
		return v, err
	}
	own, err := ownAuxv()
	if err != nil {
		return v, err
	}
	v = vectors{argv: g.exec.Argv, env: g.exec.Env, execfn: g.exec.Path, auxv: callersAuxv(auxv, own)}
	const longestName = 64 // of a platform, more than enough
	if old.Platform != 0 {
		if v.platform, err = linux.ReadString(g.PID, old.Platform, longestName); err != nil {
			return v, err
		}
	}
	const most = 8192 // arch/x86/kernel/process.c, arch_align_stack
	var shift [2]byte
	_, _ = rand.Read(v.random[:]) // it does not return errors
	_, _ = rand.Read(shift[:])
	v.shift = uint64(binary.LittleEndian.Uint16(shift[:])) % most
	return v, nil
}

// callersAuxv is a restored process's auxiliary vector with what is the caller's.
func callersAuxv(restored, own linux.Auxv) (auxv linux.Auxv) {
	for _, e := range restored {
		switch e.Type {
		case linux.ATUID, linux.ATEUID, linux.ATGID, linux.ATEGID, linux.ATSecure:
			e.Value = own.Value(e.Type)
		}
		auxv = append(auxv, e)
	}
	return auxv
}

// pass writes what a system call is to be given into the process, and returns its
// address.
func (g *giving) pass(data []byte) (addr uint64, err error) {
	return g.low, linux.WriteMem(g.PID, g.low, data)
}

// callWith makes a system call that is given the data at the place of argument n.
func (g *giving) callWith(data []byte, n int, nr uint64, args ...uint64) error {
	addr, err := g.pass(data)
	if err != nil {
		return err
	}
	args[n] = addr
	if _, err = g.Call(nr, args...); err != nil {
		return err
	}
	_, err = g.pass(make([]byte, len(data)))
	return err
}

// describe tells the kernel what /proc shows of the process, and where the program break
// is. As the launcher it gives that the distance from the program's data which the kernel
// has chosen for this process.
func (g *giving) describe() error {
	m, s := g.plan.MM, &g.stack
	start, brk := m.BrkBase, m.Brk
	if g.plan.Flags&plan.FlagKeepBrk == 0 {
		distance, err := ownBreakDistance()
		if err != nil {
			return err
		}
		start += distance
		brk = start
	}
	mm := linux.MMMap{
		StartCode: m.StartCode, EndCode: m.EndCode, StartData: m.StartData, EndData: m.EndData,
		StartBrk: start, Brk: brk, StartStack: s.SP,
		ArgStart: s.argStart, ArgEnd: s.argEnd, EnvStart: s.envStart, EnvEnd: s.envEnd,
		Auxv: s.Auxv, AuxvSize: uint32(s.AuxvEnd - s.Auxv), ExeFD: linux.NoFD,
	}.Bytes()
	err := g.callWith(mm, 2, unix.SYS_PRCTL, unix.PR_SET_MM, unix.PR_SET_MM_MAP, 0, uint64(len(mm)), 0)
	if err != nil {
		return fmt.Errorf("describe its memory (PR_SET_MM_MAP): %w", err)
	}
	// The kernel cuts a name that is too long.
	name := append([]byte(filepath.Base(g.exec.Path)), 0)
	return g.callWith(name, 1, unix.SYS_PRCTL, unix.PR_SET_NAME, 0, 0, 0, 0)
}

// ownBreakDistance is how far from the end of this process's data the kernel put the
// start of the program break, in bytes.
func ownBreakDistance() (uint64, error) {
	fields, err := linux.StatFields(os.Getpid())
	if err != nil {
		return 0, err
	}
	maps, err := linux.ReadMaps(os.Getpid())
	if err != nil {
		return 0, err
	}
	start, end := fields[47], uint64(0) // start_brk
	for _, m := range maps {
		if m.End <= start {
			end = max(end, m.End)
		}
	}
	return (start - end) &^ pageMask, nil
}

// correct corrects the words of the image that belong to the process.
func (g *giving) correct() error {
	values, err := linkstop.FixupValues(g.PID, g.stack.InitialStack)
	if err != nil {
		return err
	}
	for _, f := range g.plan.Fixups {
		word := binary.LittleEndian.AppendUint64(nil, values[f.Kind])
		if err := linux.WriteMem(g.PID, f.Addr, word[:f.Size]); err != nil {
			return err
		}
	}
	return nil
}
