package linkstop

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
)

func TestTimeStarts(t *testing.T) {
	noChildren(t)
	donor := build(t, hello, "-static")
	for name, path := range map[string]string{"pie": build(t, hello), "no-pie": build(t, hello, "-no-pie")} {
		t.Run(name, func(t *testing.T) {
			tm := stop(t, path, Options{})
			starts := []TimedStart{
				{Path: path, Until: tm.Linked()},
				{Path: path, Until: func(a linux.Auxv) uint64 { return a.Value(linux.ATEntry) }}, // a little later
			}
			took, err := TimeStarts(t.Context(), donor, starts, TimeOptions{Rounds: 5, Budget: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			for i, all := range took {
				if len(all) != 5 {
					t.Errorf("%d starts of number %d", len(all), i)
				}
				for _, d := range all {
					if d <= 0 || d > 10*time.Second {
						t.Errorf("number %d took %v", i, d)
					}
				}
			}
		})
	}
}

func TestTimeStartsEnds(t *testing.T) {
	noChildren(t)
	donor, path := build(t, hello, "-static"), build(t, hello)
	never := []TimedStart{{Path: path, Until: At(0x1000)}}
	entry := []TimedStart{{Path: path, Until: func(a linux.Auxv) uint64 { return a.Value(linux.ATEntry) }}}

	var ended *EndedError
	if _, err := TimeStarts(t.Context(), donor, never, TimeOptions{Rounds: 1, Least: 1}); !errors.As(err, &ended) {
		t.Errorf("a start that does not come there: %v", err)
	}
	other := build(t, "int execl(const char *, const char *, ...);\n"+
		"int main(void) { return execl(\"/bin/true\", \"true\", (char *)0); }\n")
	if _, err := TimeStarts(t.Context(), donor, []TimedStart{{Path: other, Until: At(0x1000)}}, TimeOptions{Rounds: 1, Least: 1}); !errors.Is(err, ErrStartedNormally) {
		t.Errorf("a start that becomes another program: %v", err)
	}
	if _, err := TimeStarts(t.Context(), donor, []TimedStart{{Path: "/nonexistent", Until: At(0x1000)}}, TimeOptions{Rounds: 1, Least: 1}); err == nil {
		t.Error("started what is not there")
	}

	// The budget ends it, but not before the least.
	took, err := TimeStarts(t.Context(), donor, entry, TimeOptions{Rounds: 1000, Least: 3, Budget: 1})
	if err != nil || len(took[0]) != 3 {
		t.Errorf("%d starts, %v", len(took[0]), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := TimeStarts(ctx, donor, entry, TimeOptions{Rounds: 1 << 30, Budget: time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without end: %v", err)
	}
}
