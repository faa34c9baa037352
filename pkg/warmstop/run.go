package warmstop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// Run runs a program to its end, in a session of its own and with /dev/null as its standard
// streams. Alone says that it is to have no network but a loopback device that is down, which
// only root can do (network_namespaces(7)); it is left out where the kernel does not allow it. At
// the end, or when ctx ends, all that it has made is killed. How it ends is not an error; what
// opts.Allow refuses is.
func Run(ctx context.Context, opts Options, alone bool) error {
	return watched(ctx, opts, "run", func(t *ptrace.Tracer) error {
		first, err := begin(t, opts)
		if err != nil {
			return err
		}
		if alone {
			if err := leaveNetwork(t, first); err != nil {
				return err
			}
		}
		r := newRecorder(first, opts)
		_, err = t.WatchTree(first, func(tid int, call ptrace.SyscallInfo) (bool, error) {
			_, err := r.look(tid, call)
			return false, err
		})
		var ended *ptrace.EndedError
		if errors.As(err, &ended) {
			return nil
		}
		return err
	})
}

// watched does something with a program to its end, in a tracer of its own and for as long as
// opts allow.
func watched(ctx context.Context, opts Options, what string, f func(t *ptrace.Tracer) error) error {
	ctx, cancel := ptrace.WithTimeout(ctx, cmp.Or(opts.Timeout, DefaultTimeout), "it does not end")
	defer cancel()
	t := ptrace.NewTracer()
	defer t.End()
	if err := t.Run(ctx, func() error { return f(t) }); err != nil {
		return fmt.Errorf("%s %s: %w", what, opts.Path, err)
	}
	return nil
}

// leaveNetwork moves a process that is at its exec stop into a network namespace of its own.
func leaveNetwork(t *ptrace.Tracer, pid int) error {
	maps, err := linux.ReadMaps(pid)
	if err != nil {
		return err
	}
	insn, err := ptrace.FindSyscall(pid, maps)
	if err != nil {
		return err
	}
	if _, err := t.Inject(pid, insn, unix.SYS_UNSHARE, unix.CLONE_NEWNET); err != nil && !errors.As(err, new(unix.Errno)) {
		return err
	}
	return nil
}

// begin executes a program with /dev/null as its standard streams, or what opts say.
func begin(t *ptrace.Tracer, opts Options) (pid int, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	files := [3]uintptr{null.Fd(), null.Fd(), null.Fd()}
	if opts.Stderr != nil {
		files[2] = opts.Stderr.Fd()
	}
	if opts.Terminals != 0 {
		master, terminal, err := linux.OpenTerminal()
		if err != nil {
			return 0, problem.Refusef("%w", err)
		}
		defer terminal.Close()
		for fd := range files {
			if opts.Terminals>>fd&1 != 0 {
				files[fd] = terminal.Fd()
			}
		}
		go drain(master, opts.Stderr, opts.drained)
	}
	return t.Start(opts.Path, opts.Argv, opts.Env, opts.Dir, files)
}

// drain reads what is written to a terminal until no process has it open any more (pty(7)).
func drain(master *os.File, said *os.File, done chan<- struct{}) {
	defer master.Close()
	if done != nil {
		defer close(done)
	}
	to := io.Discard
	if said != nil {
		to = said
	}
	_, _ = io.Copy(to, master)
}

// Written runs a program to its end and returns the pages that it has written by then, of the
// ranges that are asked for: those that a start from an image will write, too.
func Written(ctx context.Context, opts Options, of []linux.PageRange) (pages []linux.PageRange, err error) {
	err = watched(ctx, opts, "see which pages are written by", func(t *ptrace.Tracer) error {
		pages, err = written(t, opts, of)
		return err
	})
	return pages, err
}

// written is Written on the tracer's thread.
func written(t *ptrace.Tracer, opts Options, of []linux.PageRange) ([]linux.PageRange, error) {
	first, err := begin(t, opts)
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
