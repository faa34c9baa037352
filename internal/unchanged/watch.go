package unchanged

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// watch is inotify(7) of the directories that files are in. What becomes of a file
// under the name of another is an event of none of them, so an event says only that
// it is time to look.
type watch struct{ events *os.File }

const directoryChanges = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_ONLYDIR

func newWatch(files []string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify_init1: %w", err)
	}
	w := &watch{os.NewFile(uintptr(fd), "inotify")}
	seen := map[string]bool{}
	for _, path := range files {
		names := []string{path}
		if target, err := filepath.EvalSymlinks(path); err == nil {
			names = append(names, target)
		}
		for _, name := range names {
			directory := filepath.Dir(name)
			if seen[directory] {
				continue
			}
			seen[directory] = true
			if _, err := unix.InotifyAddWatch(fd, directory, directoryChanges); err != nil && !errors.Is(err, fs.ErrNotExist) {
				w.events.Close()
				return nil, fmt.Errorf("inotify_add_watch %s: %w", directory, err)
			}
		}
	}
	return w, nil
}

// wait waits until something has changed in one of the directories, and reports
// whether it may have; it returns false when the watch cannot be read.
func (w *watch) wait() bool {
	// Enough for some hundred events: one look serves all that are read at once.
	buffer := make([]byte, 64<<10)
	_, err := w.events.Read(buffer)
	return err == nil
}
