package warmstop

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// Written runs a program to its end and returns the pages that it has written by then, of the
// ranges that are asked for: those that a start from an image will write, too.
func Written(ctx context.Context, opts Options, of []linux.PageRange) (pages []linux.PageRange, err error) {
	if opts.Timeout == 0 {
		opts.Timeout = DefaultTimeout
	}
	ctx, cancel := ptrace.WithTimeout(ctx, opts.Timeout, "it does not end")
	defer cancel()
	t := ptrace.NewTracer()
	defer t.End()
	err = t.Run(ctx, func() error {
		pages, err = written(t, opts, of)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("see which pages %s writes: %w", opts.Path, err)
	}
	return pages, nil
}

// written is Written on the tracer's thread.
func written(t *ptrace.Tracer, opts Options, of []linux.PageRange) ([]linux.PageRange, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	fd := null.Fd()
	first, err := t.Start(opts.Path, opts.Argv, opts.Env, opts.Dir, [3]uintptr{fd, fd, fd})
	if err != nil {
		return nil, err
	}
	if err := ptrace.AllowVfork(first); err != nil { // a launcher's, which sets /proc/self/exe
		return nil, err
	}
	pid, err := t.WatchTree(first, func(tid int, call ptrace.SyscallInfo) (bool, error) {
		return tid == first && call.Entry() && call.Number() == unix.SYS_EXIT_GROUP, nil
	})
	if err != nil {
		return nil, err
	}
	var maps []linux.Mapping
	for _, r := range of {
		maps = append(maps, linux.Mapping{Start: r.Start, End: r.End})
	}
	pages, err := linux.AnonPages(pid, maps)
	if err == nil && len(pages) == 0 {
		err = problem.Refusef("it has written nothing of its image")
	}
	return pages, err
}
