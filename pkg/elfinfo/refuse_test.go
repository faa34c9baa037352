package elfinfo

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/residentctl/residentctl/internal/fixture"
)

// compile is the path of a C program that has been compiled.
var compile = fixture.Build

const emptyMain = "int main(void) { return 0; }\n"

func write(t *testing.T, content []byte, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, content, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func chmod(t *testing.T, path string, mode os.FileMode) string {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func cut(t *testing.T, path string, size int64) string {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// capNetRaw is a version 2 vfs_cap_data (include/uapi/linux/capability.h) that
// permits CAP_NET_RAW, effective.
func capNetRaw() []byte {
	return pack([]uint32{0x02000001, 1 << 13, 0, 0, 0})
}

func foreignHeader(class elf.Class, order binary.ByteOrder, m elf.Machine) []byte {
	b := make([]byte, 64)
	copy(b, elf.ELFMAG)
	b[elf.EI_CLASS], b[elf.EI_DATA], b[elf.EI_VERSION] = byte(class), byte(elf.ELFDATA2LSB), 1
	if order == binary.BigEndian {
		b[elf.EI_DATA] = byte(elf.ELFDATA2MSB)
	}
	order.PutUint16(b[16:], uint16(elf.ET_EXEC))
	order.PutUint16(b[18:], uint16(m))
	return b
}

func TestRefusals(t *testing.T) {
	for _, tc := range []struct {
		name   string
		make   func(t *testing.T) string
		kind   Kind
		reason string // part of it
		hint   string // part of it
	}{
		{"missing", func(t *testing.T) string { return t.TempDir() + "/none" }, NotFound, "does not exist", "check the path"},
		{"below a file", func(*testing.T) string { return "/etc/passwd/none" }, NotFound, "does not exist", "check the path"},
		{"dangling link", func(t *testing.T) string {
			path := t.TempDir() + "/link"
			if err := os.Symlink("nowhere", path); err != nil {
				t.Fatal(err)
			}
			return path
		}, NotFound, "a link to nowhere", "check the path"},
		{"link to itself", func(t *testing.T) string {
			path := t.TempDir() + "/link"
			if err := os.Symlink("link", path); err != nil {
				t.Fatal(err)
			}
			return path
		}, NotFound, "too many levels of symbolic links", "check the path"},
		{"long name", func(*testing.T) string { return "/" + strings.Repeat("x", 256) }, NotFound, "file name too long", "check the path"},
		{"directory", func(t *testing.T) string { return t.TempDir() }, NotRegular, "a directory", "name a program"},
		{"device", func(*testing.T) string { return "/dev/null" }, NotRegular, "a device", "name a program"},
		{"pipe", func(t *testing.T) string {
			path := t.TempDir() + "/pipe"
			if err := syscall.Mkfifo(path, 0o755); err != nil {
				t.Fatal(err)
			}
			return path
		}, NotRegular, "a pipe", "name a program"},
		{"script", func(t *testing.T) string {
			return write(t, []byte("#!/usr/bin/perl -w\nprint 1;\n"), 0o755)
		}, Script, "run by /usr/bin/perl", "residentctl add /usr/bin/perl"},
		{"env script", func(t *testing.T) string {
			return write(t, []byte("#! /usr/bin/env -S A=1 python3 -u\n"), 0o755)
		}, Script, "run by python3", "residentctl add python3"},
		{"env script with an option's value", func(t *testing.T) string {
			return write(t, []byte("#! /usr/bin/env -S -u FOO python3 -u\n"), 0o755)
		}, Script, "run by python3", "residentctl add python3"},
		{"env script with all in one word", func(t *testing.T) string {
			return write(t, []byte("#! /usr/bin/env -Spython3 -u\n"), 0o755)
		}, Script, "run by python3", "residentctl add python3"},
		{"script without interpreter", func(t *testing.T) string {
			return write(t, []byte("#!\n"), 0o755)
		}, Script, "without an interpreter", "shell"},
		{"text", func(t *testing.T) string { return write(t, []byte("hello\n"), 0o755) }, NotELF, "not an ELF", "add the program that runs"},
		{"empty", func(t *testing.T) string { return write(t, nil, 0o755) }, NotELF, "not an ELF", "add the program that runs"},
		{"truncated header", func(t *testing.T) string { return cut(t, compile(t, emptyMain), 30) }, Corrupt, "cut off", "install"},
		{"truncated segments", func(t *testing.T) string { return cut(t, compile(t, emptyMain), 4096) }, Corrupt, "cut off", "install"},
		{"corrupt", func(t *testing.T) string {
			return write(t, header64(func(h *elf.Header64) { h.Phnum, h.Phentsize = 1, 1 }), 0o755)
		}, Corrupt, "damaged", "install"},
		{"32-bit", func(t *testing.T) string {
			return write(t, foreignHeader(elf.ELFCLASS32, binary.LittleEndian, elf.EM_386), 0o755)
		}, ForeignArch, "386, 32-bit", "64-bit"},
		{"aarch64", func(t *testing.T) string {
			return write(t, foreignHeader(elf.ELFCLASS64, binary.LittleEndian, elf.EM_AARCH64), 0o755)
		}, ForeignArch, "aarch64", "this machine"},
		{"big-endian", func(t *testing.T) string {
			return write(t, foreignHeader(elf.ELFCLASS64, binary.BigEndian, elf.EM_S390), 0o755)
		}, ForeignArch, "s390", "this machine"},
		{"object file", func(t *testing.T) string { return compile(t, emptyMain, "-c") }, NotProgram, "ET_REL", "made from it"},
		{"setuid", func(t *testing.T) string {
			return chmod(t, compile(t, emptyMain), 0o755|os.ModeSetuid)
		}, Setuid, "is setuid", "privileges"},
		{"setgid", func(t *testing.T) string {
			return chmod(t, compile(t, emptyMain), 0o755|os.ModeSetgid)
		}, Setgid, "is setgid", "privileges"},
		{"file capabilities", func(t *testing.T) string {
			path := compile(t, emptyMain)
			if err := syscall.Setxattr(path, "security.capability", capNetRaw(), 0); err != nil {
				t.Skip("cannot set file capabilities:", err)
			}
			return path
		}, FileCaps, "file capabilities", "privileges"},
		{"not executable", func(t *testing.T) string {
			return chmod(t, compile(t, emptyMain), 0o644)
		}, NotExecutable, "cannot be executed", "chmod"},
		{"static", func(t *testing.T) string { return compile(t, emptyMain, "-static", "-no-pie") }, Static, "statically linked", "no linking to save"},
		{"static-pie", func(t *testing.T) string { return compile(t, emptyMain, "-static-pie") }, StaticPIE, "static-pie", "no linking to save"},
		{"library", func(t *testing.T) string {
			return compile(t, "int f(void) { return 0; }\n", "-shared", "-fPIC")
		}, NoLinker, "a library", "uses it"},
		{"dynamic linker missing", func(t *testing.T) string {
			return compile(t, emptyMain, "-Wl,--dynamic-linker=/lib/none.so")
		}, NoLinker, "/lib/none.so, which does not exist", "does not start"},
		{"dynamic linker is text", func(t *testing.T) string {
			return compile(t, emptyMain, "-Wl,--dynamic-linker=/etc/passwd")
		}, NoLinker, "/etc/passwd, which is not an ELF program", "does not start"},
		{"dynamic linker is a directory", func(t *testing.T) string {
			return compile(t, emptyMain, "-Wl,--dynamic-linker=/etc")
		}, NoLinker, "/etc, which is a directory", "does not start"},
		{"dynamic linker is a program", func(t *testing.T) string {
			return compile(t, emptyMain, "-Wl,--dynamic-linker="+compile(t, emptyMain, "-static", "-no-pie"))
		}, NoLinker, "which is no dynamic linker but a program", "does not start"},
		{"dynamic linker not executable", func(t *testing.T) string {
			linker := compile(t, "int f(void) { return 0; }\n", "-shared", "-fPIC")
			chmod(t, linker, 0o644)
			return compile(t, emptyMain, "-Wl,--dynamic-linker="+linker)
		}, NoLinker, "which cannot be executed", "does not start"},
		{"a name like a deleted file's", func(t *testing.T) string { return renamed(t, "p (deleted)") }, OddName, "/proc does not show", "ordinary name"},
		{"a name like a line's end", func(t *testing.T) string { return renamed(t, `p\012q`) }, OddName, "/proc does not show", "ordinary name"},
		{"a name that is not UTF-8", func(t *testing.T) string { return renamed(t, "p\xff") }, OddName, "not UTF-8", "ordinary name"},
		{"dynamic linker relative", func(t *testing.T) string {
			return compile(t, emptyMain, "-Wl,--dynamic-linker=lib/ld.so")
		}, SearchesHere, "relative to the current directory", "absolute path"},
		{"DT_AUDIT", func(t *testing.T) string { return compile(t, emptyMain, "-Wl,--audit=libx.so") }, Audit, "DT_AUDIT", "as before"},
		{"DT_DEPAUDIT", func(t *testing.T) string { return compile(t, emptyMain, "-Wl,--depaudit=libx.so") }, Audit, "DT_AUDIT", "as before"},
		{"TEXTREL", func(t *testing.T) string {
			return compile(t, "int main(void) { return 0; }\n"+
				`__asm__(".text\nword: .quad main\n");`, "-pie", "-fPIE", "-Wl,-z,notext")
		}, TextRel, "DT_TEXTREL", "-fPIC"},
		{"executable stack", func(t *testing.T) string { return compile(t, emptyMain, "-Wl,-z,execstack") }, ExecStack, "executable stack", "noexecstack"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := tc.make(t)
			r := refusalOf(t, path)
			if r == nil {
				t.Fatalf("%s is not refused", path)
			}
			if r.Kind != tc.kind || r.Path != path || !strings.Contains(r.Reason, tc.reason) || !strings.Contains(r.Hint, tc.hint) {
				t.Errorf("refused as %v: %q, hint %q", r.Kind, r, r.Hint)
			}
			if r.Hint == "" {
				t.Error("no hint")
			}
		})
	}
}

// renamed is an empty program of that name.
func renamed(t *testing.T, name string) string {
	t.Helper()
	path := compile(t, emptyMain)
	to := filepath.Join(filepath.Dir(path), name)
	if err := os.Rename(path, to); err != nil {
		t.Fatal(err)
	}
	return to
}

// refusalOf is what Open or CanBeResident says against the file.
func refusalOf(t *testing.T, path string) *Refusal {
	t.Helper()
	f, err := Open(path)
	if err == nil {
		err = f.CanBeResident()
	}
	var r *Refusal
	if err != nil && !errors.As(err, &r) {
		t.Fatalf("%s: %v is not a Refusal", path, err)
	}
	return r
}

func TestKindNames(t *testing.T) {
	seen := map[string]bool{}
	for k := Kind(1); k < kinds; k++ {
		if s := k.String(); s == "" || seen[s] {
			t.Errorf("kind %d is called %q", k, s)
		} else {
			seen[s] = true
		}
	}
	if Kind(0).String() != "unknown" || kinds.String() != "unknown" {
		t.Error("a kind out of range has a name")
	}
}

// Root may read what another user cannot, so this runs in a child of the test.
func TestRefusalsForOtherUsers(t *testing.T) {
	if dir := os.Getenv("ELFINFO_AS_NOBODY"); dir != "" {
		for name, kind := range map[string]Kind{"mode0": Unreadable, "xonly": Unreadable, "closed/p": Unreadable, "group": NotExecutable} {
			if r := refusalOf(t, filepath.Join(dir, name)); r == nil || r.Kind != kind {
				t.Errorf("%s: refused as %v, want %v", name, r, kind)
			}
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	dir, err := os.MkdirTemp("/tmp", "elfinfo") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	prog, err := os.ReadFile(compile(t, emptyMain))
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/closed", 0o700); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"mode0": 0, "xonly": 0o711, "group": 0o754, "closed/p": 0o755} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, prog, 0o600); err != nil {
			t.Fatal(err)
		}
		chmod(t, path, mode)
	}
	if err := os.WriteFile(dir+"/test", self, 0o755); err != nil {
		t.Fatal(err)
	}
	chmod(t, dir, 0o755)
	child := exec.Command(dir+"/test", "-test.run=^TestRefusalsForOtherUsers$")
	child.Dir = dir
	child.Env = append(os.Environ(), "ELFINFO_AS_NOBODY="+dir)
	child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}
