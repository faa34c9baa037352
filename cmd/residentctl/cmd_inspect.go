package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/residentctl/residentctl/pkg/fingerprint"
	"github.com/residentctl/residentctl/pkg/registry"
	"github.com/residentctl/residentctl/pkg/resident"
)

func newInspectCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "show everything about one resident program",
		ArgsUsage: "ID|PROGRAM",
		Description: `Shows what the dynamic linker loaded and where, what a start maps from which file,
which words it corrects, what it registers with the kernel, and what the image
depends on. Of an image with several layouts, it shows the first. Name a program by
its id or the beginning of it, its path, or its file name.`,
		Flags:              []cli.Flag{g.storeFlag(), g.formatFlag()},
		CustomHelpTemplate: cli.CommandHelpTemplate + exitStatusPart(exitDone, exitFailed, exitUsage, exitStore),
		Action: func(c *cli.Context) error {
			queries, err := arguments(c)
			if err != nil {
				return err
			}
			if len(queries) != 1 {
				return usagef("inspect", "inspect takes one program, not %d", len(queries))
			}
			stores, err := g.entryStores()
			if err != nil {
				return err
			}
			return runInspect(g, stores, queries[0])
		},
	}
}

// entryStore is what runInspect and runVerify need of a resident.Manager.
type entryStore interface {
	Dir() string
	Entries(queries ...string) ([]registry.Record, error)
	Inspect(rec registry.Record) (*resident.Inspection, error)
	Verify(ctx context.Context, rec registry.Record, ref resident.Reference) (*resident.Verified, error)
}

// entryStores are the stores in which run would look, in its order.
func (g *globals) entryStores() ([]entryStore, error) {
	opened, err := g.openToRead()
	if err != nil {
		return nil, err
	}
	var stores []entryStore
	for _, s := range opened {
		if m, ok := s.lister.(entryStore); ok {
			stores = append(stores, m)
		}
	}
	return stores, nil
}

func dirsOf(stores []entryStore) (dirs []string) {
	for _, s := range stores {
		dirs = append(dirs, s.Dir())
	}
	return dirs
}

// located is an entry with the store that it is in.
type located struct {
	registry.Record
	store entryStore
}

// locate finds the entry of each query in the first store that has one, or
// without queries all entries. It also returns what it could not look at.
func locate(g *globals, stores []entryStore, queries []string) (all []located, missed unread, err error) {
	if len(queries) == 0 {
		for _, s := range stores {
			records, err := s.Entries()
			missed.add(err)
			for _, rec := range records {
				all = append(all, located{rec, s})
			}
		}
		return all, missed, nil
	}
	for _, q := range queries {
		var found located
		for _, s := range stores {
			records, err := s.Entries(q)
			if errors.Is(err, registry.ErrAmbiguous) {
				return nil, missed, err
			}
			missed.add(err)
			if len(records) > 0 {
				found = located{records[0], s}
				break
			}
		}
		switch {
		case found.store != nil:
		case missed.rest != nil:
			return nil, missed, storeError(missed.rest) // it may be what could not be read
		default:
			return nil, missed, g.notResident(q, resident.NotFound(q, dirsOf(stores)...))
		}
		if !slices.ContainsFunc(all, func(l located) bool { return l.ID == found.ID }) {
			all = append(all, found)
		}
	}
	return all, missed, nil
}

func runInspect(g *globals, stores []entryStore, query string) error {
	found, missed, err := locate(g, stores, []string{query})
	if err != nil {
		missed.rest = nil // err says it
	}
	missed.warn(g)
	if err != nil {
		return err
	}
	i, err := found[0].store.Inspect(found[0].Record)
	if err != nil {
		return err
	}
	if g.format == formatJSON {
		return g.printJSON(inspectionOf(i))
	}
	return printInspection(g, i)
}

// printInspection writes one section after the other.
func printInspection(g *globals, i *resident.Inspection) error {
	p := &sections{g: g, table: g.newTable()}
	printSummary(p.table, i)

	p.section("LOADED", "ADDRESS", "LENGTH", "SONAME", "PATH")
	for _, o := range i.Objects {
		name := o.SOName
		if name == "" {
			name = "(" + o.Role + ")"
		}
		p.row(o.Address, size(o.Length), name, o.Path)
	}
	p.section("MAPPED", "ADDRESS", "LENGTH", "PROT", "FROM", "OFFSET", "INSTEAD OF")
	for _, m := range i.Maps {
		switch m.Source {
		case "fresh":
			p.row(m.Address, size(m.Length), m.Prot, "fresh memory")
		case "pages":
			p.row(m.Address, size(m.Length), m.Prot, "CRIU's pages", fmt.Sprintf("%#x", m.Offset), m.Of)
		default:
			p.row(m.Address, size(m.Length), m.Prot, m.Path, fmt.Sprintf("%#x", m.Offset))
		}
	}
	p.section("CORRECTED", "ADDRESS", "BYTES", "WHAT IT IS", "WHERE IT IS")
	for _, f := range i.Fixups {
		p.row(f.Address, f.Size, f.Kind, f.In)
	}
	p.section("REGISTERED WITH THE KERNEL", "WHAT", "ADDRESS")
	r := i.Registrations
	p.row("thread pointer (FS)", r.FSBase)
	p.row("thread id", r.TIDAddress)
	p.row("robust list", r.RobustList)
	p.row("restartable sequences", r.Rseq, fmt.Sprintf("%d bytes, signature %v", r.RseqLength, r.RseqSig))
	p.section("ENTERED", "WHAT", "ADDRESS")
	p.row("first instruction", i.Start.Instruction, i.Start.In)
	p.row("program's entry", i.Start.ProgramEntry)
	p.row("program's headers", i.Start.Headers)
	p.row("dynamic linker", i.Start.LinkerBase)
	p.row("program break from", i.Start.BreakBase)
	printWarm(p, i.WarmImage)
	printDependencies(p, i.DependsOn)
	return p.end()
}

// sections writes tables with a title each.
type sections struct {
	*table // that of the section
	g      *globals
	err    error
}

// section ends the section before it, and begins one.
func (p *sections) section(title string, columns ...string) {
	if p.err == nil {
		p.err = p.print()
	}
	p.g.printf("\n%s\n", title)
	p.table = p.g.newTable(columns...)
	p.indent = columnGap
}

func (p *sections) end() error { return cmp.Or(p.err, p.print()) }

func size(n uint64) string { return formatBytes(int64(n)) }

func printSummary(t *table, i *resident.Inspection) {
	field := func(name string, value any) { t.row(name+":", value) }
	field("program", i.Program)
	for _, path := range i.Paths {
		field("also", path)
	}
	field("id", i.ID)
	switch {
	case i.State == resident.StateCurrent:
		field("state", "current")
	default:
		for _, reason := range i.Reasons {
			field("stale", reason)
		}
	}
	field("kind", i.Kind)
	printWarmSummary(field, i)
	field("layouts", max(i.Layouts, 1))
	field("stopped", i.StopPoint)
	if i.TrustOwner {
		field("trusted", "root executes its files even if other users can change them")
	}
	if i.MemoryLimit != 0 {
		field("memory limit", size(i.MemoryLimit))
	}
	field("created", i.Created.Local().Format("2006-01-02 15:04:05"))
	field("by", fmt.Sprintf("CRIU %s on Linux %s", i.CRIU, i.Kernel))
	field("contents", i.Digest)
	if t := i.Timing; t != nil {
		field("time", formatTimes(t, "start"))
	}
	if i.Whole != nil {
		field("whole run", formatTimes(i.Whole, "run"))
	}
	s := i.Sizes
	field("on disk", fmt.Sprintf("%s (pages %s, plan %s)", size(s.Image), size(s.Pages), size(s.Plan)))
	field("mapped", fmt.Sprintf("%s: %s of files, %s of CRIU's pages, %s of fresh memory",
		count(s.Mappings, "mapping"), size(s.MappedFiles), size(s.MappedPages), size(s.FreshMemory)))
	if i.WarmImage == nil {
		field("bound", count(i.Bound, "call")+" in advance")
	}
	field("copied", fmt.Sprintf("%s at each start, at most %s when it is written to", size(s.CorrectedPages), size(s.WritablePages)))
}

// formatTimes is what was measured both ways.
func formatTimes(t *registry.Timing, of string) string {
	return fmt.Sprintf("%.2f ms normally, %.2f ms from the image (medians of %s)",
		float64(t.ExecNS)/1e6, float64(t.ResidentNS)/1e6, count(t.Starts, of))
}

// printWarmSummary prints what was asked for of a warm image, what is not in it, and what was accepted.
func printWarmSummary(field func(name string, value any), i *resident.Inspection) {
	w := i.Warm
	if w == nil {
		return
	}
	if w.Interpreter != "" {
		field("interpreter", w.Interpreter)
		field("imports", strings.Join(w.Imports, ", "))
	}
	for _, line := range w.Train {
		field("trained with", line)
	}
	if i.Modules > 0 {
		field("modules", i.Modules)
	}
	for _, what := range i.LeftOut {
		field("left out", what)
	}
	for _, what := range i.NotFor {
		field("not for", what)
	}
	for _, what := range i.Accepted {
		field("accepted", what)
	}
}

// printWarm prints what a start from a warm image has and compares beside the rest.
func printWarm(p *sections, w *resident.WarmImage) {
	if w == nil {
		return
	}
	p.section("WARM")
	p.row("executable", w.Executable)
	if len(w.Args) > 0 {
		args := strings.Join(w.Args, " ")
		if w.ProgramArg {
			args += " PROGRAM"
		}
		p.row("in place of argv[0]", args)
	}
	p.row("template's stack", fmt.Sprintf("%v, %s", w.OldStack, size(w.OldStackLength)))
	p.row("mapped in advance", size(w.Populated))
	if len(w.Signals) > 0 {
		p.section("SETS ACTIONS OF SIGNALS", "SIGNAL", "HANDLER", "WHERE IT IS")
	}
	for _, s := range w.Signals {
		handler := s.Handler.String()
		if s.Handler == 1 {
			handler = "ignored"
		}
		p.row(cmp.Or(s.Name, strconv.Itoa(s.Signal)), handler, s.In)
	}
	p.section("COMPARES", "OF THE CALLER", "WHAT IT MUST BE")
	limit := size(w.StackLimit)
	if w.StackLimit == math.MaxUint64 {
		limit = "unlimited"
	}
	p.row("stack limit", limit)
	for _, names := range w.Terminals {
		p.row("terminals", cmp.Or(strings.Join(names, ", "), "none"))
	}
	for _, v := range w.Environment {
		p.row("environment", v)
	}
	for _, v := range w.Unset {
		p.row("environment", "otherwise no "+v+"…")
	}
}

func printDependencies(p *sections, d *fingerprint.Dependencies) {
	p.section("DEPENDS ON FILES", "INODE", "SIZE", "SHA-256", "PATH")
	for _, f := range append([]fingerprint.File{d.Program, d.Linker}, d.Libraries...) {
		p.row(f.ID.Inode().String(), size(f.ID.Size), f.SHA256, f.Path)
	}
	for _, c := range d.Checks {
		if c.ID.Ino == 0 {
			p.row("-", "-", "must not exist", c.Path)
			continue
		}
		how := "by its times"
		if n := len(c.Answers); n > 0 {
			how = "by its answers for " + count(n, "name")
		}
		p.row(c.ID.Inode().String(), size(c.ID.Size), how, c.Path)
	}
	if len(d.Directories) > 0 {
		p.section("DEPENDS ON DIRECTORIES", "INODE", "NOT FOUND IN IT", "PATH")
	}
	for _, f := range d.Directories {
		p.row(f.ID.Inode().String(), count(len(f.Misses), "file"), f.Path)
	}
	p.section("DEPENDS ON THE MACHINE")
	p.row("kernel", d.Kernel)
	p.row("vDSO", d.VDSOBuildID)
	p.row("CPU", fmt.Sprintf("%016x, states %#x", d.CPUSum, d.XCR0))
}
