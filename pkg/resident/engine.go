package resident

import (
	"context"
	"errors"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/inherit"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/ptrace"
	"github.com/residentctl/residentctl/pkg/registry"
)

// ErrNotResident says that the store has no image of a program.
var ErrNotResident = errors.New("it is not resident")

// A Restored is a program that CRIU has restored and that has been made what an exec by
// this process would have made. It is stopped, a child of this process, and is killed
// when this process ends before Release.
type Restored struct{ process *ptrace.Process }

// RestoreWithCRIU has CRIU restore the image of a program, the first of its layouts, and
// gives the process what an exec by this process would have given it (package inherit).
// Its id is the one that was dumped, which must be free. It is called on this process's
// first thread, which must live for as long as the process is to (restoreStopped).
//
// The errors are ErrNotResident, why the image is stale, what inherit refuses, CRIU's and the kernel's;
// then no instruction of the program has been executed.
func (m *Manager) RestoreWithCRIU(ctx context.Context, exec inherit.Exec) (*Restored, error) {
	if err := notInside(); err != nil {
		return nil, err // CRIU would map the copy
	}
	rec, err := m.ofFile(exec.Path)
	if err != nil {
		return nil, err
	}
	if rec.Kind == registry.KindWarm {
		return nil, problem.Newf(problem.Run, "it has a warm image, which starts by its launcher file only").
			WithHint("run it without --engine criu; `residentctl verify --engine criu` compares the image with what CRIU restores")
	}
	if reasons := m.stale(rec); len(reasons) > 0 {
		return nil, errors.New(reasons[0])
	}
	caller, err := inherit.NewCaller(ctx, exec)
	if err != nil {
		return nil, err
	}
	p, err := plan.Read(m.store.PlanPath(rec.ID))
	if err != nil {
		return nil, err
	}
	process, err := restoreStopped(ctx, m.store.ImageDir(rec.ID), true)
	if err != nil {
		return nil, err
	}
	if err := caller.Give(ctx, process, p); err != nil {
		_ = process.Kill()
		return nil, err
	}
	return &Restored{process}, nil
}

// Release lets the program run, and returns its process id. This process keeps nothing
// open that the program has: readers of a pipe would wait for it, too.
func (r *Restored) Release() (pid int, err error) {
	if err := r.process.Release(); err != nil {
		return 0, err
	}
	inherit.Forget()
	return r.process.PID, nil
}

// ofFile is the entry of the binary that path leads to.
func (m *Manager) ofFile(path string) (registry.Record, error) {
	id, err := linux.StatID(path)
	if err != nil {
		return registry.Record{}, err
	}
	all, err := m.records()
	if err != nil {
		return registry.Record{}, err
	}
	for _, rec := range all {
		if rec.Binary.Inode() == id.Inode() {
			return rec, nil
		}
	}
	return registry.Record{}, ErrNotResident
}
