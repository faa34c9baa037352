package fingerprint

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/ldcache"
)

// File is a file that the image maps. Path is the string that was opened,
// links not resolved, because a start opens that string again.
type File struct {
	Path   string       `json:"path"`
	ID     linux.FileID `json:"id"`
	SHA256 string       `json:"sha256"` // hexadecimal
}

// Checked is a file that the dynamic linker looked at and did not map, such as
// /etc/ld.so.cache. With ID.Ino 0 it must not exist.
type Checked struct {
	Path string       `json:"path"`
	ID   linux.FileID `json:"id"`
	// SHA256 is of its content, hexadecimal, or empty where that cannot be read.
	SHA256 string `json:"sha256,omitempty"`
	// Answers are what the file, /etc/ld.so.cache, answers. If there are any another file
	// with the same ones will do.
	Answers []Answer `json:"answers,omitempty"`
}

// Answer is what /etc/ld.so.cache has for a name that the dynamic linker may have looked
// up in it.
type Answer struct {
	Name    string          `json:"name"`
	Entries []ldcache.Entry `json:"entries,omitempty"`
}

// absent says that the file must not exist.
func (c Checked) absent() bool { return c.ID.Ino == 0 }

// Directory is an existing directory and the paths that were looked for below it and
// not found. Links in Path are not resolved, so that a link that is pointed
// elsewhere shows as another identity. ID.Size is not compared.
type Directory struct {
	Path   string       `json:"path"`
	ID     linux.FileID `json:"id"`
	Misses []string     `json:"misses"`
	// Exact: any change of it is one, whatever is missing in it. It was read, or all that is in
	// it is taken for unchanged while it is.
	Exact bool `json:"exact,omitempty"`
}

// Dependencies are what must be true for an image to be what the dynamic
// linker would make of the program now.
type Dependencies struct {
	Program     File        `json:"program"`
	Linker      File        `json:"linker"`    // the dynamic linker
	Libraries   []File      `json:"libraries"` // in the order in which they were opened
	Checks      []Checked   `json:"checks"`
	Directories []Directory `json:"folders"`
	// Managed are directories, sorted, that a start looks at instead of the checks in them:
	// they are exact among Directories.
	Managed []string `json:"managed,omitempty"`
	// OwnerOnly: something below /proc, /sys or /dev was opened, which may show other
	// users something else than the user for whom the image was made.
	OwnerOnly bool `json:"owner_only,omitempty"`

	CPUSum      uint64 `json:"cpu_sum,string"` // CPUSum(CPUTable())
	XCR0        uint64 `json:"xcr0,string"`    // linux.XCR0
	Kernel      string `json:"kernel"`         // linux.Kernel
	VDSOBuildID string `json:"vdso_build_id"`  // hexadecimal
}

// Record returns what an image of program depends on: the template was seen to make
// the probes and, at its stop point, to map the files mapped (paths as
// /proc/PID/maps shows them). Linker is the program's PT_INTERP. When it
// returns, any later change will be noticed. A file that changes meanwhile is
// ErrChanged; what can never be recorded is an *elfinfo.Refusal.
func Record(ctx context.Context, program, linker string, probes []Probe, mapped []string) (*Dependencies, error) {
	d, err := FromProbes(program, linker, probes, mapped)
	if err != nil {
		return nil, err
	}
	if err := d.Machine(); err != nil {
		return nil, err
	}
	if err := d.recordAnswers(); err != nil {
		return nil, err
	}
	if err := d.Hash(ctx); err != nil {
		return nil, err
	}
	return d, Settle(ctx, d)
}

// files are all mapped files: the program, the dynamic linker, the libraries.
func (d *Dependencies) files() []*File {
	files := []*File{&d.Program, &d.Linker}
	for i := range d.Libraries {
		files = append(files, &d.Libraries[i])
	}
	return files
}

// Lookups returns the paths on which the image depends beside its program and libraries: what was
// looked at, the directories where something was not found, and each path whose coming into
// being would be noticed: what was not found, and the directories on the way to it. A path that
// ends in a slash is a directory of which any entry counts.
func (d *Dependencies) Lookups() []string {
	seen := map[string]bool{}
	for _, c := range d.Checks {
		seen[c.Path] = true
	}
	for _, f := range d.Directories {
		seen[f.Path] = true
		if f.Exact {
			seen[f.Path+"/"] = true
		}
		for _, miss := range f.Misses {
			seen[miss] = true
			for dir := filepath.Dir(miss); len(dir) > len(f.Path) && strings.HasPrefix(dir, f.Path); dir = filepath.Dir(dir) {
				seen[dir] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// Hash fills in the content hashes. A file that is no longer the one whose
// identity is recorded is ErrChanged.
func (d *Dependencies) Hash(ctx context.Context) error {
	files := d.files()
	err := each(ctx, len(files), func(i int) error {
		now, err := HashFile(files[i].Path)
		if err != nil {
			return err
		}
		if now.ID != files[i].ID {
			return fmt.Errorf("%s %w", files[i].Path, ErrChanged)
		}
		files[i].SHA256 = now.SHA256
		return nil
	})
	if err != nil {
		return err
	}
	return each(ctx, len(d.Checks), func(i int) error { return d.Checks[i].hash() })
}

// hash is Hash of what was not mapped, and need not be readable.
func (c *Checked) hash() error {
	if c.absent() || c.Path == ldcache.Path {
		return nil
	}
	now, err := HashFile(c.Path)
	switch {
	case errors.Is(err, ErrChanged):
		return err
	case err == nil && now.ID != c.ID:
		return fmt.Errorf("%s %w", c.Path, ErrChanged)
	}
	c.SHA256 = now.SHA256
	return nil
}

// Machine fills in what the image needs of the CPU and the kernel.
func (d *Dependencies) Machine() error {
	now, err := machine()
	d.CPUSum, d.XCR0, d.Kernel, d.VDSOBuildID = now.CPUSum, now.XCR0, now.Kernel, now.VDSOBuildID
	return err
}

// machine is found out once in a process, for which it stays the same.
var machine = sync.OnceValues(func() (d Dependencies, err error) {
	d.CPUSum, d.XCR0 = cpuSum(), linux.XCR0()
	if d.Kernel, err = Kernel(); err != nil {
		return d, err
	}
	vdso, err := OwnVDSO()
	if err != nil {
		return d, err
	}
	_, id, err := VDSOBuildID(vdso)
	d.VDSOBuildID = hex.EncodeToString(id)
	return d, err
})

// MachineSum stands for the CPU and the vDSO that the image needs: the XXH64 (seed
// 0) of CPUSum, little-endian, and the vDSO's build-id in hexadecimal.
func (d *Dependencies) MachineSum() uint64 {
	return xxhash.Sum64(append(binary.LittleEndian.AppendUint64(nil, d.CPUSum), d.VDSOBuildID...))
}

// Kernel returns the running kernel's release and version.
func Kernel() (string, error) { return linux.Kernel() }

// Digest returns a name for the contents that were linked together: the SHA-256, in
// hexadecimal, of the SHA-256 of the program, the dynamic linker and each
// library in order, each in hexadecimal and ended by a newline. It is empty
// while a hash is missing.
func (d *Dependencies) Digest() string {
	sum := sha256.New()
	for _, f := range d.files() {
		if f.SHA256 == "" {
			return ""
		}
		io.WriteString(sum, f.SHA256+"\n")
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// ChangedSince names the mapped and checked files that changed at or after t,
// a value of linux.CoarseNow from before the template was started: the
// template may have seen them as they were before. Trying again is the cure.
func (d *Dependencies) ChangedSince(t int64) []string {
	var paths []string
	for _, f := range d.files() {
		if f.ID.Ctime >= t {
			paths = append(paths, f.Path)
		}
	}
	for _, c := range d.Checks {
		if c.ID.Ctime >= t {
			paths = append(paths, c.Path)
		}
	}
	return paths
}
