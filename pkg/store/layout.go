package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/residentctl/residentctl/internal/linux"
)

// Names in a store.
const (
	registryName = "registry.db"
	imagesName   = "images"
	indexName    = "index"
	launcherName = "launchers"
	shimsName    = "shims"
	systemName   = "system"
	stagingName  = "staging"
	bootName     = "boot"
	planName     = "plan"
	aboutName    = "about.json"
)

var directories = []string{imagesName, indexName, launcherName, shimsName, stagingName}

// SystemDir returns where the store of the whole system is.
func SystemDir() string { return "/var/lib/residentctl" }

// UserDir returns where the caller's own store is: in $XDG_DATA_HOME, or in
// ~/.local/share (XDG Base Directory Specification).
func UserDir() (string, error) {
	if base := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(base) {
		return filepath.Join(base, "residentctl"), nil
	}
	home, err := os.UserHomeDir()
	if err == nil && !filepath.IsAbs(home) {
		err = fmt.Errorf("HOME is %q, which is not an absolute path", home)
	}
	if err != nil {
		return "", Failed("find the store of", "this user", err).WithHint("set HOME, or name a store with --store")
	}
	return filepath.Join(home, ".local", "share", "residentctl"), nil
}

// Default returns the store that add writes to: the system's for root, else the
// caller's own.
func Default() (string, error) {
	if os.Geteuid() == 0 {
		return SystemDir(), nil
	}
	return UserDir()
}

// Dir returns the store's own path.
func (s *Store) Dir() string { return s.dir }

// RegistryPath returns the registry's file.
func (s *Store) RegistryPath() string { return s.in(registryName) }

// ShimsDir returns the directory for links that PATH can lead to.
func (s *Store) ShimsDir() string { return ShimsDirOf(s.dir) }

// ShimsDirOf returns the same of a store in dir that may not exist yet.
func ShimsDirOf(dir string) string { return filepath.Join(dir, shimsName) }

// FitsPath returns why a directory cannot be in PATH: a colon would end it there, and a
// line break the line with which a shell puts it there.
func FitsPath(dir string) error {
	if strings.ContainsAny(dir, ":\n") {
		return wrap("put into PATH", dir, errNotInPath)
	}
	return nil
}

// HasRegistry reports whether there is a registry in a directory. It is made last, so
// without one a store whose directories are not complete was never finished.
func HasRegistry(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, registryName))
	return err == nil
}

// ImageDir returns the directory of an image.
func (s *Store) ImageDir(id string) string { return s.in(imagesName, id) }

// PlanPath returns the plan of an image.
func (s *Store) PlanPath(id string) string { return s.in(imagesName, id, planName) }

// AboutPath returns what an image says of itself to those who may read it: a copy of
// its record, since the registry is for the store's owner only.
func (s *Store) AboutPath(id string) string { return s.in(imagesName, id, aboutName) }

// IndexPath returns the link to the plan of a program.
func (s *Store) IndexPath(b linux.Inode) string { return s.At(IndexName(b)) }

// LaunchersDir returns the directory of a program's launcher files.
func (s *Store) LaunchersDir(b linux.Inode) string {
	return s.in(launcherName, b.String())
}

// LauncherPath returns the launcher file of a program, given its absolute path.
func (s *Store) LauncherPath(b linux.Inode, program string) string {
	return filepath.Join(s.LaunchersDir(b), filepath.Clean("/"+program))
}

func (s *Store) in(names ...string) string {
	return filepath.Join(append([]string{s.dir}, names...)...)
}

var errBadID = errors.New("an image id is 12 to 64 lower-case hex digits")

// checkID keeps anything that is not an id from becoming part of a path.
func checkID(id string) error {
	if len(id) < 12 || len(id) > 64 || strings.Trim(id, "0123456789abcdef") != "" {
		return fmt.Errorf("%w: %q", errBadID, id)
	}
	return nil
}

// BootPath returns the boot stamp, which launchers read; see StampBoot.
func (s *Store) BootPath() string { return s.in(bootName) }
