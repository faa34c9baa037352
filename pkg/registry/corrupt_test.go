package registry

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

func newRegistryWithoutCheck(t *testing.T) *Registry {
	t.Helper()
	r, err := Open(filepath.Join(t.TempDir(), "registry.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// bigRegistry is the contents of one with branch pages, overflow pages, buckets
// of their own and a list of free pages.
func bigRegistry(t *testing.T) []byte {
	r := newRegistryWithoutCheck(t)
	for n := range 60 {
		mustPut(t, r, record(n, fmt.Sprintf("/usr/bin/p%d", n%50), uint64(1+n%50), manyLibraries(n)...))
	}
	data, err := os.ReadFile(r.Path())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// useAll does everything to a registry that is possibly damaged. All that may
// come of it is what worked or an ErrCorrupt.
func useAll(t *testing.T, path string) {
	t.Helper()
	r := &Registry{path: path, opts: Options{Timeout: time.Second}}
	_, errCheck := r.Check()
	_, errOpen := Open(path, Options{})
	_, errList := r.List()
	_, errFind := r.Find("p7")
	_, errLib := r.ByLibrary(only(manyLibraries(1)[0]))
	_, errPut := r.Put(record(100, "/usr/bin/p7", 8))
	_, errDel := r.Delete(record(3, "", 0).ID)
	for i, err := range []error{errCheck, errOpen, errList, errFind, errLib, errPut, errDel} {
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNotFound) &&
			!errors.Is(err, ErrNewerSchema) && !errors.Is(err, ErrAmbiguous) && !errors.Is(err, ErrDuplicateID) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

func TestNotARegistry(t *testing.T) {
	data := bigRegistry(t)
	for _, tc := range []struct {
		name string
		data []byte
	}{
		{"empty", nil},
		{"text", []byte("hello\n")},
		{"long text", make([]byte, 1<<17)},
		{"one page", data[:4096]},
		{"cut in a page", data[:len(data)/2+100]},
		{"two pages", data[:8192]},
		{"no meta pages", append(make([]byte, 8192), data[8192:]...)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "registry.db")
			if err := os.WriteFile(path, tc.data, 0o644); err != nil {
				t.Fatal(err)
			}
			for _, ro := range []bool{false, true} {
				_, err := Open(path, Options{ReadOnly: ro})
				if !errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
					t.Errorf("read-only %v: %v", ro, err)
				}
			}
			useAll(t, path)
			if now, _ := os.ReadFile(path); string(now) != string(tc.data) {
				t.Error("the damaged file was changed")
			}
			faults, err := (&Registry{path: path}).Check()
			if err != nil || len(faults) == 0 {
				t.Errorf("check: %v, %v", faults, err)
			}
		})
	}
}

func TestTruncated(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	data := bigRegistry(t)
	path := filepath.Join(t.TempDir(), "registry.db")
	for size := 0; size < len(data); size += 4096 {
		if err := os.WriteFile(path, data[:size], 0o644); err != nil {
			t.Fatal(err)
		}
		useAll(t, path)
	}
}

// Bytes flipped anywhere, headers above all, must never take the process down.
func TestFlippedBytes(t *testing.T) {
	data := bigRegistry(t)
	path := filepath.Join(t.TempDir(), "registry.db")
	rnd := rand.New(rand.NewPCG(1, 2))
	rounds := 100
	if testing.Short() {
		rounds = 15
	}
	for range rounds {
		bad := append([]byte(nil), data...)
		for range 1 + rnd.IntN(4) {
			at := rnd.IntN(len(bad))
			if rnd.IntN(2) == 0 { // a page header or its first elements
				at = at&^4095 + rnd.IntN(80)
			}
			bad[at] ^= byte(1 << rnd.IntN(8))
		}
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		useAll(t, path)
	}
}

// A file that is cut short while it is mapped comes as SIGBUS.
func TestCutWhileOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.db")
	if err := os.WriteFile(path, bigRegistry(t), 0o644); err != nil {
		t.Fatal(err)
	}
	r := &Registry{path: path, opts: Options{Timeout: time.Second}}
	entered := false
	err := r.view(func(tx *bolt.Tx) error {
		entered = true
		if err := os.Truncate(path, 4096); err != nil {
			t.Fatal(err)
		}
		_ = pairs(tx, recordsBucket, "")
		return nil
	})
	if !entered || !errors.Is(err, ErrCorrupt) {
		t.Errorf("entered %v: %v", entered, err)
	}
}

// That is caught in every goroutine that decodes records. A large record is in several pages, of
// which only the first is looked at to find it.
func TestCutWhileDecoded(t *testing.T) {
	r := newRegistryWithoutCheck(t)
	rec := record(1, "/usr/bin/perl", 10)
	rec.Deps = json.RawMessage(`{"long":"` + strings.Repeat("x", 1<<16) + `"}`)
	mustPut(t, r, rec)
	whole, err := os.ReadFile(r.Path())
	if err != nil {
		t.Fatal(err)
	}
	reached := false
	for size := len(whole) - 4096; size > 4096; size -= 4096 {
		path := filepath.Join(t.TempDir(), "registry.db")
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		found := false
		err := At(path, Options{}).view(func(tx *bolt.Tx) error {
			if err := os.Truncate(path, int64(size)); err != nil {
				t.Fatal(err)
			}
			key, _ := tx.Bucket(recordsBucket).Cursor().First()
			found = key != nil
			decodeAll(tx)
			return nil
		})
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut to %d bytes: %v", size, err)
		}
		reached = reached || found && err != nil
	}
	if !reached {
		t.Error("nothing was cut from a record")
	}
}

// FuzzPages patches a good file: each six bytes are an offset (four), a byte
// there, and a bit mask for it.
func FuzzPages(f *testing.F) {
	base := bigRegistryForFuzz(f)
	f.Add([]byte{0x00, 0x20, 0, 0, 10, 1})
	f.Add([]byte{0x00, 0x30, 0, 0, 12, 7, 0x10, 0x30, 0, 0, 0, 0xff})
	f.Fuzz(func(t *testing.T, patch []byte) {
		bad := append([]byte(nil), base...)
		for ; len(patch) >= 6; patch = patch[6:] {
			at := int(binary.LittleEndian.Uint32(patch)) + int(patch[4])
			bad[at%len(bad)] ^= patch[5]
		}
		path := filepath.Join(t.TempDir(), "registry.db")
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		useAll(t, path)
	})
}

func bigRegistryForFuzz(f *testing.F) []byte {
	r, err := Open(filepath.Join(f.TempDir(), "registry.db"), Options{})
	if err != nil {
		f.Fatal(err)
	}
	for n := range 20 {
		if _, err := r.Put(record(n, fmt.Sprintf("/usr/bin/p%d", n), uint64(1+n), manyLibraries(30)...)); err != nil {
			f.Fatal(err)
		}
	}
	data, err := os.ReadFile(r.Path())
	if err != nil {
		f.Fatal(err)
	}
	return data
}

// FuzzDecodeStored: what is decoded is encoded to the same again. The sum is made to
// match, so that the object comes to be decoded.
func FuzzDecodeStored(f *testing.F) {
	const key = "record-1"
	rec := record(1, "/usr/bin/perl", 10, "/lib/libc.so.6")
	good, err := encodeStored(key, storedOf(&rec))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[len(storedHeader("", nil)):])
	f.Add([]byte(strings.Replace(string(good[len(storedHeader("", nil)):]), `{"n":1}`, `{"n":}`, 1)))
	f.Add([]byte(`{"wish":{"program":"/x"}}`))
	f.Add([]byte(`{"wish":{"program":"/x","paths":["/y"],"shims":["/y"],"system":["/x"],"system_in":{"1-2":["/x","/y"]},"reason":"/x is gone"}}`))
	f.Add([]byte(`{"wish":{"program":"/x","shims":["/y"]}}`))
	f.Add([]byte(`{"wish":{"program":"/x","system_in":{"":["/y"]}}}`))
	f.Add([]byte(`{"wish":{"program":"/x"},"image":{}}`))
	f.Add([]byte("null"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, object []byte) {
		if _, err := decodeStored(key, object); err == nil {
			t.Fatal("taken without a sum")
		}
		s, err := decodeStored(key, append(storedHeader(key, object), object...))
		if err != nil {
			return
		}
		again, err := encodeStored(key, s)
		if err != nil {
			t.Fatalf("what was decoded cannot be encoded: %v", err)
		}
		twice, err := decodeStored(key, again)
		if err != nil || len(twice.entries(key)) != len(s.entries(key)) || (twice.Image == nil) != (s.Image == nil) {
			t.Fatalf("%s became %s: %v", object, again, err)
		}
	})
}
