package resident

import (
	"fmt"
	"os"
	"reflect"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/residentctl/residentctl/internal/linux"
	"github.com/residentctl/residentctl/pkg/criuwrap"
	"github.com/residentctl/residentctl/pkg/elfinfo"
	"github.com/residentctl/residentctl/pkg/linkstop"
	"github.com/residentctl/residentctl/pkg/plan"
	"github.com/residentctl/residentctl/pkg/ptrace"
)

// planAgrees holds that the plan is what would be made now of the record, CRIU's
// image and this machine. A start shows what a plan does, but not what it has given
// up to ask for. What list and check find as well (layoutDamage) v.files has said.
func (v *verifying) planAgrees() {
	p := v.plan
	if path := p.Pages().Path; len(v.result.Failures) == 0 && v.store.At(path) != v.image.PagesPath {
		v.result.failf("the plan maps the pages of another image, %s", path)
	}
	if len(v.result.Failures) > 0 {
		return // what a plan is made of is not what it was
	}
	again, err := v.compileAgain()
	if err != nil {
		v.result.failf("the plan cannot be made again: %v", err)
		return
	}
	v.result.Failures = append(v.result.Failures, planDifferences(p, again)...)
}

// compileAgain makes the plan of the layout as add does, but for three things that
// only were so then: which words belong to the process, which comparing the memory
// says, the boot in which it was made, and how long page faults took.
func (v *verifying) compileAgain() (*plan.Plan, error) {
	if v.plan.Kind == plan.KindWarm {
		return v.compileWarmAgain()
	}
	template, err := dumpedTemplate(v.image)
	if err != nil {
		return nil, err
	}
	template.Fixups = v.plan.Fixups
	program, err := elfinfo.Open(v.deps.Program.Path)
	if err != nil {
		return nil, err
	}
	l := &layout{store: v.store, id: v.rec.ID, program: program, at: v.dir, template: template, deps: &v.deps, image: v.image}
	l.others = v.others()
	looks, err := looksAtItself(l.deps)
	if err != nil {
		return nil, err
	}
	src, err := l.source(looks)
	if err != nil {
		return nil, err
	}
	src.Caller.BootID, src.Caller.BootMark = v.plan.Caller.BootID, v.plan.Caller.BootMark
	src.Flags |= v.plan.Flags & plan.FlagSlowFaults
	return l.planFrom(src)
}

// others are the layouts that the one that is looked at leads to.
func (v *verifying) others() []string {
	if dirs := layoutDirs(v.store.ImageDir(v.rec.ID), &v.rec); v.dir == dirs[0] {
		return dirs[1:]
	}
	return nil
}

// dumpedTemplate is what CRIU's image says about the template. CRIU keeps 22 entries
// of the auxiliary vector (criu/arch/x86/include/asm/types.h, AT_VECTOR_SIZE); one
// that follows those describes the machine, so this process has it too. So it is
// with the vDSO's parts, which CRIU dumps as one.
func dumpedTemplate(im *criuwrap.Image) (*linkstop.Template, error) {
	t := &linkstop.Template{
		Stop:   plan.Stop{Addr: im.Regs.IP, Point: plan.StopLinked},
		Regs:   ptrace.Regs{Rip: im.Regs.IP, Rsp: im.Regs.SP, Rax: im.Regs.AX},
		FSBase: im.Regs.FSBase, TIDAddr: im.ClearTIDAddr, RobustHead: im.RobustHead,
		RseqAddr: im.Rseq.Addr, RseqLen: im.Rseq.Len, RseqSig: im.Rseq.Sig,
	}
	if im.RobustHead != 0 { // the kernel tells the length without a list too
		t.RobustLen = im.RobustLen
	}
	raw, err := os.ReadFile("/proc/self/auxv")
	if err != nil {
		return nil, err
	}
	own, err := linux.ParseAuxv(raw)
	if err != nil {
		return nil, err
	}
	for pair := range slices.Chunk(im.MM.SavedAuxv, 2) {
		if len(pair) == 2 && pair[0] != linux.ATNull {
			t.Auxv = append(t.Auxv, linux.AuxEntry{Type: pair[0], Value: pair[1]})
		}
	}
	t.Auxv = append(t.Auxv, own...) // a reader gets the first
	// musl's stop point is the program's entry, where glibc never stands: it has
	// called nothing of the program's yet.
	if t.Stop.Addr == t.Auxv.Value(linux.ATEntry) {
		t.Stop.Point = plan.StopEntry
	}
	maps, err := linux.ReadMaps(os.Getpid())
	if err != nil {
		return nil, err
	}
	away := t.Auxv.Value(linux.ATSysinfoEhdr) - own.Value(linux.ATSysinfoEhdr)
	for _, m := range maps {
		if m.Kernel() && m.Path != "[vsyscall]" {
			m.Start, m.End = m.Start+away, m.End+away
			t.Maps = append(t.Maps, m)
		}
	}
	return t, nil
}

// planDifferences says in what a plan is not the other one. What is mapped is left
// to the comparison of the memory, since plans of several releases may cut it in
// several ways, but for what that cannot see: that nothing is shared with the files.
func planDifferences(p, again *plan.Plan) []string {
	var all []string
	differs := func(field string, got, want any) {
		all = append(all, fmt.Sprintf("the plan's %s is %v instead of %v", field, got, want))
	}
	maps := func(field string, maps []plan.Map, flags uint32) {
		for _, m := range maps {
			got := m.Flags &^ unix.MAP_POPULATE
			if p.Kind == plan.KindWarm {
				got = asLinked(m)
			}
			if got != flags {
				differs(fmt.Sprintf("%s.Flags at %#x", field, m.Addr), fmt.Sprintf("%#x", got), fmt.Sprintf("%#x", flags))
			}
		}
	}
	const flags = unix.MAP_PRIVATE | unix.MAP_FIXED_NOREPLACE
	maps("Anon", p.Anon, flags|unix.MAP_ANONYMOUS)
	for _, f := range p.Files {
		maps("Maps", f.Maps, flags)
	}
	without := func(p *plan.Plan) reflect.Value {
		q := *p
		q.Anon, q.Protects, q.Files = nil, nil, slices.Clone(p.Files)
		for i := range q.Files {
			q.Files[i].Maps = nil
		}
		return reflect.ValueOf(q)
	}
	eachDifference("", without(p), without(again), differs)
	return all
}

// eachDifference calls say for each field of a struct in which two differ; of a
// slice for the first element that does.
func eachDifference(name string, a, b reflect.Value, say func(field string, a, b any)) (found bool) {
	switch {
	case a.Kind() == reflect.Struct:
		for i := range a.NumField() {
			field := a.Type().Field(i).Name
			if name != "" {
				field = name + "." + field
			}
			found = eachDifference(field, a.Field(i), b.Field(i), say) || found
		}
		return found
	case a.Kind() == reflect.Slice && a.Len() != b.Len():
		say("number of "+name, a.Len(), b.Len())
		return true
	case a.Kind() == reflect.Slice:
		for i := range a.Len() {
			if eachDifference(fmt.Sprintf("%s[%d]", name, i), a.Index(i), b.Index(i), say) {
				return true
			}
		}
		return false
	case a.Equal(b):
		return false
	case a.Kind() == reflect.String, a.Type() == reflect.TypeFor[plan.StopPoint]():
		say(name, a, b)
	default:
		say(name, fmt.Sprintf("%#x", a), fmt.Sprintf("%#x", b))
	}
	return true
}
