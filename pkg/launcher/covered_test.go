package launcher

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/residentctl/residentctl/internal/linux"
)

func TestCovered(t *testing.T) {
	if c := Inside(); c != nil {
		t.Skip("the dynamic linker is covered here")
	}
	linker, err := os.ReadFile(LinkerPath)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	at, original := filepath.Join(dir, "covered"), filepath.Join(dir, "original")
	write := func(path string, content []byte) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	copied, err := Cover(linker, CoverOptions{Original: original})
	if err != nil {
		t.Fatal(err)
	}
	write(at, linker)
	if c := covered(at); c != nil {
		t.Errorf("a linker itself is covered: %+v", c)
	}
	write(at, copied)
	for name, content := range map[string][]byte{"nothing": nil, "a copy": copied} {
		write(original, content)
		if _, err := covered(at).Linker(); err == nil {
			t.Errorf("%s is taken for the linker", name)
		}
	}
	write(original, linker)
	c := covered(at)
	id, err := c.Linker()
	if want, _ := linux.StatID(original); err != nil || id != want {
		t.Errorf("%v, %v, want %v", id, err, want)
	}
	if is, _ := linux.StatID(at); c.ID != is {
		t.Errorf("covered by %v, want %v", c.ID, is)
	}
	write(original, nil)
	if _, err := c.Linker(); err == nil {
		t.Error("what has come into the linker's place meanwhile is taken for it")
	}
	if err := os.Remove(original); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Linker(); err == nil {
		t.Error("a linker that is gone is there")
	}
	if c := covered(filepath.Join(dir, "nowhere")); c != nil {
		t.Errorf("nothing is covered: %+v", c)
	}
}

// The longest configuration that Cover can be given is read back from the file's end.
func TestCoveredReadsAllOptions(t *testing.T) {
	linker, err := os.ReadFile(LinkerPath)
	if err != nil {
		t.Fatal(err)
	}
	long := func(name string) string { return "/" + name + strings.Repeat("/"+strings.Repeat("x", 63), 63) }
	want := CoverOptions{
		Original: long("original"), Log: long("log"), Root: 65534,
		Stores: []Store{storeOf(long("one"), 1, 2), storeOf(long("two"), 3, 4), storeOf(long("three"), 5, 6), storeOf(long("four"), 1<<64-1, 8)},
	}
	copied, err := Cover(linker, want)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "covered")
	if err := os.WriteFile(path, copied, 0o644); err != nil {
		t.Fatal(err)
	}
	c := covered(path)
	if c == nil {
		t.Fatal("it is not seen")
	}
	if got := c.Options(); !reflect.DeepEqual(got, want) {
		t.Errorf("want %+v, got %+v", want, got)
	}
}
