package criuwrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/residentctl/residentctl/internal/linux"
)

// answerTimeout is how long CRIU may take for one request, from its start to its end. A
// dump takes 10 ms, and of the largest image that add makes by default some seconds on
// a slow disk. It is a variable for the tests.
var answerTimeout = 2 * time.Minute

// errNoAnswer is why a request ended whose time was up.
var errNoAnswer = errors.New("no answer in time")

// noAnswer is the Error of a CRIU that was killed because its time was up. The log is
// "" where there is none.
func noAnswer(op string, after time.Duration, log string) *Error {
	if _, err := os.Stat(log); err != nil {
		log = ""
	}
	return &Error{Op: op, Errno: syscall.ETIMEDOUT, Log: log, Lines: []string{fmt.Sprintf("no answer after %v", after)}}
}

// request is what a dump and a restore have in common.
type request struct {
	op        string
	kind      rpc.CriuReqType
	criu      string // path of the program, "" for what Find finds
	imagesDir string
	workDir   string
	opts      *rpc.CriuOpts
	files     []*os.File // that CRIU inherits, from descriptor firstFile on

	// restored, unless nil, is told the pid of a restored process.
	restored func(pid int)

	// undo, unless nil, ends what a CRIU that is being killed leaves behind
	// outside its own children.
	undo func()
}

// run starts CRIU, makes the request, and waits until CRIU has ended. When ctx or the
// time (answerTimeout) ends CRIU is killed.
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
	log = filepath.Join(r.workDir, log)

	if err := ctx.Err(); err != nil {
		return fmt.Errorf("criu %s: %w", r.op, context.Cause(ctx))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errNoAnswer)
	defer cancel()
	s, err := start(path, r.files)
	if err != nil {
		return err
	}
	err = s.answer(ctx, r)
	_ = s.socket.Close()
	// CRIU answers before it ends.
	waitEnd(ctx, s.cmd.Process.Pid)
	ended := s.cmd.Wait()
	switch {
	case err == nil:
		return nil // what it answered counts
	case errors.Is(context.Cause(ctx), errNoAnswer):
		return noAnswer(r.op, answerTimeout, log)
	case ctx.Err() != nil:
		return fmt.Errorf("criu %s: %w", r.op, context.Cause(ctx))
	case killedBy(ended, syscall.SIGXFSZ): // setrlimit(2), RLIMIT_FSIZE
		return &Error{Op: r.op, Errno: syscall.EFBIG, Log: log, err: errors.New("a file has reached the limit of file sizes")}
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("it ended without an answer: %w", errors.Join(ended, io.ErrUnexpectedEOF))
	}
	return newError(r.op, log, err)
}

// killedBy reports whether a command's end, as Wait returns it, was this signal.
func killedBy(ended error, sig syscall.Signal) bool {
	var exit *exec.ExitError
	if !errors.As(ended, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == sig
}

// A server is a `criu swrk`, which takes one request on a socket
// (criu/cr-service.c, cr_service_work). go-criu would start it with this process's
// whole environment, and does not tell its pid.
type server struct {
	cmd    *exec.Cmd
	socket *os.File
}

// firstFile is the descriptor under which CRIU has the first file that is handed on
// to it. The one before is its socket (os/exec, Cmd.ExtraFiles).
const firstFile = 4

// start starts CRIU. It does not see this process's environment, only that of
// environment.
func start(path string, files []*os.File) (*server, error) {
	fds, err := syscall.Socketpair(syscall.AF_LOCAL, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, &Error{Op: "start", err: fmt.Errorf("make a socket: %w", err)}
	}
	theirs := os.NewFile(uintptr(fds[1]), "criu's end")
	defer theirs.Close()
	// Else a read could not be interrupted (os.NewFile).
	err = syscall.SetNonblock(fds[0], true)
	s := &server{socket: os.NewFile(uintptr(fds[0]), "criu"), cmd: exec.Command(path, "swrk", strconv.Itoa(firstFile-1))}
	s.cmd.Env = environment()
	s.cmd.ExtraFiles = append([]*os.File{theirs}, files...)
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		s.socket.Close()
		if notThere(err) {
			return nil, fmt.Errorf("%w (looked for %s)", ErrNoCRIU, path)
		}
		return nil, &Error{Op: "start", err: err}
	}
	return s, nil
}

// answer makes the request and returns when it is answered. When ctx ends CRIU is
// killed.
func (s *server) answer(ctx context.Context, r *request) error {
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		killTree(s.cmd.Process.Pid)
		if r.undo != nil {
			r.undo()
		}
		// What has left the tree may hold CRIU's end of the socket.
		_ = s.socket.SetDeadline(time.Now())
	})
	err := s.ask(r)
	if !stop() {
		<-killed
	}
	return err
}

// waitEnd waits until a child has ended, and leaves it to be waited for, so that its pid
// is still its own. When ctx ends it is killed with all that it has started.
func waitEnd(ctx context.Context, pid int) {
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		killTree(pid)
	})
	_ = linux.EINTR(func() error {
		return unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
	})
	if !stop() {
		<-killed
	}
}

// ask makes the request and returns when it is answered. The error is io.EOF if CRIU
// closes the socket instead.
func (s *server) ask(r *request) error {
	if r.restored != nil {
		r.opts.NotifyScripts = proto.Bool(true)
	}
	message := &rpc.CriuReq{Type: &r.kind, Opts: r.opts}
	for {
		raw, err := proto.Marshal(message)
		if err != nil {
			return err
		}
		switch _, err = s.socket.Write(raw); {
		case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
			return io.EOF
		case err != nil:
			return err
		}
		answer := make([]byte, maxAnswer)
		n, err := s.socket.Read(answer)
		if errors.Is(err, syscall.ECONNRESET) {
			return io.EOF
		}
		if err != nil {
			return err
		}
		var resp rpc.CriuResp
		if err := proto.Unmarshal(answer[:n], &resp); err != nil {
			return fmt.Errorf("read its answer: %w", err)
		}
		switch kind := resp.GetType(); {
		case !resp.GetSuccess():
			return &refused{errno: syscall.Errno(resp.GetCrErrno()), message: resp.GetCrErrmsg()}
		case kind == r.kind:
			return nil
		case kind != rpc.CriuReqType_NOTIFY:
			return fmt.Errorf("it answered something else (%v)", kind)
		}
		if note := resp.GetNotify(); note.GetScript() == "post-restore" && r.restored != nil {
			r.restored(int(note.GetPid()))
		}
		kind := rpc.CriuReqType_NOTIFY
		message = &rpc.CriuReq{Type: &kind, NotifySuccess: proto.Bool(true)}
	}
}

// maxAnswer bounds one of CRIU's answers, in bytes: some numbers, and at most one
// message of errors (criu/cr-errno.c).
const maxAnswer = 8192

// refused is a request that CRIU has answered with its failure.
type refused struct {
	errno   syscall.Errno
	message string
}

func (e *refused) Error() string {
	return fmt.Sprintf("operation failed (msg:%s err:%d)", e.message, int(e.errno))
}

// breakpointFault is the number of CRIU's "fault" in which it does without hardware
// breakpoints and follows system calls instead (criu/include/fault-injection.h,
// FI_NO_BREAKPOINTS). Some virtual machines let a debug register be written and
// never stop there: CRIU waits for the stop, and the process that it should have
// dumped has gone on and ended. CRIU finds that out itself only since 4.2
// (criu/kerndat.c, kerndat_breakpoints).
const breakpointFault = "130"

// faultVariable is where CRIU looks for it. CRIU's own tests set it.
const faultVariable = "CRIU_FAULT"

// environment is all of the environment that CRIU is started with. CRIU executes what
// a configuration file names (action-script), which it looks for in $HOME/.criu and
// $CRIU_CONFIG_FILE (criu/config.c, parse_config), loads plugins from $CRIU_LIBS_DIR
// (criu/plugin.c, cr_plugin_init), and in unprivileged mode believes what
// $XDG_RUNTIME_DIR/criu.kdat says of the kernel (criu/kerndat.c,
// get_kerndat_filename). All of that would be done as root by a root that has kept a
// user's environment (sudo -E). The machine's own ConfigFile is read.
func environment() []string {
	fault := breakpointFault
	if set, ok := os.LookupEnv(faultVariable); ok {
		fault = set
	}
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/nonexistent",
		faultVariable + "=" + fault,
	}
}
