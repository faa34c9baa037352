package intercept

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/store"
)

// A Maker makes programs resident.
type Maker interface {
	// Open is called before the command is started, with the directory of the store that
	// the programs are to be added to. With an error the command is executed normally.
	Open(store string) error
	// Add makes a program resident, unless the context ends before that. It reports
	// whether it has done so, and whether another program might be made resident.
	Add(ctx context.Context, program string) (made, another bool)
}

// An Outcome is what has become of a command.
type Outcome struct {
	Status   syscall.WaitStatus
	Programs map[linux.Inode]*Starts // which it has executed through the covered linker
	Reasons  map[string]int          // why starts were normal
	Store    string                  // the directory of the store that programs are added to, "" if none can be
	// Due are programs that it, with the commands before it, has executed normally often
	// enough, but has ended before they were resident.
	Due []string
}

// Run runs the command as a child, and has the maker make resident what the command tree
// executes normally for the after-th time. It returns when the command has ended; EndLike
// ends this process in the same way. A nil Outcome says that no command was started; the
// error is then as Become's.
func (t *Tree) Run(m Maker, after int) (*Outcome, error) {
	if known, why := t.uncovered(true); known {
		return nil, t.execute(why)
	}
	c := &companion{}
	if err := c.start(t, m); err != nil {
		c.close()
		return nil, t.execute(err)
	}
	defer c.close()
	a := &auto{maker: m, counter: c.counter, after: after, settled: c.settled, tried: map[linux.Inode]bool{}}
	if c.filled != nil {
		a.past = ReadHistory(c.filled)
	}
	status, err := a.watch(c.job)
	outcome := &Outcome{Status: status, Programs: c.counter.Programs, Reasons: c.counter.Reasons}
	if c.filled != nil {
		outcome.Store, outcome.Due = c.filled.Dir(), a.remember(c.filled)
	}
	return outcome, err
}

// A companion is what there is beside the command.
type companion struct {
	filled  *store.Store // to which programs are added; nil if they cannot be
	session *store.Staging
	counter *Counter
	settled settled
	job     *job
}

// start starts the command of the tree in its namespace.
func (c *companion) start(t *Tree, m Maker) error {
	s, err := t.coverStore()
	if err != nil {
		return err
	}
	fill, err := t.storeDir() // which may be root's, and s an ordinary user's
	if err != nil {
		return err
	}
	if err := m.Open(fill); err != nil {
		return err
	}
	if filled, err := store.Open(fill); err == nil && filled.Writable() {
		c.filled = filled
	}
	if c.session, err = s.Stage(); err != nil {
		return err
	}
	if c.counter, err = NewCounter(filepath.Join(c.session.Dir, LogName)); err != nil {
		return err
	}
	mask := ignoreInherited()
	argv, attr, err := t.childLine(s, c.session)
	if err != nil {
		return err
	}
	caught := catchSignals()
	c.settled = newSettled()
	process, err := startAsInherited(argv, mask, attr)
	if err != nil && attr.Sys != nil {
		return NoMountNamespace(err)
	}
	if err != nil {
		return err
	}
	c.job = &job{process: process}
	go c.job.passOn(caught)
	return nil
}

// close removes what only the command needed. Nothing may be left where what follows
// cannot be said. In the background a terminal may stop a process that writes to it
// (tty_ioctl(4), TOSTOP), if that does not catch it.
func (c *companion) close() {
	if c.counter != nil {
		_ = c.counter.Close()
	}
	if c.session != nil {
		_ = c.session.Discard()
	}
	if c.job != nil && !signal.Ignored(syscall.SIGTTOU) {
		signal.Reset(syscall.SIGTTOU)
	}
}

// childLine is the command line that runs the command in its namespace, as a child.
func (t *Tree) childLine(s *store.Store, session *store.Staging) (argv []string, attr *os.ProcAttr, err error) {
	user := os.Geteuid() != 0
	// The store may be empty still; it is what this is going to fill.
	c, err := Prepare(s, Options{Stores: t.Stores, InUserNamespace: user, Session: session})
	if err != nil {
		return nil, nil, err
	}
	attr = &os.ProcAttr{Env: Environment()}
	if user {
		argv, err = t.userLine(s, c)
		return argv, attr, err
	}
	attr.Sys = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	argv, err = t.again(c)
	return argv, attr, err
}

// auto makes resident what a command tree executes often.
type auto struct {
	maker   Maker
	counter *Counter
	after   int
	settled settled
	tried   map[linux.Inode]bool
	over    bool // no other program can be made resident
	past    History
	results []result
}

// result is whether a program that was tried was made resident.
type result struct {
	binary linux.Inode
	made   bool
}

// watch looks at the starts until the command has ended.
func (a *auto) watch(j *job) (syscall.WaitStatus, error) {
	const pause = 50 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	wanted, done, ended := make(chan wish), make(chan bool), make(chan struct{})
	defer close(wanted)
	go func() {
		for w := range wanted {
			done <- a.make(ctx, w)
		}
	}()
	var status syscall.WaitStatus
	var err error
	go func() {
		status, err = j.wait()
		close(ended)
	}()
	for busy := false; ; {
		_ = a.counter.Read() // what cannot be read is not counted
		if w, ok := a.next(busy); ok {
			busy = true
			wanted <- w
		}
		select {
		case <-ended:
			cancel()
			if busy {
				<-done
			}
			_ = a.counter.Read()
			return status, err
		case another := <-done:
			busy, a.over = false, !another
		case <-time.After(pause):
		}
	}
}

// wish is a program that is to be made resident.
type wish struct {
	binary linux.Inode
	path   string
}

// make makes a program resident. One that the end of the command has interrupted has not
// been tried.
func (a *auto) make(ctx context.Context, w wish) (another bool) {
	made, another := a.maker.Add(ctx, w.path)
	if made || ctx.Err() == nil {
		a.results = append(a.results, result{w.binary, made})
	}
	return another
}

// next is the program that has been executed normally most often, if it is often
// enough. Each is tried once: one that is refused will be refused again, and one that
// the command has changed does not become older than the command.
func (a *auto) next(busy bool) (w wish, ok bool) {
	for !busy && !a.over {
		most := 0
		w = wish{}
		for b, s := range a.counter.Programs {
			if s.Normal > most && s.Path != "" && !a.tried[b] && a.past.due(b, s.Normal, a.after) {
				w, most = wish{b, s.Path}, s.Normal
			}
		}
		if w.path == "" {
			break
		}
		a.tried[w.binary] = true
		if a.settled.is(w.path, w.binary) {
			return w, true
		}
	}
	return wish{}, false
}

// maxDue is how many programs are made resident after one command at most.
const maxDue = 16

// remember adds the command's starts to the history that the store keeps, and returns the
// programs that are due. Without a history there is none: it could not be noted that they
// were tried.
func (a *auto) remember(s *store.Store) (due []string) {
	err := ChangeHistory(s, func(h History) {
		h.Add(a.counter.Programs)
		for _, r := range a.results {
			h.Tried(r.binary, r.made)
		}
		for _, b := range h.Due(a.after) {
			if now := a.counter.Programs[b]; now != nil && now.Normal > 0 && len(due) < maxDue && a.settled.is(h[b].Path, b) {
				due = append(due, h[b].Path)
			}
		}
	})
	if err != nil || a.over {
		return nil
	}
	return due
}
