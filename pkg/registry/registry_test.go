package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	bolt "go.etcd.io/bbolt"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
)

// newRegistry is an empty registry that must be sound when the test is done.
func newRegistry(t *testing.T) *Registry {
	t.Helper()
	r, err := Open(filepath.Join(t.TempDir(), "registry.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustBeSound(t, r) })
	return r
}

func mustBeSound(t *testing.T, r *Registry) {
	t.Helper()
	faults, err := r.Check()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		t.Error(f)
	}
}

// inode is that of a record of this package's tests.
func inode(ino uint64) linux.Inode { return linux.Inode{Dev: 7, Ino: ino} }

// record makes a record whose hashes follow from n.
func record(n int, program string, ino uint64, libraries ...string) Record {
	sum := sha256.Sum256(fmt.Append(nil, n))
	return Record{
		Wish: Wish{Program: program},
		Image: Image{
			ID:           hex.EncodeToString(sum[:8]),
			Binary:       linux.FileID{Dev: 7, Ino: ino, Size: 100, Mtime: 5, Ctime: 6},
			Digest:       hex.EncodeToString(sum[:]),
			LibraryPaths: libraries,
			Deps:         json.RawMessage(`{"n":1}`),
			Kind:         "linked",
			Created:      time.Unix(int64(n), 0).UTC(),
			Timing:       &Timing{ExecNS: 2, ResidentNS: 1, Starts: 30},
		},
	}
}

func mustPut(t *testing.T, r *Registry, rec Record) []Record {
	t.Helper()
	replaced, err := r.Put(rec)
	if err != nil {
		t.Fatal(err)
	}
	return replaced
}

func ids(all []Record) []string {
	out := []string{}
	for _, r := range all {
		out = append(out, r.ID)
	}
	return out
}

func TestPutReplaces(t *testing.T) {
	perl := record(1, "/usr/bin/perl", 10, "/lib/libc.so.6")
	renamed := perl
	renamed.Paths = []string{"/usr/bin/perl5"}
	for _, tc := range []struct {
		name           string
		before         []Record
		put            Record
		replaced, left []Record
	}{
		{"new", nil, perl, nil, []Record{perl}},
		{"same again", []Record{perl}, perl, nil, []Record{perl}},
		{"other digest", []Record{perl}, record(2, "/usr/bin/perl", 10), []Record{perl},
			[]Record{record(2, "/usr/bin/perl", 10)}},
		{"same image, one more name", []Record{perl}, renamed, nil, []Record{renamed}},
		{"upgraded: path leads to another inode", []Record{perl}, record(3, "/usr/bin/perl", 11),
			[]Record{perl}, []Record{record(3, "/usr/bin/perl", 11)}},
		{"another name taken away", []Record{renamed}, record(3, "/usr/bin/perl5", 11), nil,
			[]Record{perl, record(3, "/usr/bin/perl5", 11)}},
		{"first name taken away", []Record{renamed}, record(3, "/usr/bin/perl", 11), nil,
			[]Record{record(3, "/usr/bin/perl", 11), record1At("/usr/bin/perl5")}},
		{"another entry", []Record{perl}, record(4, "/usr/bin/git", 12), nil,
			[]Record{record(4, "/usr/bin/git", 12), perl}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRegistry(t)
			for _, rec := range tc.before {
				mustPut(t, r, rec)
			}
			replaced := mustPut(t, r, tc.put)
			if diff := cmp.Diff(tc.replaced, replaced, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("replaced (-want +got):\n%s", diff)
			}
			left, err := r.List()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.left, left, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
		})
	}
}

func record1At(path string) Record { return record(1, path, 10, "/lib/libc.so.6") }

func TestPutRefuses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Record)
	}{
		{"short id", func(r *Record) { r.ID = "abc" }},
		{"path as id", func(r *Record) { r.ID = "../../../../etc" }},
		{"upper-case id", func(r *Record) { r.ID = "ABCDEFABCDEF" }},
		{"no digest", func(r *Record) { r.Digest = "" }},
		{"relative program", func(r *Record) { r.Program = "perl" }},
		{"NUL in path", func(r *Record) { r.Program = "/usr/\x00bin" }},
		{"not UTF-8", func(r *Record) { r.Paths = []string{"/usr/bin/\xff"} }},
		{"twice the same path", func(r *Record) { r.Paths = []string{r.Program} }},
		{"endless path", func(r *Record) { r.Program = "/" + string(make([]byte, 5000)) }},
		{"bad library", func(r *Record) { r.LibraryPaths = []string{"libc.so.6"} }},
		{"no inode", func(r *Record) { r.Binary.Ino = 0 }},
		{"no kind", func(r *Record) { r.Kind = "" }},
		{"broken deps", func(r *Record) { r.Deps = json.RawMessage("{") }},
		{"id of another binary", func(r *Record) { r.ID = record(2, "/x", 2).ID }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRegistry(t)
			mustPut(t, r, record(2, "/usr/bin/git", 20))
			rec := record(1, "/usr/bin/perl", 10)
			tc.change(&rec)
			if _, err := r.Put(rec); err == nil {
				t.Error("taken")
			}
			if all, err := r.List(); err != nil || len(all) != 1 {
				t.Errorf("left: %v, %v", all, err)
			}
		})
	}
}

func TestFind(t *testing.T) {
	r := newRegistry(t)
	bin := t.TempDir()
	program := filepath.Join(bin, "tool")
	if err := os.WriteFile(program, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("tool", filepath.Join(bin, "alias")); err != nil {
		t.Fatal(err)
	}
	tool := record(1, program, 0, "/lib/libc.so.6", "/lib/libm.so.6")
	var err error
	if tool.Binary, err = linux.StatID(program); err != nil {
		t.Fatal(err)
	}
	perl := record(2, "/usr/bin/perl", 20, "/lib/libc.so.6")
	perl.Paths = []string{"/usr/bin/perl5.36"}
	other := record(3, "/opt/bin/perl", 30)
	dead := record(4, "/usr/bin/dead", 40)
	dead.ID = "fadefade0001"
	beef := record(5, "/usr/bin/beef", 50)
	beef.ID = "deadbeef0001"
	twin := record(6, "/usr/bin/twin", 60)
	twin.ID = "fadefade0002"
	for _, rec := range []Record{tool, perl, other, dead, beef, twin} {
		mustPut(t, r, rec)
	}

	for _, tc := range []struct {
		query string
		want  []Record
	}{
		{tool.ID, []Record{tool}},
		{tool.ID[:6], []Record{tool}},
		{tool.ID[:3], nil},
		{"tool", []Record{tool}},
		{program, []Record{tool}},
		{filepath.Join(bin, "alias"), []Record{tool}},
		{bin + "/./tool", []Record{tool}},
		{"/usr/bin/perl", []Record{perl}},
		{"/usr/bin/perl5.36", []Record{perl}},
		{"perl5.36", []Record{perl}},
		{"perl", []Record{other, perl}},
		{"dead", []Record{beef, dead}},
		{"deadb", []Record{beef}},
		{"fadefade", []Record{dead, twin}},
		{"", nil},
		{"nobody", nil},
		{"/usr/bin/nobody", nil},
		{"/usr/bin/", nil},
	} {
		t.Run(tc.query, func(t *testing.T) {
			got, err := r.Find(tc.query)
			var many *AmbiguousError
			switch {
			case len(tc.want) == 0:
				if !errors.Is(err, ErrNotFound) {
					t.Errorf("got %v, %v", got.Program, err)
				}
			case len(tc.want) > 1:
				if !errors.Is(err, ErrAmbiguous) || !errors.As(err, &many) {
					t.Fatalf("got %v, %v", got.Program, err)
				}
				if diff := cmp.Diff(tc.want, many.Candidates); diff != "" {
					t.Error(diff)
				}
			default:
				if diff := cmp.Diff(tc.want[0], got); diff != "" || err != nil {
					t.Error(diff, err)
				}
			}
		})
	}

	users, err := r.ByLibrary(only("/lib/libc.so.6"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ids([]Record{tool, perl}), ids(users), cmpopts.SortSlices(func(a, b string) bool { return a < b })); diff != "" {
		t.Error(diff)
	}
	both := func(path string) bool { return strings.HasPrefix(path, "/lib/") }
	if all, err := r.ByLibrary(both); err != nil || len(all) != len(slices.Compact(ids(all))) || len(all) < len(users) {
		t.Errorf("by several libraries: %v, %v", ids(all), err)
	}
	if none, err := r.ByLibrary(only("/lib/libc.so")); err != nil || len(none) > 0 {
		t.Errorf("a part of a name finds %v, %v", none, err)
	}
	if got, err := r.ByInode(inode(30)); err != nil || got.ID != other.ID {
		t.Errorf("by inode: %v, %v", got, err)
	}
	if _, err := r.ByInode(inode(3)); !errors.Is(err, ErrNotFound) {
		t.Errorf("inode 3 finds inode 30: %v", err)
	}
}

// A file that was made again on the same inode is another program.
func TestFindIgnoresReusedInode(t *testing.T) {
	r := newRegistry(t)
	file := filepath.Join(t.TempDir(), "new")
	if err := os.WriteFile(file, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	old := record(1, "/usr/bin/old", 1)
	old.Binary, _ = linux.StatID(file)
	old.Binary.Mtime--
	mustPut(t, r, old)
	if got, err := r.Find(file); !errors.Is(err, ErrNotFound) {
		t.Errorf("found %v, %v", got.Program, err)
	}
}

func TestDelete(t *testing.T) {
	r := newRegistry(t)
	perl := record(1, "/usr/bin/perl", 10, "/lib/libc.so.6")
	mustPut(t, r, perl)
	if _, err := r.Delete(perl.ID[:8]); !errors.Is(err, ErrNotFound) {
		t.Errorf("a prefix deletes: %v", err)
	}
	got, err := r.Delete(perl.ID)
	if diff := cmp.Diff(perl, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if _, err := r.Delete(perl.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	if all, err := r.List(); len(all) > 0 || err != nil {
		t.Errorf("left: %v, %v", all, err)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "registry.db")
	if _, err := Open(path, Options{ReadOnly: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing, for reading: %v", err)
	}
	if _, err := Open(filepath.Join(dir, "no", "registry.db"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
	if _, err := Open(dir, Options{}); err == nil {
		t.Error("a directory is a registry")
	}
	r, err := Open(path, Options{Mode: 0o600})
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, r, record(1, "/usr/bin/perl", 10))
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if rest, _ := filepath.Glob(filepath.Join(dir, ".*")); len(rest) > 0 {
		t.Errorf("left behind: %v", rest)
	}
	ro, err := Open(path, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ro.Put(record(2, "/usr/bin/git", 20)); !errors.Is(err, ErrReadOnly) {
		t.Errorf("put: %v", err)
	}
	if all, err := ro.List(); err != nil || len(all) != 1 {
		t.Errorf("list: %v, %v", all, err)
	}
}

// TestMode: a registry is its owner's alone, also one that was made otherwise.
func TestMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.db")
	mode := func() fs.FileMode {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	if _, err := Open(path, Options{}); err != nil || mode() != 0o600 {
		t.Errorf("new: mode %o, %v", mode(), err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{ReadOnly: true}); err != nil || mode() != 0o644 {
		t.Errorf("for reading only: mode %o, %v", mode(), err)
	}
	if _, err := Open(path, Options{}); err != nil || mode() != 0o600 {
		t.Errorf("old: mode %o, %v", mode(), err)
	}
}

// only means one library.
func only(path string) func(string) bool { return func(p string) bool { return p == path } }

// TestExisting: who only looks makes nothing and writes nothing, and waits for no
// other reader.
func TestExisting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.db")
	for _, opts := range []Options{{Existing: true}, {Existing: true, ReadOnly: true}} {
		r, err := Open(path, opts)
		if err != nil {
			t.Fatal(err)
		}
		if all, err := r.List(); len(all) > 0 || err != nil {
			t.Errorf("list: %v, %v", all, err)
		}
		if all, err := r.ByLibrary(only("/lib/libc.so.6")); len(all) > 0 || err != nil {
			t.Errorf("by library: %v, %v", all, err)
		}
		if _, err := r.Find("perl"); !errors.Is(err, ErrNotFound) {
			t.Errorf("find: %v", err)
		}
		if _, err := r.Check(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("check: %v", err)
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
		t.Fatalf("made: %v", left)
	}

	made, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, made, record(1, "/usr/bin/perl", 10))
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := syscall.Flock(int(reader.Fd()), syscall.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	for _, opts := range []Options{{}, {Existing: true}, {ReadOnly: true}} {
		opts.Timeout = 20 * time.Millisecond
		r, err := Open(path, opts)
		if err != nil {
			t.Errorf("%+v: %v", opts, err)
			continue
		}
		if all, err := r.List(); len(all) != 1 || err != nil {
			t.Errorf("%+v: list: %v, %v", opts, all, err)
		}
		if _, err := r.Put(record(2, "/usr/bin/git", 20)); !errors.Is(err, ErrLocked) && !errors.Is(err, ErrReadOnly) {
			t.Errorf("%+v: put beside a reader: %v", opts, err)
		}
	}
	if now, err := os.ReadFile(path); err != nil || string(now) != string(was) {
		t.Errorf("reading has changed it (%v)", err)
	}
}

// TestUnsafe: what others may write to, or what is another's, is not relied on.
func TestUnsafe(t *testing.T) {
	for _, test := range []struct {
		name   string
		damage func(path string) error
	}{
		{"writable by all", func(path string) error { return os.Chmod(path, 0o666) }},
		{"writable by the group", func(path string) error { return os.Chmod(path, 0o620) }},
		{"another user's", func(path string) error { return os.Chown(path, 12345, -1) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRegistryWithoutCheck(t)
			if err := test.damage(r.Path()); errors.Is(err, fs.ErrPermission) {
				t.Skip("needs root")
			} else if err != nil {
				t.Fatal(err)
			}
			_, errOpen := Open(r.Path(), Options{})
			_, errRead := Open(r.Path(), Options{ReadOnly: true})
			_, errCheck := r.Check()
			_, errPut := r.Put(record(1, "/usr/bin/perl", 10))
			for i, err := range []error{errOpen, errRead, errCheck, errPut} {
				if !errors.Is(err, ErrUnsafe) || problem.HintOf(err) == "" {
					t.Errorf("%d: %v", i, err)
				}
			}
		})
	}
}

// TestDirectoryLocked: a user who may open the store's directory may lock it, and so must
// not keep anyone out by that. Only some users may open the gate.
func TestDirectoryLocked(t *testing.T) {
	r := newRegistry(t)
	directory, err := os.Open(filepath.Dir(r.Path()))
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	if err := syscall.Flock(int(directory.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	r.opts.Timeout = 20 * time.Millisecond
	mustPut(t, r, record(1, "/usr/bin/perl", 10))
	if _, err := r.List(); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(GatePath(r.Path())); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("gate: %v, %v", info, err)
	}
}

func TestLocked(t *testing.T) {
	r := newRegistry(t)
	holder, err := bolt.Open(r.Path(), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	_, err = Open(r.Path(), Options{Timeout: 20 * time.Millisecond})
	if !errors.Is(err, ErrLocked) {
		t.Fatalf("open: %v", err)
	}
	if problem.HintOf(err) == "" || !strings.Contains(err.Error(), r.Path()) {
		t.Errorf("no hint: %v", err)
	}
	if _, err := (&Registry{path: r.path, opts: Options{Timeout: time.Millisecond}}).Check(); !errors.Is(err, ErrLocked) {
		t.Errorf("check: %v", err)
	}
}

// edit changes the file behind the registry's back.
func edit(t *testing.T, r *Registry, fn func(*bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(r.Path(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(fn), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestNewerSchema(t *testing.T) {
	r := newRegistry(t)
	edit(t, r, func(tx *bolt.Tx) error { return setSchema(tx, schemaVersion+1) })
	for _, ro := range []bool{true, false} {
		if _, err := Open(r.Path(), Options{ReadOnly: ro}); !errors.Is(err, ErrNewerSchema) {
			t.Errorf("read-only %v: %v", ro, err)
		}
	}
	if faults, err := r.Check(); err != nil || len(faults) != 1 || faults[0].Kind != FaultSchema {
		t.Errorf("check: %v, %v", faults, err)
	}
	edit(t, r, func(tx *bolt.Tx) error { return setSchema(tx, schemaVersion) })
}

func TestMigrate(t *testing.T) {
	r := newRegistry(t)
	var ran []int
	note := func(n int, err error) func(*bolt.Tx) error {
		return func(*bolt.Tx) error { ran = append(ran, n); return err }
	}
	broken := errors.New("broken")
	err := r.session(os.O_RDWR, func(db *bolt.DB) error {
		return db.Update(func(tx *bolt.Tx) error {
			return migrate(tx, schemaVersion+2, map[int]func(*bolt.Tx) error{schemaVersion: note(1, nil), schemaVersion + 1: note(2, broken)})
		})
	})
	if !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if err := r.view(nothing); err != nil {
		t.Fatalf("a migration that failed left something: %v", err)
	}
	edit(t, r, func(tx *bolt.Tx) error {
		ran = nil
		return migrate(tx, schemaVersion+2, map[int]func(*bolt.Tx) error{schemaVersion: note(1, nil), schemaVersion + 1: note(2, nil)})
	})
	if diff := cmp.Diff([]int{1, 2}, ran); diff != "" {
		t.Error(diff)
	}
	edit(t, r, func(tx *bolt.Tx) error {
		if v, err := schemaOf(tx); v != schemaVersion+2 || err != nil {
			t.Errorf("schema %d, %v", v, err)
		}
		if err := migrate(tx, schemaVersion+3, nil); !errors.Is(err, ErrOlderSchema) {
			t.Errorf("without a step: %v", err)
		}
		return setSchema(tx, schemaVersion)
	})
}

// bbolt hands the errno on as text only.
func TestFileSizeLimit(t *testing.T) {
	err := At("x", Options{}).wrap("write registry", errors.New("file resize error: truncate x: file too large"))
	if !errors.Is(err, syscall.EFBIG) || err.Error() != "write registry x: grow the file: file too large" {
		t.Errorf("%v", err)
	}
}
