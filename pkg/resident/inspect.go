package resident

import (
	"cmp"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/registry"
)

// An Address is in the image's address space. JSON has it as a string in
// hexadecimal, since many readers take numbers for floating-point ones.
type Address uint64

func (a Address) String() string { return "0x" + strconv.FormatUint(uint64(a), 16) }

// MarshalText is String.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (a *Address) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 0, 64)
	*a = Address(n)
	return err
}

// An Inspection is all there is to know about an image; of one with several layouts,
// about the first. Fields are only added.
type Inspection struct {
	Entry
	StopPoint     string                    `json:"stop_point"` // "linked", "entry" or "warm"
	PlanVersion   int                       `json:"plan_version"`
	Sizes         Sizes                     `json:"sizes"`
	Objects       []Object                  `json:"objects"`
	Maps          []ImageMap                `json:"maps"`
	Fixups        []ImageFixup              `json:"fixups"`
	Registrations Registrations             `json:"registrations"`
	Start         StartPoint                `json:"start"`
	WarmImage     *WarmImage                `json:"warm_image,omitempty"` // of a warm image
	DependsOn     *fingerprint.Dependencies `json:"depends_on"`
}

// Sizes are in bytes unless they say otherwise.
type Sizes struct {
	Image          uint64 `json:"image"`           // all files of the image
	Plan           uint64 `json:"plan"`            //
	Pages          uint64 `json:"pages"`           // CRIU's pages, of which a start maps
	MappedPages    uint64 `json:"mapped_pages"`    // these,
	WritablePages  uint64 `json:"writable_pages"`  // and of these are writable: copied when written to
	CorrectedPages uint64 `json:"corrected_pages"` // copied at each start, since a word in them is corrected
	MappedFiles    uint64 `json:"mapped_files"`    // of the program's own files
	FreshMemory    uint64 `json:"fresh_memory"`    // zeros until written to
	Mappings       int    `json:"mappings"`        // mmap calls at a start
}

// An Object is what the dynamic linker has loaded, in the order of its list.
type Object struct {
	Path    string  `json:"path"` // as it was opened
	SOName  string  `json:"soname,omitempty"`
	Role    string  `json:"role"` // "program", "script", "library", "dynamic linker" or "vdso"
	Address Address `json:"address"`
	Length  uint64  `json:"length"` // up to the end of its last mapping from the file
}

// An ImageMap is one mapping that a start makes.
type ImageMap struct {
	Address Address `json:"address"`
	Length  uint64  `json:"length"`
	Prot    string  `json:"prot"` // as /proc/PID/maps has it: "rw-"
	// Source is "file", "pages" (CRIU's) or "fresh". Path and Offset say where
	// in a file or in the pages it begins.
	Source string `json:"source"`
	Path   string `json:"path,omitempty"`
	Offset uint64 `json:"offset"`
	// Of is what pages stand in for: a part of a file, as "libc.so.6+0x1000",
	// or "anonymous".
	Of string `json:"of,omitempty"`
}

// An ImageFixup is a word that each start corrects.
type ImageFixup struct {
	Address Address `json:"address"`
	Size    int     `json:"size"`
	Kind    string  `json:"kind"`
	In      string  `json:"in"` // as ImageMap.Of
}

// Registrations are what a start registers with the kernel; 0 is not registered.
type Registrations struct {
	FSBase     Address `json:"fs_base"`
	TIDAddress Address `json:"tid_address"`
	RobustList Address `json:"robust_list"`
	Rseq       Address `json:"rseq"`
	RseqLength uint32  `json:"rseq_length"`
	RseqSig    Address `json:"rseq_signature"`
}

// StartPoint is where a start enters the image.
type StartPoint struct {
	Instruction  Address `json:"instruction"`
	In           string  `json:"in"`
	ProgramEntry Address `json:"program_entry"`
	Headers      Address `json:"program_headers"`
	LinkerBase   Address `json:"linker_base"`
	BreakBase    Address `json:"break_base"`
	// ProcExe reports whether /proc/self/exe can be set: given the capability, or where
	// a child in a user namespace is tried.
	ProcExe bool `json:"proc_exe"`
}

var fixupNames = [plan.FixKinds]string{
	plan.FixSP:        "initial stack pointer",
	plan.FixArgv:      "argv",
	plan.FixEnvp:      "environment",
	plan.FixAuxv:      "auxiliary vector",
	plan.FixPlatform:  "AT_PLATFORM",
	plan.FixRandom:    "AT_RANDOM",
	plan.FixExecfn:    "AT_EXECFN",
	plan.FixArgc:      "argc",
	plan.FixTID:       "thread id",
	plan.FixCanary:    "canary",
	plan.FixGuard:     "pointer guard",
	plan.FixStackSize: "thread stack size",
	plan.FixIgnored:   "ignored signals",
	plan.FixFlags:     "flags of the start",
}

// FixupName returns what a word is that a start corrects.
func FixupName(kind uint32) string {
	if int(kind) < len(fixupNames) {
		return fixupNames[kind]
	}
	return "unknown"
}

// Inspect returns all there is to know about an entry. Its error is that of reading the image's
// files; why an image is stale is in the Inspection.
func (m *Manager) Inspect(rec registry.Record) (*Inspection, error) {
	if err := hasImage(rec); err != nil {
		return nil, err
	}
	i := &inspecting{Inspection: &Inspection{Entry: m.entry(rec, nil), PlanVersion: plan.Version}}
	i.DependsOn = &fingerprint.Dependencies{}
	if err := json.Unmarshal(rec.Deps, i.DependsOn); err != nil {
		return nil, unreadable(rec, fmt.Errorf("what it depends on: %w", err))
	}
	i.Deps, i.LibraryPaths = nil, nil // DependsOn says it
	if err := m.readImage(i, rec); err != nil {
		return nil, unreadable(rec, err)
	}
	return i.Inspection, nil
}

// unreadable is the error of an image whose files cannot be read.
func unreadable(rec registry.Record, err error) error {
	return problem.Errorf("read the image of %s (id %.12s): %w", rec.Program, rec.ID, err).
		WithHint("run `residentctl add %s` as the store's owner to make its image again; until then it is executed normally", rec.Program)
}

// readImage reads the image's first layout.
func (m *Manager) readImage(i *inspecting, rec registry.Record) (err error) {
	if i.plan, err = plan.Read(m.store.PlanPath(rec.ID)); err != nil {
		return err
	}
	if i.image, err = criuwrap.Open(m.store.ImageDir(rec.ID)); err != nil {
		return err
	}
	i.maps()
	i.objects()
	i.words()
	i.warm()
	return i.sizes(m.store.ImageDir(rec.ID), m.store.PlanPath(rec.ID))
}

type inspecting struct {
	*Inspection
	plan  *plan.Plan
	image *criuwrap.Image
}

func (i *inspecting) maps() {
	for _, f := range i.plan.Files {
		source := "file"
		if f.Flags&plan.FilePages != 0 {
			source = "pages"
		}
		for _, m := range f.Maps {
			im := ImageMap{
				Address: Address(m.Addr), Length: m.Len, Prot: i.prot(m), Source: source, Path: f.Path, Offset: m.Off,
			}
			if source == "pages" {
				im.Of = i.at(m.Addr)
			}
			i.Maps = append(i.Maps, im)
		}
	}
	for _, m := range i.plan.Anon {
		i.Maps = append(i.Maps, ImageMap{Address: Address(m.Addr), Length: m.Len, Prot: i.prot(m), Source: "fresh"})
	}
	slices.SortFunc(i.Maps, func(a, b ImageMap) int { return cmp.Compare(a.Address, b.Address) })
}

// prot is the protection that a mapping has in the end.
func (i *inspecting) prot(m plan.Map) string {
	prot := m.Prot
	for _, p := range i.plan.Protects {
		if p.Addr == m.Addr {
			prot = p.Prot
		}
	}
	text := []byte("---")
	for n, bit := range []uint32{unix.PROT_READ, unix.PROT_WRITE, unix.PROT_EXEC} {
		if prot&bit != 0 {
			text[n] = "rwx"[n]
		}
	}
	return string(text)
}

// at describes what is at an address: a place in a file, or after a file's
// data, or in memory that no file holds.
func (i *inspecting) at(addr uint64) string {
	for n, v := range i.image.VMAs {
		switch {
		case addr < v.Start || addr >= v.End:
		case v.Path != "":
			return fmt.Sprintf("%s+%#x", filepath.Base(v.Path), v.Offset+addr-v.Start)
		case n > 0 && i.image.VMAs[n-1].End == v.Start && i.image.VMAs[n-1].Path != "" && i.image.VMAs[n-1].Prot&unix.PROT_WRITE != 0:
			return fmt.Sprintf("%s bss+%#x", filepath.Base(i.image.VMAs[n-1].Path), addr-v.Start)
		default:
			return fmt.Sprintf("anonymous+%#x", addr-v.Start)
		}
	}
	return ""
}

// objects are the program, its libraries as they were opened, the dynamic
// linker and the vDSO.
func (i *inspecting) objects() {
	add := func(path, role string) {
		o := Object{Path: path, Role: role, SOName: soname(path)}
		end := uint64(0)
		for _, f := range i.plan.Files {
			if f.Path != path {
				continue
			}
			for _, m := range f.Maps {
				if o.Address == 0 || Address(m.Addr) < o.Address {
					o.Address = Address(m.Addr)
				}
				end = max(end, m.Addr+m.Len)
			}
		}
		// CRIU's pages stand in for its data, so its end is known from CRIU's
		// list, under the path that the kernel has for it.
		kernelPath := ""
		for _, v := range i.image.VMAs {
			if v.Start == uint64(o.Address) {
				kernelPath = v.Path
			}
			if kernelPath != "" && v.Path == kernelPath {
				end = max(end, v.End)
			}
		}
		o.Length = end - uint64(o.Address)
		i.Objects = append(i.Objects, o)
	}
	exe := i.plan.Exe().Path
	if exe != i.DependsOn.Program.Path {
		i.Objects = append(i.Objects, Object{Path: i.DependsOn.Program.Path, Role: "script"})
	}
	add(exe, "program")
	for _, l := range i.DependsOn.Libraries {
		if l.Path != exe {
			add(l.Path, "library")
		}
	}
	add(i.DependsOn.Linker.Path, "dynamic linker")
	i.Objects = append(i.Objects, Object{
		Path: linux.VDSO, SOName: "linux-vdso.so.1", Role: "vdso", Address: Address(i.plan.VDSO.Code),
		Length: i.plan.VDSO.Addr + i.plan.VDSO.Len - i.plan.VDSO.Code,
	})
}

// soname is DT_SONAME of the library at path, or "" where there is none or the
// file cannot be read (any more). It is for people to read, so what package elf
// makes of a file that is not sound does not matter.
func soname(path string) (name string) {
	defer func() {
		if recover() != nil {
			name = ""
		}
	}()
	f, err := elf.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	names, err := f.DynString(elf.DT_SONAME)
	if err != nil || len(names) == 0 {
		return ""
	}
	return strings.ToValidUTF8(names[0], "?")
}

// words are the fix-ups, the registrations and the entry.
func (i *inspecting) words() {
	i.StopPoint = i.plan.Stop.Point.String()
	for _, f := range i.plan.Fixups {
		i.Fixups = append(i.Fixups, ImageFixup{
			Address: Address(f.Addr), Size: int(f.Size), Kind: FixupName(f.Kind), In: i.at(f.Addr),
		})
	}
	k, e := i.plan.Kernel, i.plan.Entry
	i.Registrations = Registrations{
		FSBase: Address(k.FSBase), TIDAddress: Address(k.TIDAddr), RobustList: Address(k.RobustHead),
		Rseq: Address(k.RseqAddr), RseqLength: k.RseqLen, RseqSig: Address(k.RseqSig),
	}
	i.Start = StartPoint{
		Instruction: Address(e.RIP), In: i.at(e.RIP), ProgramEntry: Address(e.ProgramEntry), Headers: Address(e.Phdr),
		LinkerBase: Address(e.Base), BreakBase: Address(i.plan.MM.BrkBase), ProcExe: e.Gadget != 0,
	}
}

// sizes adds up what there is in files and in memory.
func (i *inspecting) sizes(dir, planPath string) error {
	s := &i.Sizes
	info, err := os.Stat(planPath)
	if err != nil {
		return err
	}
	s.Plan = uint64(info.Size())
	if info, err = os.Stat(i.image.PagesPath); err != nil {
		return err
	}
	s.Pages = uint64(info.Size())
	for _, m := range i.Maps {
		switch {
		case m.Source == "file":
			s.MappedFiles += m.Length
		case m.Source == "fresh":
			s.FreshMemory += m.Length
		default:
			s.MappedPages += m.Length
			if m.Prot[1] == 'w' {
				s.WritablePages += m.Length
			}
		}
	}
	corrected := map[uint64]bool{}
	for _, f := range i.plan.Fixups {
		corrected[f.Addr/criuwrap.PageSize] = true
	}
	s.CorrectedPages = uint64(len(corrected)) * criuwrap.PageSize
	s.Mappings = i.plan.Mappings()
	return filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			s.Image += uint64(info.Size())
		}
		return err
	})
}
