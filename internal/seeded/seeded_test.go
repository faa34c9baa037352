package seeded

import (
	"fmt"
	"regexp"
	"runtime"
	"testing"
)

// recorder keeps what a test logs.
type recorder struct {
	testing.TB
	log, fatal string
}

func (r *recorder) Helper()                       {}
func (r *recorder) Logf(form string, args ...any) { r.log += fmt.Sprintf(form, args...) }
func (r *recorder) Fatalf(form string, args ...any) {
	r.fatal += fmt.Sprintf(form, args...)
	runtime.Goexit()
}

func TestRand(t *testing.T) {
	t.Setenv(Variable, "")
	var logged recorder
	first := Rand(&logged)
	seed := regexp.MustCompile(`RESIDENTCTL_TEST_SEED=(\d+)$`).FindStringSubmatch(logged.log)
	if seed == nil {
		t.Fatalf("no seed in %q", logged.log)
	}
	other := Rand(&recorder{})
	t.Setenv(Variable, seed[1])
	again := Rand(&recorder{})
	one, two, three := first.Uint64(), again.Uint64(), other.Uint64()
	if one != two || one == three {
		t.Errorf("numbers %d, with its seed %d, with another %d", one, two, three)
	}
}

func TestNoSeed(t *testing.T) {
	t.Setenv(Variable, "first")
	var r recorder
	ended := make(chan bool)
	go func() {
		defer close(ended)
		Rand(&r)
	}()
	<-ended
	if r.fatal == "" || r.log != "" {
		t.Errorf("%q, %q", r.fatal, r.log)
	}
}
