package resident

import (
	"io"
	"os"
	"regexp"
	"syscall"
)

// managed matches the last line of the scripts that version managers put into PATH. pyenv,
// and rbenv and others of its family, write (libexec/pyenv-rehash, libexec/rbenv-rehash)
//
//	exec "/home/user/.pyenv/libexec/pyenv" exec "$program" "$@"
//
// and asdf (lib/commands/reshim.bash, internal/shims/shims.go)
//
//	exec /home/user/.asdf/bin/asdf exec "node" "$@"
var managed = regexp.MustCompile(`(?m)^\s*exec "?(?:[^"\n]*/)?([a-z]+env|asdf)"? exec "`)

// VersionManager returns the name of the version manager, such as pyenv, whose script is at
// path; "" if it is another file, or one that the caller cannot read. The script executes
// one of several programs of its name, which one depends on the working directory, on
// files there and above, and on environment variables.
func VersionManager(path string) string {
	const longest = 64 << 10                                       // asdf's have a line for each version
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // which a pipe does not hold up
	if err != nil {
		return ""
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, longest))
	if err != nil || len(text) < 2 || string(text[:2]) != "#!" {
		return ""
	}
	if m := managed.FindSubmatch(text); m != nil {
		return string(m[1])
	}
	return ""
}
