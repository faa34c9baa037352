package elfinfo

import (
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestOpenTellsWhatAFileIs(t *testing.T) {
	pie := compile(t, emptyMain, "-pie", "-fPIE", "-Wl,--build-id=0xcafe", "-Wl,-rpath,/opt/a:$ORIGIN", "-Wl,--enable-new-dtags",
		"-Wl,--no-as-needed", "-lm")
	f, err := Open(pie)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.CanBeResident(); err != nil {
		t.Error(err)
	}
	if f.Path != pie || f.Class != elf.ELFCLASS64 || f.Machine != machine || f.Type != elf.ET_DYN || !f.PIE {
		t.Errorf("%+v", f)
	}
	if f.Interp != "/lib64/ld-linux-x86-64.so.2" || f.BuildID != "cafe" || f.RunPath != "/opt/a:$ORIGIN" || f.RPath != "" {
		t.Errorf("interp %q, build-id %q, runpath %q, rpath %q", f.Interp, f.BuildID, f.RunPath, f.RPath)
	}
	if !slices.Equal(f.Needed, []string{"libm.so.6", "libc.so.6"}) {
		t.Errorf("needs %v", f.Needed)
	}
	if f.Entry == 0 || f.LoadEnd%pageSize != 0 || f.LoadEnd <= f.Entry {
		t.Errorf("entry %#x, end %#x", f.Entry, f.LoadEnd)
	}
	if f.UID != uint32(os.Geteuid()) || f.Mode&syscall.S_IFMT != syscall.S_IFREG || f.ID.Ino == 0 {
		t.Errorf("uid %d, mode %o, id %+v", f.UID, f.Mode, f.ID)
	}
	if f.ACL || f.FileCaps || f.ExecStack || f.TextRel || f.Audit {
		t.Errorf("has what it has not: %+v", f)
	}
}

func TestOpenNonPIE(t *testing.T) {
	f, err := Open(compile(t, emptyMain, "-no-pie", "-Wl,-rpath,/opt/b", "-Wl,--disable-new-dtags"))
	if err != nil {
		t.Fatal(err)
	}
	if f.Type != elf.ET_EXEC || f.PIE || f.RPath != "/opt/b" || f.Entry < 0x400000 {
		t.Errorf("%+v", f)
	}
	if err := f.CanBeResident(); err != nil {
		t.Error(err)
	}
}

// A program runs without section headers, so it is read without them.
func TestOpenWithoutSectionHeaders(t *testing.T) {
	path := compile(t, emptyMain)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte(strings.Repeat("\xff", 8)), 40); err != nil { // e_shoff
		t.Fatal(err)
	}
	if r := refusalOf(t, path); r != nil {
		t.Errorf("refused: %v", r)
	}
}

func TestOpenSeesACL(t *testing.T) {
	path := compile(t, emptyMain)
	// struct posix_acl_xattr_header and entries (include/uapi/linux/posix_acl_xattr.h):
	// user::rwx user:65534:r-- group::r-x mask::r-x other::r-x
	acl := pack(uint32(2),
		[]uint16{1, 7}, ^uint32(0), []uint16{2, 4}, uint32(65534),
		[]uint16{4, 5}, ^uint32(0), []uint16{0x10, 5}, ^uint32(0), []uint16{0x20, 5}, ^uint32(0))
	if err := syscall.Setxattr(path, "system.posix_acl_access", acl, 0); err != nil {
		t.Skip("this file system has no ACLs:", err)
	}
	if f, err := Open(path); err != nil || !f.ACL {
		t.Errorf("Open = %+v, %v", f, err)
	}
}

// Every program of the machine is either read or refused for a reason.
func TestOpenUsrBin(t *testing.T) {
	paths, _ := filepath.Glob("/usr/bin/*")
	for _, path := range paths {
		if f, err := Open(path); err == nil {
			err = f.CanBeResident()
			if r, ok := err.(*Refusal); err != nil && (!ok || r.Kind == Corrupt) {
				t.Errorf("%s: %v", path, err)
			}
		} else if r, ok := err.(*Refusal); !ok || r.Kind == Corrupt {
			t.Errorf("%s: %v", path, err)
		}
	}
}
