package launcher

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/cespare/xxhash/v2"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/plan"
)

func requireTool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
}

func TestCodeHasItsShape(t *testing.T) {
	if len(Code)%16 != 0 || len(Code) >= 32<<10 {
		t.Errorf("%d bytes: want a multiple of 16 (the configuration follows it) below 32 KiB", len(Code))
	}
	// The front door's entry: xor %esi, %esi; jmp.
	if front := Code[16:19]; front[0] != 0x31 || front[1] != 0xf6 || (front[2] != 0xe9 && front[2] != 0xeb) {
		t.Errorf("byte 16 begins % x, which is not the front door", front)
	}
}

// The caller's vector registers become the program's, so the launcher must not
// use them; and a system call's arguments are all that it may push.
func TestCodeUsesGeneralRegistersOnly(t *testing.T) {
	requireTool(t, "objdump")
	blob := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(blob, Code, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "--stop-address", strconv.Itoa(codeEnd()), blob).Output()
	if err != nil {
		t.Fatal(err)
	}
	if bad := regexp.MustCompile(`(?m)^.*(%[xyz]mm|%st|%mm|fxsave|xrstor).*$`).Find(out); bad != nil {
		t.Errorf("it uses the FPU: %s", bad)
	}
	if !bytes.Contains(out, []byte("syscall")) {
		t.Error("objdump shows no system call: this test has looked at nothing")
	}
}

// codeEnd is where the messages begin: what follows is text for people, which
// a disassembler would take for code.
func codeEnd() int {
	text := regexp.MustCompile(`[ -~]{12,}\x00`).FindIndex(Code)
	if text == nil {
		return len(Code)
	}
	return text[0]
}

func TestFileHasItsShape(t *testing.T) {
	raw, err := File(0, storeOf("/store", 1<<40, 2), "index/1-2", "/bin/p", 0)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := File(0, storeOf("/store", 1<<40, 2), "index/1-2", "/bin/p", 0); !bytes.Equal(raw, again) {
		t.Error("the same launcher file is made of other bytes")
	}
	f, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if f.Type != elf.ET_EXEC || f.Machine != elf.EM_X86_64 || len(f.Progs) != 2 {
		t.Fatalf("%v for %v with %d segments", f.Type, f.Machine, len(f.Progs))
	}
	load, stack := f.Progs[0], f.Progs[1]
	if load.Type != elf.PT_LOAD || load.Flags != elf.PF_R|elf.PF_X || load.Off != 0 ||
		load.Filesz != uint64(len(raw)) || load.Memsz != load.Filesz || load.Vaddr != plan.LauncherBase {
		t.Errorf("the segment is %+v of a file of %d bytes", load.ProgHeader, len(raw))
	}
	if stack.Type != elf.PT_GNU_STACK || stack.Flags != elf.PF_R|elf.PF_W {
		t.Errorf("the stack is %+v", stack.ProgHeader)
	}
	at := f.Entry - load.Vaddr
	if f.Entry < load.Vaddr || at > uint64(len(raw)) || !bytes.HasPrefix(raw[at:], Code) {
		t.Errorf("the entry %#x is not the code's first byte", f.Entry)
	}
}

func TestFileIsLinkedAtItsPlace(t *testing.T) {
	for _, tc := range []struct {
		name        string
		place, want uint64
	}{
		{"none is known", 0, plan.LauncherBase},
		{"beside the image", 0x7f0000100000, 0x7f0000100000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			raw, err := File(tc.place, Store{Dir: "/store"}, "index/1-2", "/bin/p", 0)
			if err != nil {
				t.Fatal(err)
			}
			f, err := elf.NewFile(bytes.NewReader(raw))
			if err != nil {
				t.Fatal(err)
			}
			if f.Progs[0].Vaddr != tc.want || f.Entry != tc.want+headersLen {
				t.Errorf("linked at %#x, entry %#x; want %#x", f.Progs[0].Vaddr, f.Entry, tc.want)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	if binary.Size(config{}) != int(unsafe.Sizeof(config{})) || binary.Size(config{}) != 160 {
		t.Errorf("struct config has %d bytes here, 160 in caller.c", binary.Size(config{}))
	}
	read := func(raw []byte, err error) (c config, str func(uint32) string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		rest := raw[headersLen+len(Code):]
		if _, err := binary.Decode(rest, binary.LittleEndian, &c); err != nil {
			t.Fatal(err)
		}
		return c, func(off uint32) string {
			s, _, _ := strings.Cut(string(rest[off:]), "\x00")
			return s
		}
	}
	c, str := read(File(0, storeOf("/store", 1<<40, 2), "index/1-2", "/bin/p", 0))
	if string(c.Magic[:]) != configMagic || c.Front != 0 || str(c.Program) != "/bin/p" || str(c.Plan) != "index/1-2" ||
		str(c.Stores[0].Path) != "/store" || c.Stores[0].Dev != 1<<40 || c.Stores[0].Ino != 2 || c.Stores[1].Path != 0 {
		t.Errorf("launcher file: %+v, %q, %q", c, str(c.Program), str(c.Plan))
	}
	c, str = read(Front([]Store{storeOf("/a", 1, 2), storeOf("/b", 3, 4)}))
	if c.Front != 1 || str(c.Stores[0].Path) != "/a" || str(c.Stores[1].Path) != "/b" || c.Stores[1].Ino != 4 || c.Stores[2].Path != 0 {
		t.Errorf("front door: %+v", c)
	}
}

func TestRefusedPaths(t *testing.T) {
	long := "/" + strings.Repeat("x", 4095)
	for _, tc := range []struct{ name, store, plan, program string }{
		{"relative program", "/s", "plan", "bin/p"},
		{"relative store", "s", "plan", "/p"},
		{"absolute plan", "/s", "/plan", "/p"},
		{"plan outside of the store", "/s", "../plan", "/p"},
		{"empty program", "/s", "plan", ""},
		{"NUL", "/s", "plan", "/p\x00q"},
		{"program too long", "/s", "plan", long},
		{"store too long", long, "plan", "/p"},
		{"plan too long", "/s", long[1:257], "/p"},
	} {
		if _, err := File(0, Store{Dir: tc.store}, tc.plan, tc.program, 0); err == nil {
			t.Errorf("%s is accepted", tc.name)
		}
	}
	if _, err := File(0, Store{Dir: long[:4095]}, long[1:256], long[:4095], 0); err != nil {
		t.Errorf("the longest paths: %v", err)
	}
	if _, err := Front([]Store{{Dir: "/1"}, {Dir: "/2"}, {Dir: "/3"}, {Dir: "/4"}, {Dir: "/5"}}); err == nil {
		t.Error("five stores are accepted")
	}
	if _, err := Front([]Store{{Dir: "/1"}, {Dir: "store"}}); err == nil {
		t.Error("a relative store is accepted")
	}
}

// sum reads launcher.sum: the sources' hash and the compiler.
func sum(t *testing.T) (hash, compiler string) {
	t.Helper()
	b, err := os.ReadFile("launcher.sum")
	if err != nil {
		t.Fatal(err)
	}
	hash, compiler, ok := strings.Cut(strings.TrimSuffix(string(b), "\n"), "\n")
	if !ok {
		t.Fatalf("launcher.sum is %q", b)
	}
	return hash, compiler
}

func TestSumIsOfTheseSources(t *testing.T) {
	var all []byte
	for _, pattern := range []string{"*.c", "*.S", "*.h", "*.lds"} {
		names, _ := filepath.Glob("src/" + pattern)
		slices.Sort(names)
		for _, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, b...)
		}
	}
	h := sha256.Sum256(all)
	if want, _ := sum(t); hex.EncodeToString(h[:]) != want {
		t.Error("launcher.sum is of other sources: run scripts/build-launcher and commit what it writes")
	}
}

func TestCodeIsWhatTheSourcesGive(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the launcher")
	}
	requireTool(t, "gcc")
	version, err := exec.Command("gcc", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(version), "\n")
	if _, compiler := sum(t); compiler != first {
		t.Skipf("the committed code was compiled by %s, here is %s", compiler, first)
	}
	out := filepath.Join(t.TempDir(), "blob")
	if msg, err := exec.Command("../../scripts/build-launcher", out).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, msg)
	}
	built, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(built, Code) {
		t.Error("launcher_amd64.bin is not what the sources give: run scripts/build-launcher")
	}
}

func TestFrontHoldsTheSameCode(t *testing.T) {
	source, err := os.ReadFile("front/launcher_amd64.s")
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	for _, m := range regexp.MustCompile(`QUAD \$0x([0-9a-f]+)\n`).FindAllSubmatch(source, -1) {
		n, err := strconv.ParseUint(string(m[1]), 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		got = binary.LittleEndian.AppendUint64(got, n)
	}
	if !bytes.Equal(got, Code) {
		t.Error("front/launcher_amd64.s holds other bytes than launcher_amd64.bin: run scripts/build-launcher")
	}
}

// The launcher sums a plan as Go does. The harness is the launcher itself with
// a main: it prints the sums of 0 to 40 words.
func TestChecksumIsXXH64(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the launcher")
	}
	requireTool(t, "gcc")
	dir := t.TempDir()
	bin := filepath.Join(dir, "sums")
	out, err := exec.Command("gcc", "-O2", "-ffreestanding", "-fno-builtin", "-ffunction-sections", "-Wl,--gc-sections", "-I", "src", "-o", bin, "testdata/sums.c").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err = exec.Command(bin).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(out))
	if len(lines) != 41 {
		t.Fatalf("%d sums", len(lines))
	}
	var words []byte
	x := uint64(1) // the same numbers as in sums.c
	for n, got := range lines {
		if want := strconv.FormatUint(xxhash.Sum64(words), 16); got != want {
			t.Errorf("%d words: %s in C, %s in Go", n, got, want)
		}
		x = x*6364136223846793005 + 1442695040888963407
		words = binary.LittleEndian.AppendUint64(words, x)
	}
}

// TestPlanVersion: a launcher file says which plans it carries out, also an older one, and
// whatever the name of its program.
func TestPlanVersion(t *testing.T) {
	raw, err := File(0, Store{"/store/RESCONF9", linux.Inode{Dev: 1, Ino: 2}}, "index/1-2", "/bin/RESCONF9", 0)
	if err != nil {
		t.Fatal(err)
	}
	with := func(v string) []byte {
		return bytes.Replace(raw, []byte(configMagic), []byte(configMark+v), 1)
	}
	for _, test := range []struct {
		name string
		file []byte
		want uint32
	}{
		{"its own", raw, plan.Version},
		{"older", with("3"), 3},
		{"newer", with("7"), 7},
		{"before it said so", with("2"), 4},
		{"another file", []byte("#!/bin/sh"), 0},
		{"cut", []byte(configMark), 0},
		{"of no version", with("!"), 0},
	} {
		if got := PlanVersion(test.file); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}
