package elfinfo

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/residentctl/residentctl/internal/linux"
)

// defaultPath is what execvp(3) searches without PATH: confstr(3) of _CS_PATH.
const defaultPath = "/bin:/usr/bin"

// LookPath finds the program that execvp(3) would execute for the caller, as
// an absolute path in which no link is resolved. A name with a slash is not
// searched for and need not exist. Otherwise each directory of PATH is tried, an
// empty one being the current directory. Its error is a *Refusal.
func LookPath(name string) (string, error) { return LookPathPast(name, nil) }

// LookPathPast is LookPath for a PATH in which some files stand for others that
// are found without them: past reports which. One of them is only taken if there is
// nothing else.
func LookPathPast(name string, past func(path string) bool) (string, error) {
	if name == "" {
		return "", &Refusal{Path: `""`, Kind: NotFound, Reason: "is not the name of a program", Hint: "name a program"}
	}
	if strings.Contains(name, "/") {
		return absolute(name)
	}
	path, set := os.LookupEnv("PATH")
	if !set {
		path = defaultPath
	}
	var denied, passed string
	for _, dir := range strings.Split(path, ":") {
		full := dir + "/" + name
		if dir == "" {
			full = "./" + name
		}
		switch executable(full) {
		case nil:
			if past == nil || !past(full) {
				return absolute(full)
			}
			if passed == "" {
				passed = full
			}
		case syscall.EACCES:
			denied = full
		}
	}
	if passed != "" {
		return absolute(passed)
	}
	if denied != "" {
		return "", &Refusal{Path: denied, Kind: NotExecutable, Reason: "cannot be executed by you",
			Hint: "set its mode with chmod(1)"}
	}
	return "", &Refusal{Path: name, Kind: NotFound, Reason: "is in no directory of PATH",
		Hint: fmt.Sprintf("give its path, or check PATH, which is %q", path)}
}

// executable is what execve(2) would say about the file at path, as far as
// execvp(3) cares: nil, EACCES (remembered) or another errno (searched on).
func executable(path string) error {
	var st syscall.Stat_t
	if err := linux.EINTR(func() error { return syscall.Stat(path, &st) }); err != nil {
		return err
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return syscall.EACCES
	}
	if err := linux.CanExecute(path); err != nil {
		return errnoOf(err)
	}
	return nil
}

// absolute puts the current directory before a relative path and takes out "."
// and doubled slashes. ".." stays: after a link it is not the directory before.
func absolute(path string) (string, error) {
	if !strings.HasPrefix(path, "/") {
		wd, err := os.Getwd()
		if err != nil {
			return "", &Refusal{Path: path, Kind: NotFound, Reason: fmt.Sprintf("is relative to the current directory, which cannot be found (%v)", errnoOf(err)),
				Hint: "give its absolute path, or go to a directory that exists"}
		}
		path = wd + "/" + path
	}
	var b strings.Builder
	for _, part := range strings.Split(path, "/") {
		if part != "" && part != "." {
			b.WriteString("/" + part)
		}
	}
	// A slash at the end asks for a directory.
	if b.Len() == 0 || strings.HasSuffix(path, "/") || strings.HasSuffix(path, "/.") {
		b.WriteString("/")
	}
	return b.String(), nil
}
