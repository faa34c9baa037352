package linux

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReadTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[int64]string{0: "", 3: "789", 10: "0123456789", 11: "0123456789"} {
		if got, err := ReadTail(path, limit); string(got) != want || err != nil {
			t.Errorf("%d bytes: %q, %v", limit, got, err)
		}
	}
	if _, err := ReadTail(path+"-not", 1); !os.IsNotExist(err) {
		t.Errorf("a file that is not there: %v", err)
	}
}
