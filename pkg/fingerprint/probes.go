package fingerprint

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/elfinfo"
)

// FromProbes sorts what the dynamic linker looked at while it linked program
// into mapped files, checks and directories with misses. Hashes and the machine
// are left out.
//
//   - A mapped file is known by device and inode, since mapped has resolved
//     paths. It keeps the first string by which it was opened; further strings
//     that led to it become checks.
//   - A file that was there and is not mapped is a check.
//   - A directory that was there is no dependency: what was looked for in it is.
//     (glibc stats a directory of the search path once, to skip it if it does not
//     exist; elf/dl-load.c, open_path.)
//   - A path that was not there is a miss of the nearest existing directory above
//     it. If a dangling link is in the way, it is also a miss of the directory in
//     which the link's target would come into being. The only miss of a directory
//     becomes a check that the file does not exist: one stat either way, and
//     unlike a directory such as /etc it never changes for other reasons.
//   - /proc, /sys and /dev are left out: Machine covers what matters of them. That
//     something there was opened is recorded (OwnerOnly).
//
// A path relative to the current directory, or a link that was read, is an
// *elfinfo.Refusal: the answer depends on more than files. What is no longer
// as the probe saw it is ErrChanged.
func FromProbes(program, linker string, probes []Probe, mapped []string) (*Dependencies, error) {
	s := newSorter()
	if err := s.start(program, linker, mapped); err != nil {
		return nil, err
	}
	for _, p := range probes {
		if err := s.add(p); err != nil {
			return nil, err
		}
	}
	for _, path := range s.mapped {
		return nil, &elfinfo.Refusal{Path: path, Kind: elfinfo.Uncheckable,
			Reason: "is mapped, but was not opened by a path that can be checked later (outside /proc, /sys and /dev)",
			Hint:   "put the library into an ordinary directory"}
	}
	if err := s.directories(); err != nil {
		return nil, err
	}
	return &s.deps, nil
}

type sorter struct {
	deps    Dependencies
	mapped  map[linux.Inode]string // still to be found among the probes
	checked map[string]bool
	missed  map[string]bool

	order  []string            // of the keys of misses
	misses map[string][]string // directory to paths
}

func newSorter() *sorter {
	return &sorter{
		mapped:  map[linux.Inode]string{},
		checked: map[string]bool{},
		missed:  map[string]bool{},
		misses:  map[string][]string{},
	}
}

// start takes in the two files that the kernel maps, for which there is no
// probe, and what else is mapped.
func (s *sorter) start(program, linker string, mapped []string) (err error) {
	s.deps.Program.Path, s.deps.Linker.Path = program, linker
	for _, f := range []*File{&s.deps.Program, &s.deps.Linker} {
		if !strings.HasPrefix(f.Path, "/") {
			return searchesHere(f.Path)
		}
		if f.ID, err = linux.StatID(f.Path); err != nil {
			return err
		}
		s.checked[f.Path] = true
	}
	for _, path := range mapped {
		if !strings.HasPrefix(path, "/") {
			continue // [stack], [vdso], anonymous
		}
		id, err := linux.StatID(path)
		if err != nil {
			return fmt.Errorf("%s is mapped and %w: %w", path, ErrChanged, err)
		}
		s.mapped[id.Inode()] = path
	}
	delete(s.mapped, s.deps.Program.ID.Inode())
	delete(s.mapped, s.deps.Linker.ID.Inode())
	return nil
}

func (s *sorter) add(p Probe) error {
	switch {
	case p.Path == "":
		return nil // a call on a descriptor that is already open
	case !strings.HasPrefix(p.Path, "/"):
		return searchesHere(p.Path)
	case UnderKernel(p.Path):
		s.deps.OwnerOnly = s.deps.OwnerOnly || p.Errno == 0 && strings.HasPrefix(p.Call, "open")
		return nil
	case p.Errno == 0 && strings.HasPrefix(p.Call, "readlink"):
		return &elfinfo.Refusal{Path: p.Path, Kind: elfinfo.Uncheckable,
			Reason: "is a link that the dynamic linker reads, which cannot be checked later",
			Hint:   "leave it as it is: the program starts normally, as before"}
	case p.Errno == 0:
		return s.hit(p)
	case missing(p.Errno):
		return s.miss(p)
	}
	return fmt.Errorf("the dynamic linker's %s of %s: %w", p.Call, p.Path, p.Errno)
}

func searchesHere(path string) error {
	return &elfinfo.Refusal{Path: path, Kind: elfinfo.SearchesHere,
		Reason: "is searched relative to the current directory",
		Hint:   "give the program absolute directories in DT_RPATH or DT_RUNPATH, or none"}
}

// UnderKernel reports whether the path is an interface of the kernel and not a
// file.
func UnderKernel(path string) bool {
	for _, top := range []string{"/proc", "/sys", "/dev"} {
		if path == top || strings.HasPrefix(path, top+"/") {
			return true
		}
	}
	return false
}

// missing reports whether err means that there is no such file for the caller.
func missing(err error) bool {
	switch errnoOf(err) {
	case syscall.ENOENT, syscall.ENOTDIR, syscall.EACCES, syscall.ELOOP, syscall.ENAMETOOLONG:
		return true
	}
	return false
}

func (s *sorter) hit(p Probe) error {
	var st syscall.Stat_t
	if err := linux.EINTR(func() error { return syscall.Stat(p.Path, &st) }); err != nil {
		return fmt.Errorf("%s %w: %w", p.Path, ErrChanged, err)
	}
	if s.missed[p.Path] {
		return fmt.Errorf("%s %w", p.Path, ErrChanged)
	}
	if st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		return nil
	}
	id := linux.IDOf(&st)
	if _, ok := s.mapped[id.Inode()]; ok && strings.HasPrefix(p.Call, "open") {
		delete(s.mapped, id.Inode())
		s.deps.Libraries = append(s.deps.Libraries, File{Path: p.Path, ID: id})
		s.checked[p.Path] = true
		return nil
	}
	s.check(p.Path, id)
	return nil
}

func (s *sorter) check(path string, id linux.FileID) {
	if !s.checked[path] {
		s.checked[path] = true
		s.deps.Checks = append(s.deps.Checks, Checked{Path: path, ID: id})
	}
}

func (s *sorter) miss(p Probe) error {
	if p.Errno == syscall.EACCES {
		// There, but not for this user: permission changes the ctime.
		if id, err := linux.StatID(p.Path); err == nil {
			s.check(p.Path, id)
			return nil
		}
	}
	if s.checked[p.Path] {
		return fmt.Errorf("%s %w", p.Path, ErrChanged)
	}
	if s.missed[p.Path] {
		return nil
	}
	s.missed[p.Path] = true
	for _, directory := range waysInto(p.Path) {
		if _, known := s.misses[directory]; !known {
			s.order = append(s.order, directory)
		}
		s.misses[directory] = append(s.misses[directory], p.Path)
	}
	return nil
}

// directories records the identities, and only then makes sure that the misses are
// still missing: what comes into being later changes the identity.
func (s *sorter) directories() error {
	for _, path := range s.order {
		misses := s.misses[path]
		if len(misses) == 1 {
			s.check(misses[0], linux.FileID{})
		} else {
			id, err := linux.StatID(path)
			if err != nil {
				return fmt.Errorf("%s %w: %w", path, ErrChanged, err)
			}
			s.deps.Directories = append(s.deps.Directories, Directory{Path: path, ID: id, Misses: misses})
		}
		if i := slices.IndexFunc(misses, exists); i >= 0 {
			return fmt.Errorf("%s %w: it was not there", misses[i], ErrChanged)
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := linux.StatID(path)
	return !missing(err)
}

// maxLinks is how many links the kernel follows in one path (path_resolution(7)).
const maxLinks = 40

// waysInto are the directories of which at least one changes when a missing path
// comes into being: the nearest existing one above it, and, if the next name
// is a link to nowhere, the nearest one above the link's target, and so on.
func waysInto(path string) []string {
	var directories []string
	for range maxLinks {
		directory, name, rest := nearest(path)
		if !slices.Contains(directories, directory) {
			directories = append(directories, directory)
		}
		target, err := os.Readlink(join(directory, name))
		if err != nil {
			break
		}
		if !strings.HasPrefix(target, "/") {
			target = join(directory, target)
		}
		path = target
		if rest != "" {
			path = join(target, rest)
		}
	}
	return directories
}

// nearest splits an absolute path after the last directory in it that exists:
// that directory, the name in it that is not a directory, and what follows it.
func nearest(path string) (directory, name, rest string) {
	parts := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	for n := len(parts) - 1; n > 0; n-- {
		directory = "/" + strings.Join(parts[:n], "/")
		if isDirectory(directory) {
			return directory, parts[n], strings.Join(parts[n+1:], "/")
		}
	}
	if len(parts) == 0 {
		return "/", "", ""
	}
	return "/", parts[0], strings.Join(parts[1:], "/")
}

func isDirectory(path string) bool {
	var st syscall.Stat_t
	err := linux.EINTR(func() error { return syscall.Stat(path, &st) })
	return err == nil && st.Mode&syscall.S_IFMT == syscall.S_IFDIR
}

func join(directory, name string) string { return strings.TrimSuffix(directory, "/") + "/" + name }
