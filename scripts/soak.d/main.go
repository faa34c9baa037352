// Command soak starts a script of python from its warm image many times, each time with other
// arguments, input, directory, umask, descriptors and children, and compares what the script
// reports with what it must be. Some starts are all under way at once.
//
//	soak [--starts N] [--at-once N] [--seed N] [--jobs N] [--residentctl FILE]
//
// Exit status: 0 all starts were warm and right, 1 they were not, 2 usage.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed probe.py
var probe []byte

// every is how many starts come one by one before some are made at once again.
const every = 1000

// shown is how many wrong starts are described.
const shown = 10

type options struct {
	starts, atOnce, jobs int
	seed                 uint64
	residentctl          string
}

func main() {
	var o options
	flag.IntVar(&o.starts, "starts", 10000, "how many starts")
	flag.IntVar(&o.atOnce, "at-once", 50, fmt.Sprintf("how many of every %d starts are under way at once", every))
	flag.IntVar(&o.jobs, "jobs", runtime.NumCPU(), "how many of the others are made at a time")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "what the starts' arguments, input and so on are chosen by")
	flag.StringVar(&o.residentctl, "residentctl", "bin/residentctl", "the residentctl to use")
	flag.Parse()
	if flag.NArg() > 0 || o.starts < 1 || o.atOnce < 1 || o.jobs < 1 {
		flag.Usage()
		os.Exit(2)
	}
	// The starts inherit what they are given, and not what this process was given.
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		fmt.Fprintln(os.Stderr, "soak: error: close_range:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := soak(ctx, os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "soak: error:", err)
		os.Exit(1)
	}
}

// A soaking is a run of all starts.
type soaking struct {
	dir    string // a scratch directory
	script string
	file   string // what is executed: the script's launcher file

	mu     sync.Mutex
	seen   map[string]bool // what no two starts may have in common
	done   int
	warm   int
	wrong  []string
	broken int // how many are wrong
}

func soak(ctx context.Context, w io.Writer, o options) error {
	dir, err := os.MkdirTemp("", "residentctl-soak-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return err
	}
	s := &soaking{dir: dir, script: filepath.Join(dir, "probe"), seen: map[string]bool{}}
	if err := s.prepare(ctx, o.residentctl); err != nil {
		return err
	}
	began := time.Now()
	stopped := s.run(ctx, o)
	fmt.Fprintf(w, "soak: %d starts in %.0f s, %d at once: %d warm, %d wrong (seed %d)\n",
		s.done, time.Since(began).Seconds(), min(o.atOnce, o.starts), s.warm, s.broken, o.seed)
	for _, what := range s.wrong {
		fmt.Fprintln(w, "soak: wrong:", what)
	}
	switch {
	case stopped != nil:
		return stopped
	case s.broken > 0:
		return fmt.Errorf("%d starts were wrong", s.broken)
	case s.warm < s.done:
		return fmt.Errorf("%d starts were not warm; one that is made now says: %s", s.done-s.warm, s.explain(ctx))
	}
	return nil
}

// prepare writes the script and the directories, and makes the script resident.
func (s *soaking) prepare(ctx context.Context, residentctl string) error {
	if err := os.WriteFile(s.script, probe, 0o755); err != nil {
		return err
	}
	for _, name := range directories {
		dir := filepath.Join(s.dir, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "name"), []byte(name), 0o644); err != nil {
			return err
		}
	}
	store := filepath.Join(s.dir, "store")
	add := exec.CommandContext(ctx, residentctl, "--store", store, "add", "--warm", "--even-if-slower", s.script)
	if said, err := add.CombinedOutput(); err != nil {
		return fmt.Errorf("make the script resident: %w: %s", err, said)
	}
	which := exec.CommandContext(ctx, residentctl, "--store", store, "which", "--quiet", s.script)
	said, err := which.Output()
	s.file = strings.TrimSpace(string(said))
	if err != nil || s.file == "" {
		return fmt.Errorf("find the script's launcher file: %w", errors.Join(err, errors.New("there is none")))
	}
	return nil
}

// run makes all starts: of every thousand, some at once in the end.
func (s *soaking) run(ctx context.Context, o options) error {
	random := rand.New(rand.NewPCG(o.seed, 0))
	for left := o.starts; left > 0 && ctx.Err() == nil; left -= every {
		part := min(left, every)
		together := min(o.atOnce, part)
		s.some(ctx, o.jobs, s.choose(random, part-together), nil)
		if ctx.Err() == nil {
			s.some(ctx, together, s.choose(random, together), make(chan struct{}))
		}
	}
	return context.Cause(ctx)
}

// choose makes up that many starts.
func (s *soaking) choose(random *rand.Rand, n int) (all []*start) {
	for range n {
		all = append(all, newStart(random, s.dir))
	}
	return all
}

// some makes starts, a number of them at a time. With a gate none of them gets its input before
// all are under way.
func (s *soaking) some(ctx context.Context, jobs int, starts []*start, gate chan struct{}) {
	var running, working sync.WaitGroup
	if gate != nil {
		running.Add(len(starts))
		go func() {
			running.Wait()
			close(gate)
		}()
	}
	queue := make(chan *start)
	for range jobs {
		working.Go(func() {
			for one := range queue {
				wait := func() {
					if gate != nil {
						running.Done()
						<-gate
					}
				}
				r := one.make(ctx, s.file, wait)
				if ctx.Err() == nil { // else it may be wrong by that
					s.note(one, r)
				}
			}
		})
	}
	for _, one := range starts {
		if ctx.Err() != nil && gate == nil {
			break
		}
		queue <- one
	}
	close(queue)
	working.Wait()
}

// note counts a start, whose result is r.
func (s *soaking) note(one *start, r *result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done++
	if r.saw.Warm {
		s.warm++
	}
	what := one.compare(r)
	for _, u := range r.saw.Unique {
		if s.seen[u] {
			what = append(what, "another start had "+u+" too")
		}
		s.seen[u] = true
	}
	if len(what) == 0 {
		return
	}
	if s.broken++; len(s.wrong) < shown {
		s.wrong = append(s.wrong, fmt.Sprintf("start %d, %q: %s", s.done, one.arguments(), strings.Join(what, "; ")))
	}
}

// explain is what a start says of itself.
func (s *soaking) explain(ctx context.Context) string {
	cmd := exec.CommandContext(ctx, s.file, "--version")
	cmd.Env = append(os.Environ(), "RESIDENTCTL_EXPLAIN=1")
	said, _ := cmd.CombinedOutput()
	return strings.TrimSpace(string(said))
}
