package linkstop

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// arrive removes the breakpoint at which a process stands, checks what must be
// true at the stop point, and completes its side of the comparison.
func (t *Template) arrive(s *side, b *ptrace.Breakpoint) (regs ptrace.Regs, err error) {
	if regs, err = t.tracer.Regs(s.pid); err != nil {
		return regs, err
	}
	if err := b.Remove(&regs); err != nil {
		return regs, fmt.Errorf("remove the breakpoint: %w", err)
	}
	status, err := linux.ReadStatus(s.pid)
	if err != nil {
		return regs, err
	}
	state, _ := debugState(s.pid, t.Auxv)
	if err := t.arrived(&regs, s.stack.SP, status, state); err != nil {
		return regs, err
	}
	if err := checkDescriptors(s.pid); err != nil {
		return regs, err
	}
	if s.maps, err = linux.ReadMaps(s.pid); err != nil {
		return regs, err
	}
	m, _ := linux.FindMapping(s.maps, regs.Rsp)
	s.stackLow = m.Start
	return regs, nil
}

// arrived checks the state of a process at the stop point: its registers, with the
// initial stack at sp, what /proc says of it, and r_state of its struct r_debug (0,
// RT_CONSISTENT, if it has none). Code that runs before the stop point may have left
// anything behind.
func (t *Template) arrived(regs *ptrace.Regs, sp uint64, status linux.Status, state uint32) error {
	switch {
	case regs.Rip != t.Stop.Addr:
		return fmt.Errorf("stopped at %#x instead of %#x", regs.Rip, t.Stop.Addr)
	case regs.Rsp != sp:
		return problem.Refusef("its stack pointer is %#x at the stop point, not the initial %#x", regs.Rsp, sp)
	case t.Stop.Point == plan.StopLinked && regs.Rax != t.Auxv.Value(linux.ATEntry):
		return problem.Refusef("rax is %#x at the stop point, not the program's entry", regs.Rax)
	case status.Threads != 1:
		return problem.Refusef("its dynamic linker starts threads")
	case status.Caught != 0:
		return problem.Refusef("its dynamic linker handles signals")
	case state != 0:
		return problem.Refusef("its dynamic linker has not finished: r_state is %d", state)
	}
	return nil
}

// linkerRange is what the dynamic linker that holds the address entry covers:
// all mappings of its file, and the anonymous end of its data after them.
func linkerRange(maps []linux.Mapping, entry uint64) linux.PageRange {
	self, _ := linux.FindMapping(maps, entry)
	var r linux.PageRange
	for _, m := range maps {
		switch {
		case m.Path == self.Path && r.Start == 0:
			r = linux.PageRange{Start: m.Start, End: m.End}
		case m.Path == self.Path, m.Path == "" && m.Start == r.End:
			r.End = m.End
		}
	}
	return r
}

// checkFixups looks for what must be among the fix-ups: the thread's id once,
// and on glibc where struct pthread has it (nptl/descr.h: tid, then
// robust_prev, then robust_head). musl has it twice when the program's
// thread-local storage does not fit into the place that its dynamic linker had
// for its own (ldso/dynlink.c, __dls3: builtin_tls, which is not read again).
func checkFixups(fixups []plan.Fixup, point plan.StopPoint, tidAddr, robustHead uint64) error {
	var tids []uint64
	for _, f := range fixups {
		if f.Kind == plan.FixTID {
			tids = append(tids, f.Addr)
		}
	}
	switch {
	case tidAddr == 0 && len(tids) == 0: // glibc before 2.34 without libpthread
		return nil
	case point == plan.StopEntry && len(tids) == 2:
		return nil
	case len(tids) != 1:
		return problem.Refusef("its thread id is in %d words instead of one", len(tids))
	case point == plan.StopLinked && robustHead != 0 && tids[0] != robustHead-16:
		return problem.Refusef("its thread id is at %#x, not 16 bytes before the robust list at %#x", tids[0], robustHead)
	}
	return nil
}

// CheckMaps refuses mappings that an image cannot hold. Shared ones may be those of files that
// nobody can write to there, if readShared is set.
func CheckMaps(maps []linux.Mapping, readShared bool) error {
	for _, m := range maps {
		switch {
		case m.Kernel():
		case m.Path == "[stack]" && executable(m):
			return problem.Refusef("it wants an executable stack").
				WithHint("look for a library without a GNU-stack note, which causes this: see `readelf -lW` and execstack(8)")
		case executable(m) && writable(m):
			return problem.Refusef("it has memory that is both writable and executable: %s", m)
		case m.Shared && !(readShared && m.Ino != 0 && !writable(m)):
			return problem.Refusef("it has shared memory: %s", m)
		case m.Deleted:
			return problem.Refusef("it uses a file that was deleted: %s", m).
				WithHint("try again; a package was upgraded meanwhile")
		}
	}
	return nil
}

// sameMaps reports whether two processes have the same mappings but for the
// extent of the stack, and if not, one that differs.
func sameMaps(a, b []linux.Mapping) (linux.Mapping, bool) {
	for i := range a {
		if i >= len(b) {
			return a[i], false
		}
		if a[i] != b[i] && (a[i].Path != "[stack]" || b[i].Path != "[stack]") {
			return a[i], false
		}
	}
	if len(b) > len(a) {
		return b[len(a)], false
	}
	return linux.Mapping{}, true
}

func executable(m linux.Mapping) bool { return m.Prot&unix.PROT_EXEC != 0 }
func writable(m linux.Mapping) bool   { return m.Prot&unix.PROT_WRITE != 0 }
