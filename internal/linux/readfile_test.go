package linux

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		name, content, want string
	}{
		{"empty", "", ""},
		{"short", "content", "content"},
		{"limited", strings.Repeat("x", 20_000), strings.Repeat("x", 10_000)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(dir, tc.name)
			if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
				t.Fatal(err)
			}
			raw, st, err := ReadFile(path, 10_000)
			if err != nil || string(raw) != tc.want || st.Size != int64(len(tc.content)) {
				t.Errorf("%d bytes, %+v, %v", len(raw), st, err)
			}
		})
	}
	if _, st, err := ReadFile(filepath.Join(dir, "none"), 1); !errors.Is(err, fs.ErrNotExist) || st != nil {
		t.Errorf("a file that is not there: %+v, %v", st, err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if raw, st, err := ReadFile(fifo, 1); err != nil || len(raw) != 0 || st == nil { // and does not wait
		t.Errorf("a FIFO: %q, %+v, %v", raw, st, err)
	}
	if _, st, err := ReadFile(dir, 1); !errors.Is(err, syscall.EISDIR) || st == nil {
		t.Errorf("a directory: %+v, %v", st, err)
	}
}
