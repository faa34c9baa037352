package linkstop

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// A processWord is a word of memory that belongs to the process, so that
// an image must not hold it, and of which nobody knows how to correct it.
type processWord struct {
	addr           uint64
	template, twin uint64 // what stood there in either
	mapping        linux.Mapping
	more           int // how many other such words there are
}

func (w *processWord) String() string {
	s := fmt.Sprintf("word at %#x in %s: %#x, in the twin %#x", w.addr, w.mapping, w.template, w.twin)
	if w.more > 0 {
		s += fmt.Sprintf(", and %d more", w.more)
	}
	return s
}

// linkError is err, or if the process ended in it, before it was linked, what the
// dynamic linker wrote to standard error. SIGKILL is others' doing: no process comes to
// send it to itself (plainCalls).
func linkError(path string, message []byte, err error) error {
	var ended *ptrace.EndedError
	if !errors.As(err, &ended) || ended.Status.Signal() == unix.SIGKILL {
		return err
	}
	const hint = "repair it: it does not start without residentctl either"
	status := linux.StatusText(ended.Status)
	if said := strings.TrimSpace(string(message)); said != "" {
		return problem.Newf(problem.Program, "the dynamic linker gave up on %s (%s): %s", path, status, said).WithHint(hint)
	}
	return problem.Newf(problem.Program, "%s ended before it was linked (%s)", path, status).WithHint(hint)
}

// twinError is the error of a twin, whose template came to its stop point.
func twinError(err error) error {
	var ended *ptrace.EndedError
	what := err.Error()
	switch {
	case errors.Is(err, ptrace.ErrStartedNormally):
		what = "it executed another program"
	case problem.KindOf(err) != problem.Refused && !errors.As(err, &ended):
		return fmt.Errorf("the twin: %w", err)
	}
	return problem.Refusef("it is not linked the same way in each process; in the second one: %s", what).
		WithHint("try again; if that does not help, leave it as it is: it starts normally, as before")
}
