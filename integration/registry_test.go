package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/residentctl/residentctl/integration/kit"
)

// TestOlderRegistry: a registry of schema 1 goes on to serve. Users who may only read
// the store see what they saw, check says what to do, and the first command of the
// owner's that reads it brings it up to date, with nothing lost.
func TestOlderRegistry(t *testing.T) {
	alice, _ := kit.NewAccounts(t)
	dir := kit.Dir(t)
	kit.Chmod(t, dir, 0o755)
	for _, test := range []struct {
		name  string
		first []string // the owner's command
		also  string   // that it is to say
	}{
		{"list", []string{"list"}, " current "},
		{"gc", []string{"gc"}, "0 items"},
		{"refresh", []string{"refresh"}, ": current\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := kit.NewStore(t, filepath.Join(dir, "data-"+test.name))
			first, second := program(t, filepath.Join(dir, "first"), 0o755, 0), filepath.Join(dir, "second")
			if err := os.Link(first, second); err != nil && !errors.Is(err, os.ErrExist) {
				t.Fatal(err)
			}
			s.Do(t, "add", "--even-if-slower", "--layouts", "2", first, second)
			before := s.Do(t, "--format", "json", "list")
			path := filepath.Join(s.Dir, "registry.db")
			toSchema1(t, path)
			older, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}

			s.WantResident(t, second)
			if got := alice.Lists(t, "--store", s.Dir, "list"); len(got) != 1 {
				t.Errorf("alice sees %q", got)
			}
			check := kit.Finish(t, s.Command("check", "--no-trial"))
			if check.Code != 0 || !strings.Contains(check.Stdout, "an older residentctl wrote it") ||
				!strings.Contains(check.Stdout, "-> run `residentctl list` as its owner to bring it up to date") {
				t.Errorf("check: %v", check)
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, older) {
				t.Errorf("who only looks has changed it (%v)", err)
			}
			if got := s.Do(t, test.first...); !strings.Contains(got, test.also) {
				t.Errorf("%s: %s", test.first, got)
			}
			wantClean(t, s)
			if after := s.Do(t, "--format", "json", "list"); after != before {
				t.Errorf("list before:\n%safter:\n%s", before, after)
			}
			s.WantResident(t, second)
			s.Do(t, "remove", "second")
			wantClean(t, s)
		})
	}
}

// toSchema1 turns a registry of schema 2 into what a residentctl of schema 1 would
// have written: see pkg/registry/schema.go.
func toSchema1(t *testing.T, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		older := map[string]string{} // the key in schema 1 by that in schema 2
		ids := map[string]string{}
		records := tx.Bucket([]byte("records"))
		values := map[string][]byte{}
		if err := records.ForEach(func(key, value []byte) error {
			_, object, _ := bytes.Cut(value, []byte("\n"))
			var parts struct {
				Wish  map[string]json.RawMessage
				Image json.RawMessage
			}
			var image struct {
				ID, Digest string
				Binary     struct{ Dev, Ino uint64 }
			}
			if err := json.Unmarshal(object, &parts); err != nil {
				return err
			}
			if err := errors.Join(json.Unmarshal(parts.Image, &image), json.Unmarshal(parts.Image, &parts.Wish)); err != nil {
				return err
			}
			text, err := json.Marshal(parts.Wish) // both in one object
			older[string(key)] = fmt.Sprintf("%d-%d-%s", image.Binary.Dev, image.Binary.Ino, image.Digest)
			ids[string(key)] = image.ID
			values[string(key)] = text
			return err
		}); err != nil {
			return err
		}
		for key, text := range values {
			if err := errors.Join(records.Delete([]byte(key)), records.Put([]byte(older[key]), text)); err != nil {
				return err
			}
		}
		for _, name := range []string{"by-id", "by-path", "by-library"} {
			index := tx.Bucket([]byte(name))
			entries := map[string]string{}
			if err := index.ForEach(func(entry, key []byte) error { entries[string(entry)] = string(key); return nil }); err != nil {
				return err
			}
			for entry, key := range entries {
				changed := entry
				if path, _, found := strings.Cut(entry, "\x00"); found {
					changed = path + "\x00" + ids[key]
				}
				if err := errors.Join(index.Delete([]byte(entry)), index.Put([]byte(changed), []byte(older[key]))); err != nil {
					return err
				}
			}
		}
		return errors.Join(tx.DeleteBucket([]byte("by-inode")), tx.DeleteBucket([]byte("by-lookup")), tx.Bucket([]byte("meta")).Put([]byte("schema"), []byte("1")))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}
