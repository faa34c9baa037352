package launcher

import (
	"slices"
	"testing"
)

func TestNames(t *testing.T) {
	for _, want := range [][]string{{"/usr/bin/perl"}, {"/usr/bin/java", "/bin/java", "/usr/lib/jvm/17/bin/java"}} {
		file, err := File(0, want[0], "/store/index/1-2", want[1:]...)
		if got := Names(file); err != nil || !slices.Equal(got, want) {
			t.Errorf("want %q, got %q, %v", want, got, err)
		}
		for n := range file {
			if got := Names(file[:n]); len(got) > len(want) {
				t.Errorf("of %d bytes: %q", n, got)
			}
		}
	}
	if _, err := File(0, "/usr/bin/perl", "/store/index/1-2", "perl"); err == nil {
		t.Error("a name that is no path")
	}
	front, err := Front([]string{"/store"})
	if got := Names(front); err != nil || got != nil {
		t.Errorf("of a front file: %q, %v", got, err)
	}
}
