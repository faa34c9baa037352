package launcher

import (
	"slices"
	"testing"
)

func TestNames(t *testing.T) {
	for _, want := range [][]string{{"/usr/bin/perl"}, {"/usr/bin/java", "/bin/java", "/usr/lib/jvm/17/bin/java"}} {
		file, err := File(0, Store{Dir: "/store"}, "index/1-2", want[0], want[1:]...)
		if got := Names(file); err != nil || !slices.Equal(got, want) {
			t.Errorf("want %q, got %q, %v", want, got, err)
		}
		for n := range file {
			if got := Names(file[:n]); len(got) > len(want) {
				t.Errorf("of %d bytes: %q", n, got)
			}
		}
	}
	if _, err := File(0, Store{Dir: "/store"}, "index/1-2", "/usr/bin/perl", "perl"); err == nil {
		t.Error("a name that is no path")
	}
	front, err := Front([]Store{{Dir: "/store"}})
	if got := Names(front); err != nil || got != nil {
		t.Errorf("of a front file: %q, %v", got, err)
	}
}
