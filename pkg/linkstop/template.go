package linkstop

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// A Template is a process at its stop point, with what was learnt
// from comparing it with its twin. It must be given up with Kill, or be waited
// for with Reap.
type Template struct {
	PID   int
	Stop  plan.Stop // where it is
	Regs  ptrace.Regs
	Maps  []linux.Mapping // all of /proc/PID/maps, in order
	Auxv  linux.Auxv
	Stack linux.InitialStack

	// What the dynamic linker registered with the kernel; 0 if it did not.
	FSBase, TIDAddr, RobustHead, RobustLen, RseqAddr uint64
	RseqLen, RseqSig                                 uint32

	Fixups []plan.Fixup        // by address
	Bound  []Call              // that the template has bound although it would do so later
	Probes []fingerprint.Probe // in the order in which the linker made them
	Anon   []linux.PageRange   // pages that are no file's (any more), without stack and vDSO

	tracer  *ptrace.Tracer
	mu      sync.Mutex
	stopped bool // traced; false once detached
	ended   bool // reaped, the tracer is gone
}

// Detach leaves the template stopped by SIGSTOP and not traced any more, as
// CRIU wants it. Until it is killed it still dies with us (PR_SET_PDEATHSIG).
func (t *Template) Detach() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return errors.New("detach: the template is gone")
	}
	if !t.stopped {
		return nil
	}
	err := t.tracer.Do(func() error {
		// It is in the delivery of the breakpoint's SIGTRAP, in the place
		// of which SIGSTOP is delivered (ptrace(2), PTRACE_DETACH).
		if err := t.tracer.Detach(t.PID, unix.SIGSTOP); err != nil {
			return err
		}
		_, err := t.tracer.Wait(t.PID)
		return err
	})
	if err != nil {
		return fmt.Errorf("detach from process %d: %w", t.PID, err)
	}
	t.stopped = false
	return nil
}

// Reap kills the template after its dump and says how it ended. As a rule CRIU has killed
// it, but its configuration may say otherwise (leave-running, leave-stopped).
func (t *Template) Reap() (unix.WaitStatus, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return 0, errors.New("reap: the template is gone")
	}
	t.tracer.Kill()
	var ws unix.WaitStatus
	err := t.tracer.Do(func() error {
		for {
			_, err := t.tracer.Wait(t.PID)
			var ended *ptrace.EndedError
			if errors.As(err, &ended) {
				ws = ended.Status
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	t.tracer.End()
	t.ended = true
	return ws, err
}

// Kill ends and reaps the template. It may be called more than once, and after
// Reap.
func (t *Template) Kill() error {
	t.tracer.Kill() // so that a Reap under way ends
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.tracer.End()
		t.ended = true
	}
	return nil
}
