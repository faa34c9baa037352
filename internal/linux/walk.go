package linux

import (
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Step is one entry of a directory by which a path is resolved.
type Step struct {
	Dir  string       // path of the directory, without symbolic links
	FD   int          // of that directory, opened O_PATH; Walk closes it
	In   *unix.Stat_t // of that directory
	Name string       // of the entry
	Open int          // the entry, opened O_PATH, the link itself where it is one; Walk closes it
	Stat *unix.Stat_t // of the entry; nil if there is none
}

// maxLinks is how many symbolic links the kernel follows in one path (path_resolution(7);
// include/linux/namei.h, MAXSYMLINKS).
const maxLinks = 40

// Walk resolves a path as the kernel does (path_resolution(7)), link by link, and calls
// visit for each entry that it comes through, the last included, and the first that does
// not exist. A relative path starts at from: the path of a directory, without links, of
// which nothing is visited. Walk returns the path that it arrives at, without links, and
// a descriptor of what is there, opened O_PATH, which the caller closes: what has been
// visited has led to exactly this, whatever is renamed meanwhile. It ends with the first
// error, of visit's or the kernel's, wrapped with the entry's path.
func Walk(from, path string, visit func(Step) error) (at string, fd int, err error) {
	at = from
	if filepath.IsAbs(path) {
		at = "/"
	}
	if !filepath.IsAbs(at) {
		return "", -1, fmt.Errorf("follow %s: %w", path, unix.EINVAL)
	}
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	open := func(dir int, name string) (fd int, st *unix.Stat_t, err error) {
		err = EINTR(func() (err error) { fd, err = unix.Openat(dir, name, flags, 0); return err })
		if err != nil {
			return -1, nil, err
		}
		st = new(unix.Stat_t)
		if err := unix.Fstat(fd, st); err != nil {
			unix.Close(fd)
			return -1, nil, err
		}
		return fd, st, nil
	}
	fd, in, err := open(unix.AT_FDCWD, at)
	if err != nil {
		return "", -1, fmt.Errorf("open %s: %w", at, err)
	}
	rest, links := strings.Split(path, "/"), 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." {
			continue
		}
		next, st, err := open(fd, name)
		if (err == nil || err == unix.ENOENT) && name != ".." { // which leads back to where Walk has been, or above from
			if refused := visit(Step{Dir: at, FD: fd, In: in, Name: name, Open: next, Stat: st}); refused != nil {
				if err == nil {
					unix.Close(next)
				}
				err = refused
			}
		}
		if err != nil {
			unix.Close(fd)
			return "", -1, fmt.Errorf("follow %s: %w", filepath.Join(at, name), err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			unix.Close(fd)
			fd, in, at = next, st, filepath.Join(at, name)
			continue
		}
		target, err := readLink(next)
		unix.Close(next)
		if links++; err == nil && links > maxLinks {
			err = unix.ELOOP
		}
		if err == nil && strings.HasPrefix(target, "/") {
			unix.Close(fd)
			at = "/"
			fd, in, err = open(unix.AT_FDCWD, at)
		}
		if err != nil {
			if fd >= 0 {
				unix.Close(fd)
			}
			return "", -1, fmt.Errorf("follow %s: %w", filepath.Join(at, name), err)
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return at, fd, nil
}

// readLink returns where an open link leads (readlinkat(2), "pathname can be an empty
// string").
func readLink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err == nil && n == len(buf) {
		err = unix.ENAMETOOLONG
	}
	return string(buf[:max(n, 0)]), err
}
