package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/residentctl/residentctl/internal/linux"
)

// Record is what the registry knows about one program: what its user asked for, and
// the image that serves this, unless there is none just now. Its fields are those of
// both, and as JSON they are in one object, in which those of an image that does not exist
// are left out. Fields are only ever added, each to the part that it belongs to; anything
// else needs a new schema version.
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
	// EvenIfSlower: it is to have an image even if that does not start faster.
	EvenIfSlower bool `json:"even_if_slower,omitempty"`
	// Warm: the image is to be taken after the program's own start-up; nil for one that is
	// taken after dynamic linking.
	Warm *Warm `json:"warm,omitempty"`

	// The ways in that the user enabled: names, each by a shim or for the whole system.
	// System is for the machine's binfmt_misc, SystemIn for that of another kernel
	// instance (binfmt.Instance), by that.
	Shims    []string            `json:"shims,omitempty"`
	System   []string            `json:"system,omitempty"`
	SystemIn map[string][]string `json:"system_in,omitempty"`

	// Configured are the names that configuration files asked for, and that end when these
	// no longer do. The other names are the user's own.
	Configured []string `json:"configured,omitempty"`

	// Reason is why there is no image now, for people; "" while there is one.
	Reason string `json:"reason,omitempty"`
}

// Warm is how the program's own start-up comes into its image.
type Warm struct {
	// Interpreter is that of an entry with a name of its own, of which the program is a
	// wrapper in the store; "" for a program or a script.
	Interpreter string `json:"interpreter,omitempty"`
	// Imports are the modules that a named entry imports.
	Imports []string `json:"imports,omitempty"`
	// Train are the command lines, after the program's name, of the runs that show what a
	// script imports; none is --version and --help.
	Train []string `json:"train,omitempty"`
	// Accept are the findings that do not refuse the image (warmstop.Finding, What).
	Accept []string `json:"accept,omitempty"`
}

// Image is what serves a wish, and what it was made of.
type Image struct {
	// ID is the image's id, 12 or more lower-case hex digits: images/<ID>.
	ID     string       `json:"id,omitempty"`
	Binary linux.FileID `json:"binary,omitzero"`
	// Digest is the hex SHA-256 over the content hashes of the binary, the
	// dynamic linker and every library.
	Digest string `json:"digest,omitempty"`
	// LibraryPaths are the libraries' paths as they were opened, for ByLibrary.
	LibraryPaths []string `json:"library_paths,omitempty"`
	// Lookups are the other paths on which it depends, for ByFiles: files and directories that
	// were looked at, and where something was not found. One that ends in a slash is a directory
	// of which any entry counts.
	Lookups []string `json:"lookups,omitempty"`
	// Deps is what the image depends on, in the words of package fingerprint.
	Deps json.RawMessage `json:"deps,omitempty"`

	Kind       string    `json:"kind,omitempty"` // KindLinked or KindWarm
	Created    time.Time `json:"created,omitzero"`
	CRIU       string    `json:"criu,omitempty"`   // version that dumped it
	Kernel     string    `json:"kernel,omitempty"` // release that it was dumped on
	Libraries  int       `json:"libraries,omitempty"`
	Mappings   int       `json:"mappings,omitempty"`
	ImageBytes int64     `json:"image_bytes,omitempty"`
	Bound      int       `json:"bound,omitempty"` // calls that are bound in the image ahead of their first time
	Timing     *Timing   `json:"timing,omitempty"`
	// Modules is how many modules a warm image holds beyond those of each start, and Whole what
	// add measured of whole runs; Timing is then that of starts to the first line of a script.
	Modules int     `json:"modules,omitempty"`
	Whole   *Timing `json:"whole,omitempty"`
	// Variants is for how many states of the standard streams there are images, each with all
	// layouts; 0 is 1.
	Variants int `json:"variants,omitempty"`
	// Accepted are the findings that were accepted, and LeftOut the modules that are not in
	// all of the images, with what they do; for people.
	Accepted []string `json:"accepted,omitempty"`
	LeftOut  []string `json:"left_out,omitempty"`
	// NotFor are sets of standard streams for which there is no image if they are terminals, and
	// why; for people.
	NotFor []string `json:"not_for,omitempty"`
	// PlanSums are the checksums of the image's plans, one of each layout: XXH64 as 16
	// hex digits. Records of older versions have none.
	PlanSums []string `json:"plan_sums,omitempty"`
	// LauncherPlace is where its launcher files are linked (plan.LauncherPlace), 0
	// if nothing is known of a good place.
	LauncherPlace uint64 `json:"launcher_place,string,omitempty"`
	// LauncherRoom is the room in bytes that they leave below the initial stack
	// (plan.Plan.StackRoom), 0 for a linked image.
	LauncherRoom uint64 `json:"launcher_room,omitempty"`
}

// Kinds of image: what of the program is in it.
const (
	KindLinked = "linked" // its libraries, linked
	KindWarm   = "warm"   // and its own start-up
)

// LayoutCount is how many layouts an entry's image has in all.
func (r *Record) LayoutCount() int { return max(r.Layouts, 1) * max(r.Variants, 1) }

// HasImage reports whether there is an image.
func (i *Image) HasImage() bool { return i.ID != "" }

// Timing is what add measured: medians of starts up to the stop point.
type Timing struct {
	ExecNS     int64 `json:"exec_ns"`
	ResidentNS int64 `json:"resident_ns"`
	Starts     int   `json:"starts"`
}

// Names returns all the paths of the program, Program first.
func (w *Wish) Names() []string {
	return append([]string{w.Program}, w.Paths...)
}

// SystemFor returns the names that are enabled for the whole system of a kernel instance.
func (w *Wish) SystemFor(instance string) []string {
	if instance == "" {
		return w.System
	}
	return w.SystemIn[instance]
}

// SetSystemFor replaces the names that are enabled for the whole system of a kernel
// instance.
func (w *Wish) SetSystemFor(instance string, names []string) {
	if instance == "" {
		w.System = names
		return
	}
	w.SystemIn = maps.Clone(w.SystemIn) // copies of the record share it
	if len(names) == 0 {
		delete(w.SystemIn, instance)
		return
	}
	if w.SystemIn == nil {
		w.SystemIn = map[string][]string{}
	}
	w.SystemIn[instance] = names
}

// Without returns the wish without the names that are meant, and without their ways in; false
// if it has no other names.
func (w Wish) Without(meant func(name string) bool) (rest Wish, ok bool) {
	less := func(names []string) []string { return slices.DeleteFunc(slices.Clone(names), meant) }
	names := less(w.Names())
	if len(names) == 0 {
		return w, false
	}
	w.Program, w.Paths = names[0], names[1:]
	w.Shims, w.Configured = less(w.Shims), less(w.Configured)
	for instance, names := range w.systems() {
		w.SetSystemFor(instance, less(names))
	}
	return w, true
}

// systems are all that the wish has enabled for the whole system, by kernel instance.
func (w *Wish) systems() map[string][]string {
	all := map[string][]string{"": w.System}
	maps.Copy(all, w.SystemIn)
	return all
}

// validate says what a record that is fit for the registry must be.
func (r *Record) validate() error {
	if r.HasImage() {
		if err := r.Image.validate(); err != nil {
			return err
		}
	} else if r.Digest != "" || r.Binary.Ino != 0 {
		return errors.New("the image has no id")
	}
	return r.Wish.validate()
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
	if _, ok := w.SystemIn[""]; ok {
		return errors.New("a kernel instance has no name")
	}
	for _, name := range w.Configured {
		if !seen[name] {
			return fmt.Errorf("path %q is configured, but is not a name of the program", name)
		}
	}
	ways := slices.Clone(w.Shims)
	for _, names := range w.systems() {
		ways = append(ways, names...)
	}
	for _, name := range ways {
		if !seen[name] {
			return fmt.Errorf("path %q is enabled, but is not a name of the program", name)
		}
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
	for _, path := range slices.Concat(i.LibraryPaths, i.Lookups) {
		if err := validPath(path); err != nil {
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
