package conf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/residentctl/residentctl/internal/owners"
	"github.com/residentctl/residentctl/internal/problem"
)

// SystemDir is where the machine's files are.
const SystemDir = "/etc/residentctl"

// A Config is what files say.
type Config struct {
	Files []string // that were read, in order
	Lines []Line
}

// Default reads the files that count for the caller: resident.conf and
// resident.conf.d/*.conf in /etc/residentctl for root, in residentctl of
// $XDG_CONFIG_HOME (~/.config) for others. Where there is none it is an error: an
// empty file says that nothing is to be resident, and none says nothing.
func Default() (*Config, error) {
	dir, err := ownDir()
	if err != nil {
		return nil, err
	}
	c := &Config{}
	if err := c.readDir(dir); err != nil {
		return nil, err
	}
	if len(c.Files) == 0 {
		name := filepath.Join(dir, "resident.conf")
		return nil, problem.Newf(problem.Usage, "read %s: %w", name, fs.ErrNotExist).
			WithHint("name one program a line in it, or name another file")
	}
	return c, nil
}

// Read reads the files that are named.
func Read(names ...string) (*Config, error) {
	c := &Config{}
	for _, name := range names {
		if err := c.read(name); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Rules reads all files whose lines with ! the caller obeys: the machine's, and an ordinary
// user's own.
func Rules() (*Config, error) {
	c := &Config{}
	if err := c.readDir(SystemDir); err != nil || os.Geteuid() == 0 {
		return c, err
	}
	dir, err := ownDir()
	if err != nil {
		return c, nil // a user without a home has no files
	}
	return c, c.readDir(dir)
}

func ownDir() (string, error) {
	if os.Geteuid() == 0 {
		return SystemDir, nil
	}
	dir, err := os.UserConfigDir() // $XDG_CONFIG_HOME, or ~/.config
	if err != nil {
		return "", problem.Newf(problem.Usage, "find resident.conf: %w", err).WithHint("name a file")
	}
	return filepath.Join(dir, "residentctl"), nil
}

// readDir reads the files of a directory, as far as they are there.
func (c *Config) readDir(dir string) error {
	err := c.read(filepath.Join(dir, "resident.conf"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(dir, "resident.conf.d")) // sorted
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return problem.Errorf("read configuration: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".conf") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err := c.read(filepath.Join(dir, "resident.conf.d", e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// maxFile bounds what is read of a file, in bytes.
const maxFile = 16 << 20

// read adds a file. Root reads only one that root alone can change, since it decides what
// root executes.
func (c *Config) read(name string) error {
	abs, err := filepath.Abs(name)
	if err != nil {
		return problem.Errorf("read %s: %w", name, err)
	}
	if _, err := owners.New().Check(abs); err != nil {
		return mistrusted(name, err)
	}
	f, err := os.Open(abs)
	if err != nil {
		return problem.Newf(problem.Usage, "read configuration: %w", err).WithHint("name a file that exists and that you can read")
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("it is longer than %d bytes", maxFile)
	}
	if err != nil {
		return problem.Newf(problem.Usage, "read %s: %w", name, err).WithHint("name a file with one program a line")
	}
	lines, err := Parse(name, string(text))
	if err != nil {
		return err
	}
	c.Files, c.Lines = append(c.Files, name), append(c.Lines, lines...)
	return nil
}

func mistrusted(name string, err error) error {
	var refused *owners.Refusal
	if !errors.As(err, &refused) {
		return err
	}
	return problem.Newf(problem.Untrusted, "read %s as root: %s %s", name, refused.At, refused.Why).
		WithHint("make root the owner of the file and of the directories that lead to it, and let no other user write there")
}
