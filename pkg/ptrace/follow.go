package ptrace

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

// FollowTimeout is how long Follow lets a wrapper run.
const FollowTimeout = 10 * time.Second

// FollowOptions are those of Follow.
type FollowOptions struct {
	Timeout time.Duration // FollowTimeout if 0
}

// Follow executes the wrapper or script at path, an absolute path, and returns
// the path of the program that it is for. It runs as if it were called here,
// without arguments, with /dev/null for its standard descriptors and in a
// session of its own. What it starts is stopped before its first instruction
// if it is the answer, and runs if it cannot be; everything is killed at the
// end.
//
// The answer is the first dynamic program in the process's chain of execs, as
// DragonFly's resident -f has it. Since a shell or an interpreter of scripts is
// mostly dynamic too on Linux, the interpreter of a script is passed over: the
// one that the kernel starts for it, and one that is executed with the
// script's path among its arguments (env(1), `exec perl -x "$0"`).
//
// If the process ends, or the time, without such a program, it is the one
// program that its descendants executed; then, if they executed none, the
// script's interpreter. Else it is problem.Refused.
func Follow(ctx context.Context, path string, opts FollowOptions) (string, error) {
	if opts.Timeout == 0 {
		opts.Timeout = FollowTimeout
	}
	f := &following{tracer: NewTracer(), chains: map[int]*chain{}}
	defer f.tracer.End()
	err := f.tracer.Do(func() error {
		defer f.killAll()
		return f.run(ctx, path, opts.Timeout)
	})
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	answer := ""
	if err == nil {
		answer, err = f.answer()
	}
	if err != nil {
		return "", fmt.Errorf("follow %s: %w", path, err)
	}
	return answer, nil
}

// following is a wrapper under way.
type following struct {
	tracer *Tracer
	leader int
	chains map[int]*chain // of the processes that are left, by pid
	main   *chain         // the leader's
	others []string       // what other processes executed, each once
}

// A chain is what one process has executed so far.
type chain struct {
	scripts     []string // each of them: an interpreter may be a script itself
	interpreter string   // of the last one, if dynamic
	program     string   // the first dynamic program that is not one
}

// pollPause is how long to wait for something to happen. It is polled, so that
// only one thread ever waits for these processes, kills them and collects their
// pids free.
const pollPause = time.Millisecond

func (f *following) run(ctx context.Context, path string, timeout time.Duration) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	fd := null.Fd()
	if f.leader, err = f.tracer.Start(path, []string{path}, os.Environ(), "", [3]uintptr{fd, fd, fd}); err != nil {
		return err
	}
	f.tracer.disown()
	f.main = &chain{}
	f.chains[f.leader] = f.main
	f.main.executed(f.leader)
	if f.main.program != "" {
		return nil
	}
	if err := unix.PtraceCont(f.leader, 0); err != nil {
		return f.tracer.gone(f.leader, err)
	}
	for deadline := time.Now().Add(timeout); f.chains[f.leader] != nil; {
		// This thread's children and tracees only, which leaves alone what
		// others of ours started (wait(2), __WNOTHREAD).
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOHANG|unix.WNOTHREAD, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case pid != 0:
			if f.happened(pid, ws); f.main.program != "" {
				return nil
			}
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(deadline):
			return nil
		default:
			time.Sleep(pollPause)
		}
	}
	return nil
}

// happened looks at what a process reports and lets it go on, unless it is
// where the search ends.
func (f *following) happened(pid int, ws unix.WaitStatus) {
	if !ws.Stopped() {
		f.ended(pid)
		return
	}
	c, sig := f.chains[pid], 0
	if c == nil { // a fork's child, which may come before its parent's report
		c = &chain{}
		f.chains[pid] = c
	}
	switch event(ws) {
	case unix.PTRACE_EVENT_EXEC:
		before := c.program
		c.executed(pid)
		if c == f.main && c.program != "" {
			return
		}
		if before == "" {
			f.note(c.program)
		}
	case 0:
		sig = int(ws.StopSignal())
		switch ws.StopSignal() {
		case unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGTRAP:
			sig = 0 // a fork's first stop; nobody is to stand still here
		}
	}
	_ = unix.PtraceCont(pid, sig) // one that was killed will be reported
}

// ended closes the chain of a process.
func (f *following) ended(pid int) {
	if c := f.chains[pid]; c != nil && c != f.main && c.program == "" {
		f.note(c.interpreter)
	}
	delete(f.chains, pid)
}

func (f *following) note(program string) {
	if program != "" && !slices.Contains(f.others, program) {
		f.others = append(f.others, program)
	}
}

// killAll leaves nothing of what was started.
func (f *following) killAll() {
	for len(f.chains) > 0 {
		for pid := range f.chains {
			_ = unix.Kill(pid, unix.SIGKILL) // ours until it is waited for
		}
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case err == unix.EINTR:
		case err != nil: // ECHILD
			return
		case ws.Stopped():
			f.chains[pid] = &chain{} // born meanwhile, perhaps
		default:
			delete(f.chains, pid)
		}
	}
}

// answer decides.
func (f *following) answer() (string, error) {
	switch {
	case f.main.program != "":
		return f.main.program, nil
	case len(f.others) == 1:
		return f.others[0], nil
	case len(f.others) > 1:
		return "", problem.Refusef("it does not become a dynamic program, but starts several: %s", strings.Join(f.others, ", ")).
			WithHint("add the one that you mean")
	case f.main.interpreter != "":
		return f.main.interpreter, nil
	}
	return "", problem.Refusef("it executes no dynamic program when it is called without arguments").
		WithHint("add the program that it starts by its own path")
}

// executed looks at a process that has just executed something. What cannot be
// looked at, such as a 32-bit program, is taken for a static one.
func (c *chain) executed(pid int) {
	if c.program != "" {
		return
	}
	exe, execfn, argv, dynamic, err := readExec(pid)
	if err != nil || exe == "" {
		return
	}
	direct := linux.SameFile(execfn, exe)
	switch {
	case !direct:
		c.scripts, c.interpreter = append(c.scripts, execfn), ""
	case !slices.ContainsFunc(argv[1:], func(arg string) bool { return slices.Contains(c.scripts, arg) }):
		if dynamic {
			c.program = execfn
		}
		return
	}
	if dynamic {
		c.interpreter = exe
		if direct {
			c.interpreter = execfn
		} else if linux.SameFile(argv[0], exe) {
			c.interpreter = argv[0] // as the script has it
		}
	}
}

// readExec says what a process at an exec stop has executed: the file that is
// mapped, the path that execve(2) was given (a script's, where exe is its
// interpreter), the arguments, and whether the kernel loaded a dynamic linker.
func readExec(pid int) (exe, execfn string, argv []string, dynamic bool, err error) {
	var regs Regs
	if err = unix.PtraceGetRegs(pid, &regs); err != nil {
		return
	}
	maps, err := linux.ReadMaps(pid)
	if err != nil {
		return
	}
	stack, auxv, block, err := linux.ReadStack(pid, regs.Rsp, maps)
	if err != nil {
		return
	}
	if exe, err = os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil {
		return
	}
	if execfn, err = linux.ReadString(pid, stack.Execfn, unix.PathMax); err != nil {
		return
	}
	if !filepath.IsAbs(execfn) {
		dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		if err != nil {
			return "", "", nil, false, err
		}
		execfn = filepath.Join(dir, execfn)
	}
	for i := range stack.Argc {
		arg, err := linux.ReadString(pid, binary.LittleEndian.Uint64(block[stack.Argv-stack.SP+i*8:]), unix.PathMax)
		if err != nil {
			break // longer than a path
		}
		argv = append(argv, arg)
	}
	if len(argv) == 0 {
		argv = []string{""}
	}
	return exe, execfn, argv, auxv.Value(linux.ATBase) != 0, nil
}
