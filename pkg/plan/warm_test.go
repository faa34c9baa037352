package plan

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const (
	heap  = bss + 0x1000        // a fresh page after bss
	stack = 0x7f0000100000      // of the template, four pages
	rsp   = stack + 0x3000 + 16 // in its last page
)

// warm is a plan of a script with something in each of its parts.
func warm() *Plan {
	p := rich()
	p.Kind, p.Flags, p.Path = KindWarm, FlagKeepBrk|FlagProgramArg, "/usr/bin/script"
	p.Files[0].Flags = FileExe
	p.Files = slices.Insert(p.Files, 0, MappedFile{Path: p.Path, Flags: FileProgram, ID: FileID{Ino: 12}})
	p.Files[2].Maps = append(p.Files[2].Maps, Map{Addr: heap + 0x1000, Len: 0x1000, Prot: 1, Flags: unix.MAP_SHARED})
	p.Anon = append(p.Anon, Map{Addr: heap, Len: 0x1000, Prot: 3, Flags: private | 0x20},
		Map{Addr: stack, Len: 0x4000, Prot: 3, Flags: private | 0x20 | unix.MAP_GROWSDOWN | unix.MAP_STACK | unix.MAP_NORESERVE})
	p.Fixups = []Fixup{{Addr: rsp, Kind: FixSP, Size: 8}, {Addr: rsp + 8, Kind: FixIgnored, Size: 8}, {Addr: data, Kind: FixFlags, Size: 8}}
	p.Directories[1].Exact = true
	p.Args, p.Executed = []string{"/usr/bin/p", "-E"}, "/usr/bin/p"
	p.Env = []EnvCheck{{"LANG=C.UTF-8", EnvExact}, {"EMPTY=", EnvExact}, {"LANG", EnvPrefix}, {"PYTHON", EnvPrefix}}
	p.Copies = []Map{{Addr: stack + 0x1000, Len: 0x1000, Off: 0x2000}, {Addr: stack + 0x3000, Len: 0x1000, Off: 0x3000}}
	p.Signals = []SignalAction{{Signal: 2, Handler: text, Flags: 0x04000000, Restorer: text + 8, Mask: 2}, {Signal: 13, Handler: sigIgnore}}
	p.Populate = []Map{{Addr: data, Len: 0x2000, Prot: unix.PROT_WRITE}}
	p.Caller.MapsEnd = stack + 0x4000
	p.MM.Brk = p.MM.BrkBase + 0x1000
	p.Entry.RSP = rsp
	p.Stop = Stop{Addr: text + 0x10, Point: StopWarm}
	p.Warm = Warm{StackLimit: 8 << 20, PID: 77, CPUs: [128]byte{3}, CPUsLen: 8,
		Terminals: 1 << 1, LayoutCounts: [8]uint8{1}}
	return p
}

func TestCheckWarm(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(p *Plan)
		want   string
	}{
		{"stop point of a linked image", func(p *Plan) { p.Stop.Point = StopEntry }, "stop point entry"},
		{"no program break", func(p *Plan) { p.Flags &^= FlagKeepBrk }, "program break"},
		{"the program's path alone", func(p *Plan) { p.Args = nil }, "only argument"},
		{"called by a relative path", func(p *Plan) { p.Executed = "p" }, "not an absolute path"},
		{"many arguments", func(p *Plan) { p.Args = make([]string, 17) }, "17 arguments"},
		{"NUL in an argument", func(p *Plan) { p.Args[1] = "a\x00b" }, "the argument"},
		{"argument too long", func(p *Plan) { p.Args[0] = strings.Repeat("x", 4096) }, "the argument"},
		{"terminals beyond standard error", func(p *Plan) { p.Warm.Terminals = 8 }, "terminals"},
		{"layouts that are not there", func(p *Plan) { p.Warm.FirstLayouts[2], p.Warm.LayoutCounts[2] = 8, 1 }, "1 layouts from number 8 on"},
		{"affinity of more than there is", func(p *Plan) { p.Warm.CPUsLen = 129 }, "affinity"},
		{"no /proc/self/exe", func(p *Plan) { p.Files[1].Flags = 0 }, "0 files"},
		{"two /proc/self/exe", func(p *Plan) { p.Files[0].Flags |= FileExe }, "2 files"},
		{"the canary", func(p *Plan) { p.Fixups[0].Kind = FixCanary }, "fix-up of kind"},
		{"the pointer guard", func(p *Plan) { p.Fixups[0].Kind = FixGuard }, "fix-up of kind"},
		{"AT_RANDOM's place", func(p *Plan) { p.Fixups[0].Kind = FixRandom }, "fix-up of kind"},
		{"exact variable without a value", func(p *Plan) { p.Env[0].Text = "LANG" }, "the variable"},
		{"exact variable without a name", func(p *Plan) { p.Env[0].Text = "=x" }, "the variable"},
		{"exact variable twice", func(p *Plan) { p.Env[0].Text = "EMPTY=2" }, "the variable"},
		{"exact variable after a prefix", func(p *Plan) { p.Env[0], p.Env[2] = p.Env[2], p.Env[0] }, "the variable"},
		{"no prefix", func(p *Plan) { p.Env[3].Text = "" }, "the variable"},
		{"NUL in a variable", func(p *Plan) { p.Env[0].Text = "A=\x00" }, "the variable"},
		{"variable too long", func(p *Plan) { p.Env[0].Text = "A=" + strings.Repeat("x", 4094) }, "the variable"},
		{"variable of no kind", func(p *Plan) { p.Env[3].Kind = 3 }, "the variable"},
		{"copy outside", func(p *Plan) { p.Copies[1].Addr = stack + 0x4000 }, "the copy"},
		{"copy over the end", func(p *Plan) { p.Copies[1].Len = 0x2000 }, "the copy"},
		{"copy of all memory", func(p *Plan) { p.Copies[1].Len = 1<<64 - 0x1000 }, "the copy"},
		{"copy into two mappings", func(p *Plan) { p.Copies = []Map{{Addr: bss, Len: 0x2000}} }, "the copy"},
		{"copy to what a file backs", func(p *Plan) { p.Copies = []Map{{Addr: data, Len: 0x1000}} }, "the copy"},
		{"copy to what is read-only", func(p *Plan) { p.Anon[2].Prot = 1 }, "the copy"},
		{"half a copy", func(p *Plan) { p.Copies[1].Len = 0x800 }, "the copy"},
		{"copies over each other", func(p *Plan) { p.Copies[0].Addr = p.Copies[1].Addr }, "the copy"},
		{"copy from beyond all files", func(p *Plan) { p.Copies[0].Off = 1 << 63 }, "the copy"},
		{"copies of no pages", func(p *Plan) { p.Files = p.Files[:3]; p.Protects, p.Fixups = nil, nil }, "copies of no pages"},
		{"populating half a page", func(p *Plan) { p.Populate[0].Len = 1 }, "populated"},
		{"populating the kernel's", func(p *Plan) { p.Populate[0].Addr = 1 << 63 }, "populated"},
		{"populating beyond the end", func(p *Plan) { p.Populate[0].Len = 1 << 60 }, "populated"},
		{"populating for both", func(p *Plan) { p.Populate[0].Prot = 3 }, "populated"},
		{"shared and writable", func(p *Plan) { p.Files[2].Maps[1].Prot = 3 }, "the mapping of /lib/ld.so"},
		{"shared and executable", func(p *Plan) { p.Files[2].Maps[1].Prot = 5 }, "the mapping of /lib/ld.so"},
		{"shared with nobody", func(p *Plan) { p.Anon[1].Flags |= unix.MAP_SHARED }, "anonymous"},
		{"a file that grows", func(p *Plan) { p.Files[2].Maps[1].Flags = private | unix.MAP_GROWSDOWN }, "the mapping of /lib/ld.so"},
		{"no signal", func(p *Plan) { p.Signals[0].Signal = 0 }, "signal 0"},
		{"signal 65", func(p *Plan) { p.Signals[0].Signal = 65 }, "signal 65"},
		{"SIGKILL", func(p *Plan) { p.Signals[0].Signal = 9 }, "signal 9"},
		{"SIGSTOP", func(p *Plan) { p.Signals[0].Signal = 19 }, "signal 19"},
		{"signal twice", func(p *Plan) { p.Signals[1].Signal = 2 }, "signal 2"},
		{"handler in data", func(p *Plan) { p.Signals[0].Handler = data }, "signal 2"},
		{"restorer nowhere", func(p *Plan) { p.Signals[0].Restorer = 1 }, "signal 2"},
		{"no stack pointer", func(p *Plan) { p.Entry.RSP = 0 }, "stack pointer"},
		{"stack pointer at the stack's beginning", func(p *Plan) { p.Entry.RSP = stack + 64 }, "stack pointer"},
		{"stack pointer beyond the stack", func(p *Plan) { p.Entry.RSP = stack + 0x4008 }, "stack pointer"},
		{"stack pointer in text", func(p *Plan) { p.Entry.RSP = text + 0x800 }, "stack pointer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := warm()
			tc.change(p)
			_, err := p.Encode()
			var d *DamagedError
			if !errors.As(err, &d) || !strings.Contains(d.What, tc.want) {
				t.Errorf("got %v, want a DamagedError about %q", err, tc.want)
			}
		})
	}
}

// TestCheckLinkedIsNotWarm: a linked image has nothing that only a warm one has.
func TestCheckLinkedIsNotWarm(t *testing.T) {
	for name, change := range map[string]func(p *Plan){
		"stop point":       func(p *Plan) { p.Stop.Point = StopWarm },
		"stack pointer":    func(p *Plan) { p.Entry.RSP = data + 0x800 },
		"stack limit":      func(p *Plan) { p.Warm.StackLimit = 1 },
		"program's path":   func(p *Plan) { p.Flags |= FlagProgramArg },
		"executed":         func(p *Plan) { p.Executed = "/a" },
		"arguments":        func(p *Plan) { p.Args = []string{"a"} },
		"environment":      func(p *Plan) { p.Env = []EnvCheck{{"A", EnvPrefix}} },
		"copies":           func(p *Plan) { p.Copies = []Map{{Addr: bss, Len: 0x1000}} },
		"signals":          func(p *Plan) { p.Signals = []SignalAction{{Signal: 2}} },
		"populated":        func(p *Plan) { p.Populate = []Map{{Addr: bss, Len: 0x1000, Prot: 1}} },
		"another exe":      func(p *Plan) { p.Files[0].Flags, p.Files[1].Flags = FileProgram, FileExe },
		"ignored signals":  func(p *Plan) { p.Fixups[0].Kind = FixIgnored },
		"flags":            func(p *Plan) { p.Fixups[0].Kind = FixFlags },
		"shared":           func(p *Plan) { p.Files[1].Maps[0].Flags = unix.MAP_SHARED; p.Files[1].Maps[0].Prot = 1 },
		"stack that grows": func(p *Plan) { p.Anon[0].Flags |= unix.MAP_GROWSDOWN },
	} {
		p := rich()
		change(p)
		var d *DamagedError
		if _, err := p.Encode(); !errors.As(err, &d) {
			t.Errorf("%s: got %v, want a DamagedError", name, err)
		}
	}
}

func TestStackRoom(t *testing.T) {
	p := warm()
	if got, want := p.StackRoom(), uint64(len("/usr/bin/p\x00-E\x00")+2*8+64+32); got != want {
		t.Errorf("%d bytes, want %d", got, want)
	}
	p.Args = nil
	if got := p.StackRoom(); got != 0 {
		t.Errorf("without arguments: %d bytes", got)
	}
}

// warmTemplate is template as a warm image: of a script whose interpreter is the program,
// with a shared mapping and a stack of which two pages were dumped.
func warmTemplate(t *testing.T) *Source {
	s := template(t)
	shared := filepath.Join(t.TempDir(), "shared")
	if err := os.WriteFile(shared, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.Exe, s.Path, s.ProgramID = s.Path, "/usr/bin/script", FileID{Ino: 12}
	s.Kind, s.Flags = KindWarm, FlagKeepBrk
	s.Entry.RSP, s.Stop.Point = rsp, StopWarm
	s.Areas = append(s.Areas, Area{Start: heap + 0x3000, End: heap + 0x4000, Prot: r, Path: shared, Shared: true},
		Area{Start: stack, End: stack + 0x4000, Prot: rw, Grows: true})
	s.Runs = []Run{{bss, 0x1000, 0}, {stack + 0x1000, 0x1000, 0x1000}, {stack + 0x3000, 0x1000, 0x2000}}
	s.Fixups = []Fixup{{Addr: rsp, Kind: FixSP, Size: 8}}
	return s
}

func TestCompileWarm(t *testing.T) {
	s := warmTemplate(t)
	p, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"0x550000000000 0x1000 program+0x0 rx", "0x550000001000 0x3000 program+0x1000 rw", "0x7f0000001000 0x1000 ld.so+0x0 rx",
		"0x7f0000004000 0x1000 pages-1.img+0x0 rw", "0x7f0000005000 0x2000 anon+0x0 rw",
		"0x7f0000008000 0x1000 shared+0x0 r", "0x7f0000100000 0x4000 anon+0x0 rw",
	}
	if diff := cmp.Diff(want, layout(p)); diff != "" {
		t.Errorf("mappings:\n%s", diff)
	}
	if diff := cmp.Diff([]Map{{Addr: stack + 0x1000, Len: 0x1000, Off: 0x1000}, {Addr: stack + 0x3000, Len: 0x1000, Off: 0x2000}}, p.Copies); diff != "" {
		t.Errorf("copies:\n%s", diff)
	}
	if flags := p.Anon[1].Flags; flags != unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE|unix.MAP_GROWSDOWN|unix.MAP_STACK|unix.MAP_NORESERVE {
		t.Errorf("the stack is mapped with %#x", flags)
	}
	for i, f := range []struct {
		path  string
		flags uint32
		id    FileID
	}{{"/usr/bin/script", FileProgram, FileID{Ino: 12}}, {s.Exe, FileExe, FileID{}}} {
		if got := p.Files[i]; got.Path != f.path || got.Flags != f.flags || got.ID != f.id {
			t.Errorf("file %d is %+v", i, got)
		}
	}
	if p.Exe().Path != s.Exe {
		t.Errorf("/proc/self/exe is %s", p.Exe().Path)
	}
	encode(t, p)
}

// TestCompileWarmOfProgram: an image of a program that is no script has it first, as a
// linked one.
func TestCompileWarmOfProgram(t *testing.T) {
	s := warmTemplate(t)
	s.Path, s.Exe = s.Exe, ""
	p, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	if p.Program() != p.Exe() || p.Program().Flags != FileProgram|FileExe || p.Program().Path != s.Path {
		t.Errorf("the program is %+v", p.Program())
	}
}

// TestCompileWarmPopulatesText: of a warm image's memory nothing is populated by the length
// of its runs, where page faults are slow or not.
func TestCompileWarmPopulatesText(t *testing.T) {
	for _, flags := range []uint32{0, FlagSlowFaults} {
		s := warmTemplate(t)
		s.Flags |= flags
		p, err := Compile(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range slices.Concat(p.Pages().Maps, p.Anon) {
			if m.Flags&unix.MAP_POPULATE != 0 {
				t.Errorf("flags %#x: %+v", flags, m)
			}
		}
		if got := p.Exe().Maps[0].Flags&unix.MAP_POPULATE != 0; got != (flags != 0) {
			t.Errorf("flags %#x: the interpreter's text is populated: %v", flags, got)
		}
	}
}

func TestCompileWarmRefuses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Source)
		want   string
	}{
		{"another's pages in shared memory", func(s *Source) {
			s.Runs = slices.Insert(s.Runs, 1, Run{heap + 0x3000, 0x1000, 0})
		}, "shared mapping"},
		{"shared and writable", func(s *Source) { s.Areas[4].Prot = rw }, "the mapping of"},
		{"a word in a page of the stack that was not dumped", func(s *Source) { s.Fixups[0].Addr = stack + 0x2000 }, "dumped no page"},
		{"nothing of the interpreter mapped", func(s *Source) { s.Exe = "/other" }, "nothing of /other"},
		{"executable stack", func(s *Source) { s.Areas[5].Prot, s.Pages = rx|rw, bytes.NewReader(make([]byte, 0x3000)) }, "no file holds"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := warmTemplate(t)
			tc.change(s)
			if _, err := Compile(s); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error about %q", err, tc.want)
			}
		})
	}
}
