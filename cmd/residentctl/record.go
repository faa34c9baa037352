package main

import (
	"time"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/resident"
)

// What --format json prints are the types of this file, those of the commands, and what
// these hold. docs/output.schema.json is made of them (schema_test.go). Fields are only ever
// added; anything else raises outputVersion. Numbers that may be larger than 2^53 are
// strings, since many readers take numbers for floating-point ones (RFC 8259, section 6).
const outputVersion = 1

// fileID is linux.FileID.
type fileID struct {
	Dev   uint64 `json:"dev,string"`
	Ino   uint64 `json:"ino,string"`
	Size  uint64 `json:"size"`
	Mtime int64  `json:"mtime_ns,string"`
	Ctime int64  `json:"ctime_ns,string"`
}

// record is an entry, or what was one, in all commands. Fields about an image are left out
// where there is none.
type record struct {
	Program      string              `json:"program"`
	Paths        []string            `json:"paths,omitempty"`
	Store        string              `json:"store,omitempty"` // list: where it is
	State        recordState         `json:"state" jsonschema:"enum=current,enum=stale,enum=none,enum=removed"`
	Reasons      []string            `json:"reasons,omitempty"` // of stale and none, for people
	Layouts      int                 `json:"layouts,omitempty"`
	TrustOwner   bool                `json:"trust_owner,omitempty"`
	MemoryLimit  uint64              `json:"memory_limit,omitempty"` // bytes; 2^50 at most
	EvenIfSlower bool                `json:"even_if_slower,omitempty"`
	Shims        []string            `json:"shims,omitempty"`
	System       []string            `json:"system,omitempty"`
	SystemIn     map[string][]string `json:"system_in,omitempty"`
	Configured   []string            `json:"configured,omitempty"` // names that are from resident.conf
	Warm         *registry.Warm      `json:"warm,omitempty"`       // of an entry that is to have a warm image

	ID            string           `json:"id,omitempty"`
	Binary        *fileID          `json:"binary,omitempty"`
	Digest        string           `json:"digest,omitempty"`
	Kind          string           `json:"kind,omitempty"`
	Created       *time.Time       `json:"created,omitempty"`
	CRIU          string           `json:"criu,omitempty"`
	Kernel        string           `json:"kernel,omitempty"`
	Libraries     int              `json:"libraries,omitempty"`
	Mappings      int              `json:"mappings,omitempty"`
	ImageBytes    int64            `json:"image_bytes,omitempty"`
	Bound         int              `json:"bound,omitempty"`
	Modules       int              `json:"modules,omitempty"`
	Accepted      []string         `json:"accepted,omitempty"` // what the program does when it starts, for people
	LeftOut       []string         `json:"left_out,omitempty"` // modules that are not in the image, and why, for people
	NotFor        []string         `json:"not_for,omitempty"`  // terminals for which there is no warm image, and why, for people
	Gain          float64          `json:"gain,omitempty"`
	Timing        *registry.Timing `json:"timing,omitempty"`
	Whole         *registry.Timing `json:"whole,omitempty"` // of whole runs; timing is then to the first line of a script
	PlanSums      []string         `json:"plan_sums,omitempty"`
	LauncherPlace uint64           `json:"launcher_place,omitempty,string"`
	Launcher      string           `json:"launcher,omitempty"` // list, inspect: the launcher file of Program
}

// recordState is a resident.State, or stateRemoved.
type recordState string

const stateRemoved recordState = "removed"

// recordOf is a registry's record in a state.
func recordOf(rec registry.Record, state recordState) *record {
	r := &record{
		Program: rec.Program, Paths: rec.Paths, State: state, Layouts: rec.Layouts, TrustOwner: rec.TrustOwner,
		MemoryLimit: rec.MemoryLimit, EvenIfSlower: rec.EvenIfSlower,
		Shims: rec.Shims, System: rec.System, SystemIn: rec.SystemIn, Configured: rec.Configured, Warm: rec.Warm,
	}
	if !rec.HasImage() {
		return r
	}
	r.ID, r.Digest, r.Kind, r.CRIU, r.Kernel = rec.ID, rec.Digest, rec.Kind, rec.CRIU, rec.Kernel
	r.Libraries, r.Mappings, r.ImageBytes, r.Bound = rec.Libraries, rec.Mappings, rec.ImageBytes, rec.Bound
	r.Modules, r.Accepted, r.LeftOut, r.NotFor, r.Whole = rec.Modules, rec.Accepted, rec.LeftOut, rec.NotFor, rec.Whole
	r.Gain, r.Timing, r.PlanSums, r.LauncherPlace = resident.Gain(rec.Timing), rec.Timing, rec.PlanSums, rec.LauncherPlace
	if rec.Binary != (linux.FileID{}) { // else it was damaged
		binary, created := fileID(rec.Binary), rec.Created
		r.Binary, r.Created = &binary, &created
	}
	return r
}

// recordOfEntry is an entry in its state.
func recordOfEntry(e resident.Entry) *record {
	r := recordOf(e.Record, recordState(e.State))
	r.Reasons, r.Launcher = e.Reasons, e.Launcher
	return r
}

// recordsOf are removed records. None are an empty list, not null.
func recordsOf(removed []registry.Record) []*record {
	all := []*record{}
	for _, rec := range removed {
		all = append(all, recordOf(rec, stateRemoved))
	}
	return all
}

// refreshed is resident.Refreshed.
type refreshed struct {
	Program string  `json:"program"`
	Old     string  `json:"old,omitempty"` // the id that it had, if it had an image
	Record  *record `json:"record"`        // as it is now
	Current bool    `json:"current"`
	Renewed bool    `json:"renewed"`
	Gone    bool    `json:"gone"`
	Reason  string  `json:"reason,omitempty"` // why it could not be made again
}

// enabled is resident.Enabled.
type enabled struct {
	Record   *record  `json:"record"`
	Path     string   `json:"path"`
	Already  bool     `json:"already"`
	Renewed  bool     `json:"renewed"`
	Named    bool     `json:"named"`
	Shim     string   `json:"shim,omitempty"`
	Was      bool     `json:"was"`
	Instead  string   `json:"instead,omitempty"`
	System   bool     `json:"system,omitempty"`
	AtBoot   bool     `json:"at_boot,omitempty"`
	Collides []string `json:"collides,omitempty"`
	Followed string   `json:"followed,omitempty"`
}

func enabledOf(e *resident.Enabled) *enabled {
	return &enabled{
		recordOf(e.Record, recordState(resident.StateCurrent)), e.Path, e.Already, e.Renewed, e.Named,
		e.Shim, e.Was, e.Instead, e.System, e.AtBoot, e.Collides, e.Followed,
	}
}

// purged is resident.Purged.
type purged struct {
	Dir     string    `json:"store"`
	Removed []*record `json:"removed"`
	Kept    []string  `json:"kept"`
}

// inspection is resident.Inspection.
type inspection struct {
	record
	StopPoint     string                 `json:"stop_point"`
	PlanVersion   int                    `json:"plan_version"`
	Sizes         resident.Sizes         `json:"sizes"`
	Objects       []resident.Object      `json:"objects"`
	Maps          []resident.ImageMap    `json:"maps"`
	Fixups        []resident.ImageFixup  `json:"fixups"`
	Registrations resident.Registrations `json:"registrations"`
	Start         resident.StartPoint    `json:"start"`
	WarmImage     *resident.WarmImage    `json:"warm_image,omitempty"`
	DependsOn     dependencies           `json:"depends_on"`
}

func inspectionOf(i *resident.Inspection) *inspection {
	return &inspection{
		*recordOfEntry(i.Entry), i.StopPoint, i.PlanVersion, i.Sizes, i.Objects, i.Maps, i.Fixups, i.Registrations, i.Start, i.WarmImage,
		dependenciesOf(i.DependsOn),
	}
}

// dependencies is fingerprint.Dependencies.
type dependencies struct {
	Program     dependency   `json:"program"`
	Linker      dependency   `json:"linker"`
	Libraries   []dependency `json:"libraries"`
	Checks      []dependency `json:"checks"`      // looked at and not mapped; with the inode 0 it must not exist
	Directories []dependency `json:"directories"` // in which something was looked for and not found
	OwnerOnly   bool         `json:"owner_only,omitempty"`
	CPUSum      uint64       `json:"cpu_sum,string"`
	XCR0        uint64       `json:"xcr0,string"`
	Kernel      string       `json:"kernel"`
	VDSOBuildID string       `json:"vdso_build_id"`
}

// dependency is a file or directory that an image depends on.
type dependency struct {
	Path    string               `json:"path"`
	ID      fileID               `json:"id"`
	SHA256  string               `json:"sha256,omitempty"`
	Answers []fingerprint.Answer `json:"answers,omitempty"` // of /etc/ld.so.cache
	Misses  []string             `json:"misses,omitempty"`  // of a directory
}

func dependenciesOf(d *fingerprint.Dependencies) dependencies {
	file := func(f fingerprint.File) dependency {
		return dependency{Path: f.Path, ID: fileID(f.ID), SHA256: f.SHA256}
	}
	out := dependencies{
		Program: file(d.Program), Linker: file(d.Linker),
		Libraries: []dependency{}, Checks: []dependency{}, Directories: []dependency{},
		OwnerOnly: d.OwnerOnly, CPUSum: d.CPUSum, XCR0: d.XCR0, Kernel: d.Kernel, VDSOBuildID: d.VDSOBuildID,
	}
	for _, f := range d.Libraries {
		out.Libraries = append(out.Libraries, file(f))
	}
	for _, c := range d.Checks {
		out.Checks = append(out.Checks, dependency{Path: c.Path, ID: fileID(c.ID), SHA256: c.SHA256, Answers: c.Answers})
	}
	for _, f := range d.Directories {
		out.Directories = append(out.Directories, dependency{Path: f.Path, ID: fileID(f.ID), Misses: f.Misses})
	}
	return out
}
