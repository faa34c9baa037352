package store

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestAccess: a file has an access, more than it, or less.
func TestAccess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	own := os.Getegid()
	for _, test := range []struct {
		had            fs.FileMode
		want           Access
		fits, exceeded bool
	}{
		{0o644, Access{0o644, own}, true, false},
		{0o644, Access{0o644, own + 1}, true, false}, // whose group it is does not matter
		{0o600, Access{0o644, own}, false, false},
		{0o644, Access{0o640, own}, false, true},
		{0o640, Access{0o640, own}, true, false},
		{0o640, Access{0o640, own + 1}, false, true}, // another group reads it
		{0o604, Access{0o640, own}, false, true},
		{0o755, Access{0o711, -1}, false, true},
		{0o600, Access{0o640, own + 1}, os.Geteuid() != 0, false}, // root could have given it
	} {
		if err := os.Chmod(path, test.had); err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fits, exceeded := test.want.Fits(info), test.want.ExceededBy(info); fits != test.fits || exceeded != test.exceeded {
			t.Errorf("mode %04o for %04o, group %d: fits %v, exceeded %v", test.had, test.want.Mode, test.want.GID, fits, exceeded)
		}
	}
}
