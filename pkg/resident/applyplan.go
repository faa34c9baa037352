package resident

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/residentctl/residentctl/internal/bytesize"
	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/internal/problem"
	"github.com/residentctl/residentctl/pkg/binfmt"
	"github.com/residentctl/residentctl/pkg/conf"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/registry"
)

// ApplyKind is what is done about a program.
type ApplyKind string

// What is done so that the wishes are what files say, in this order.
const (
	ApplyAdd     ApplyKind = "add"
	ApplyChange  ApplyKind = "change"
	ApplyEnable  ApplyKind = "enable"
	ApplyDisable ApplyKind = "disable"
	ApplyEnd     ApplyKind = "end"
)

// An ApplyItem is one thing to be done.
type ApplyItem struct {
	Kind    ApplyKind `json:"kind"`
	Program string    `json:"program"`
	What    string    `json:"what,omitempty"` // the details, for people

	Err    error  `json:"-"`                // why it cannot be done, or could not
	Reason string `json:"reason,omitempty"` // Err, for people
	Passed bool   `json:"passed,omitempty"` // Err is no failure: no line names the program alone

	system  bool         // enable, disable: for the whole system
	literal bool         // a line names the program alone
	absent  bool         // nothing is there
	exactly bool         // change: of what was asked for before nothing stays
	options conf.Options // of add and change
	names   []string     // of end: Program and further names of the same file
}

// An ApplyPlan is what there is to be done so that the wishes are what files say.
type ApplyPlan struct {
	Items  []ApplyItem `json:"items"`
	Passed []ApplyItem `json:"passed"` // what a wildcard or directory names and cannot be resident
	Same   int         `json:"same"`   // how many programs are as the files say
}

// applyPlanner makes an ApplyPlan.
type applyPlanner struct {
	*Manager
	plan     ApplyPlan
	byName   map[string]*registry.Record
	byInode  map[linux.Inode]*registry.Record
	instance string            // of binfmt_misc
	shims    map[string]string // the program that is to have the shim of a name
	groups   map[string]*applyGroup
	order    []*applyGroup
}

// An applyGroup is the programs that are names of one file: they share an entry.
type applyGroup struct {
	rec      *registry.Record // nil if there is none
	programs []conf.Program
	options  conf.Options // of all of them
}

// PlanApply compares the wishes with what files say. Nothing is changed.
//
// A name that an earlier apply has added ends when the files no longer have it, and its
// options are those of the files alone. Nothing that the user has added is removed.
func (m *Manager) PlanApply(ctx context.Context, c *conf.Config) (*ApplyPlan, error) {
	p := &applyPlanner{
		Manager: m, byName: map[string]*registry.Record{}, byInode: map[linux.Inode]*registry.Record{},
		shims: map[string]string{}, groups: map[string]*applyGroup{},
	}
	p.plan = ApplyPlan{Items: []ApplyItem{}, Passed: []ApplyItem{}}
	records, err := m.records()
	if err != nil {
		return nil, err
	}
	for i := range records {
		p.know(&records[i])
	}
	if p.instance, err = binfmt.Instance(); err != nil {
		return nil, err
	}
	wanted := map[string]bool{}
	for _, program := range c.Programs() {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		wanted[program.Path] = true
		p.group(program)
	}
	for _, g := range p.order {
		p.compare(g)
	}
	for i := range records {
		p.end(&records[i], wanted)
	}
	slices.SortStableFunc(p.plan.Items, func(a, b ApplyItem) int { return cmp.Compare(a.Kind.order(), b.Kind.order()) })
	return &p.plan, nil
}

func (k ApplyKind) order() int {
	return slices.Index([]ApplyKind{ApplyEnd, ApplyDisable, ApplyAdd, ApplyChange, ApplyEnable}, k)
}

func (p *applyPlanner) know(rec *registry.Record) {
	for _, name := range rec.Names() {
		p.byName[name] = rec
	}
	if rec.HasImage() {
		p.byInode[rec.Binary.Inode()] = rec
	}
}

// group sorts a program to the other names of its file, unless it cannot be resident.
func (p *applyPlanner) group(program conf.Program) {
	rec, key := p.byName[program.Path], program.Path
	if rec == nil || !rec.HasImage() && rec.Warm == nil {
		if err := p.cannot(program); err != nil {
			return
		}
	}
	if id, err := linux.StatID(program.Path); err == nil {
		key = id.Inode().String()
		if other := p.byInode[id.Inode()]; rec == nil && other != nil && linux.SameFile(other.Program, program.Path) {
			rec = other
		}
	}
	if rec != nil {
		key = rec.Program
	}
	g := p.groups[key]
	if g == nil {
		g = &applyGroup{rec: rec}
		p.groups[key], p.order = g, append(p.order, g)
	}
	g.programs, g.options = append(g.programs, program), g.options.And(program.Options)
}

// cannot is why a program cannot be resident, as far as its file says. It is noted.
func (p *applyPlanner) cannot(program conf.Program) error {
	if program.Absent {
		return nil
	}
	f, err := elfinfo.Open(program.Path)
	if err == nil {
		err = f.CanBeResident()
	}
	if err != nil {
		p.refuse(ApplyItem{Kind: ApplyAdd, Program: program.Path, literal: program.Literal, Err: err})
	}
	return err
}

// refuse notes what cannot be done.
func (p *applyPlanner) refuse(item ApplyItem) {
	item.fail(item.Err)
	if item.Passed {
		p.plan.Passed = append(p.plan.Passed, item)
		return
	}
	p.plan.Items = append(p.plan.Items, item)
}

// compare notes what there is to be done about the names of a file.
func (p *applyPlanner) compare(g *applyGroup) {
	before := len(p.plan.Items)
	p.compareOptions(g)
	for _, program := range g.programs {
		item := ApplyItem{Program: program.Path, literal: program.Literal, absent: program.Absent, options: g.options}
		if g.lacks(program) {
			item.Kind, item.What = ApplyAdd, added(program)
			p.plan.Items = append(p.plan.Items, item)
		}
		p.compareShim(g, program, item)
		p.compareSystem(g, program, item)
	}
	if len(p.plan.Items) == before {
		p.plan.Same += len(g.programs)
	}
}

// lacks reports whether a program has no wish, or has none of the user's own and no image
// although it is there.
func (g *applyGroup) lacks(program conf.Program) bool {
	if g.rec == nil || !slices.Contains(g.rec.Names(), program.Path) {
		return true
	}
	return !g.rec.HasImage() && !program.Absent && slices.Contains(g.rec.Configured, program.Path)
}

func added(program conf.Program) string {
	o := program.Options
	o.Shim, o.System = false, false
	what := o.String()
	if program.Absent {
		what = strings.TrimSpace("not there yet " + what)
	}
	return what
}

// compareOptions compares what a wish has beside its ways in.
func (p *applyPlanner) compareOptions(g *applyGroup) {
	if g.rec == nil {
		return
	}
	was := conf.Options{Layouts: max(g.rec.Layouts, 1), MemoryLimit: g.rec.MemoryLimit, EvenIfSlower: g.rec.EvenIfSlower, TrustOwner: g.rec.TrustOwner}
	is := g.options
	is.Shim, is.System, is.Layouts = false, false, max(is.Layouts, 1)
	if g.rec.Warm != nil { // which has one, and no file asks for it
		is.Layouts = was.Layouts
	}
	is.EvenIfSlower = is.EvenIfSlower || was.EvenIfSlower // it may be noted of an image that is slower
	exactly := !slices.ContainsFunc(g.rec.Names(), func(name string) bool { return !slices.Contains(g.rec.Configured, name) })
	if !exactly {
		is = is.And(was)
	}
	if is == was {
		return
	}
	first := g.programs[0]
	p.plan.Items = append(p.plan.Items, ApplyItem{
		Kind: ApplyChange, Program: g.rec.Program, What: changes(was, is), exactly: exactly,
		literal: first.Literal, absent: first.Absent, options: is,
	})
}

// changes says in which options two sets of them differ.
func changes(was, is conf.Options) string {
	var all []string
	if was.Layouts != is.Layouts {
		all = append(all, fmt.Sprintf("layouts %d instead of %d", is.Layouts, was.Layouts))
	}
	if was.MemoryLimit != is.MemoryLimit {
		limit := func(n uint64) string { return cmp.Or(bytesize.Format(n), "the default") }
		all = append(all, fmt.Sprintf("memory-limit %s instead of %s", limit(is.MemoryLimit), limit(was.MemoryLimit)))
	}
	if was.TrustOwner != is.TrustOwner {
		all = append(all, map[bool]string{true: "trust-owner", false: "no trust-owner"}[is.TrustOwner])
	}
	if was.EvenIfSlower != is.EvenIfSlower {
		all = append(all, "even-if-slower")
	}
	return strings.Join(all, ", ")
}

// compareShim compares whether a program is enabled by a shim. Of several names with the
// same last component that lead to one file the first has it.
func (p *applyPlanner) compareShim(g *applyGroup, program conf.Program, item ApplyItem) {
	base := filepath.Base(program.Path)
	is := g.rec != nil && slices.Contains(g.rec.Shims, program.Path)
	first, taken := p.shims[base]
	wanted := program.Shim && !(taken && linux.SameFile(first, program.Path))
	if wanted {
		p.shims[base] = program.Path
	}
	item.Kind = ApplyEnable
	switch {
	case wanted && !is && taken:
		item.Err = problem.Errorf("%s is to be enabled under the same name", first).WithHint("enable one of the two")
		p.refuse(item)
	case wanted && !is:
		if item.Err = p.mayBeShim(program); item.Err != nil {
			p.refuse(item)
			return
		}
		p.plan.Items = append(p.plan.Items, item)
	case is && !wanted && slices.Contains(g.rec.Configured, program.Path):
		item.Kind = ApplyDisable
		p.plan.Items = append(p.plan.Items, item)
	}
}

func (p *applyPlanner) mayBeShim(program conf.Program) error {
	if p.store == nil || program.Absent {
		return nil
	}
	return p.mayHaveShim(program.Path)
}

// compareSystem compares whether a file is enabled for the whole system. It is so by one of
// its names.
func (p *applyPlanner) compareSystem(g *applyGroup, program conf.Program, item ApplyItem) {
	var names []string
	if g.rec != nil {
		names = g.rec.SystemFor(p.instance)
	}
	item.system, item.What = true, "for the whole system"
	first := slices.IndexFunc(g.programs, func(one conf.Program) bool { return one.System })
	switch {
	case first >= 0 && len(names) == 0 && g.programs[first].Path == program.Path:
		item.Kind = ApplyEnable
		p.plan.Items = append(p.plan.Items, item)
	case first < 0 && slices.Contains(names, program.Path) && slices.Contains(g.rec.Configured, program.Path):
		item.Kind = ApplyDisable
		p.plan.Items = append(p.plan.Items, item)
	}
}

// end notes the names of a wish that files asked for and no longer do.
func (p *applyPlanner) end(rec *registry.Record, wanted map[string]bool) {
	names := slices.DeleteFunc(slices.Clone(rec.Configured), func(name string) bool { return wanted[name] })
	if len(names) == 0 {
		return
	}
	item := ApplyItem{Kind: ApplyEnd, Program: names[0], names: names}
	if len(names) > 1 {
		item.What = "and its names " + strings.Join(names[1:], ", ")
	}
	p.plan.Items = append(p.plan.Items, item)
}

// fail notes an error. What no line names alone is passed over if it runs well without.
func (i *ApplyItem) fail(err error) {
	i.Err, i.Reason = err, err.Error()
	i.Passed = !i.literal && canBePassed(i.Kind, err)
}
