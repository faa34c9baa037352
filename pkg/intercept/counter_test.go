package intercept

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/residentctl/residentctl/internal/linux"
)

func TestCounter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	c, err := NewCounter(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// A line may arrive in pieces, and what is no line of ours does not matter.
	for _, piece := range []string{
		"-1-2 it is cold\t/bin/a\n+1-2 \t/bin/a\n", "-1-", "3 it is late\t/bin/b b\n", "nonsense\n\n+x-y \t/c\n",
		"-1-3 it is cold\t/bin/b b\n=1-3 LD_PRELOAD\t/bin/b b\n-9-9",
	} {
		if _, err := f.WriteString(piece); err != nil {
			t.Fatal(err)
		}
		if err := c.Read(); err != nil {
			t.Fatal(err)
		}
	}
	want := map[linux.Inode]*Starts{
		{Dev: 1, Ino: 2}: {Path: "/bin/a", Resident: 1, Normal: 1},
		{Dev: 1, Ino: 3}: {Path: "/bin/b b", Normal: 2, Unfit: 1},
	}
	if diff := cmp.Diff(want, c.Programs); diff != "" {
		t.Error(diff)
	}
	reasons := map[string]int{"it is cold": 2, "it is late": 1, "LD_PRELOAD is set": 1}
	if diff := cmp.Diff(reasons, c.Reasons); diff != "" {
		t.Error(diff)
	}
}

func FuzzCounter(f *testing.F) {
	f.Add([]byte("-1-2 it is cold\t/bin/a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &Counter{Programs: map[linux.Inode]*Starts{}, Reasons: map[string]int{}}
		c.count(string(b))
		for _, s := range c.Programs {
			if s.Resident+s.Normal+s.Unfit != 1 {
				t.Errorf("one line counts %d times", s.Resident+s.Normal)
			}
		}
	})
}
