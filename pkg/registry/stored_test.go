package registry

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

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
