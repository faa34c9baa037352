package plan

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxArgs is how many strings may take argv[0]'s place. A script can have ten: the kernel
// follows five interpreters, each with one argument (fs/exec.c, exec_binprm).
const maxArgs = 16

// Dispositions that are no functions: asm-generic/signal-defs.h.
const (
	sigDefault = 0
	sigIgnore  = 1
)

// redZone is what a program may use below its stack pointer (psABI 3.2.2). The image has
// nothing in it, and the launcher needs eight bytes of it.
const redZone = 128

// warmFixups are the kinds of Fixup that an image of kind warm may have. The secrets are the
// image's own: they are in live frames and in pointers.
const warmFixups = 1<<FixSP | 1<<FixArgv | 1<<FixEnvp | 1<<FixAuxv | 1<<FixTID | 1<<FixIgnored | 1<<FixFlags

// checkKind holds that a plan has what its kind needs, and nothing that only another has.
func (p *Plan) checkKind() error {
	switch {
	case p.Kind == KindWarm:
		return p.checkWarm()
	case p.Kind != KindLinked:
		return damaged("an image of kind %d", p.Kind)
	case p.Stop.Point == StopWarm, p.Entry.RSP != 0, p.Warm != Warm{}, p.Flags&FlagProgramArg != 0, p.Executed != "",
		len(p.Args)+len(p.Env)+len(p.Copies)+len(p.Signals)+len(p.Populate) != 0,
		p.Program().Flags&FileExe == 0,
		slices.ContainsFunc(p.Fixups, func(f Fixup) bool { return f.Kind == FixIgnored || f.Kind == FixFlags }):
		return damaged("a linked image with parts of a warm one")
	}
	return nil
}

func (p *Plan) checkWarm() error {
	switch {
	case p.Stop.Point != StopWarm:
		return damaged("a warm image of the stop point %v", p.Stop.Point)
	case p.Flags&FlagKeepBrk == 0:
		return damaged("a warm image without its program break")
	case p.Flags&FlagProgramArg != 0 && len(p.Args) == 0:
		return damaged("the program's path as the only argument")
	case p.Executed != "" && len(p.Args) == 0, p.Warm.Executed != 0:
		return damaged("a process that is called as %q", p.Executed)
	case len(p.Args) > maxArgs:
		return damaged("%d arguments", len(p.Args))
	case int(p.Warm.CPUsLen) > len(p.Warm.CPUs):
		return damaged("a CPU affinity of %d bytes", p.Warm.CPUsLen)
	case p.Warm.Terminals > 7:
		return damaged("terminals of %#x", p.Warm.Terminals)
	}
	for i, count := range p.Warm.LayoutCounts {
		if int(p.Warm.FirstLayouts[i])+int(count) > len(p.Layouts)+1 {
			return damaged("%d layouts from number %d on", count, p.Warm.FirstLayouts[i])
		}
	}
	for _, a := range p.Args {
		if len(a) > 4095 || strings.Contains(a, "\x00") {
			return damaged("the argument %q", a)
		}
	}
	for _, f := range p.Fixups {
		if f.Kind < FixKinds && warmFixups&(1<<f.Kind) == 0 {
			return damaged("a fix-up of kind %d in a warm image", f.Kind)
		}
	}
	if err := p.checkEnv(); err != nil {
		return err
	}
	return p.checkMemory()
}

// checkEnv holds that each variable is named once at most, those with a value first.
func (p *Plan) checkEnv() error {
	kind := uint32(EnvExact)
	names := map[string]bool{}
	for _, v := range p.Env {
		name, _, whole := strings.Cut(v.Text, "=")
		ok := v.Text != "" && len(v.Text) <= 4095 && !strings.Contains(v.Text, "\x00") && v.Kind >= kind
		switch v.Kind {
		case EnvExact:
			ok = ok && whole && name != "" && !names[name]
			names[name] = true
		case EnvPrefix:
		default:
			ok = false
		}
		if !ok {
			return damaged("the variable %q of kind %d", v.Text, v.Kind)
		}
		kind = v.Kind
	}
	return nil
}

// checkMemory holds what is read into anonymous memory, and populated.
func (p *Plan) checkMemory() error {
	var end uint64
	for _, c := range p.Copies {
		in := slices.IndexFunc(p.Anon, func(m Map) bool {
			return m.Prot&unix.PROT_WRITE != 0 && c.Addr >= m.Addr && c.Addr-m.Addr < m.Len && c.Len <= m.Len-(c.Addr-m.Addr)
		})
		if in < 0 || c.Addr < end || c.Len == 0 || c.Addr%pageSize != 0 || c.Len%pageSize != 0 || c.Off%pageSize != 0 || c.Off > 1<<62 {
			return damaged("the copy at %#x", c.Addr)
		}
		end = c.Addr + c.Len
	}
	if len(p.Copies) > 0 && p.Pages().Flags&FilePages == 0 {
		return damaged("copies of no pages")
	}
	for _, m := range p.Populate {
		if m.Addr%pageSize != 0 || m.Len%pageSize != 0 || m.Addr >= addressEnd || m.Len > addressEnd-m.Addr || m.Prot != unix.PROT_WRITE {
			return damaged("what is to be populated at %#x", m.Addr)
		}
	}
	return nil
}

// checkShared holds that nothing is mapped that other processes could change or see
// changed, and that only the stack of a warm image grows.
func (p *Plan) checkShared() error {
	warm := p.Kind == KindWarm
	for _, f := range p.Files {
		for _, m := range f.Maps {
			if m.Flags&unix.MAP_GROWSDOWN != 0 || m.Flags&unix.MAP_SHARED != 0 && (!warm || m.Prot&^unix.PROT_READ != 0) {
				return damaged("the mapping of %s at %#x", f.Path, m.Addr)
			}
		}
	}
	for _, m := range p.Anon {
		if m.Flags&unix.MAP_SHARED != 0 || m.Flags&unix.MAP_GROWSDOWN != 0 && !warm {
			return damaged("the anonymous mapping at %#x", m.Addr)
		}
	}
	return nil
}

// contains reports whether one of the mappings holds size bytes at an address, with these
// protections.
type contains func(addr, size uint64, prot uint32) bool

// checkSignals holds that each signal has one action at most, and that functions are in text.
func (p *Plan) checkSignals(in contains) error {
	var seen uint64
	for _, a := range p.Signals {
		bit := uint64(1) << (a.Signal - 1)
		if a.Signal < 1 || a.Signal > 64 || a.Signal == uint32(unix.SIGKILL) || a.Signal == uint32(unix.SIGSTOP) || seen&bit != 0 ||
			(a.Handler != sigDefault && a.Handler != sigIgnore && !in(a.Handler, 1, unix.PROT_EXEC)) ||
			(a.Restorer != 0 && !in(a.Restorer, 1, unix.PROT_EXEC)) {
			return damaged("the action of signal %d", a.Signal)
		}
		seen |= bit
	}
	if p.Kind == KindWarm && (p.Entry.RSP < redZone || !in(p.Entry.RSP-redZone, redZone, unix.PROT_WRITE)) {
		return damaged("the stack pointer %#x", p.Entry.RSP)
	}
	return nil
}
