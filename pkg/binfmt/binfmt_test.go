package binfmt

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

func TestLine(t *testing.T) {
	magic := []byte{0x7f, 'E', ':', 0}
	for _, test := range []struct{ interpreter, want string }{
		{"/store/perl", `|residentctl-1-2|M||\x7f\x45\x3a\x00||/store/perl|FPOC`},
		{"/a|b", `:residentctl-1-2:M::\x7f\x45\x3a\x00::/a|b:FPOC`},
		{"/a|b:c,d!e%f&g@h~i^j", ""},
		{"/a\nb", ""},
		{"relative", ""},
		{"/" + strings.Repeat("x", 2000), ""},
	} {
		got, err := line(linux.Inode{Dev: 1, Ino: 2}, magic, test.interpreter)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%.30q: %q, %v", test.interpreter, got, err)
		}
		if err == nil && interpreterIn("# comment\n"+got+"\n") != test.interpreter {
			t.Errorf("%q: read back as %q", test.interpreter, interpreterIn(got))
		}
	}
	longest := "/" + strings.Repeat("x", 800)
	if s, err := line(linux.Inode{Dev: 1 << 63, Ino: 1 << 63}, make([]byte, MagicLen), longest); err != nil || len(s) > 1920 {
		t.Errorf("a whole header and a path of %d characters: %d characters, %v", len(longest), len(s), err)
	}
}

func TestNames(t *testing.T) {
	for s, want := range map[string]bool{
		"residentctl-65024-12": true, "residentctl-01-2": false, "residentctl-1-2x": false,
		"residentctl-1": false, "residentctl--1-2": false, "qemu-aarch64": false, "status": false, "": false,
	} {
		b, ok := binaryOf(s)
		if ok != want || ok && name(b) != s {
			t.Errorf("%q: %v, %v", s, b, ok)
		}
	}
}

const entryText = `enabled
interpreter /var/lib/residentctl/launchers/1-2/usr/bin/a b
flags: POCF
offset 0
magic 7f454c46
`

func TestParse(t *testing.T) {
	want := Entry{Interpreter: "/var/lib/residentctl/launchers/1-2/usr/bin/a b", Magic: []byte("\x7fELF"), Enabled: true}
	got, err := parse([]byte(entryText))
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("(-want +got) %s, %v", diff, err)
	}
	got, err = parse([]byte(strings.Replace(entryText, "enabled", "disabled", 1)))
	if got.Enabled || err != nil {
		t.Errorf("disabled: %+v, %v", got, err)
	}
	for _, text := range []string{"", "enabled\n", "enabled\nextension .x\ninterpreter /x\n", "enabled\ninterpreter /x\nmagic 7\n"} {
		if e, err := parse([]byte(text)); err == nil {
			t.Errorf("%q: %+v", text, e)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(entryText))
	f.Add([]byte("disabled\nmagic zz"))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := parse(text)
		if err == nil && (e.Interpreter == "" || !bytes.Contains(bytes.ToLower(text), []byte(hex.EncodeToString(e.Magic)))) {
			t.Errorf("%q: %+v", text, e)
		}
	})
}

func TestMagic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for size, good := range map[int]bool{0: false, 255: false, 256: true, 5000: true} {
		if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
		if m, err := Magic(path); (err == nil) != good || good && len(m) != MagicLen {
			t.Errorf("a file of %d bytes: %d, %v", size, len(m), err)
		}
	}
	if _, err := Magic(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestOlderThan(t *testing.T) {
	for release, want := range map[string]bool{
		"5.11.0-rc1 #1": true, "5.14.21": true, "4.19.0": true, "5.15": false, "5.15-rc1": false, "6.1.0 #1 SMP": false, "odd": false,
	} {
		if olderThan(release, 5, 15) != want {
			t.Errorf("%q: %v", release, !want)
		}
	}
}

// TestNeedsLinuxThatDeniesWrites: before Linux 5.15 the file that is set as a process's
// own could be written to.
func TestNeedsLinuxThatDeniesWrites(t *testing.T) {
	for release, want := range map[string]bool{"5.12.0 #1": false, "5.14.21-150500 #1 SMP": false, "5.15.0-rc1": true, "6.1.0-18-amd64": true} {
		if err := supported(release); (err == nil) != want || err != nil && (!errors.Is(err, ErrTooOld) || problem.HintOf(err) == "") {
			t.Errorf("%s: %v", release, err)
		}
	}
}

// TestInstance: each user namespace has another one than the machine, and only those of
// an earlier boot are known to have ended.
func TestInstance(t *testing.T) {
	const earlier = "4026532448-01234567-89ab-cdef-0123-456789abcdef"
	now, err := Instance()
	if err != nil || Ended(now) || Ended("") || !Ended(earlier) {
		t.Errorf("%q, %v: ended %v, %v, %v", now, err, Ended(now), Ended(""), Ended(earlier))
	}
}
