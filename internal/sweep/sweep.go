package sweep

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
)

// cases are the command lines that every program is started with.
var cases = [][]string{{"--version"}, {"--help"}, nil}

// programsPerJob are under way at once for every job: most of those that are not
// starting just now wait for their time limit.
const programsPerJob = 8

// name is one name of a program.
type name struct {
	file
	path string
	left *atomic.Int32 // names of the file that are not done
}

// sweep sweeps all programs and returns the exit status.
func (s *sweeper) sweep() int {
	r := newReport(s)
	work := make(chan name)
	var workers sync.WaitGroup
	for range s.Jobs * programsPerJob {
		workers.Go(func() {
			for n := range work {
				r.add(s.sweepName(n))
				if n.left.Add(-1) == 0 {
					s.remove(n.Names)
				}
			}
		})
	}
	for _, f := range s.Files {
		left := new(atomic.Int32)
		left.Store(int32(len(f.Names)))
		for _, path := range f.Names {
			work <- name{f, path, left}
		}
	}
	close(work)
	workers.Wait()
	return r.finish()
}

// sweepName makes one name of a program resident and compares it in all cases.
func (s *sweeper) sweepName(n name) result {
	res := result{Program: n.path}
	if why, ok := neverRun[filepath.Base(n.path)]; ok {
		res.NotRun = why
		return res
	}
	a, err := s.add(n.file, n.path)
	switch {
	case err != nil:
		res.Failure = err.Error()
		return res
	case a.refusal != "":
		res.Refused = reasonOf(a.refusal, n.path)
		return res
	}
	for _, args := range cases {
		v, err := s.compare(n.path, a.launcher, args)
		if v.normal && s.remake(n, &a) {
			v, err = s.compare(n.path, a.launcher, args)
		}
		if err != nil {
			res.Failure = err.Error()
			return res
		}
		res.Cases = append(res.Cases, v)
	}
	return res
}

// remake makes a program resident again if its image is stale, because something was
// installed or upgraded during the sweep. A current image that was not used stays a
// difference.
func (s *sweeper) remake(n name, a *added) bool {
	was := a.image
	now, err := s.add(n.file, n.path)
	if err != nil || now.refusal != "" {
		return false
	}
	*a = now
	return a.image != was // by this add, or by that of another name
}

const mostPatience = 4

// compare starts a program plainly and resident until a verdict is settled. The two
// are started at the same time: what depends on the time of day is the same then.
// Where the time limit has ended the first two and they differ, that may be all the
// difference: they are started again, with twice the time, up to mostPatience times the
// limit.
func (s *sweeper) compare(program, launcher string, args []string) (verdict, error) {
	var plains, residents []outcome
	limit := s.Timeout
	for {
		var p, r outcome
		var failed, alsoFailed error
		var both sync.WaitGroup
		both.Go(func() { p, failed = s.plainly(program, args, limit) })
		both.Go(func() { r, alsoFailed = s.residently(program, launcher, args, limit) })
		both.Wait()
		if err := errors.Join(failed, alsoFailed); err != nil {
			return verdict{}, err
		}
		plains, residents = append(plains, p), append(residents, r)
		v, settled := judge(program, args, plains, residents)
		if !settled {
			if limit < mostPatience*s.Timeout && len(plains) == 1 && p.Status == statusTimeout && r.Status == statusTimeout {
				limit *= 2
				plains, residents = nil, nil
			}
			continue
		}
		if s.Keep != "" && v.Kind != equal {
			return v, s.keep(v, plains, residents)
		}
		return v, nil
	}
}

// keep writes what all starts left behind into files.
func (s *sweeper) keep(v verdict, plains, residents []outcome) error {
	name := strings.ReplaceAll(strings.Trim(v.Program+strings.Join(v.Args, ""), "/"), "/", "-")
	for what, outcomes := range map[string][]outcome{"plain": plains, "resident": residents} {
		for i, o := range outcomes {
			base := filepath.Join(s.Keep, fmt.Sprintf("%s.%d.%s", name, i+1, what))
			for suffix, text := range map[string]string{"stdout": o.Stdout, "stderr": o.Stderr, "status": o.Status + "\n"} {
				if err := os.WriteFile(base+"."+suffix, []byte(text), 0o644); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
