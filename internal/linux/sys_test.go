package linux

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestHasXattr(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if has, err := HasXattr(f, "user.residentctl"); has || err != nil {
		t.Errorf("before: %v, %v", has, err)
	}
	if err := syscall.Setxattr(path, "user.residentctl", []byte("1"), 0); err != nil {
		t.Skip("this file system has no user attributes:", err)
	}
	if has, err := HasXattr(f, "user.residentctl"); !has || err != nil {
		t.Errorf("after: %v, %v", has, err)
	}
}

func TestCanExecute(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := CanExecute(path); !errors.Is(err, syscall.EACCES) {
		t.Errorf("mode 0644: %v", err)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := CanExecute(path); err != nil {
		t.Errorf("mode 0755: %v", err)
	}
}

func TestKernel(t *testing.T) {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Skip(err)
	}
	k, err := Kernel()
	if err != nil || !strings.HasPrefix(k, strings.TrimSpace(string(release))+" ") {
		t.Errorf("Kernel() = %q, %v", k, err)
	}
}

// A file is stamped no earlier than the coarse clock stood before.
func TestCoarseNowStampsFiles(t *testing.T) {
	before, err := CoarseNow()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	id, err := StatID(path)
	if err != nil {
		t.Fatal(err)
	}
	if id.Ctime < before || id.Ctime > before+int64(time.Minute) {
		t.Errorf("stamped %d, coarse clock before %d", id.Ctime, before)
	}
}
