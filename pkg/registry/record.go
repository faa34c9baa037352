package registry

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/residentctl/residentctl/internal/linux"
)

// Record is what the registry knows about one resident program: what its user
// asked for, and the image that serves this. Its fields are those of both, and as
// JSON they are in one object. Fields are only ever added, each to the part that it
// belongs to; anything else needs a new schema version.
type Record struct {
	Wish
	Image
}

// Wish is what the user asked to be resident, and how. It does not depend on the
// image: that can be replaced, and the wish stays.
type Wish struct {
	// Program is the absolute path under which it was added, links not
	// followed. Paths are the further names of the same binary.
	Program string   `json:"program"`
	Paths   []string `json:"paths,omitempty"`
	Layouts int      `json:"layouts,omitempty"` // that an image of it has; 0 is 1
	// TrustOwner: root executes its files although other users may change them.
	TrustOwner bool `json:"trust_owner,omitempty"`
	// MemoryLimit is how many bytes of memory of its own the program may have when it is linked,
	// and its image may take; 0 is the default.
	MemoryLimit uint64 `json:"memory_limit,omitempty"`
}

// Image is what serves a wish, and what it was made of.
type Image struct {
	// ID is the image's id, 12 or more lower-case hex digits: images/<ID>.
	ID     string       `json:"id"`
	Binary linux.FileID `json:"binary"`
	// Digest is the hex SHA-256 over the content hashes of the binary, the
	// dynamic linker and every library.
	Digest string `json:"digest"`
	// LibraryPaths are the libraries' paths as they were opened, for ByLibrary.
	LibraryPaths []string `json:"library_paths,omitempty"`
	// Deps is what the image depends on, in the words of package fingerprint.
	Deps json.RawMessage `json:"deps,omitempty"`

	Kind       string    `json:"kind"` // stop point: "linked"
	Created    time.Time `json:"created"`
	CRIU       string    `json:"criu,omitempty"`   // version that dumped it
	Kernel     string    `json:"kernel,omitempty"` // release that it was dumped on
	Libraries  int       `json:"libraries"`
	Mappings   int       `json:"mappings"`
	ImageBytes int64     `json:"image_bytes"`
	Bound      int       `json:"bound,omitempty"` // calls that are bound in the image ahead of their first time
	Timing     *Timing   `json:"timing,omitempty"`
	// PlanSums are the checksums of the image's plans, one of each layout: XXH64 as 16
	// hex digits. Records of older versions have none.
	PlanSums []string `json:"plan_sums,omitempty"`
	// LauncherPlace is where its launcher files are linked (plan.LauncherPlace), 0
	// if nothing is known of a good place.
	LauncherPlace uint64 `json:"launcher_place,string,omitempty"`
}

// HasImage reports whether there is an image.
func (i *Image) HasImage() bool { return i.ID != "" }

// Timing is what add measured: medians of starts up to the stop point.
type Timing struct {
	ExecNS     int64 `json:"exec_ns"`
	ResidentNS int64 `json:"resident_ns"`
	Starts     int   `json:"starts"`
}

// Names are all the paths of the program, Program first.
func (w *Wish) Names() []string {
	return append([]string{w.Program}, w.Paths...)
}

// validate says what a record that is fit for the registry must be.
func (r *Record) validate() error {
	return cmp.Or(r.Image.validate(), r.Wish.validate())
}

// validate demands UTF-8 of paths because JSON cannot carry anything else, and
// their indexes are computed from the decoded record.
func (w *Wish) validate() error {
	seen := make(map[string]bool)
	for _, name := range w.Names() {
		if err := validPath(name); err != nil {
			return err
		}
		if seen[name] {
			return fmt.Errorf("path %q is named twice", name)
		}
		seen[name] = true
	}
	return nil
}

func (i *Image) validate() error {
	if !validID(i.ID) {
		return fmt.Errorf("image id %q is not 12 to 64 hex digits", i.ID)
	}
	if !isHex(i.Digest) || len(i.Digest) != 64 {
		return fmt.Errorf("digest %q is not 64 hex digits", i.Digest)
	}
	if i.Binary.Ino == 0 {
		return errors.New("the binary has no inode")
	}
	if i.Kind == "" {
		return errors.New("the image has no kind")
	}
	for _, lib := range i.LibraryPaths {
		if err := validPath(lib); err != nil {
			return err
		}
	}
	return nil
}

// maxPath is PATH_MAX of linux/limits.h.
const maxPath = 4096

func validPath(p string) error {
	switch {
	case !filepath.IsAbs(p):
		return fmt.Errorf("path %q is not absolute", p)
	case len(p) >= maxPath:
		return fmt.Errorf("path %.40q… is longer than %d bytes", p, maxPath)
	case strings.ContainsRune(p, 0):
		return fmt.Errorf("path %q holds a NUL byte", p)
	case !utf8.ValidString(p):
		return fmt.Errorf("path %q is not UTF-8", p)
	}
	return nil
}

func validID(id string) bool {
	return len(id) >= 12 && len(id) <= 64 && isHex(id)
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}
