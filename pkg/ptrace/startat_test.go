package ptrace

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/internal/fixture"
	"github.com/residentctl/residentctl/internal/problem"
)

func TestStartAt(t *testing.T) {
	path := fixture.Build(t, fixture.Hello, "-no-pie")
	out, err := exec.Command("nm", path).Output()
	if err != nil {
		t.Skip("nm is not installed")
	}
	var main uint64
	for line := range strings.Lines(string(out)) {
		if strings.HasSuffix(line, " T main\n") {
			_, _ = fmt.Sscanf(line, "%x", &main)
		}
	}
	for _, soft := range []bool{false, true} {
		t.Run(fmt.Sprintf("soft=%v", soft), func(t *testing.T) {
			fixture.NoChildren(t)
			p, err := StartAt(t.Context(), path, []string{"hello", "a"}, []string{"A=1"}, main, StartOptions{SoftBreakpoint: soft})
			if err != nil {
				t.Fatal(err)
			}
			if p.Regs.Rip != main || p.Regs.Rdi != 2 || p.Regs.Fs_base == 0 || p.RobustHead == 0 {
				t.Errorf("registers %+v", p.Regs)
			}
			if maps, err := p.Maps(); err != nil || len(maps) == 0 {
				t.Errorf("maps: %v, %v", maps, err)
			}
			if err := p.ReadMem(main, make([]byte, 8)); err != nil {
				t.Error(err)
			}
			for range 2 {
				if err := p.Kill(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	const nowhere = 0x123456789000
	t.Run("it ends before", func(t *testing.T) {
		fixture.NoChildren(t)
		_, err := StartAt(t.Context(), path, []string{"hello"}, nil, nowhere, StartOptions{})
		var ended *EndedError
		if !errors.As(err, &ended) || ended.Status.ExitStatus() != 0 {
			t.Errorf("got %v", err)
		}
	})
	t.Run("it executes something else", func(t *testing.T) {
		fixture.NoChildren(t)
		for _, soft := range []bool{false, true} {
			_, err := StartAt(t.Context(), "/bin/sh", []string{"sh", "-c", "exec /bin/true"}, nil, nowhere, StartOptions{SoftBreakpoint: soft})
			if !errors.Is(err, ErrStartedNormally) {
				t.Errorf("soft %v: got %v", soft, err)
			}
		}
	})
	t.Run("standard error", func(t *testing.T) {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_, _ = StartAt(t.Context(), "/bin/sh", []string{"sh", "-c", "echo why >&2"}, nil, nowhere, StartOptions{Stderr: f})
		if text, _ := os.ReadFile(f.Name()); string(text) != "why\n" {
			t.Errorf("got %q", text)
		}
	})
}

// A start that has another process made comes to no good end for who waits for its
// address.
func TestStartAtRefusesAnotherProcess(t *testing.T) {
	fixture.NoChildren(t)
	for _, soft := range []bool{false, true} {
		p, err := StartAt(t.Context(), "/bin/sh", []string{"sh", "-c", "(exit 0); exit 0"}, nil, 0x10000, StartOptions{SoftBreakpoint: soft})
		if err == nil {
			_ = p.Kill()
			t.Fatal("it was accepted")
		}
		if problem.KindOf(err) != problem.Refused || !strings.Contains(err.Error(), "starts another process before the stop point") {
			t.Errorf("soft %v: got %q", soft, err)
		}
	}
}
