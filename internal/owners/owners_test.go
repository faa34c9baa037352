package owners

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// Groups that the tests use.
const (
	emptyGroup = 61001
	usedGroup  = 61002
	noGroup    = 61004 // in no file
	anyUser    = 61005
)

var testGroups = linux.Groups{emptyGroup: nil, usedGroup: {"alice"}}

// TestOnlyRootMayChange: each way in which another user can make a path lead to a
// file of theirs is found, and nothing else.
func TestOnlyRootMayChange(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	in := func(path string) string { return dir + "/" + path } // with its ".."
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	directory := func(path string, mode os.FileMode, uid, gid int) {
		t.Helper()
		must(os.MkdirAll(in(path), 0o755))
		must(os.Chown(in(path), uid, gid))
		must(os.Chmod(in(path), mode))
	}
	file := func(path string, mode os.FileMode, uid, gid int) {
		t.Helper()
		must(os.WriteFile(in(path), nil, 0o644))
		must(os.Chown(in(path), uid, gid))
		must(os.Chmod(in(path), mode))
	}
	link := func(path, target string, uid int) {
		t.Helper()
		must(os.Symlink(target, in(path)))
		must(os.Lchown(in(path), uid, uid))
	}
	must(os.Chmod(dir, 0o755))
	directory("roots", 0o755, 0, 0)
	file("roots/file", 0o755, 0, 0)
	file("roots/users", 0o755, anyUser, 0)
	file("roots/all", 0o757, 0, 0)
	file("roots/empty", 0o775, 0, emptyGroup)
	file("roots/used", 0o775, 0, usedGroup)
	file("roots/unknown", 0o775, 0, noGroup)
	file("roots/acl", 0o755, 0, emptyGroup)
	setACL(t, in("roots/acl"))
	directory("staff", 0o2775|os.ModeSetgid, 0, emptyGroup)
	file("staff/file", 0o755, 0, emptyGroup)
	directory("users", 0o755, anyUser, anyUser)
	file("users/file", 0o755, 0, 0)
	directory("users/below", 0o755, 0, 0)
	file("users/below/file", 0o755, 0, 0)
	directory("open", 0o777, 0, 0)
	file("open/file", 0o755, 0, 0)
	directory("sticky", 0o777|os.ModeSticky, 0, 0)
	file("sticky/file", 0o755, 0, 0)
	file("sticky/users", 0o755, anyUser, 0)
	directory("sticky/users-directory", 0o755, anyUser, 0)
	file("sticky/users-directory/file", 0o755, 0, 0)
	link("sticky/link", in("roots/file"), 0)
	link("sticky/users-link", in("roots/file"), anyUser)
	link("roots/to-file", "file", 0)
	link("roots/through", "../users/back", 0)
	link("users/back", "../roots/file", 0)
	link("roots/directory", "../roots", 0)
	link("roots/loop", "loop", 0)

	for _, tc := range []struct {
		path string
		at   string // what is refused, below dir; "" if nothing is
		why  string
	}{
		{"roots/file", "", ""},
		{"roots/users", "roots/users", "belongs to user 61005 (mode 0755)"},
		{"roots/all", "roots/all", "can be written by every user (mode 0757)"},
		{"roots/empty", "", ""},
		{"roots/used", "roots/used", "can be written by group 61002 (mode 0775)"},
		{"roots/unknown", "roots/unknown", "can be written by group 61004"},
		{"roots/acl", "roots/acl", "can be written by the users in its ACL"},
		{"staff/file", "", ""},
		{"staff/missing", "", ""},
		{"users/file", "users", "belongs to user 61005"},
		{"users/missing", "users", "belongs to user 61005"},
		{"users/below/file", "users", "belongs to user 61005"},
		{"users/../roots/file", "users", "belongs to user 61005"},
		{"open/file", "open", "can be written by every user (mode 0777)"},
		{"sticky/file", "", ""},
		{"sticky/users", "sticky/users", "belongs to user 61005"},
		{"sticky/users-directory/file", "sticky/users-directory", "belongs to user 61005"},
		{"sticky/missing", "sticky", "in which it can be created by every user"},
		{"sticky/missing/below", "sticky", "in which it can be created by every user"},
		{"sticky/link", "", ""},
		{"sticky/users-link", "sticky/users-link", "belongs to user 61005"},
		{"roots/to-file", "", ""},
		{"roots/through", "users", "belongs to user 61005"},
		{"roots/directory/directory/file", "", ""},
		{"roots/directory/users", "roots/users", "belongs to user 61005"},
		{"roots/loop", "", ""},
		{"roots/missing", "", ""},
		{"roots/file/below", "", ""},
		{"roots/./file", "", ""},
		{"roots", "", ""},
		{"users", "users", "belongs to user 61005"},
	} {
		for _, round := range []string{"first", "again"} { // directories that passed are remembered
			o := &Rule{groups: testGroups, passed: map[string]string{}}
			if round == "again" {
				_, _ = o.Check(in(tc.path))
			}
			id, err := o.Check(in(tc.path))
			var refused *Refusal
			switch errors.As(err, &refused); {
			case err == nil && tc.at == "":
				var st unix.Stat_t
				if unix.Stat(in(tc.path), &st) == nil && id.Ino != st.Ino {
					t.Errorf("%s: inode %d, want %d", tc.path, id.Ino, st.Ino)
				}
			case refused == nil:
				t.Errorf("%s (%s): %v, want %q", tc.path, round, err, tc.why)
			case resolved(t, refused.At) != in(tc.at) || !strings.Contains(refused.Why, tc.why) || tc.at == "":
				t.Errorf("%s (%s): %v, want %s %s", tc.path, round, err, in(tc.at), tc.why)
			}
		}
	}

	// What one path has shown does not let another pass.
	o := &Rule{groups: testGroups, passed: map[string]string{}}
	for path, refused := range map[string]bool{"roots/file": false, "roots/users": true, "sticky/file": false, "sticky/missing": true} {
		for range 2 {
			if _, err := o.Check(in(path)); (err != nil) != refused {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}

// resolved is the path of a file without links in its directories.
func resolved(t *testing.T, path string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, filepath.Base(path))
}

// setACL lets user 61005 write to a file: user::rwx user:61005:rwx group::r-x mask::rwx other::r-x.
func setACL(t *testing.T, path string) {
	t.Helper()
	acl := binary.LittleEndian.AppendUint32(nil, 2) // linux/posix_acl_xattr.h
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 7, ^uint32(0)}, {2, 7, anyUser}, {4, 5, ^uint32(0)}, {16, 7, ^uint32(0)}, {32, 5, ^uint32(0)}} {
		acl = binary.LittleEndian.AppendUint16(acl, e.tag)
		acl = binary.LittleEndian.AppendUint16(acl, e.perm)
		acl = binary.LittleEndian.AppendUint32(acl, e.id)
	}
	if err := unix.Setxattr(path, "system.posix_acl_access", acl, 0); err != nil {
		t.Fatalf("set an ACL: %v", err)
	}
}
