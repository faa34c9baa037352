package unchanged

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/residentctl/residentctl/internal/linux"
)

const linkerCache = "/etc/ld.so.cache"

// linking are the files by which dynamic linkers decide what to load, and the
// linkers (ld.so(8), musl's ldso/dynlink.c).
var linking = []string{
	linkerCache, "/etc/ld.so.preload", "/lib64/ld-linux-x86-64.so.2",
	"/etc/ld-musl-x86_64.path", "/lib/ld-musl-x86_64.so.1",
}

// programs are those of the distribution that the tests make resident, and those
// that they work with.
var programs = strings.Fields(`
	as bash cat cp curl env false ffmpeg g++ gcc gdb git inkscape java javac ld ls node
	openssl perl python3 ruby sed sh sleep sqlite3 strace true unshare vim`)

// Files returns the files of this machine that the tests depend on: linking, every
// library that ld.so.cache names, and programs. A file of it need not exist.
func Files() []string {
	files := slices.Clone(linking)
	// The cache ends in its strings, each ended by a NUL (glibc's
	// sysdeps/generic/dl-cache.h). Without a cache there are none.
	cache, _ := os.ReadFile(linkerCache)
	for word := range bytes.SplitSeq(cache, []byte{0}) {
		if path := string(word); filepath.IsAbs(path) && strings.Contains(path, ".so") {
			files = append(files, path)
		}
	}
	for _, name := range programs {
		files = append(files, "/usr/bin/"+name)
	}
	return files
}

// snapshot is what files were; the zero FileID: not there.
type snapshot map[string]linux.FileID

func take(files []string) snapshot {
	s := snapshot{}
	for _, path := range files {
		// What cannot be looked at is no dependency of a test either.
		s[path], _ = linux.StatID(path)
	}
	return s
}

// change says in some words what differs in a later snapshot of the same files, or
// "" if nothing does.
func (s snapshot) change(later snapshot) string {
	var changes []string
	for _, path := range slices.Sorted(maps.Keys(s)) {
		if was, is := s[path], later[path]; was != is {
			changes = append(changes, path+" "+difference(was, is))
		}
	}
	switch len(changes) {
	case 0:
		return ""
	case 1:
		return changes[0]
	}
	return fmt.Sprintf("%s, and %d more", changes[0], len(changes)-1)
}

func difference(was, is linux.FileID) string {
	switch {
	case was == linux.FileID{}:
		return "was made"
	case is == linux.FileID{}:
		return "was removed"
	case was.Inode() != is.Inode():
		return "was replaced"
	case was.Size != is.Size || was.Mtime != is.Mtime:
		return "was written to"
	}
	return "has other attributes" // owner, mode or links: only ctime
}
