package registry

import (
	"encoding/json"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
)

// What a record is decoded to does not depend on deps being cut out of it, whatever its strings
// and deps are.
func TestDepsAreCutOutOfARecord(t *testing.T) {
	for _, tc := range []struct{ name, program, deps string }{
		{"without", "/bin/a", ``},
		{"empty", "/bin/a", `{}`},
		{"not an object", "/bin/a", `[{"deps":{}}]`},
		{"nested", "/bin/a", `{"a":{"deps":{"b":[{},{"deps":{}}]}},"c":1}`},
		{"braces in strings", "/bin/a", `{"a":"}\"}\\","b\\":"{","c":"\\\\\"{"}`},
		{"names like it", `/bin/,"deps":{`, `{"path":"/bin/,\"deps\":{"}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &stored{Wish: Wish{Program: tc.program, Paths: []string{tc.program + `\"}`}}, Image: &Image{
				ID: "0123456789ab", Binary: linux.FileID{Ino: 1}, Digest: strings.Repeat("a", 64), Kind: "linked", Created: time.Unix(1, 0).UTC(),
				Lookups: []string{`/lib/},"deps":{}`}, Deps: json.RawMessage(tc.deps),
			}}
			raw, err := encodeStored("key", s)
			if err != nil {
				t.Fatal(err)
			}
			got, err := decodeStored("key", raw)
			if err != nil {
				t.Fatal(err)
			}
			var want stored
			if err := json.Unmarshal(raw[len(storedHeader("", nil)):], &want); err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(&want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A record is decoded straight from the mapped file, and nothing of it may be there any more
// when that is unmapped.
func TestNothingOfARecordStaysInTheMapping(t *testing.T) {
	withDeps := func(deps string) string {
		rec := record(1, "/usr/bin/perl", 10, "/lib/libc.so.6")
		rec.Deps, rec.Lookups, rec.CRIU = json.RawMessage(deps), []string{"/etc/ld.so.cache"}, "4.1"
		rec.Paths, rec.System, rec.SystemIn = []string{"/bin/perl"}, []string{"/bin/perl"}, map[string][]string{"1-2": {"/usr/bin/perl"}}
		rec.PlanSums = []string{strings.Repeat("0", 16)}
		raw, err := encodeStored("key", storedOf(&rec))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw[len(storedHeader("", nil)):])
	}
	for name, object := range map[string]string{
		"deps that are cut out":     withDeps(`{"a":"b"}`),
		"deps that are not":         withDeps(`["a","b"]`),
		"no deps":                   withDeps(""),
		"no image":                  `{"wish":{"program":"/x","reason":"it is gone"}}`,
		"not JSON":                  `{"wish":{"program":"/x"`,
		"a number for the program":  `{"wish":{"program":123456}}`,
		"a path that is not a path": `{"wish":{"program":"x"}}`,
		"a program named twice":     `{"wish":{"program":"/x","paths":["/x"]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			value := append(storedHeader("key", []byte(object)), object...)
			want, wantErr := decodeStored("key", value)
			mapped, err := unix.Mmap(-1, 0, len(value), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err != nil {
				t.Fatal(err)
			}
			copy(mapped, value)
			got, err := decodeStored("key", mapped)
			if err := unix.Munmap(mapped); err != nil {
				t.Fatal(err)
			}
			debug.SetPanicOnFault(true) // in this goroutine
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("something of it is read there: %v", p)
				}
			}()
			if diff := gocmp.Diff(want, got); diff != "" || (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
				t.Errorf("%v, want %v:\n%s", err, wantErr, diff)
			}
		})
	}
}
