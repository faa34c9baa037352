package resident

import (
	"testing"
	"time"

	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/registry"
)

func TestFaster(t *testing.T) {
	for _, tc := range []struct {
		name           string
		exec, resident int64
		want           bool
	}{
		{"much faster", 1_500_000, 300_000, true},
		{"just enough", 1_000_000, 950_000, true},
		{"within what is measured of equals", 1_000_000, 951_000, false},
		{"equal", 130_000, 130_000, false},
		{"slower", 500_000, 1_000_500_000, false},
		{"hours", int64(10 * time.Hour), int64(time.Hour), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := faster(&registry.Timing{ExecNS: tc.exec, ResidentNS: tc.resident}); got != tc.want {
				t.Errorf("faster: %v", got)
			}
		})
	}
}

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		all  []time.Duration
		want int64
	}{
		{[]time.Duration{7}, 7},
		{[]time.Duration{9, 2}, 2},
		{[]time.Duration{9, 1000, 1}, 9},
		{[]time.Duration{4, 3, 2, 1}, 2},
	} {
		if got := median(tc.all); got != tc.want {
			t.Errorf("median of %v: %d", tc.all, got)
		}
	}
}

func TestGain(t *testing.T) {
	for _, tc := range []struct {
		timing *registry.Timing
		want   float64
	}{
		{nil, 0},
		{&registry.Timing{}, 0},
		{&registry.Timing{ExecNS: 1500, ResidentNS: 500}, 3},
		{&registry.Timing{ExecNS: 500, ResidentNS: 1000}, 0.5},
	} {
		if got := Gain(tc.timing); got != tc.want {
			t.Errorf("gain of %+v: %v", tc.timing, got)
		}
	}
}

func TestSlowerErrorSaysWhatToDo(t *testing.T) {
	var err error = &SlowerError{Program: "/p", Timing: registry.Timing{ExecNS: 130_000, ResidentNS: 140_000, Starts: 21}}
	if problem.HintOf(err) == "" {
		t.Error("no hint")
	}
	if want := "/p would not start faster: 0.14 ms instead of 0.13 ms (medians of 21 starts each)"; err.Error() != want {
		t.Errorf("%q", err)
	}
}
