package linkstop

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/residentctl/residentctl/internal/linux"
)

// lazyLibrary has functions of every kind that can be bound lazily.
const lazyLibrary = `
int fork(void);
long write(int, const void *, unsigned long);
int plain(void) { return 1; }
int nobody(void);
int never(void) { return NEVER; }
int interposed(void) { return 3; }
static int answer(void) { return 4; }
static int (*choose(void))(void) { RESOLVE; return answer; }
int chosen(void) __attribute__((ifunc("choose")));
int calls(void) { return interposed() + plain(); }
`

var sound = []string{"-DNEVER=2", "-DRESOLVE="}

const lazyProgram = `
#include <stdio.h>
#include <string.h>
#include <time.h>
int plain(void), never(void), chosen(void), calls(void);
int late(void) __attribute__((weak));
int interposed(void) { return 30; }
int main(int argc, char **argv)
{
	if (argc > 9)
		return never() + late() + (memcmp(argv[0], argv[1], argc) != 0) + (time(NULL) == 0);
	printf("%d %d %d\n", plain(), chosen(), calls());
	return 0;
}
`

// buildLazy compiles the program and the library, in its directory.
func buildLazy(t *testing.T, library []string, flags ...string) string {
	t.Helper()
	so := build(t, lazyLibrary, append(library, "-shared", "-fPIC", "-fno-builtin", "-Wl,-z,lazy", "-Wl,-soname,liblazy.so")...)
	dir := filepath.Dir(so)
	if err := os.Rename(so, filepath.Join(dir, "liblazy.so")); err != nil {
		t.Fatal(err)
	}
	return build(t, lazyProgram, append([]string{"-fno-builtin", "-fPIE", "-pie", "-Wl,-z,lazy",
		"-Wl,--allow-shlib-undefined", "-L" + dir, "-llazy", "-Wl,-rpath," + dir}, flags...)...)
}

// slotsByName are the lazily bound slots of a process's program and library.
func slotsByName(tm *Template) map[string]uint64 {
	all := map[string]uint64{}
	for _, table := range newBinding(tm.Maps).tables {
		for _, s := range table.slots {
			all[filepath.Base(table.path)+" "+s.name] = s.addr
		}
	}
	return all
}

func TestBindsCalls(t *testing.T) {
	noChildren(t)
	tm := stop(t, buildLazy(t, sound), Options{})
	bound := map[uint64]uint64{}
	for _, c := range tm.Bound {
		bound[c.Slot] = c.Function
	}
	slots := slotsByName(tm)
	for name, want := range map[string]string{
		"prog plain":            "liblazy.so",
		"prog never":            "liblazy.so",
		"prog calls":            "liblazy.so",
		"prog printf":           "libc.so.6",
		"prog memcmp":           "libc.so.6", // an IFUNC of the C library's
		"prog time":             "[vdso]",    // one that leads there
		"liblazy.so plain":      "liblazy.so",
		"liblazy.so interposed": "prog",
		"prog chosen":           "", // an IFUNC of another library's
		"prog late":             "", // nowhere, as yet
	} {
		slot, ok := slots[name]
		if !ok {
			t.Errorf("%s is not among the slots %v", name, slots)
			continue
		}
		var word [8]byte
		if err := linux.ReadMem(tm.PID, slot, word[:]); err != nil {
			t.Fatal(err)
		}
		function := binary.LittleEndian.Uint64(word[:])
		in, _ := linux.FindMapping(tm.Maps, function)
		switch {
		case want == "" && (bound[slot] != 0 || filepath.Base(in.Path) != "prog"):
			t.Errorf("%s is bound, to %#x in %s", name, function, in)
		case want != "" && (bound[slot] != function || filepath.Base(in.Path) != want):
			t.Errorf("%s leads to %#x in %s, %#x is told", name, function, in, bound[slot])
		}
	}
}

// TestBindsNothing has programs of which nothing may be bound ahead: they become
// images all the same.
func TestBindsNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	defer func(was time.Duration) { bindTimeout = was }(bindTimeout)
	bindTimeout = time.Second
	for _, tc := range []struct {
		name    string
		library []string
		flag    string
	}{
		{"bound at once", sound, "-Wl,-z,now"},
		// With LD_BIND_NOW these do not get to the stop point.
		{"a call of a function that is nowhere", []string{"-DNEVER=nobody()", "-DRESOLVE="}, "-Wl,-z,lazy"},
		{"a resolver that does not end", []string{"-DNEVER=2", "-DRESOLVE=for (;;)"}, "-Wl,-z,lazy"},
		{"a resolver that crashes", []string{"-DNEVER=2", "-DRESOLVE=__builtin_trap()"}, "-Wl,-z,lazy"},
		{"a resolver that makes a process", []string{"-DNEVER=2", "-DRESOLVE=fork()"}, "-Wl,-z,lazy"},
		{"a resolver that writes", []string{"-DNEVER=2", "-DRESOLVE=write(1, \"x\", 1)"}, "-Wl,-z,lazy"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			noChildren(t)
			tm := stop(t, buildLazy(t, tc.library, tc.flag), Options{})
			for _, c := range tm.Bound {
				if m, _ := linux.FindMapping(tm.Maps, c.Slot); &tc.library[0] != &sound[0] || filepath.Base(m.Path) == "prog" {
					t.Errorf("bound: %#x in %s", c.Slot, m)
				}
			}
		})
	}
}

// FuzzObject reads what may be no object at all.
func FuzzObject(f *testing.F) {
	if gcc, err := exec.LookPath("gcc"); err == nil {
		out := filepath.Join(f.TempDir(), "lib.so")
		c := exec.Command(gcc, "-shared", "-fPIC", "-nostdlib", "-s", "-Wl,-z,lazy", "-Wl,-z,noseparate-code", "-x", "c", "-o", out, "-")
		c.Stdin = bytes.NewReader([]byte("int there(void); int here(void) { return there() + here(); }"))
		if text, err := c.CombinedOutput(); err != nil {
			f.Fatalf("gcc: %v\n%s", err, text)
		}
		raw, err := os.ReadFile(out)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, "here")
		f.Add(raw[:len(raw)/2], "there")
	}
	f.Add([]byte("\x7fELF"), "")
	f.Fuzz(func(t *testing.T, raw []byte, name string) {
		o := &object{}
		if o.read(bytes.NewReader(raw), 0x1000) != nil {
			return
		}
		for _, s := range o.slots() {
			o.defines(s.addr, s.name)
		}
		o.defines(o.bias, name)
	})
}
