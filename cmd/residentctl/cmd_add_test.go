package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/resident"
)

// fakeAdder knows a few programs by name.
type fakeAdder struct{ asked []string }

func (f *fakeAdder) Add(ctx context.Context, name string, opts resident.AddOptions) (*resident.Added, error) {
	f.asked = append(f.asked, name)
	opts.Step("link")
	rec := registry.Record{Image: registry.Image{ID: "3f2a00000000beef", Libraries: 5, Mappings: 1, ImageBytes: 180 << 10}}
	switch name {
	case "script":
		return nil, &elfinfo.Refusal{Path: "/script", Reason: "is a script", Hint: "add sh"}
	case "no-criu":
		return nil, criuwrap.ErrNoCRIU
	case "slower":
		return nil, &resident.SlowerError{Program: "/slower", Timing: registry.Timing{ExecNS: 500_000, ResidentNS: 600_000, Starts: 21}}
	case "slow":
		<-ctx.Done()
		return nil, errors.New("killed")
	}
	switch name {
	case "other-name":
		rec.Program, rec.Paths = "/perl", []string{"/other-name"}
		return &resident.Added{Record: rec, Path: "/other-name", Named: true}, nil
	case "wrapper":
		return &resident.Added{Record: rec, Path: "/lib/wrapped"}, nil
	case "timed":
		rec.Timing = &registry.Timing{ExecNS: 1_505_000, ResidentNS: 350_000, Starts: 21}
	}
	return &resident.Added{Record: rec, Path: "/" + name, Already: name == "old"}, nil
}

func TestRunAdd(t *testing.T) {
	const perl = "perl: resident (id 3f2a00000000, 5 libraries, 1 mapping, 180 KiB)\n"
	for _, tc := range []struct {
		name     string
		programs []string
		out, err string
		code     int
	}{
		{"one", []string{"perl"}, perl, "", exitDone},
		{"one that is there", []string{"old"}, "old: already resident\n", "", exitDone},
		{"one that was measured", []string{"timed"},
			"timed: resident (id 3f2a00000000, 5 libraries, 1 mapping, 180 KiB, starts in 0.35 instead of 1.50 ms)\n", "", exitDone},
		{"another name", []string{"other-name", "perl"},
			"other-name: resident by one more name (id 3f2a00000000, as /perl)\n" + perl +
				"2 programs: 1 made resident, 1 resident by one more name\n", "", exitDone},
		{"one that is not faster", []string{"slower", "perl"},
			perl + "2 programs: 1 made resident, 1 not faster\n",
			"residentctl: error: /slower would not start faster: 0.60 ms instead of 0.50 ms (medians of 21 starts each)\n" +
				"residentctl: hint: use --even-if-slower to make it resident all the same\n", exitFailed},
		{"one refused", []string{"script"}, "",
			"residentctl: error: /script is a script\nresidentctl: hint: add sh\n", exitFailed},
		{"goes on after a failure", []string{"script", "perl", "old"},
			perl + "old: already resident\n3 programs: 1 made resident, 1 already resident, 1 failed\n",
			"residentctl: error: /script is a script\nresidentctl: hint: add sh\n", exitFailed},
		{"stops where all would fail", []string{"perl", "no-criu", "old"},
			perl + "3 programs: 1 made resident, 1 failed, 1 not tried\n",
			"residentctl: error: criu was not found\nresidentctl: hint: install CRIU 4.1 or newer (scripts/setup does), or name one in RESIDENTCTL_CRIU\n", exitSystem},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			g := &globals{format: formatTable, out: &out, err: &errOut}
			code := g.fail(runAdd(context.Background(), g, &fakeAdder{}, tc.programs, resident.AddOptions{}, 1))
			if code != tc.code {
				t.Errorf("status %d, want %d", code, tc.code)
			}
			if diff := cmp.Diff(tc.out, out.String()); diff != "" {
				t.Errorf("standard output (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.err, errOut.String()); diff != "" {
				t.Errorf("standard error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRunAddInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out, errOut bytes.Buffer
	g := &globals{format: formatTable, out: &out, err: &errOut}
	f := &fakeAdder{}
	code := g.fail(runAdd(ctx, g, f, []string{"slow", "perl"}, resident.AddOptions{}, 1))
	if code != exitInterrupted || errOut.String() != "residentctl: error: interrupted\n" {
		t.Errorf("status %d, %q", code, &errOut)
	}
	if len(f.asked) != 1 {
		t.Errorf("went on to %v", f.asked)
	}
}

func TestRunAddFollow(t *testing.T) {
	for _, tc := range []struct {
		format format
		want   string
	}{
		{formatTable, "wrapper -> /lib/wrapped: resident (id 3f2a00000000, 5 libraries, 1 mapping, 180 KiB)\n"},
		{formatJSON, `"followed": "/lib/wrapped"`},
	} {
		var out, errOut bytes.Buffer
		g := &globals{format: tc.format, out: &out, err: &errOut}
		code := g.fail(runAdd(context.Background(), g, &fakeAdder{}, []string{"wrapper"}, resident.AddOptions{Follow: true}, 1))
		if code != exitDone || !strings.Contains(out.String(), tc.want) {
			t.Errorf("status %d, %s%s", code, &out, &errOut)
		}
	}
}
