package kit

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

// LinkTo returns a link to the file by another name, in a directory of its own.
func LinkTo(t testing.TB, target, name string) string {
	t.Helper()
	link := filepath.Join(Dir(t), name)
	Symlink(t, target, link)
	return link
}

// Symlink makes a symbolic link, as os.Symlink.
func Symlink(t testing.TB, target, link string) {
	t.Helper()
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
}

// Dir returns a new directory that every user may enter; T.TempDir's is the owner's.
func Dir(t testing.TB) string {
	t.Helper()
	path, err := os.MkdirTemp(Temporary, "test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(path) })
	return path
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Remove removes a file or a tree, as os.RemoveAll.
func Remove(t testing.TB, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// Chmod changes the mode, as os.Chmod.
func Chmod(t testing.TB, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// Chown makes the file the user's and the group's of this id.
func Chown(t testing.TB, path string, id int) {
	t.Helper()
	if err := os.Chown(path, id, id); err != nil {
		t.Fatal(err)
	}
}

// CopyFile copies a program or library, in place if there is one already.
func CopyFile(t testing.TB, from, to string) {
	t.Helper()
	source, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if _, err := io.Copy(target, source); err != nil {
		t.Fatal(err)
	}
}
