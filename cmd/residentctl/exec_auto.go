package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/intercept"
	"github.com/residentctl/residentctl/pkg/resident"
	"github.com/residentctl/residentctl/pkg/store"
)

// runAuto runs the command as a child, makes resident what it executes often,
// and ends as the command ends. started says whether there was a command; if
// not, the error is why.
func runAuto(o startLine, stderr io.Writer) (started bool, err error) {
	if o.strict {
		if err := canAdd(); err != nil {
			_, hint := diagnose(err)
			return false, &runError{what: "nothing can be made resident: " + err.Error(), hint: hint}
		}
	}
	s, stores, err := execStores(o)
	if err != nil {
		return false, err
	}
	m, err := resident.Open(s.Dir(), true)
	if err != nil {
		return false, err
	}
	session, err := s.Stage()
	if err != nil {
		return false, err
	}
	defer func() { _ = session.Discard() }()
	counter, err := intercept.NewCounter(filepath.Join(session.Dir, intercept.LogName))
	if err != nil {
		return false, err
	}
	defer counter.Close()
	// What this process was started to ignore the command ignores as well. SIGCHLD
	// is ignored only there: who ignores it cannot wait for a child.
	ignored, mask, _ := inheritedSignals()
	for _, sig := range ignored {
		if syscall.Signal(sig) == syscall.SIGCHLD {
			o.ignoreChild = true
			continue
		}
		signal.Ignore(syscall.Signal(sig))
	}
	argv, attr, err := autoCommand(s, stores, session, o, stderr)
	if err != nil {
		return false, err
	}

	// From the terminal the command gets its signals itself; residentctl must
	// not end, or stop, before it. What is sent to residentctl is passed on, an interrupt
	// too where no terminal can have sent it. SIGTTIN and SIGTTOU always come from it.
	terminal, passed, stops := make(chan os.Signal, 1), make(chan os.Signal, 8), make(chan os.Signal, 1)
	catch(terminal, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP)
	catch(passed, passedOn()...)
	catch(stops, syscall.SIGTTIN, syscall.SIGTTOU)
	began := newSettled()
	command, err := startAsInherited(argv, mask, attr)
	if err != nil {
		if attr.Sys != nil {
			err = intercept.NoMountNamespace(err)
		}
		return false, err
	}
	j := &job{process: command}
	go func() {
		for {
			select {
			case sig := <-passed:
				if sig == syscall.SIGCONT {
					j.resume()
				} else {
					_ = command.Signal(sig)
				}
			case sig := <-terminal:
				if !inForeground() {
					_ = command.Signal(sig)
				}
			}
		}
	}()
	a := &auto{manager: m, stores: stores, counter: counter, after: cmp.Or(o.after, defaultAfter), settled: began, tried: map[intercept.Binary]bool{}}
	var status syscall.WaitStatus
	ended := make(chan error, 1)
	go func() {
		var err error
		status, err = j.wait()
		ended <- err
	}()
	err = a.watch(ended)
	// Nothing may be left where what follows cannot be said. In the background a terminal
	// may stop whoever writes to it (tty_ioctl(4), TOSTOP), if that does not catch it.
	_ = session.Discard()
	if !signal.Ignored(syscall.SIGTTOU) {
		signal.Reset(syscall.SIGTTOU)
	}
	if !o.quiet {
		fmt.Fprint(stderr, a.summary())
	}
	if err != nil {
		return true, &runError{code: exitRun, what: err.Error()}
	}
	os.Exit(endLike(status))
	return true, nil
}

// passedOn are the signals that somebody may send to residentctl and mean the
// command: all but those of the terminal, of job control, and of what a process
// does itself.
func passedOn() []os.Signal {
	sigs := []os.Signal{
		syscall.SIGHUP, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCONT, syscall.SIGWINCH, syscall.SIGABRT,
		syscall.SIGALRM, syscall.SIGVTALRM, syscall.SIGPROF, syscall.SIGIO, syscall.SIGPWR,
	}
	const firstRT, lastRT = 35, 64 // the runtime leaves those before alone, which are C libraries'
	for sig := syscall.Signal(firstRT); sig <= lastRT; sig++ {
		sigs = append(sigs, sig)
	}
	return sigs
}

// catch is signal.Notify but for signals that are ignored, which the command is to
// ignore as well.
func catch(c chan<- os.Signal, sigs ...os.Signal) {
	for _, sig := range sigs {
		if !signal.Ignored(sig) {
			signal.Notify(c, sig)
		}
	}
}

// autoCommand is the command line that runs the command in its namespace.
func autoCommand(s *store.Store, stores []string, session *store.Staging, o startLine, stderr io.Writer) (argv []string, attr *os.ProcAttr, err error) {
	user := os.Geteuid() != 0
	// The store may be empty still; it is what this is going to fill.
	c, err := intercept.Prepare(s, intercept.Options{Stores: stores, InUserNamespace: user, Session: session})
	if err != nil {
		return nil, nil, err
	}
	attr = &os.ProcAttr{Env: environment()}
	if user {
		argv, err = insideUser(s, c, o, stderr)
		return argv, attr, err
	}
	attr.Sys = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	argv, err = inside(c, o)
	return argv, attr, err
}

// canAdd tells as far as that can be known before whether programs can be made
// resident.
func canAdd() error {
	criu, err := criuwrap.Find()
	if err != nil {
		return err
	}
	return criuwrap.MayDump(criu)
}

// auto makes resident what a command tree executes often.
type auto struct {
	manager *resident.Manager
	stores  []string // that starts are made from
	counter *intercept.Counter
	after   int
	settled settled
	tried   map[intercept.Binary]bool
	added   int
	refused int   // that root does not execute, since others may change them
	failed  error // why no program can be made resident
}

// watch looks at the starts until the command has ended, whose error it gives.
func (a *auto) watch(ended <-chan error) error {
	const pause = 50 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	wanted, done := make(chan string), make(chan error)
	go func() {
		for path := range wanted {
			added, err := a.manager.Add(ctx, path, resident.AddOptions{})
			if err == nil && !added.Already {
				a.added++
			}
			done <- err
		}
	}()
	defer close(wanted)
	for busy := false; ; {
		_ = a.counter.Read() // what cannot be read is not counted
		if path, ok := a.next(busy); ok {
			busy = true
			wanted <- path
		}
		select {
		case err := <-ended:
			cancel()
			if busy {
				a.tell(<-done)
			}
			_ = a.counter.Read()
			return err
		case err := <-done:
			busy = false
			a.tell(err)
		case <-time.After(pause):
		}
	}
}

// tell is told how an attempt ended. What is wrong with one program is not said: it
// starts as always.
func (a *auto) tell(err error) {
	var owner *resident.OwnerError
	if errors.As(err, &owner) {
		a.refused++
	}
	if a.failed == nil && hopeless(err) && !errors.Is(err, context.Canceled) {
		a.failed = err
	}
}

// next is the program that has been executed normally most often, if it is often
// enough. Each is tried once: one that is refused will be refused again, and one that
// the command has changed does not become older than the command.
func (a *auto) next(busy bool) (path string, ok bool) {
	for !busy && a.failed == nil {
		most := a.after - 1
		var binary intercept.Binary
		path = ""
		for b, s := range a.counter.Programs {
			if s.Normal > most && s.Path != "" && !a.tried[b] {
				binary, path, most = b, s.Path, s.Normal
			}
		}
		if path == "" {
			break
		}
		a.tried[binary] = true
		if a.settled.is(path, binary) {
			return path, true
		}
	}
	return "", false
}

// summary says in one line what it was good for, and before that why nothing, or
// nothing more, could be made resident.
func (a *auto) summary() string {
	said := ""
	if a.failed != nil {
		_, hint := diagnose(a.failed)
		said = fmt.Sprintf("residentctl: what the command executes cannot be made resident: %s\n", printable(join(a.failed.Error(), hint)))
	}
	var total, residents int
	var saved time.Duration
	gains := gains(a.stores)
	for b, s := range a.counter.Programs {
		total += s.Resident + s.Normal + s.Unfit
		residents += s.Resident
		saved += time.Duration(s.Resident) * gains[b]
	}
	refused := ""
	if a.refused > 0 {
		refused = fmt.Sprintf(", %d refused that users other than root may change", a.refused)
	}
	return said + fmt.Sprintf("residentctl: %d of %d starts were resident, which saved them %.1f s in all; %s made resident meanwhile%s\n",
		residents, total, saved.Seconds(), count(a.added, "program"), refused)
}

// gains is by how much a start from its image was faster when it was added, for each
// program in the stores, of which the first that has it counts.
func gains(stores []string) map[intercept.Binary]time.Duration {
	gains := map[intercept.Binary]time.Duration{}
	for _, dir := range stores {
		m, err := resident.OpenToRead(dir)
		if err != nil {
			continue
		}
		records, _ := m.Entries()
		for _, rec := range records {
			b := intercept.Binary{Dev: rec.Binary.Dev, Ino: rec.Binary.Ino}
			if _, known := gains[b]; !known && rec.Timing != nil {
				gains[b] = time.Duration(rec.Timing.ExecNS - rec.Timing.ResidentNS)
			}
		}
	}
	return gains
}
