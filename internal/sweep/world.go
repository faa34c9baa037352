package sweep

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

const (
	storeName    = "store"
	mostOutput   = 4 << 20         // bytes of either stream; after them a start is ended
	waitsFor     = time.Second     // a start that takes longer is waiting, so another may begin
	addTimeout   = 2 * time.Minute // of one residentctl add
	settingsPath = "/run"          // where CRIU keeps what it knows of the kernel
	linkerCache  = "/etc/ld.so.cache"
)

// sweeper is the world's state.
type sweeper struct {
	options
	residentctl string // a copy, which nobody builds again meanwhile
	store       string
	slots       chan struct{}
	alter       func(*outcome) // the self-test's: done to what a resident start leaves behind
}

// outcome is all that a start leaves behind.
type outcome struct {
	Stdout, Stderr string
	Status         string // how it ended
	Normally       string // resident starts: why it was none, or ""
}

// Statuses of starts that were ended from outside.
const (
	statusTimeout = "ended by the time limit"
	statusFlood   = "ended by the limit of its output"
)

func world() int {
	s := &sweeper{}
	err := json.NewDecoder(os.Stdin).Decode(&s.options)
	if err == nil {
		err = s.prepare()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "sweep: error: make the namespaces: %v\n", err)
		return exitImpossible
	}
	if s.SelfTest {
		return s.selfTest()
	}
	return s.sweep()
}

// prepare makes the world: the machine's files, and a tmpfs for the store.
func (s *sweeper) prepare() error {
	m := mounter{}
	m.mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
	m.mount("tmpfs", s.Dir, "tmpfs", 0, "mode=755")
	m.mount("tmpfs", settingsPath, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=755")
	m.mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, "")
	m.do("set up lo", loopback)
	m.directories(s.Dir, "cell", storeName)
	s.store = filepath.Join(s.Dir, storeName)
	s.residentctl = filepath.Join(s.Dir, "residentctl")
	m.do("copy the command under test", func() error { return copyFile(s.Residentctl, s.residentctl, 0o755) })
	// A package that is installed meanwhile writes a new cache, and every image is stale.
	cache := filepath.Join(s.Dir, "ld.so.cache")
	if _, err := os.Stat(linkerCache); err == nil {
		m.do("copy "+linkerCache, func() error { return copyFile(linkerCache, cache, 0o644) })
		m.bind(cache, linkerCache)
	}
	s.slots = make(chan struct{}, s.Jobs)
	return m.err
}

func copyFile(from, to string, mode os.FileMode) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, mode)
}

// take waits for a slot. The function that it returns gives the slot back; it may be
// called twice.
func (s *sweeper) take() (release func()) {
	s.slots <- struct{}{}
	return sync.OnceFunc(func() { <-s.slots })
}

// addResult is what residentctl add --format json prints for one program.
type addResult struct {
	Record *struct {
		ID string `json:"id"`
	} `json:"record"`
	Failure *struct {
		Error string `json:"error"`
	} `json:"failure"`
}

// added is what became of a program.
type added struct {
	launcher string // its launcher file
	image    string // its image's id
	refusal  string // why residentctl did not want to, or ""
}

// add makes a program resident.
func (s *sweeper) add(f file, name string) (a added, err error) {
	if s.Control {
		return a, nil
	}
	defer s.take()()
	stdout, stderr, err := s.do("add", "--even-if-slower", "--format", "json", name)
	var results []addResult
	if json.Unmarshal(stdout, &results) != nil || len(results) != 1 {
		return a, fmt.Errorf("residentctl add: %v: %s%s", err, stdout, stderr)
	}
	if results[0].Failure != nil {
		a.refusal = results[0].Failure.Error
		return a, nil
	}
	if results[0].Record == nil {
		return a, fmt.Errorf("residentctl add told no record: %s", stdout)
	}
	a.image = results[0].Record.ID
	a.launcher = filepath.Join(s.store, "launchers", f.Inode.String(), name)
	if _, err := os.Stat(a.launcher); err != nil {
		return a, fmt.Errorf("residentctl add left no launcher file: %w", err)
	}
	return a, nil
}

// remove forgets a program, to keep the store small.
func (s *sweeper) remove(names []string) {
	if s.Control {
		return
	}
	defer s.take()()
	for _, name := range names {
		if _, _, err := s.do("remove", name); err == nil {
			return // with it the others are gone
		}
	}
}

// do runs residentctl on the world's store.
func (s *sweeper) do(args ...string) (stdout, stderr []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), addTimeout)
	defer cancel()
	var out, errOut bytes.Buffer
	c := exec.CommandContext(ctx, s.residentctl, append([]string{"--store", s.store}, args...)...)
	c.Env = environment
	c.Stdout, c.Stderr = &out, &errOut
	c.WaitDelay = time.Second
	err = c.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out.Bytes(), errOut.Bytes(), err
}

// plainly starts a program as an exec does.
func (s *sweeper) plainly(program string, args []string, limit time.Duration) (outcome, error) {
	return s.start(program, program, args, limit)
}

// residently starts a program's launcher file in its place.
func (s *sweeper) residently(program, launcher string, args []string, limit time.Duration) (outcome, error) {
	if s.Control {
		return s.plainly(program, args, limit)
	}
	o, err := s.start(launcher, program, args, limit)
	if err != nil {
		return o, err
	}
	o.takeExplanation()
	if s.alter != nil {
		s.alter(&o)
	}
	return o, nil
}

// takeExplanation takes off what the launcher said before there was a program.
func (o *outcome) takeExplanation() {
	line, rest, _ := strings.Cut(o.Stderr, "\n")
	switch {
	case !strings.HasPrefix(line, "residentctl: "):
		o.Normally = "the launcher did not say how it started the program"
	case strings.Contains(line, ": resident start: "):
		o.Stderr = rest
	default:
		o.Normally, o.Stderr = line, rest
	}
}

// start starts what is at path in a cell of its own and waits for its end.
func (s *sweeper) start(path, argv0 string, args []string, limit time.Duration) (o outcome, err error) {
	for again := true; again && err == nil; {
		o, again, err = s.startOnce(path, argv0, args, limit)
	}
	return o, err
}

func (s *sweeper) startOnce(path, argv0 string, args []string, limit time.Duration) (o outcome, again bool, err error) {
	release := s.take()
	defer release()
	defer time.AfterFunc(waitsFor, release).Stop()

	var from cellStreams
	c, err := newCell(start{Path: path, Argv: append([]string{argv0}, args...), User: s.User, Dir: s.Dir}, &from)
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		return o, false, fmt.Errorf("make a cell: %w", err)
	}
	kill := func() { _ = c.Process.Kill() }
	var late atomic.Bool
	defer time.AfterFunc(limit, func() { late.Store(true); kill() }).Stop()
	from.read(kill)
	// With process 1 every process of the cell ends, and so do the streams.
	waited := c.Wait()
	o.Stdout, o.Stderr = from.stdout.all(), from.stderr.all()
	result := from.result.all()
	var end ending
	switch {
	case from.stdout.flood || from.stderr.flood:
		o.Status = statusFlood
	case result == "" && late.Load():
		o.Status = statusTimeout
	case json.Unmarshal([]byte(result), &end) != nil:
		return o, false, fmt.Errorf("the cell of %s ended without a result: %v %s", path, waited, o.Stderr)
	case end.Failure != "":
		return o, false, fmt.Errorf("make a cell: %s", end.Failure)
	default:
		o.Status = linux.StatusText(unix.WaitStatus(end.Status))
	}
	return o, end.Again, nil
}

// newCell is the command that makes a cell for one start, and writes to these streams.
func newCell(s start, to *cellStreams) (*exec.Cmd, error) {
	order, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	for _, st := range to.all() {
		if err := st.open(); err != nil {
			return nil, err
		}
	}
	c := exec.Command("/proc/self/exe", cellArgument)
	c.Env = []string{}
	c.SysProcAttr = newNamespaces()
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(order), to.stdout.w, to.stderr.w
	c.ExtraFiles = []*os.File{to.result.w} // resultFD
	return c, nil
}

// cellStreams are all that comes out of a cell: what its program writes, and how it
// ended.
type cellStreams struct{ stdout, stderr, result stream }

func (c *cellStreams) all() []*stream { return []*stream{&c.stdout, &c.stderr, &c.result} }

// read begins to read, once the cell has been started.
func (c *cellStreams) read(tooMuch func()) {
	for _, s := range c.all() {
		s.read(tooMuch)
	}
}

// stream is a pipe that a cell writes to.
type stream struct {
	r, w  *os.File
	text  []byte
	flood bool // there was more than mostOutput
	done  chan struct{}
}

// open makes the pipe, whose end w is the cell's.
func (s *stream) open() (err error) {
	s.r, s.w, err = os.Pipe()
	return err
}

// read begins to read, once the cell has the other end.
func (s *stream) read(tooMuch func()) {
	s.w.Close()
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		defer s.r.Close()
		s.text, _ = io.ReadAll(io.LimitReader(s.r, mostOutput+1))
		if len(s.text) > mostOutput {
			s.text, s.flood = s.text[:mostOutput], true
			tooMuch()
		}
	}()
}

// all is what was read up to the end.
func (s *stream) all() string {
	<-s.done
	return string(s.text)
}
