package criuwrap

import (
	"fmt"
	"io/fs"

	core_x86 "github.com/checkpoint-restore/go-criu/v7/crit/images/core-x86"
	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
)

// readCore reads core-PID.img: images/core.proto.
func (im *Image) readCore(fsys fs.FS) error {
	name := fmt.Sprintf("core-%d.img", im.PID)
	var m criu_core.CoreEntry
	if err := one(fsys, name, magicCore, &m); err != nil {
		return err
	}
	if m.GetMtype() != criu_core.CoreEntry_X86_64 {
		return fmt.Errorf("%s: %w: machine %v", name, ErrUnsupported, m.GetMtype())
	}
	info, thread := m.GetThreadInfo(), m.GetThreadCore()
	if info == nil || thread == nil {
		return fmt.Errorf("%s: %w: no thread", name, ErrFormat)
	}
	g := info.GetGpregs()
	if g.GetMode() != core_x86.UserX86RegsMode_NATIVE {
		return fmt.Errorf("%s: %w: 32-bit program", name, ErrUnsupported)
	}
	im.Regs = regs(g)
	im.ClearTIDAddr = info.GetClearTidAddr()
	im.RobustHead = thread.GetFutexRla()
	im.RobustLen = uint64(thread.GetFutexRlaLen())
	if r := thread.GetRseqEntry(); r != nil {
		im.Rseq = Rseq{
			Addr: r.GetRseqAbiPointer(),
			Len:  r.GetRseqAbiSize(),
			Sig:  r.GetSignature(),
		}
	}
	return nil
}

func regs(g *core_x86.UserX86RegsEntry) Regs {
	return Regs{
		R15: g.GetR15(), R14: g.GetR14(), R13: g.GetR13(), R12: g.GetR12(),
		BP: g.GetBp(), BX: g.GetBx(),
		R11: g.GetR11(), R10: g.GetR10(), R9: g.GetR9(), R8: g.GetR8(),
		AX: g.GetAx(), CX: g.GetCx(), DX: g.GetDx(), SI: g.GetSi(), DI: g.GetDi(),
		OrigAX: g.GetOrigAx(),
		IP:     g.GetIp(), CS: g.GetCs(), Flags: g.GetFlags(), SP: g.GetSp(), SS: g.GetSs(),
		FSBase: g.GetFsBase(), GSBase: g.GetGsBase(),
		DS: g.GetDs(), ES: g.GetEs(), FS: g.GetFs(), GS: g.GetGs(),
	}
}
