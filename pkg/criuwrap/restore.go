package criuwrap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

// RestoreOptions says what Restore restores, and how.
type RestoreOptions struct {
	ImagesDir string // what Dump wrote; not changed
	WorkDir   string // takes restore.log and stats-restore; one per restore
	CRIU      string // path of the criu program, "" for what Find finds

	// Sibling makes the process a child of this one, to wait for with
	// wait4. Else it is a child of init.
	Sibling bool

	// CallersSession makes the process a member of this process's session and
	// process group, with its controlling terminal, although it was dumped as the
	// leader of a session of its own.
	CallersSession bool

	// Inherit replaces open files of the image by files of this process.
	Inherit []InheritedFile

	// Stopped leaves a process that was dumped in the stopped state stopped.
	// Else it is sent SIGCONT.
	Stopped bool
}

// InheritedFile replaces every descriptor of the image that is open on a path.
type InheritedFile struct {
	Key  string // the path without its leading slash: "dev/null"
	File *os.File
}

// Restore makes a new process from an image of one process, with the pid that
// was dumped, which must be free, and returns that pid. It does not enter a time
// namespace: its clocks go on with those of all.
//
// Its error is as Dump's; no process is left then.
func Restore(ctx context.Context, o RestoreOptions) (int, error) {
	pid, err := readPstree(os.DirFS(o.ImagesDir))
	if err != nil {
		return 0, fmt.Errorf("criu restore: read the image %s: %w", o.ImagesDir, err)
	}
	// CRIU would find that out itself, but from here on who has the pid and
	// is a child of this process is CRIU's doing.
	if stateOf(pid) != 0 {
		return 0, &Error{
			Op:    "restore",
			Errno: syscall.EEXIST,
			Lines: []string{fmt.Sprintf("process %d exists", pid)},
		}
	}
	imagesDir := o.ImagesDir
	if o.CallersSession {
		if imagesDir, err = withoutSession(o.ImagesDir, o.WorkDir); err != nil {
			return 0, fmt.Errorf("criu restore: change the session of the image %s: %w", o.ImagesDir, err)
		}
	}
	got := 0
	r := request{
		op:        "restore",
		kind:      rpc.CriuReqType_RESTORE,
		criu:      o.CRIU,
		imagesDir: imagesDir,
		workDir:   o.WorkDir,
		opts: &rpc.CriuOpts{
			RstSibling: proto.Bool(o.Sibling),
			ShellJob:   proto.Bool(o.CallersSession),
		},
		restored: func(pid int) { got = pid },
	}
	if o.Sibling {
		r.undo = func() { killChild(pid) }
	}
	err = restore(ctx, &r, &got, o)
	if err != nil && o.Sibling {
		killChild(pid)
		reapChild(pid)
	}
	if err != nil {
		return 0, err
	}
	return got, nil
}

// killChild kills a process if it is a child of this one.
func killChild(pid int) {
	if parentOf(pid) == os.Getpid() {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// reapChild waits for a child that was killed, if there is one: CRIU cannot, of
// a process that is not its own child.
func reapChild(pid int) {
	for parentOf(pid) == os.Getpid() {
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
			return
		}
	}
}

// restoreFiles is how many descriptors CRIU must be allowed to have for a restore. It
// keeps some dozens of its own below the limit (criu/servicefd.c,
// choose_service_fd_base); with 100 it failed, in other words at each limit, and with
// 128 it did not.
const restoreFiles = 128

// enoughFiles is EMFILE where CRIU would not get them. It gets the limit that this
// process was started with: package syscall raises and lowers it.
func enoughFiles() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur >= restoreFiles {
		return err
	}
	return fmt.Errorf("criu restore: CRIU needs %d descriptors, and %d are allowed (RLIMIT_NOFILE): %w", restoreFiles, limit.Cur, syscall.EMFILE)
}

// restore makes the request; got is the pid that CRIU reports.
func restore(ctx context.Context, r *request, got *int, o RestoreOptions) error {
	if err := enoughFiles(); err != nil {
		return err
	}
	for _, in := range o.Inherit {
		r.opts.InheritFd = append(r.opts.InheritFd, &rpc.InheritFd{
			Key: proto.String(in.Key),
			Fd:  proto.Int32(int32(firstFile + len(r.files))),
		})
		r.files = append(r.files, in.File)
	}
	if err := r.run(ctx); err != nil {
		return err
	}
	if *got <= 0 {
		return errors.New("criu restore: CRIU did not report the pid")
	}
	if !o.Stopped {
		if err := syscall.Kill(*got, syscall.SIGCONT); err != nil {
			return fmt.Errorf("criu restore: continue %d: %w", *got, err)
		}
	}
	return nil
}
