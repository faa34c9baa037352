package linux

import "testing"

// TestParseInode: a name is an inode's if the inode has that name.
func TestParseInode(t *testing.T) {
	for _, i := range []Inode{{}, {65024, 12}, {1<<63 + 5, 1<<64 - 1}} {
		if got, ok := ParseInode(i.String()); !ok || got != i {
			t.Errorf("%v: %v, %v", i, got, ok)
		}
	}
	for _, s := range []string{"", "1", "1-", "01-2", "1-2x", "1-2 ", "-1-2", "1-+2", "1-2-3", "99999999999999999999-1"} {
		if i, ok := ParseInode(s); ok {
			t.Errorf("%q is %v", s, i)
		}
	}
}
