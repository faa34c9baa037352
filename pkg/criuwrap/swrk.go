package criuwrap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"

	criu "github.com/checkpoint-restore/go-criu/v7"
	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

// request is what a dump and a restore have in common.
type request struct {
	op        string
	criu      string // path of the program, "" for what Find finds
	imagesDir string
	workDir   string
	opts      *rpc.CriuOpts

	// do makes the request, when CRIU runs.
	do func(c *criu.Criu, opts *rpc.CriuOpts) error

	// undo, unless nil, ends what a CRIU that is being killed leaves behind
	// outside of its own children.
	undo func()
}

// run starts CRIU, makes the request, and waits until CRIU has ended. When ctx
// is done CRIU is killed.
//
// When this process is killed CRIU goes on to the end of its request, finds the
// socket closed, and ends: 1 to 25 ms later in 12 tries with kill -9.
func (r *request) run(ctx context.Context) error {
	path := r.criu
	if path == "" {
		var err error
		if path, err = Find(); err != nil {
			return err
		}
	}
	images, err := os.Open(r.imagesDir)
	if err != nil {
		return fmt.Errorf("criu %s: %w", r.op, err)
	}
	defer images.Close()
	work, err := os.Open(r.workDir)
	if err != nil {
		return fmt.Errorf("criu %s: %w", r.op, err)
	}
	defer work.Close()

	log := r.op + ".log"
	r.opts.ImagesDirFd = proto.Int32(int32(images.Fd()))
	r.opts.WorkDirFd = proto.Int32(int32(work.Fd()))
	r.opts.LogFile = proto.String(log)
	r.opts.LogLevel = proto.Int32(4)
	r.opts.Unprivileged = proto.Bool(true)
	mode := rpc.CriuCgMode_IGNORE
	r.opts.ManageCgroups = proto.Bool(true)
	r.opts.ManageCgroupsMode = &mode

	if err := ctx.Err(); err != nil {
		return fmt.Errorf("criu %s: %w", r.op, context.Cause(ctx))
	}
	c, child, err := start(path)
	if err != nil {
		return err
	}
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		killTree(child)
		if r.undo != nil {
			r.undo()
		}
	})
	err = r.do(c, r.opts)
	if !stop() {
		<-killed // before its pid becomes free
	}
	ended := c.Cleanup()
	switch {
	case err == nil:
		// CRIU answers before it ends, and what it answered counts.
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("criu %s: %w", r.op, context.Cause(ctx))
	case killedBy(ended, syscall.SIGXFSZ): // setrlimit(2), RLIMIT_FSIZE
		return &Error{Op: r.op, Errno: syscall.EFBIG, Log: filepath.Join(r.workDir, log), err: errors.New("a file has reached the limit of file sizes")}
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("it ended without an answer: %w", errors.Join(ended, io.ErrUnexpectedEOF))
	}
	return newError(r.op, filepath.Join(r.workDir, log), err)
}

// killedBy tells whether a command's end, as Wait tells it, was this signal.
func killedBy(ended error, sig syscall.Signal) bool {
	var exit *exec.ExitError
	if !errors.As(ended, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == sig
}

// start starts `criu swrk`. go-criu does not tell the child's pid, so the
// children of this thread, of which nobody else can make one meanwhile, are
// compared before and after.
func start(path string) (_ *criu.Criu, pid int, _ error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	before, err := children()
	if err != nil {
		return nil, 0, err
	}
	c := criu.MakeCriu()
	c.SetCriuPath(path)
	if err := withoutBreakpoints(c.Prepare); err != nil {
		if notThere(err) {
			return nil, 0, fmt.Errorf("%w (looked for %s)", ErrNoCRIU, path)
		}
		return nil, 0, &Error{Op: "start", err: err}
	}
	after, err := children()
	if err != nil {
		c.Cleanup()
		return nil, 0, err
	}
	for _, pid := range after {
		if !slices.Contains(before, pid) {
			return c, pid, nil
		}
	}
	err = cmp.Or(c.Cleanup(), io.ErrUnexpectedEOF)
	return nil, 0, &Error{Op: "start", err: fmt.Errorf("it ended at once: %w", err)}
}

// breakpointFault is the number of CRIU's "fault" in which it does without hardware
// breakpoints and follows system calls instead (criu/include/fault-injection.h,
// FI_NO_BREAKPOINTS). Some virtual machines let a debug register be written and
// never stop there: CRIU waits for the stop, and the process that it should have
// dumped has gone on and ended. CRIU finds that out itself only since 4.2
// (criu/kerndat.c, kerndat_breakpoints).
const breakpointFault = "130"

// faultVariable is where CRIU looks for it. go-criu starts CRIU with this process's
// environment, so it stands there for that moment.
const faultVariable = "CRIU_FAULT"

var environment sync.Mutex

func withoutBreakpoints(start func() error) error {
	environment.Lock()
	defer environment.Unlock()
	if _, set := os.LookupEnv(faultVariable); set {
		return start() // somebody tests CRIU
	}
	if err := os.Setenv(faultVariable, breakpointFault); err != nil {
		return err
	}
	defer os.Unsetenv(faultVariable)
	return start()
}

// children lists the pids of the calling thread's children.
func children() ([]int, error) {
	pids, err := readChildren("/proc/thread-self/children")
	if err != nil {
		return nil, &Error{Op: "start", err: fmt.Errorf("find its process: %w", err)}
	}
	return pids, nil
}
