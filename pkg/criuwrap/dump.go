package criuwrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

// DumpOptions says what Dump dumps, and where to.
type DumpOptions struct {
	// PID is the process. It must be stopped by SIGSTOP, or just about to
	// stop, traced by nobody, leader of its session, without children or
	// other threads, and have nothing open but /dev/null.
	PID int

	ImagesDir string // an empty directory, which the image is written to
	WorkDir   string // takes dump.log and stats-dump; must not be shared by two dumps
	CRIU      string // path of the criu program, "" for what Find finds

	// LeaveStopped keeps the process as it was. Else the dump kills it, and
	// its parent has to wait for it.
	LeaveStopped bool
}

// Dump writes the image of a process. A directory that a failed dump wrote to is
// worth nothing, and the process may be in any state: kill it. Nothing is synced
// to disk.
//
// Its error is an *Error when it was CRIU that failed or did not answer, wraps ErrNoCRIU when
// there is no CRIU, and wraps ctx's when that ended the dump.
//
// A stopped perl takes CRIU 11 ms, of which it could save three by keeping what it
// learned of the kernel (in $XDG_RUNTIME_DIR, if that is a tmpfs), but it does not get
// that variable: see environment. Of its options only the unprivileged mode shows in
// the time: 14 ms without it, because of iptables.
func Dump(ctx context.Context, o DumpOptions) error {
	if err := waitStopped(ctx, o.PID); err != nil {
		return err
	}
	r := request{
		op:        "dump",
		kind:      rpc.CriuReqType_DUMP,
		criu:      o.CRIU,
		imagesDir: o.ImagesDir,
		workDir:   o.WorkDir,
		opts: &rpc.CriuOpts{
			Pid:          proto.Int32(int32(o.PID)),
			LeaveStopped: proto.Bool(o.LeaveStopped),
		},
	}
	return r.run(ctx)
}

// maxStopping is how long a process may take to stop once SIGSTOP was sent, or
// its tracer has detached with it.
const maxStopping = time.Second

// waitStopped waits until the process is stopped and not traced. CRIU itself
// distinguishes neither from a process that has gone, and when it comes in while
// the process is on the way to its stop it may wait 10 s for nothing (once in
// some 1,000 dumps).
func waitStopped(ctx context.Context, pid int) error {
	deadline := time.Now().Add(maxStopping)
	for {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if errors.Is(err, fs.ErrNotExist) {
			return &Error{Op: "dump", Errno: syscall.ESRCH, Lines: []string{fmt.Sprintf("there is no process %d", pid)}}
		}
		if err != nil {
			return &Error{Op: "dump", err: err}
		}
		stopped := bytes.Contains(status, []byte("\nState:\tT "))
		traced := !bytes.Contains(status, []byte("\nTracerPid:\t0\n"))
		switch {
		case stopped && !traced:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("criu dump: %w", context.Cause(ctx))
		case time.Now().After(deadline) && traced:
			return &Error{Op: "dump", Lines: []string{fmt.Sprintf("process %d is being traced", pid)}}
		case time.Now().After(deadline):
			return &Error{Op: "dump", Lines: []string{fmt.Sprintf("process %d is not stopped", pid)}}
		}
		time.Sleep(200 * time.Microsecond)
	}
}
