package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/resident"
)

func TestFormatBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1 KiB", 184_320: "180 KiB",
		1 << 20: "1.0 MiB", 13 << 19: "6.5 MiB", 150 << 20: "150 MiB", 3 << 30: "3.0 GiB", 5000 << 40: "5000 TiB",
	} {
		if got := formatBytes(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	for want, got := range map[string]string{
		"1 library": count(1, "library"), "0 libraries": count(0, "library"), "2 programs": count(2, "program"),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestPrintEntries(t *testing.T) {
	created := time.Date(2026, 2, 3, 4, 5, 6, 0, time.Local)
	record := func(id, program string, libraries int, size int64) registry.Record {
		return registry.Record{
			Wish:  registry.Wish{Program: program},
			Image: registry.Image{ID: id, Kind: registry.KindLinked, Libraries: libraries, ImageBytes: size, Created: created},
		}
	}
	entries := []resident.Entry{
		{Record: record("0123456789abcdef", "/usr/bin/ffmpeg", 214, 9<<20), Gain: 19.07, State: resident.StateCurrent},
		{Record: record("fedcba9876543210", "/tmp/a\nb", 1, 4096),
			State: resident.StateStale, Reasons: []string{"/tmp/a was replaced", "the kernel is another one"}},
		{Record: registry.Record{Wish: registry.Wish{Program: "/opt/x"}}, State: resident.StateNone, Reasons: []string{"/opt/x is gone"}},
	}
	entries[1].Kind = registry.KindWarm
	one := []listed{{entries[0], "/own"}, {entries[1], "/own"}, {entries[2], "/own"}}
	two := []listed{{entries[0], "/own"}, {entries[1], "/system"}}
	for _, tc := range []struct {
		name           string
		entries        []listed
		several, quiet bool
		want           string
	}{
		{"table", one, false, false, "" +
			"ID            PROGRAM          KIND    STATE     GAIN   LIBRARIES  SIZE     CREATED           REASON\n" +
			"0123456789ab  /usr/bin/ffmpeg  linked  current   19.1x  214        9.0 MiB  2026-02-03 04:05\n" +
			"fedcba987654  /tmp/a\uFFFDb         warm    stale     -      1          4 KiB    2026-02-03 04:05  /tmp/a was replaced, and 1 more\n" +
			"-             /opt/x           -       no image  -      -          -        -                 /opt/x is gone\n"},
		{"two stores", two, true, false, "" +
			"ID            PROGRAM          KIND    STATE    GAIN   LIBRARIES  SIZE     CREATED           STORE    REASON\n" +
			"0123456789ab  /usr/bin/ffmpeg  linked  current  19.1x  214        9.0 MiB  2026-02-03 04:05  /own\n" +
			"fedcba987654  /tmp/a\uFFFDb         warm    stale    -      1          4 KiB    2026-02-03 04:05  /system  /tmp/a was replaced, and 1 more\n"},
		{"current", one[:1], false, false, "" +
			"ID            PROGRAM          KIND    STATE    GAIN   LIBRARIES  SIZE     CREATED\n" +
			"0123456789ab  /usr/bin/ffmpeg  linked  current  19.1x  214        9.0 MiB  2026-02-03 04:05\n"},
		{"none", nil, false, false, "ID  PROGRAM  KIND  STATE  GAIN  LIBRARIES  SIZE  CREATED\n"},
		{"ids", one, true, true, "0123456789abcdef\nfedcba9876543210\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			g := &globals{format: formatTable, out: &out}
			if err := printEntries(g, tc.entries, tc.several, tc.quiet); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, out.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStatusLine(t *testing.T) {
	var out bytes.Buffer
	s := &statusLine{w: &out, width: 10}
	s.set("perl: link\nand more")
	s.clear()
	if got, want := out.String(), "\r\x1b[Kperl: lin\r\x1b[K"; got != want {
		t.Errorf("%q, want %q", got, want)
	}

	// Nothing where there is no terminal.
	off := newStatusLine(&out)
	out.Reset()
	off.set("perl: link")
	off.clear()
	if out.Len() > 0 {
		t.Errorf("%q", &out)
	}
}
