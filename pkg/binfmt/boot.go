package binfmt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/residentctl/residentctl/internal/linux"
)

// BootPath returns the file by which systemd-binfmt registers a program at boot.
func BootPath(b linux.Inode) string {
	return filepath.Join(BootDir, name(b)+".conf")
}

// RegisterAtBoot has a program registered at every boot from now on, and reports
// whether anything on this machine will do so: BootDir is there.
func RegisterAtBoot(b linux.Inode, magic []byte, interpreter string) (bool, error) {
	path := BootPath(b)
	s, err := line(b, magic, interpreter)
	if err != nil {
		return false, fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.CreateTemp(BootDir, ".residentctl-*") // binfmt.d(5): only *.conf is read
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.WriteString("# Made by `residentctl enable --system`, taken away by `residentctl disable`.\n" + s + "\n")
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return false, fmt.Errorf("write %s: %w", path, err)
	}
	return true, nil
}

// RemoveAtBoot ends that. That there is no such file is no error.
func RemoveAtBoot(b linux.Inode) error {
	err := os.Remove(BootPath(b))
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("remove %s: %w", BootPath(b), err)
}

// AtBoot returns residentctl's files in BootDir: the program and the launcher file of
// each.
func AtBoot() ([]Entry, error) {
	files, err := os.ReadDir(BootDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []Entry
	for _, f := range files {
		base, isConf := strings.CutSuffix(f.Name(), ".conf")
		binary, ok := binaryOf(base)
		if !isConf || !ok {
			continue
		}
		text, err := os.ReadFile(filepath.Join(BootDir, f.Name()))
		if err != nil {
			return all, err
		}
		all = append(all, Entry{Path: filepath.Join(BootDir, f.Name()), Binary: binary, Interpreter: interpreterIn(string(text))})
	}
	return all, err
}

// interpreterIn returns the interpreter of the last line that RegisterAtBoot wrote, ""
// if there is none.
func interpreterIn(text string) (interpreter string) {
	for _, s := range strings.Split(text, "\n") {
		if s == "" || s[0] == '#' || s[0] == ';' {
			continue
		}
		if fields := strings.Split(s, s[:1]); len(fields) == 8 {
			interpreter = fields[6]
		}
	}
	return interpreter
}
