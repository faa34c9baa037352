package linux

import (
	"os"
	"path/filepath"
	"testing"
)

func TestGroups(t *testing.T) {
	dir := t.TempDir()
	group, passwd := filepath.Join(dir, "group"), filepath.Join(dir, "passwd")
	for path, text := range map[string]string{
		group:  "root:x:0:root\nempty:x:61001:root,toor\nused:x:61002:root,alice\nown:x:61003:\nodd\n",
		passwd: "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:61001::/:/bin/sh\nalice:x:1000:61003::/:/bin/sh\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	groups := ReadGroups(group, passwd)
	for gid, want := range map[uint32]bool{
		0:     true,
		61001: true,
		61002: false, // has a member
		61003: false, // is a user's primary group
		61004: false, // in no file
	} {
		if groups.Empty(gid) != want {
			t.Errorf("group %d is empty: %v", gid, !want)
		}
	}
	if ReadGroups("/no/such", "/etc/passwd").Empty(0) {
		t.Error("a group is empty although no file says so")
	}
}
